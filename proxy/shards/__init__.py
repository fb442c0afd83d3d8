"""The shards of a gate, their map, and sessions on them."""
