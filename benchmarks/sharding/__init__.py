"""The sharding's part."""
