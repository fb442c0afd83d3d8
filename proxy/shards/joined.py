"""What a gate begins with: its databases, which are open, and the map of its shards; of one shard as of many."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy.pool import SingletonThreadPool, StaticPool

from tidegate.errors import SettingsError
from tidegate.proxy.database.identity import cluster_id, database_id
from tidegate.proxy.database.origins import note_origins
from tidegate.proxy.database.schema import make_tables
from tidegate.proxy.nodes.open import nodes_of
from tidegate.proxy.shards.catalogue import StaticMap
from tidegate.proxy.shards.registry import ONLY_SHARD
from tidegate.routing.sharding.shard_map import one_shard_map

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import ExitStack

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.proxy.nodes.shard_nodes import ShardNodes
    from tidegate.proxy.observe import Observer
    from tidegate.proxy.settings import Settings
    from tidegate.proxy.shards.catalogue import MapSource


class Joined(NamedTuple):
    """The shards of a gate as they were found.

    Args:
        engines: the primaries' engines, by shard.
        nodes: the shards' servers; None where there is one, and nobody watches it.
        maps: where the shard map comes from.
        ready: called before a shard is used, with its name; raises what its database raises while that is away.
        joined: gives the engines of the databases that have been joined so far, first the one that decides which cache
            serves them.
        namespace: gives the name that the keys of the cache have.
        session_maker: makes the program's own sessions; None: the gate makes some, on the shard of their tenant.
    """

    engines: Mapping[str, Engine]
    nodes: Mapping[str, ShardNodes | None]
    maps: MapSource
    ready: Callable[[str], None]
    joined: Callable[[], Sequence[Engine]]
    namespace: Callable[[], str]
    session_maker: sessionmaker[Session] | None = None


def join_one(
    engine: Engine, session_maker: sessionmaker[Session], settings: Settings, observe: Observer, undo: ExitStack
) -> Joined:
    """Join the one database of *engine*: open its other servers, and make Tidegate's tables in it.

    Args:
        engine: the primary's; it follows the primary from now on.
        session_maker: what the repositories open sessions with.
        settings: of cache and replicas.
        observe: told what happens.
        undo: closes what was opened.

    Raises:
        SettingsError: a setting cannot work, or the database is one of several shards.
    """
    histories = note_origins(engine, ONLY_SHARD)
    nodes = nodes_of(engine, settings.shards[0] if settings.shards else None, settings, observe, histories)
    if nodes is not None:
        undo.callback(nodes.close)
    make_tables(engine)
    in_memory = isinstance(engine.pool, StaticPool | SingletonThreadPool)
    database = "" if in_memory else database_id(engine)
    histories.join(database)
    if (
        cluster_id(engine, None) is not None
    ):  # other keys than the gates of all shards use, and nothing would be checked
        raise SettingsError("shards: this database is one of several: name all of them, as the other gates do")

    def ns() -> str:
        if in_memory:
            raise SettingsError("cache.url: an in-memory SQLite is one connection's, and cannot be cached; use a file")
        return database

    maps = StaticMap(one_shard_map(ONLY_SHARD))
    return Joined({ONLY_SHARD: engine}, {ONLY_SHARD: nodes}, maps, _always, lambda: [engine], ns, session_maker)


def _always(_shard: str) -> None:
    """Let the one shard be used: it was joined as the gate was made."""
