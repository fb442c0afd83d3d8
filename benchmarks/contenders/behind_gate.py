"""The contenders behind a gate: they read the same rows as the plain ones, through a cache that is asked first."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from tidegate.benchmarks.contenders.contender import Repositories
from tidegate.cache.events import ignore
from tidegate.proxy.build import gate_on
from tidegate.proxy.settings import CacheSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import URL

    from tidegate.proxy.gate import Gate
    from tidegate.proxy.observe import Observer

HIT: Final = "hit"
NEAR_STRICT: Final = "near strict"
NEAR_BOUNDED: Final = "near bounded"
_WAIT_MS: Final = 2_000  # a benchmark shares its machine: a late answer is a slow call here, and no failure

CONTENDERS: Final[Mapping[str, Mapping[str, Any]]] = {
    HIT: {"near": False},
    NEAR_STRICT: {"near": True, "near_modes": {"all": "strict"}},
    NEAR_BOUNDED: {"near": True, "near_modes": {"all": "bounded"}},
}
"""The settings of the cache for each of these contenders."""


class Gated(NamedTuple):
    """A gate, and the contender that calls it."""

    gate: Gate
    contender: Repositories


@contextmanager
def gated(url: URL, cache_url: str, name: str, *, observe: Observer = ignore, **cache: Any) -> Iterator[Gated]:
    """Put a gate on the database at *url*, with an engine of its own; *cache* are more settings of the cache."""
    engine = create_engine(url.set(drivername="postgresql+psycopg"), connect_args={"options": "-c timezone=UTC"})
    options = {"connect_timeout_ms": _WAIT_MS, "read_timeout_ms": _WAIT_MS, "near": False} | cache
    settings = Settings(cache=CacheSettings(url=cache_url, **options))
    with gate_on(engine, sessionmaker(engine), settings, observe=observe, on_close=engine.dispose) as gate:
        yield Gated(gate, Repositories(name, engine, gate.workflow_runs, gate.node_executions))
