"""Databases for tests, emptied rather than made anew."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import create_engine, delete

from real_servers.initialised import initialise
from tidegate.proxy.database.schema import METADATA, STATE
from tidegate.repositories.indexes import INDEXES
from tidegate.repositories.models import Base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.proxy.embedded import Cluster


class Databases:
    """Databases of one cluster with the tables in them and nothing else.

    A new one takes a third of a second, so those that tests have left as they found them are emptied and used again.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._primary = cluster.shards[0].primary
        self._emptied: list[str] = []
        self._made = 0
        self._connection: psycopg.Connection | None = None
        self._administer("CREATE DATABASE test_template")
        engine = create_engine(self._url("test_template"))
        initialise(engine)
        with engine.begin() as connection:
            connection.execute(delete(STATE))  # as in those that are emptied
        engine.dispose()

    def _url(self, name: str) -> str:
        return self._primary.url.rsplit("/", 1)[0] + f"/{name}"

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _connect(self, name: str) -> psycopg.Connection:
        return psycopg.connect(self._url(name).replace("+psycopg", ""), autocommit=True)

    @contextmanager
    def one(self) -> Iterator[str]:
        """The URL of one."""
        if self._emptied:
            name = self._emptied.pop()
        else:
            name = f"tables_{self._made}"
            self._made += 1
            self._administer(f"CREATE DATABASE {name} TEMPLATE test_template STRATEGY file_copy")
        yield self._url(name)
        if self._empty(name):
            self._cluster.cache.flush()  # it holds what the database of this name had
            self._emptied.append(name)
        else:
            self._administer(f"DROP DATABASE {name} WITH (FORCE)")

    def _administer(self, sql: str, *parameters: str) -> list[tuple[Any, ...]]:
        """On a connection that stays: a new one takes ten times as long as what it is made for."""
        if self._connection is None or self._connection.closed:
            self._connection = self._connect("postgres")
        cursor = self._connection.execute(sql.encode(), parameters)
        return cursor.fetchall() if cursor.description else []

    def _empty(self, name: str) -> bool:
        """Whether a database is as its template again."""
        self._administer("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", name)
        if self._administer("SELECT 1 FROM pg_prepared_xacts WHERE database = %s", name):
            return False
        known = {*Base.metadata.tables, *METADATA.tables}
        there = "SELECT array_agg(tablename::text) FROM pg_tables WHERE schemaname = 'public'"
        # A few rows each: faster than TRUNCATE, which makes every table and index anew.
        deletes = "; ".join(f"DELETE FROM {table}" for table in sorted(known))
        serial = "SELECT setval(seqrelid, seqstart, false) FROM pg_sequence"
        with self._connect(name) as connection:
            found = connection.execute(there).fetchone()
            if found is None or set(found[0]) != known:
                return False
            indexes = "; ".join(spec.drop_sql(concurrently=False) for spec in INDEXES)
            connection.execute(f"SET session_replication_role = replica; {deletes}; {indexes}; {serial}".encode())
        return True
