"""The parts of the run repository."""
