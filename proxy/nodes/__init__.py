"""The servers of one shard in this process."""
