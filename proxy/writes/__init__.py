"""What a transaction changes, told to the cache at its COMMIT."""
