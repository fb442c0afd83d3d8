"""Which shard has a tenant."""
