"""Which node answers: positions, replicas, shards. Knows nothing about caching."""
