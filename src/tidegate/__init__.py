"""Tenant-scoped cache, replica routing and sharding behind the repository interface an application already calls."""

from importlib.metadata import version as _version

from tidegate.errors import (
    BenchmarkError,
    CacheUnavailable,
    CommitUnknown,
    EmbeddedServerError,
    LazyColumnError,
    NoNodeAvailable,
    Overloaded,
    PartialResult,
    PolicyError,
    QueryError,
    RepositoryImportError,
    RoutingError,
    SettingsError,
    StaleShardMap,
    TenantSwitch,
    TidegateError,
    UnknownTenant,
    WorkflowRunError,
)
from tidegate.proxy.build import connect, gate_on
from tidegate.proxy.gate import Gate
from tidegate.proxy.layers.gated_repositories import NodeExecutions, WorkflowRuns
from tidegate.proxy.settings import (
    CacheSettings,
    PoolSettings,
    ReplicaSettings,
    RoutingSettings,
    Settings,
    ShardingSettings,
    ShardSettings,
)
from tidegate.proxy.tracking.observers import AuditLog
from tidegate.proxy.tracking.row_events import RowEvent
from tidegate.repositories.lazy import load
from tidegate.repositories.policies import PolicyTable, Read, Tracked, Write

__version__ = _version("tidegate")

__all__ = [
    "AuditLog",
    "BenchmarkError",
    "CacheSettings",
    "CacheUnavailable",
    "CommitUnknown",
    "EmbeddedServerError",
    "Gate",
    "LazyColumnError",
    "NoNodeAvailable",
    "NodeExecutions",
    "Overloaded",
    "PartialResult",
    "PolicyError",
    "PolicyTable",
    "PoolSettings",
    "QueryError",
    "Read",
    "ReplicaSettings",
    "RepositoryImportError",
    "RoutingError",
    "RoutingSettings",
    "RowEvent",
    "Settings",
    "SettingsError",
    "ShardSettings",
    "ShardingSettings",
    "StaleShardMap",
    "TenantSwitch",
    "TidegateError",
    "Tracked",
    "UnknownTenant",
    "WorkflowRunError",
    "WorkflowRuns",
    "Write",
    "__version__",
    "connect",
    "gate_on",
    "load",
]
