"""Real PostgreSQL and Valkey for demos, tests and benchmarks: they need no set-up, and leave no trace."""

from tidegate.proxy.embedded.cluster import Cluster
from tidegate.proxy.embedded.postgres import PostgresNode
from tidegate.proxy.embedded.valkey import ValkeyNode

__all__ = ["Cluster", "PostgresNode", "ValkeyNode"]
