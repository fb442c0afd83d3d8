"""Threads that end with the program, and start anew after a fork."""
