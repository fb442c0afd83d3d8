"""The plain repositories."""
