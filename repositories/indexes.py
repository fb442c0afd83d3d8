"""Tidegate's own indexes: with them a page costs the same at any size of an app.

They are made while the tables are in use.

On PostgreSQL each is created ``CONCURRENTLY``, so no write waits. A creation that was broken off leaves an INVALID
index. The next creation finds it, drops it and builds it again.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select, text

from tidegate.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine
    from sqlalchemy.engine import Connection


@dataclass(frozen=True, slots=True)
class IndexSpec:
    """One index; *columns* stand as in the DDL."""

    name: str
    table: str
    columns: str

    def create_sql(self, *, concurrently: bool = True) -> str:
        """Return the statement that creates the index."""
        how = "CONCURRENTLY " if concurrently else ""
        return f"CREATE INDEX {how}IF NOT EXISTS {self.name} ON {self.table} ({self.columns})"

    def drop_sql(self, *, concurrently: bool = True) -> str:
        """Return the statement that drops the index."""
        how = "CONCURRENTLY " if concurrently else ""
        return f"DROP INDEX {how}IF EXISTS {self.name}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the creation of one index is. Blocks are 0 in a phase that does not count them."""

    index: str
    phase: str
    blocks_done: int
    blocks_total: int


INDEXES: Final = (
    IndexSpec(
        "tidegate_runs_page_idx",
        "workflow_runs",
        "tenant_id, app_id, triggered_from, created_at, id",
    ),
    IndexSpec(
        "tidegate_runs_status_page_idx",
        "workflow_runs",
        "tenant_id, app_id, triggered_from, status, created_at, id",
    ),
)

# By the search path, as the statements that create and drop it find it.
_FOUND = text(
    "SELECT c.relname, i.indisvalid, t.relname, pg_table_is_visible(t.oid), pg_get_indexdef(c.oid)"
    " FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_class t ON t.oid = i.indrelid"
    " WHERE c.relname = ANY(:names) AND pg_table_is_visible(c.oid)"
)
_LISTED = text("SELECT name, 1, tbl_name, 1, sql FROM sqlite_master WHERE type = 'index'")
_PROGRESS = text("SELECT phase, blocks_done, blocks_total FROM pg_stat_progress_create_index WHERE pid = :pid")
_POLL_S: Final = 0.5
_LOCK: Final = 0x7469_6465  # "tide": one creation or removal of indexes at a time, in each database
_LOCK_POLL_S: Final = 0.1


def index_states(engine: Engine) -> dict[str, str]:
    """Return the state of each of Tidegate's indexes, by name.

    A state is "valid", "invalid" (a creation was broken off), "missing" or "foreign" (an index has the name, and is
    another one).
    """
    with engine.connect() as connection:
        return states_on(connection)


def states_on(connection: Connection) -> dict[str, str]:
    """Return what :func:`index_states` returns, in one query on *connection*; what is unknown is missing."""
    specs = {spec.name: spec for spec in INDEXES}
    states = dict.fromkeys(specs, "missing")
    if connection.dialect.name == "postgresql":
        found = connection.execute(_FOUND, {"names": list(specs)})
    elif connection.dialect.name == "sqlite":
        found = connection.execute(_LISTED)
    else:
        return states
    for name, valid, table, visible, definition in found:
        if name in specs:
            own = visible and table == specs[name].table and definition.endswith(f"({specs[name].columns})")
            states[name] = ("valid" if valid else "invalid") if own else "foreign"
    return states


def create_indexes(engine: Engine, progress: Callable[[Progress], None] | None = None) -> list[str]:
    """Create what is missing and build again what is invalid.

    If two processes do so at once, the second waits, and then finds everything done.

    Args:
        engine: the primary's engine; it needs two connections at once.
        progress: is told, about twice a second, how far the present index is.

    Returns:
        The names of the indexes that were created.

    Raises:
        SettingsError: an index of another kind has the name of one of them.
    """
    with _alone(engine, progress) as connection:
        states = index_states(engine)
        if "foreign" in states.values():
            names = ", ".join(name for name, state in states.items() if state == "foreign")
            raise SettingsError(f"the database has another index of the name {names}: rename it, and run this again")
        todo = [spec for spec in INDEXES if states[spec.name] != "valid"]
        concurrently = connection.dialect.name == "postgresql"
        for spec in todo:
            if states[spec.name] == "invalid":
                connection.execute(text(spec.drop_sql(concurrently=concurrently)))
            with _reported(engine, connection, spec.name, progress if concurrently else None):
                connection.execute(text(spec.create_sql(concurrently=concurrently)))
    return [spec.name for spec in todo]


def drop_indexes(engine: Engine) -> list[str]:
    """Drop those of Tidegate's indexes that exist, and return their names; an index that only has such a name stays."""
    with _alone(engine, None) as connection:
        states = index_states(engine)
        there = [spec for spec in INDEXES if states[spec.name] in ("valid", "invalid")]
        for spec in there:
            connection.execute(text(spec.drop_sql(concurrently=connection.dialect.name == "postgresql")))
    return [spec.name for spec in there]


@contextmanager
def _alone(engine: Engine, progress: Callable[[Progress], None] | None) -> Iterator[Connection]:
    """Give a connection that holds the lock. The lock ends with the connection, however that ends."""
    with _autocommit(engine) as connection:
        if connection.dialect.name != "postgresql":
            yield connection
            return
        # Try again and again, and do not wait in a statement. A statement that waits has a snapshot, and the holder of
        # the lock waits in CREATE INDEX CONCURRENTLY until all snapshots are gone: neither would ever go on.
        while not connection.execute(select(func.pg_try_advisory_lock(_LOCK))).scalar_one():
            if progress is not None:
                progress(Progress(INDEXES[0].name, "waiting for another tidegate init", 0, 0))
            time.sleep(_LOCK_POLL_S)
        try:
            yield connection
        finally:
            connection.execute(select(func.pg_advisory_unlock(_LOCK)))


@contextmanager
def _autocommit(engine: Engine) -> Iterator[Connection]:
    # CONCURRENTLY waits for other transactions, so it must not run inside one.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


@contextmanager
def _reported(
    engine: Engine, at_work: Connection, name: str, progress: Callable[[Progress], None] | None
) -> Iterator[None]:
    if progress is None:
        yield
        return
    done = threading.Event()
    pid = at_work.execute(select(func.pg_backend_pid())).scalar_one()

    def watch() -> None:
        with _autocommit(engine) as connection:
            while not done.wait(_POLL_S):
                for row in connection.execute(_PROGRESS, {"pid": pid}):
                    progress(Progress(name, row.phase, row.blocks_done, row.blocks_total))

    watcher = threading.Thread(target=watch, name="tidegate-index-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
