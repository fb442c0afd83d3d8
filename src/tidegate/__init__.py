"""Tenant-scoped cache, replica routing and sharding behind the repository interface an application already calls."""

from tidegate.repositories.lazy import load

__all__ = ["load"]
