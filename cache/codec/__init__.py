"""Encode answers as bytes, and decode them."""
