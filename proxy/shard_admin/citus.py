"""The statements that make Citus place the rows by tenant, in place of Tidegate's shards.

They are written from the documentation of Citus, and were never run on it. They rest on this:

- The primary key and the unique constraints of a distributed table must include the column that it is distributed by.
  So these statements make them include it.
- Tables that are distributed alike, and that name each other in colocate_with, keep the rows of one tenant on one
  server.
- A table without a tenant can only be a reference table, of which every server has a copy.
- Shards of Citus are moved by logical replication, which needs a replica identity: the primary key.
- The upserts of the repositories name unique columns without the tenant. On a distributed table, Citus accepts an index
  for them only under a setting which says that nobody checks the index across its shards. Ids are random, so nobody
  needs to.
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
"""The columns that the write side names in ON CONFLICT."""
_HEAD: Final = """\
-- Tidegate on Citus: one gate, unsharded, on the coordinator; Citus places the tenants. Tidegate's tests never ran this
-- on Citus: read docs/sharding.md, and try it on a copy.
-- Run it with psql, on the coordinator, after the workers were added and while no writer runs, not in a transaction.
-- citus.shard_replication_factor must be 1, its default: SELECT ... FOR UPDATE works with no other value.
CREATE EXTENSION IF NOT EXISTS citus;"""


def citus_ddl() -> Iterator[str]:
    """Yield the script in parts: comments, and statements that end with a semicolon."""
    yield _HEAD
    yield "\n-- 1. Keys that include the tenant. The new index is built beside the old one, and then replaces it."
    for one in WITH_TENANT:
        for constraint in _keys(one.table):
            yield from _with_tenant(one, constraint)
    yield "\n-- 2. The columns that the upserts name: unique without the tenant, within each shard of Citus."
    for model, columns in _UPSERTED:
        yield _unique(model.__table__, f"tidegate_{model.__tablename__}_upsert", columns)
    yield "\n-- 3. What identifies a row while Citus moves a shard: the primary key."
    for table in (*(one.table for one in WITH_TENANT), *(one.table for one in WITHOUT_TENANT)):
        yield f"ALTER TABLE {table.name} REPLICA IDENTITY USING INDEX {table.primary_key.name};"
    yield "\n-- 4. Tables without a tenant: every server has a copy, and every write to them goes to all servers."
    for child in reversed(WITHOUT_TENANT):
        yield f"SELECT create_reference_table('{child.table.name}');"
    yield "\n-- 5. Tables with a tenant: distributed by it, with all rows of a tenant on one server."
    yield "SET citus.allow_unsafe_constraints TO on;"
    first, *others = WITH_TENANT
    yield _distributed(first, "none")
    for one in others:
        yield _distributed(one, first.table.name)
    yield "RESET citus.allow_unsafe_constraints;"
    yield "\n-- 6. Remove the rows that the coordinator still holds. Tables called tidegate_... stay there."
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
