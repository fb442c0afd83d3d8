"""Real PostgreSQL and Valkey for demos, tests and benchmarks: nothing to set up, and gone without trace."""

from tidegate.proxy.embedded.cluster import Cluster
from tidegate.proxy.embedded.postgres import PostgresNode
from tidegate.proxy.embedded.valkey import ValkeyNode

__all__ = ["Cluster", "PostgresNode", "ValkeyNode"]
