"""tidegate doctor."""
