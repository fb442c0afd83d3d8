"""Random statements of every form: seen at once if they are watched, else within the window; the same with triggers."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

import pytest
from real_servers.amounts import amount
from real_servers.random_dml import transaction
from real_servers.random_dml_run import alone, committed_with, run_watched
from real_servers.shaped_gate import Shaped, connect, served, shaped
from real_servers.tracked_shapes import SCHEMA

from tidegate.proxy.embedded import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

SHORT: Final = amount(1_000, 250)
LONG: Final = 20_000
BATCH: Final = 25
SEED: Final = 20_000
_PLAN: Final = "SET enable_seqscan = off"
"""Which indexes are locked is the plan's, and of two plans for a small table either may be the cheaper one."""
LENGTHS: Final = [SHORT, pytest.param(LONG, marks=pytest.mark.soak)]


@pytest.fixture(scope="module")
def preparing() -> Iterator[Cluster]:
    """A cluster of which transactions may be prepared, and whose plans nobody changes."""
    with Cluster(postgres_settings={"max_prepared_transactions": "20", "autovacuum": "off"}) as running:
        yield running


@pytest.fixture
def shapes(preparing: Cluster) -> Iterator[Shaped]:
    primary = preparing.shards[0].primary
    primary.execute("CREATE DATABASE shapes STRATEGY file_copy", database="postgres")
    preparing.cache.flush()
    with shaped(primary.url.rsplit("/", 1)[0] + "/shapes", preparing.cache.url) as found:
        found.comparison.warm()
        yield found
    primary.execute("DROP DATABASE shapes WITH (FORCE)", database="postgres")


@pytest.mark.parametrize("many", LENGTHS)
def test_watched_writes_are_seen_at_once(shapes: Shaped, many: int) -> None:
    chance, done = random.Random(SEED), 0  # noqa: S311  # no secret
    for at in range(many):
        done += run_watched(shapes.gate.engine, shapes.comparison, [transaction(SEED + at)], chance)
        assert shapes.comparison.stale == []
    assert done > many // 2
    assert shapes.comparison.changes > many
    assert served(shapes) > many // 4


@pytest.mark.parametrize("many", LENGTHS)
@pytest.mark.parametrize("how", ["text", "autocommit", "prepared"])
def test_writes_that_nobody_watches_are_seen_within_the_window(shapes: Shaped, how: str, many: int) -> None:
    chance = random.Random(SEED)  # noqa: S311  # no secret
    with connect(shapes.url) as outside:
        for first in range(0, many, BATCH):
            some = [transaction(SEED + first + at) for at in range(BATCH)]
            for each in some:
                alone(outside, each, how)
            shapes.comparison.settle()
            shapes.comparison.check(chance, lambda some=some: "\n".join(each.shown() for each in some))  # type: ignore[misc]
            assert shapes.comparison.stale == []
    assert shapes.comparison.changes > many // 2
    assert served(shapes) > many // BATCH // 4  # it is compared once for each batch


@pytest.mark.parametrize("many", LENGTHS)
def test_a_statement_means_what_it_means_without_triggers(shapes: Shaped, preparing: Cluster, many: int) -> None:
    """The same rows are touched, errors raised, locks taken on the program's tables, and rows left."""
    primary = preparing.shards[0].primary
    primary.execute("CREATE DATABASE bare STRATEGY file_copy", database="postgres")
    with connect(primary.url.rsplit("/", 1)[0] + "/bare") as bare:
        for statement in SCHEMA:
            bare.execute(statement.encode())
        bare.execute(_PLAN.encode())
        with shapes.gate.engine.connect() as watched:
            watched.exec_driver_sql(_PLAN)
            watched.commit()
            for at in range(many):
                each = transaction(SEED + at)
                found = committed_with(_Bare(bare), each)
                other = committed_with(_Watched(watched), each)
                differing = [one for one in zip(found, other, strict=False) if one[0] != one[1]]
                assert (differing, len(other)) == ([], len(found)), f"{each.shown()}\n{differing}"
    primary.execute("DROP DATABASE bare WITH (FORCE)", database="postgres")


class _Bare:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def begin(self) -> None:
        self._connection.execute("BEGIN")

    def run(self, sql: str) -> tuple[int, list[Any]]:
        cursor = self._connection.execute(sql.encode())
        return cursor.rowcount, cursor.fetchall() if cursor.description else []

    def end(self, *, commit: bool) -> None:
        self._connection.execute("COMMIT" if commit else "ROLLBACK")


class _Watched:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def begin(self) -> None:
        self._connection.begin()

    def run(self, sql: str) -> tuple[int, list[Any]]:
        result = self._connection.exec_driver_sql(sql)
        return result.rowcount, [tuple(row) for row in result] if result.returns_rows else []

    def end(self, *, commit: bool) -> None:
        (self._connection.commit if commit else self._connection.rollback)()
