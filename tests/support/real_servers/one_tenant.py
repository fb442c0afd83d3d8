"""One tenant's notes behind gates on servers that a test maltreats: what they answer, and what the server has."""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import psycopg
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError

import tidegate
from real_servers.deadlines import patient
from real_servers.replicated import Own, Scene, opened
from tidegate.cache.events import Served
from tidegate.errors import RoutingError
from tidegate.proxy.embedded.process import give_to_server, wait_for
from tidegate.proxy.settings import CacheSettings, ShardSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tidegate.proxy.embedded import PostgresNode

_END_ALL: Final = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
LEARNT_S: Final = 10.0
"""Within which a gate learns what has become of its servers; it looks four times a second."""


def alone(url: str, cache: str | None) -> tidegate.Settings:
    """Of a gate that knows this one server only."""
    return tidegate.Settings(
        shards=(ShardSettings(name="s0", primary=url),), cache=CacheSettings(url=cache, read_timeout_ms=5_000)
    )


@contextmanager
def scene_on(url: str, cache: str | None, tenant: str | None = None) -> Iterator[Scene]:
    """A gate that knows this one server only."""
    with opened(alone(url, cache)) as scene:
        if tenant is not None:
            scene.tenant = tenant
        yield scene


def make_table(url: str) -> None:
    engine = create_engine(url)
    Own.metadata.create_all(engine)
    engine.dispose()


def warm(scene: Scene) -> list[str]:
    """Read until the cache answers, and return what it does."""
    found: list[str] = []

    def hit() -> bool:
        found[:] = scene.read()
        return from_cache(scene)

    wait_for(hit, "the cache answers", patient(LEARNT_S))
    return found


def from_cache(scene: Scene) -> bool:
    """Whether the cache answers a read."""
    before = len(scene.events)
    scene.read()
    return any(isinstance(event, Served) for event in scene.events[before:])


def reads(scene: Scene, *words: str) -> bool:
    """Whether it reads just these; not, where its server is away."""
    with suppress(DBAPIError, RoutingError):
        return scene.read() == list(words)
    return False


def comes_to_read(scene: Scene, *words: str) -> None:
    """Until a gate has learnt what has become of its server; and then it does not go back."""
    wait_for(lambda: reads(scene, *words), f"{words} is read", patient(LEARNT_S))
    for _ in range(5):
        assert scene.read() == list(words)


def goes_on_writing(scene: Scene, words: str) -> None:
    def taken() -> bool:
        try:
            scene.write(words)
        except (DBAPIError, RoutingError):
            return False
        return True

    wait_for(taken, "a write is taken", patient(LEARNT_S))


def saved(node: PostgresNode, folder: Path) -> Path:
    """Stop a server, copy its data, and start it again."""
    copy = folder / f"copy of {node.name}"
    node.stop()
    shutil.copytree(node._folder, copy)
    node.launch()
    return copy


def put_back(node: PostgresNode, copy: Path) -> None:
    """Stop a server, put an older copy of its data in place, and start it with that."""
    node.stop()
    for path in node._folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(copy, node._folder, dirs_exist_ok=True)
    give_to_server(node._folder)
    node.launch()


def when_unused(primary: PostgresNode, name: str, statement: str) -> None:
    """Run a statement on a database that nobody may be connected to."""

    def done() -> bool:
        primary.execute(_END_ALL, name, database="postgres")
        try:
            primary.execute(statement, database="postgres")
        except psycopg.errors.ObjectInUse:
            return False
        return True

    wait_for(done, statement, patient(20))
