"""The routing's part."""
