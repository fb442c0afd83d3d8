"""The parts that build.py nests."""
