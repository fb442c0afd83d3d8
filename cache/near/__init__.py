"""The copy in this process."""
