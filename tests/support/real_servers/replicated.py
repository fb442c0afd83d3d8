"""A primary with two replicas, a repository of the tests' own, and gates on them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import tidegate
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.settings import CacheSettings, PoolSettings, ReplicaSettings, RoutingSettings, ShardSettings
from tidegate.repositories.policies import PRIMARY, PolicyTable, Read, Tracked, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

    from sqlalchemy import Engine

    from tidegate.proxy.embedded import Cluster, PostgresNode
    from tidegate.proxy.nodes.shard_nodes import ShardNodes
    from tidegate.proxy.observe import Event

HELD_S: Final = 900
"""How long a read is held up: much longer than any bound that is asserted."""


class Own(DeclarativeBase):
    pass


class Note(Own):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    words: Mapped[str]


_HOLD: Final = text("SELECT pg_sleep(:seconds) WHERE inet_server_port() = ANY(:ports)")
_NOTES: Final = "SELECT words FROM notes WHERE tenant_id = %s ORDER BY id"


class Notes:
    """A repository whose reads can be held up, and one of whose reads is none."""

    def __init__(self, session_maker: sessionmaker[Session]) -> None:
        self._maker = session_maker

    def of(self, tenant_id: str) -> list[str]:
        with self._maker() as session:
            return _words(session, tenant_id)

    def held(self, tenant_id: str, ports: Sequence[int], seconds: float = HELD_S) -> list[str]:
        """Reads, and then waits, its transaction open, on servers with these *ports*."""
        with self._maker() as session:
            found = _words(session, tenant_id)
            session.execute(_HOLD, {"seconds": seconds, "ports": list(ports)})
            return found

    def on_primary(self, tenant_id: str) -> list[str]:
        with self._maker() as session:
            return _words(session, tenant_id)

    def write(self, tenant_id: str, words: str) -> None:
        with self._maker.begin() as session:
            session.add(Note(tenant_id=tenant_id, words=words))

    def misdeclared(self, tenant_id: str, words: str) -> None:
        self.write(tenant_id, words)


def _words(session: Session, tenant_id: str) -> list[str]:
    return list(session.scalars(select(Note.words).where(Note.tenant_id == tenant_id).order_by(Note.id)))


_POLICIES: Final = PolicyTable(
    {
        "of": Read(guard="notes"),
        "held": Read(guard="notes", when=lambda _: False),  # not cached, and its position known all the same
        "on_primary": Read(node=PRIMARY),
        "write": Write(),
        "misdeclared": Read(),
    },
    ids=frozenset(),
)
_TRACKED: Final = (Tracked(Note, tags=("notes",)),)


def written(node: PostgresNode, tenant: str) -> list[str]:
    """What one server shows."""
    return [words for (words,) in node.execute(_NOTES, tenant)]


@dataclass
class Scene:
    """A gate on servers of a cluster, and one tenant."""

    gate: tidegate.Gate
    events: list[Event] = field(default_factory=list)
    tenant: str = field(default_factory=lambda: str(uuid4()))

    def __post_init__(self) -> None:
        self.notes = self.gate.wrap(Notes, _POLICIES, _TRACKED)(self.gate.session_maker)

    @property
    def nodes(self) -> ShardNodes:
        found = self.gate._shards.every[0].nodes
        assert found is not None
        return found

    def write(self, words: str) -> str:
        self.notes.write(self.tenant, words)
        return words

    def read(self) -> list[str]:
        return self.notes.of(self.tenant)

    def answered(self) -> dict[str, int]:
        """How many calls each server has answered so far."""
        return dict(self.gate.stats().nodes)

    def answers(self, call: Callable[[], object]) -> str:
        """The name of the server that answers *call*; "" for the cache."""
        before = self.answered()
        call()
        return ",".join(name for name, count in self.answered().items() if count != before.get(name, 0))

    def calls(self, method: str) -> int:
        """How many calls of *method* were seen."""
        return sum(stats.calls for name, stats in self.gate.stats().methods.items() if name.endswith(f".{method}"))

    def seen(self, kind: type[Any]) -> list[Any]:
        """Events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def await_reached(self, *names: str) -> None:
        """Until replicas show what this process has written, and it knows."""
        position = self.gate._shards.every[0].all_writes.newest  # type: ignore[union-attr]

        assert position is not None

        def reached() -> bool:
            views = [node.view for node in self.nodes.topology.replicas if node.name in names or not names]
            return all(view is not None and view.position.reached(position) for view in views)

        self.nodes.ensure_started()
        wait_for(reached, f"replicas are at {position}")


def name_of(node: PostgresNode | int) -> str:
    """What a gate calls a server, or what listens on a port."""
    return f"127.0.0.1:{node if isinstance(node, int) else node.port}"


def url(port: int, name: str = "", driver: str = "psycopg") -> str:
    query = f"?application_name={name}" if name else ""
    return f"postgresql+{driver}://postgres@127.0.0.1:{port}/tidegate{query}"


def settings(
    primary: int,
    *replicas: int,
    weights: Sequence[float] = (),
    cache: CacheSettings | None = None,
    routing: dict[str, Any] | None = None,
    pool: dict[str, Any] | None = None,
    name: str = "",
    driver: str = "psycopg",
) -> tidegate.Settings:
    """Of a gate on these ports.

    Args:
        primary: its port.
        replicas: their ports.
        weights: of the replicas; left out: 1 each.
        cache: left out: none.
        routing: changes to the defaults.
        pool: the same.
        name: as which the servers are to know its connections.
        driver: of its engine on the primary.
    """
    given = [*weights, *[1.0] * len(replicas)]
    several = tuple(
        ReplicaSettings(url=url(port), weight=weight) for port, weight in zip(replicas, given, strict=False)
    )
    return tidegate.Settings(
        shards=(ShardSettings(name="s0", primary=url(primary, name, driver), replicas=several),),
        cache=cache or CacheSettings(),
        routing=RoutingSettings(**(routing or {})),
        pool=PoolSettings(**(pool or {})),
    )


@contextmanager
def opened(given: tidegate.Settings, *, own_engine: bool = False) -> Iterator[Scene]:
    """A gate by ``connect``, or by ``gate_on`` on an engine that a program has and has used already."""
    events: list[Event] = []
    if not own_engine:
        with tidegate.connect(given, observe=events.append) as gate:
            yield Scene(gate, events)
        return
    engine = create_engine(given.shards[0].primary, pool_pre_ping=True, connect_args={"connect_timeout": 5})
    with suppress(OperationalError):
        engine.connect().close()
    with tidegate.gate_on(engine, sessionmaker(engine), given, observe=events.append, on_close=engine.dispose) as gate:
        yield Scene(gate, events)


def make_notes(cluster: Cluster) -> None:
    """Make the table on the primary, and wait until every replica has it."""
    shard = cluster.shards[0]
    engine: Engine = create_engine(shard.primary.url)
    Own.metadata.create_all(engine)
    engine.dispose()
    for replica in shard.replicas:
        wait_for(lambda r=replica: r.execute("SELECT to_regclass('notes')")[0][0], "the replica has the table")  # type: ignore[misc]


def in_background(call: Callable[[], Any]) -> Future[Any]:
    """Run *call* in a thread."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(call)
    finally:
        pool.shutdown(wait=False)


def held_on(node: PostgresNode) -> list[int]:
    """Wait until a read is held up on *node*; the process ids of its backends."""
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid <> pg_backend_pid()"
    wait_for(lambda: bool(node.execute(query)), f"a read is held up on {node.name}")
    return [pid for (pid,) in node.execute(query)]


def caught_up(primary: PostgresNode, *replicas: PostgresNode) -> None:
    """Wait until replicas have replayed what the primary has written so far."""
    # A commit flushes the log up to its end. What stands behind the last commit may stay unsent for 15 s.
    ((lsn,),) = primary.execute("SELECT pg_logical_emit_message(true, 'caught_up', '')::text")
    query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
    for replica in replicas:
        wait_for(lambda r=replica: r.execute(query, lsn)[0][0], f"{replica.name} has replayed up to {lsn}")  # type: ignore[misc]


class Watchmaker:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    @property
    def took_s(self) -> float:
        return time.monotonic() - self._began_s


def pair_of(cluster: Cluster) -> tuple[PostgresNode, PostgresNode, tidegate.Settings]:
    """Its primary and its replica, and the settings of a gate on both with its cache."""
    primary, replica = cluster.shards[0].primary, cluster.shards[0].replicas[0]
    cache = CacheSettings(url=cluster.cache.url, read_timeout_ms=5_000)
    return primary, replica, settings(primary.port, replica.port, cache=cache)
