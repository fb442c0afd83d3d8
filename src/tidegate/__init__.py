"""Tenant-scoped cache, replica routing and sharding behind the repository interface an application already calls."""

from tidegate.proxy.build import connect, gate_on
from tidegate.proxy.gate import Gate
from tidegate.proxy.settings import Settings
from tidegate.repositories.lazy import load

__all__ = ["Gate", "Settings", "connect", "gate_on", "load"]
