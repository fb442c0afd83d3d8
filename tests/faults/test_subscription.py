"""A gate on a subscriber: what a subscription applies is seen within the window, whatever was done at the publisher."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
from real_servers.deadlines import patient
from real_servers.shaped_gate import Shaped, connect, shaped
from real_servers.tracked_shapes import SCHEMA

from tidegate.proxy.embedded import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg

WINDOW_S: Final = 2.0


@dataclass
class Subscribed:
    """A gate on a subscriber, and its publisher."""

    publisher: psycopg.Connection[Any]
    at: Shaped

    def subscribe(self, options: str, tables: str = "ALL TABLES") -> None:
        """Publish, and subscribe; what is there is copied."""
        self.publisher.execute(f"CREATE PUBLICATION p FOR {tables} {options}".encode())
        dsn = f"{self.publisher.info.dsn} dbname={self.publisher.info.dbname}"
        self.at.outside.execute(f"CREATE SUBSCRIPTION s CONNECTION '{dsn}' PUBLICATION p".encode())


def seen(call: Callable[[], str], wanted: str) -> None:
    until = time.monotonic() + patient(WINDOW_S)
    while (found := call()) != wanted:
        assert time.monotonic() < until, f"{found}, not {wanted}"


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Cluster, Cluster]]:
    with Cluster(cache=False) as publisher, Cluster() as subscriber:
        yield publisher, subscriber


@pytest.fixture
def subscribed(servers: tuple[Cluster, Cluster]) -> Iterator[Subscribed]:
    _, subscriber = servers
    subscriber.cache.flush()
    with ExitStack() as undo:
        urls = []
        for cluster in servers:
            primary = cluster.shards[0].primary
            primary.execute("CREATE DATABASE shapes STRATEGY file_copy", database="postgres")
            undo.callback(primary.execute, "DROP DATABASE shapes WITH (FORCE)", database="postgres")
            urls.append(primary.url.rsplit("/", 1)[0] + "/shapes")
        published = undo.enter_context(connect(urls[0]))
        for statement in SCHEMA:
            published.execute(statement.encode())
        at = undo.enter_context(shaped(urls[1], subscriber.cache.url))
        undo.callback(at.outside.execute, "DROP SUBSCRIPTION IF EXISTS s")
        yield Subscribed(published, at)


def rows(value: int | None) -> str:
    return "[]" if value is None else f'[["a", "ann", "g1", {value}]]'


@pytest.mark.parametrize("options", ["", "WITH (publish_via_partition_root)"])
def test_what_a_subscription_copies_and_applies_is_seen(subscribed: Subscribed, options: str) -> None:
    at, publisher = subscribed.at, subscribed.publisher
    methods = {"plain": "plain_one", "parted": "parted_one", "heir_child": "heir_one", "other.side": "side_one"}

    def each(change: str, value: int | None) -> None:
        for table, method in methods.items():
            at.comparison.settle()
            at.cached(method, "ann", "a")
            publisher.execute(change.format(table=table).encode())
            seen(lambda: str(getattr(at.shapes, method)("ann", "a")), rows(value))  # noqa: B023  # called at once

    for table, method in methods.items():
        publisher.execute(f"INSERT INTO {table} (id, tenant_id, grp, value) VALUES ('a', 'ann', 'g1', 0)".encode())
        assert at.cached(method, "ann", "a") == "[]"
    subscribed.subscribe(options)
    for method in methods.values():  # the initial copy
        seen(lambda: str(getattr(at.shapes, method)("ann", "a")), rows(0))  # noqa: B023  # called at once
    ready = "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"
    seen(lambda: str(at.outside.execute(ready).fetchall()), "[(True,)]")
    each("UPDATE {table} SET value = 1", 1)
    each("DELETE FROM {table}", None)
    each("INSERT INTO {table} (id, tenant_id, grp, value) VALUES ('a', 'ann', 'g1', 2)", 2)
    publisher.execute("INSERT INTO kid VALUES ('k', 'a', 1)")
    seen(lambda: str(at.shapes.kid_one("ann", "k")), '[["k", "a", 1]]')
    each("TRUNCATE {table} CASCADE", None)
    seen(lambda: str(at.shapes.kid_one("ann", "k")), "[]")
