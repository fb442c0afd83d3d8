"""tidegate shards: showing, checking and handing over."""
