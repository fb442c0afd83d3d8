"""The domain objects: what a run and a node execution are apart from their rows."""
