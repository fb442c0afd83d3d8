"""A folder for PYTHONPATH: what is in it runs before a program begins, and must import next to nothing."""
