"""The cache's part."""
