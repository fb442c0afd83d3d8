"""Processes that write and read through gates of their own, connections that can be cut: faults on real servers."""
