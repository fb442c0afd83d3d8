"""Freshness: entries, marks and leases. Knows nothing about SQL."""
