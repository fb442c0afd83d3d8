"""Answers as bytes, and back."""
