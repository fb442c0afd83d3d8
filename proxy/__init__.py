"""What composes repositories, cache and routing, and the command line."""
