"""tidegate shards: showing the map, checking it, and flipping slots."""
