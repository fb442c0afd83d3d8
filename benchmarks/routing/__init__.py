"""The routing's part of the benchmark."""
