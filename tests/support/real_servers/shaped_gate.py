"""A gate over the tables of `tracked_shapes`, in a database of their own."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

import tidegate
from real_servers.random_dml_run import Comparison
from real_servers.tracked_shapes import SCHEMA, SHAPES_POLICIES, TRACKED_SHAPES, Shapes
from tidegate.proxy.settings import CacheSettings, Settings, ShardSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate import Gate


@dataclass
class Shaped:
    """A gate, its repository, and somebody outside.

    Args:
        url: of the database, for SQLAlchemy.
        settings: of the gate.
        gate: over the tables.
        shapes: the repository behind it.
        outside: a connection of psycopg in AUTOCOMMIT, that no gate knows.
        comparison: compares what the two see.
    """

    url: str
    settings: Settings
    gate: Gate
    shapes: Shapes
    outside: psycopg.Connection[Any]
    comparison: Comparison

    def cached(self, method: str, tenant: str, argument: str) -> str:
        """Have a call cached, and return its answer."""
        call = getattr(self.shapes, method)
        answer: str = call(tenant, argument)
        name = next((name for name in self.gate.stats().methods if name.endswith(f"Shapes.{method}")), "")
        before = self.gate.stats().methods[name].served
        while self.gate.stats().methods[name].served == before:
            answer = call(tenant, argument)
        return answer


def connect(url: str) -> psycopg.Connection[Any]:
    """A connection in AUTOCOMMIT that no gate knows."""
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def wrapped(gate: Gate) -> Shapes:
    """The repository behind a gate."""
    return gate.wrap(Shapes, SHAPES_POLICIES, TRACKED_SHAPES)(gate.session_maker)


def stocked(found: Shaped) -> Shaped:
    """Give it one row, of which nothing waits in the outbox any more."""
    found.outside.execute("INSERT INTO plain VALUES ('a', 'ann', 'g1', 0)")
    found.comparison.settle()
    return found


def served(shaped: Shaped) -> int:
    """How many answers the cache has given."""
    return sum(method.served for method in shaped.gate.stats().methods.values())


@contextmanager
def shaped(url: str, cache_url: str) -> Iterator[Shaped]:
    """Make the tables in an empty database, and a gate; what waits in the outbox at first is applied."""
    settings = Settings(shards=(ShardSettings(name="s0", primary=url),), cache=CacheSettings(url=cache_url))
    with connect(url) as outside:
        for statement in SCHEMA:
            outside.execute(statement.encode())
        with tidegate.connect(settings) as gate:
            shapes = wrapped(gate)
            only: Any = gate._parts.shards.only
            comparison = Comparison(shapes, outside, lambda: bool(only.applier._untold._waiting), only.applier.wake)
            comparison.settle()
            yield Shaped(url, settings, gate, shapes, outside, comparison)
