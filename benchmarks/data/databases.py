"""The two databases that are measured: the same rows, with Dify's indexes only and with Tidegate's beside them."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.sql import SQL, Identifier
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import ArgumentError

from tidegate.benchmarks.data.copy_loader import load
from tidegate.error_text import error_text
from tidegate.errors import BenchmarkError, SettingsError
from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.models import Base, WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import URL

    from tidegate.benchmarks.data.data_set import DataSet
    from tidegate.benchmarks.progress import Steps

PLAIN: Final = "tidegate_bench_plain"
BASELINE: Final = "tidegate_bench_baseline"
SERVER_SETTINGS: Final[Mapping[str, str]] = {
    "shared_buffers": "256MB",
    "autovacuum": "off",  # it would run during the measurements; VACUUM ANALYZE is run before them
    "max_wal_size": "2GB",
}
"""The settings of the embedded server, beside those that every embedded server has."""

_RUN_BYTES: Final = 15_000
_LOG_BYTES: Final = 2_500_000_000
_SERVER_BYTES: Final = 150_000_000
_LATER_BYTES: Final = 3 * _SERVER_BYTES
"""The bytes of the servers for routing, and then for sharding, which are started when the first server is gone."""


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """Bytes on the disk: for one copy of the rows (the baseline needs a second one), and for the server's log."""

    copy_bytes: int
    log_bytes: int

    @property
    def total_bytes(self) -> int:
        """Return all bytes: with the server itself, or what the later servers need if that is more."""
        return max(2 * self.copy_bytes + self.log_bytes + _SERVER_BYTES, _LATER_BYTES)

    def __str__(self) -> str:
        return (
            f"{gigabytes(self.total_bytes)}: the rows {gigabytes(self.copy_bytes)}, "
            f"their second copy for the baseline {gigabytes(self.copy_bytes)}, "
            f"the server and its log {gigabytes(self.log_bytes + _SERVER_BYTES)}; "
            f"when these are removed, other servers {gigabytes(_LATER_BYTES)}"
        )


@dataclass(frozen=True, slots=True)
class Databases:
    """The URLs of the two databases, the number of rows of each table, and the bytes of each database with indexes."""

    plain: URL
    baseline: URL
    rows: Mapping[str, int]
    plain_bytes: int
    baseline_bytes: int


def gigabytes(size_bytes: int) -> str:
    """Return a size as a person reads it."""
    return f"{size_bytes / 1e9:.1f} GB"


def disk_need(runs: int) -> DiskNeed:
    """Estimate what *runs* runs need on the disk, rather too much than too little."""
    return DiskNeed(runs * _RUN_BYTES, min(_LOG_BYTES, 2 * runs * _RUN_BYTES))


def check_disk(need: DiskNeed, folder: Path | None = None) -> None:
    """Raise if *folder* has too little room; None: the folder where embedded servers are.

    Raises:
        BenchmarkError: there is too little room; the message says what is free, what is needed, and what to do.
    """
    folder = folder or Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if free < need.total_bytes:
        raise BenchmarkError(
            f"{folder} has {gigabytes(free)} free, and this needs {need}; "
            "give fewer --runs, or set TMPDIR to a folder on a larger disk"
        )


def server_url(text: str) -> URL:
    """Return the URL of a server of the caller's own, for psycopg.

    Raises:
        SettingsError: *text* is no SQLAlchemy URL of a PostgreSQL database.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        raise SettingsError(
            "--url is no SQLAlchemy URL; expected one like postgresql+psycopg://me@host/empty"
        ) from None
    if url.get_backend_name() != "postgresql" or not url.database:
        raise SettingsError(
            f"--url must name a PostgreSQL database, like postgresql+psycopg://me@host/empty, not {url}"
        )
    return url.set(drivername="postgresql+psycopg")


@contextmanager
def databases(server: URL, data_set: DataSet, steps: Steps) -> Iterator[Databases]:
    """Make both databases on *server*, load them, and drop them at the end.

    Args:
        server: the URL of any database of the server; the benchmark connects to it, and changes nothing in it.
        data_set: the rows.
        steps: shows what is being done.

    Raises:
        BenchmarkError: the database of *server* has the tables of an application, or a database of the benchmark
            exists.
    """
    _refuse_one_in_use(server)
    made: list[str] = []
    try:
        _make(server, PLAIN, made)
        plain, baseline = server.set(database=PLAIN), server.set(database=BASELINE)
        rows = _load(plain, data_set, steps)
        with steps.step("copying the database for the baseline, which has Dify's indexes only"):
            _make(server, BASELINE, made, template=PLAIN)
        _create_indexes(plain, steps)
        yield Databases(plain, baseline, rows, _size(plain), _size(baseline))
    finally:
        for name in made:
            _execute(server, SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))


def conninfo(url: URL) -> str:
    """Return *url* as a connection string for libpq."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def _refuse_one_in_use(server: URL) -> None:
    found = _execute(server, SQL("SELECT to_regclass({})").format(WorkflowRun.__tablename__))
    if found[0][0] is not None:
        raise BenchmarkError(
            f"database {server.database!r} has a table {WorkflowRun.__tablename__}: the benchmark does not load a "
            "server that an application uses; give --url an empty database on a test server"
        )
    query = SQL("SELECT datname FROM pg_database WHERE datname IN ({}, {}) ORDER BY 1").format(PLAIN, BASELINE)
    for (name,) in _execute(server, query):
        raise BenchmarkError(
            f"the server already has a database {name!r}: another benchmark runs, or one was killed; "
            f"if none runs, drop it: DROP DATABASE {name}"
        )


def _make(server: URL, name: str, made: list[str], template: str | None = None) -> None:
    # Copy the files, so that both databases have the same rows in the same blocks.
    how = SQL(" TEMPLATE {} STRATEGY file_copy").format(Identifier(template)) if template else SQL("")
    _execute(server, SQL("CREATE DATABASE {}").format(Identifier(name)) + how)
    made.append(name)


def _load(plain: URL, data_set: DataSet, steps: Steps) -> dict[str, int]:
    engine = create_engine(plain)
    Base.metadata.create_all(engine)
    engine.dispose()
    with steps.step(f"loading {data_set.runs:,} runs", data_set.runs) as advance:
        rows = load(data_set, conninfo(plain), advance)
    with steps.step("VACUUM ANALYZE"):
        _execute(plain, SQL("VACUUM (ANALYZE)"))
        _execute(plain, SQL("CHECKPOINT"))
    return rows


def _create_indexes(plain: URL, steps: Steps) -> None:
    engine = create_engine(plain)
    with steps.step("creating Tidegate's indexes"):
        create_indexes(engine)
    engine.dispose()


def _size(url: URL) -> int:
    return int(_execute(url, SQL("SELECT pg_database_size(current_database())"))[0][0])


def _execute(url: URL, statement: Any) -> list[tuple[Any, ...]]:
    try:
        with psycopg.connect(conninfo(url), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []
    except psycopg.OperationalError as error:
        raise BenchmarkError(f"{url}: {error_text(error)}") from None
