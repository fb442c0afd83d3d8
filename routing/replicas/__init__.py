"""Which node of a shard answers."""
