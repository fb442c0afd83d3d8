"""Tidegate's own tables, and what it asks of a database."""
