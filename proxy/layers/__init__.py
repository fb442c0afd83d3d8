"""What a call passes, from the facade down to a node."""
