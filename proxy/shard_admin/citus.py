"""The statements that have Citus place the rows, by tenant, instead of Tidegate's shards.

Written from the documentation of Citus, and never run on it. What they rest on:

- A distributed table's primary key and unique constraints must include the column it is distributed by; so they do.
- Tables that are distributed alike, and with each other's name, keep one tenant's rows on one server.
- A table without a tenant can only be a reference table, of which every server has a copy.
- Shards are moved by logical replication, which needs a replica identity: the primary key.
- The repositories' upserts name unique columns without the tenant. An index for them is only accepted, where the table
  is distributed, under a setting that says that nobody checks it across its shards; ids are random, so nobody need to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import PrimaryKeyConstraint, UniqueConstraint

from tidegate.proxy.shard_admin.tenant_rows import WITH_TENANT, WITHOUT_TENANT
from tidegate.repositories.models import WorkflowNodeExecutionModel, WorkflowNodeExecutionOffload, WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Table

    from tidegate.proxy.shard_admin.tenant_rows import TenantTable

_UPSERTED: Final[tuple[tuple[Any, tuple[str, ...]], ...]] = (
    (WorkflowRun, ("id",)),
    (WorkflowNodeExecutionModel, ("id",)),
    (WorkflowNodeExecutionOffload, ("node_execution_id", "type")),
)
"""What the write side names as ON CONFLICT."""
_HEAD: Final = """\
-- Tidegate on Citus: one gate, unsharded, on the coordinator; Citus places the tenants. Never run on Citus by
-- Tidegate's tests: read docs/sharding.md, and try it on a copy.
-- Run with psql, on the coordinator, after the workers were added and with the writers stopped, not in a transaction.
-- citus.shard_replication_factor must be 1, its default: SELECT ... FOR UPDATE works with no other.
CREATE EXTENSION IF NOT EXISTS citus;"""


def citus_ddl() -> Iterator[str]:
    """The script, in parts: comments, and statements that end with a semicolon."""
    yield _HEAD
    yield "\n-- 1. Keys that include the tenant. The new index is built beside the old one, and takes its place."
    for one in WITH_TENANT:
        for constraint in _keys(one.table):
            yield from _with_tenant(one, constraint)
    yield "\n-- 2. What the write side's upserts name: unique without the tenant, as far as one of Citus' shards goes."
    for model, columns in _UPSERTED:
        yield _unique(model.__table__, f"tidegate_{model.__tablename__}_upsert", columns)
    yield "\n-- 3. What tells a row from another while Citus moves a shard: the primary key."
    for table in (*(one.table for one in WITH_TENANT), *(one.table for one in WITHOUT_TENANT)):
        yield f"ALTER TABLE {table.name} REPLICA IDENTITY USING INDEX {table.primary_key.name};"
    yield "\n-- 4. Tables without a tenant: a copy on every server, and every write of them goes to all."
    for child in reversed(WITHOUT_TENANT):
        yield f"SELECT create_reference_table('{child.table.name}');"
    yield "\n-- 5. Tables with a tenant: distributed by it, all of a tenant on one server."
    yield "SET citus.allow_unsafe_constraints TO on;"
    first, *others = WITH_TENANT
    yield _distributed(first, "none")
    for one in others:
        yield _distributed(one, first.table.name)
    yield "RESET citus.allow_unsafe_constraints;"
    yield "\n-- 6. What the coordinator holds of them still. Tables called tidegate_... stay there."
    for one in WITH_TENANT:
        yield f"SELECT truncate_local_data_after_distributing_table('{one.table.name}');"


def _keys(table: Table) -> list[PrimaryKeyConstraint | UniqueConstraint]:
    kinds = (PrimaryKeyConstraint, UniqueConstraint)
    found = [constraint for constraint in table.constraints if isinstance(constraint, kinds)]
    return sorted(found, key=lambda constraint: str(constraint.name))


def _with_tenant(one: TenantTable, constraint: PrimaryKeyConstraint | UniqueConstraint) -> Iterator[str]:
    name, columns = str(constraint.name), [column.name for column in constraint.columns]
    if one.tenant.name in columns:
        return
    beside = f"{name[:50]}_tenant"
    yield _unique(one.table, beside, (one.tenant.name, *columns))
    kind = "PRIMARY KEY" if isinstance(constraint, PrimaryKeyConstraint) else "UNIQUE"
    yield f"ALTER TABLE {one.table.name} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {kind} USING INDEX {beside};"


def _unique(table: Table, name: str, columns: tuple[str, ...]) -> str:
    return f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table.name} ({', '.join(columns)});"


def _distributed(one: TenantTable, beside: str) -> str:
    return f"SELECT create_distributed_table('{one.table.name}', '{one.tenant.name}', colocate_with => '{beside}');"
