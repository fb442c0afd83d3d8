"""Databases for tests, emptied rather than made anew."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import create_engine

from tidegate.proxy.database.schema import METADATA, make_tables
from tidegate.repositories.models import Base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.proxy.embedded import Cluster, PostgresNode


class Databases:
    """Databases of one cluster with the tables in them and nothing else.

    A new one takes a third of a second, so those that tests have left as they found them are emptied and used again.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._primary = cluster.shards[0].primary
        self._emptied: list[str] = []
        self._made = 0
        self._primary.execute("CREATE DATABASE test_template", database="postgres")
        engine = create_engine(self._url("test_template"))
        Base.metadata.create_all(engine)
        make_tables(engine)
        engine.dispose()

    def _url(self, name: str) -> str:
        return self._primary.url.rsplit("/", 1)[0] + f"/{name}"

    @contextmanager
    def one(self) -> Iterator[str]:
        """The URL of one."""
        if self._emptied:
            name = self._emptied.pop()
        else:
            name = f"tables_{self._made}"
            self._made += 1
            self._primary.execute(
                f"CREATE DATABASE {name} TEMPLATE test_template STRATEGY file_copy", database="postgres"
            )
        yield self._url(name)
        if _empty(self._primary, name):
            self._cluster.cache.flush()  # it holds what the database of this name had
            self._emptied.append(name)
        else:
            self._primary.execute(f"DROP DATABASE {name} WITH (FORCE)", database="postgres")


def _empty(primary: PostgresNode, name: str) -> bool:
    """Whether a database is as its template again."""
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    primary.execute(others, name, database="postgres")
    if primary.execute("SELECT 1 FROM pg_prepared_xacts WHERE database = %s", name, database="postgres"):
        return False
    known = {*Base.metadata.tables, *METADATA.tables}
    there = "SELECT array_agg(tablename::text) FROM pg_tables WHERE schemaname = 'public'"
    if set(primary.execute(there, database=name)[0][0]) != known:
        return False
    # A few rows each: faster than TRUNCATE, which makes every table and index anew.
    deletes = "; ".join(f"DELETE FROM {table}" for table in sorted(known))
    serial = "SELECT setval(seqrelid, seqstart, false) FROM pg_sequence"
    primary.execute(f"SET session_replication_role = replica; {deletes}; {serial}", database=name)
    return True
