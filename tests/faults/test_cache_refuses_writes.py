"""A cache server that answers reads and refuses writes: no gate goes on serving what a commit has changed since."""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis
from real_servers.comparable_answers import outcome
from real_servers.gate_vs_plain import Pair
from real_servers.versioned_tenant import SOURCE

import tidegate
from tidegate.cache.events import Served
from tidegate.cache.redis.store import RedisStore
from tidegate.errors import CacheUnavailable
from tidegate.proxy.embedded.process import wait_for
from tidegate.proxy.settings import CacheSettings, Settings, ShardSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.proxy.embedded.valkey import ValkeyNode
    from tidegate.proxy.gate import Gate

PATIENT: Final[dict[str, Any]] = {"connect_timeout_ms": 5_000, "read_timeout_ms": 5_000}
_CROWD: Final = 16
Harm = tuple["Callable[[Any], object]", "Callable[[Any], object]"]


def rights(admin: Any, *change: str) -> None:
    admin.execute_command("ACL", "SETUSER", "default", *change)


def fill_disk(admin: redis.Redis) -> None:
    admin.config_set("dir", "/proc")  # where no file can be made
    admin.config_set("save", "3600 1")
    admin.bgsave()
    wait_for(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", "the server cannot save")


REFUSALS: Final[dict[str, Harm]] = {
    "NOREPLICAS": (
        lambda admin: admin.config_set("min-replicas-to-write", "1"),
        lambda admin: admin.config_set("min-replicas-to-write", "0"),
    ),
    "MISCONF": (fill_disk, lambda admin: admin.config_set("save", "")),
    "NOPERM": (
        lambda admin: rights(admin, "-hset", "-unlink", "-del"),
        lambda admin: rights(admin, "+hset", "+unlink", "+del"),
    ),
    "NOPERM, but it can forget": (lambda admin: rights(admin, "-hset"), lambda admin: rights(admin, "+hset")),
    "OOM": (lambda admin: admin.config_set("maxmemory", "1"), lambda admin: admin.config_set("maxmemory", "0")),
}


class Gates:
    """A pair that writes, and another gate on the same database and cache."""

    def __init__(self, pair: Pair, database_url: str, cache: CacheSettings) -> None:
        self.pair, self.book = pair, pair.books[0]
        self.served = 0
        shards = (ShardSettings(name="s0", primary=database_url),)
        self.other: Gate = tidegate.connect(Settings(shards=shards, cache=cache), observe=self._observe)

    def _observe(self, event: object) -> None:
        self.served += isinstance(event, Served)

    def other_is_right(self) -> bool:
        """Whether the other gate reads what is in the database now."""
        run = (self.book.tenant, self.book.app, self.book.run)
        asked = self.other.workflow_runs.get_workflow_run_by_id
        return bool(outcome(lambda: asked(*run)) == outcome(lambda: self.pair.runs.get_workflow_run_by_id(*run)))

    def other_hits(self) -> bool:
        before = self.served
        assert self.other_is_right()
        return self.served > before


@pytest.fixture
def admin(start_valkey: Callable[..., ValkeyNode]) -> Iterator[tuple[ValkeyNode, redis.Redis]]:
    node = start_valkey("--enable-protected-configs", "yes", "--stop-writes-on-bgsave-error", "yes")
    default: Any = redis.Redis.from_url(node.url, protocol=2)
    default.execute_command("ACL", "SETUSER", "admin", "on", ">p", "~*", "+@all")
    yield node, redis.Redis(port=node.port, username="admin", password="p", protocol=2)  # noqa: S106  # of this test
    node.kill()


@pytest.fixture
def gates_at(tables_url: str) -> Iterator[Callable[..., Gates]]:
    with ExitStack() as stack:

        def make(url: str, books: int = 1, **cache: Any) -> Gates:
            settings = CacheSettings(url=url, **PATIENT, **cache)
            pair = Pair(tables_url, settings, books)
            stack.callback(pair.close)
            gates = Gates(pair, tables_url, settings)
            stack.callback(gates.other.close)
            return gates

        yield make


@pytest.mark.parametrize("refusal", REFUSALS)
def test_no_gate_serves_what_the_cache_was_not_told(
    refusal: str, admin: tuple[ValkeyNode, redis.Redis], gates_at: Callable[..., Gates]
) -> None:
    node, server = admin
    gates = gates_at(node.url)
    pair, (begin, end) = gates.pair, REFUSALS[refusal]
    wait_for(gates.other_hits, "the other gate hits")
    begin(server)
    for _ in range(2):
        pair.write(gates.book)
        assert pair.differences() == [], "whoever wrote sees it at once"
        wait_for(gates.other_is_right, "the other gate has seen what waits in the outbox")
        for _ in range(60):  # several rounds of those who follow the outbox
            assert gates.other_is_right()
    forgets = refusal in {"OOM", "NOPERM, but it can forget"}
    assert forgets or pair.outbox() > 0
    end(server)
    wait_for(lambda: pair.outbox() == 0, "the outbox is applied")
    wait_for(gates.other_hits, "the other gate hits again")
    pair.write(gates.book)
    assert gates.other_is_right()


def test_whoever_writes_sees_it_at_once_before_anybody_looks_into_the_outbox(
    admin: tuple[ValkeyNode, redis.Redis], gates_at: Callable[..., Gates]
) -> None:
    node, server = admin
    pair = gates_at(node.url, books=2).pair
    for shard in pair.gate._shards.every:
        assert shard.applier is not None
        shard.applier.close()
    assert pair.differences() == []
    hits = pair.hits()
    assert pair.differences() == []
    assert pair.hits() > hits
    server.config_set("min-replicas-to-write", "1")
    pair.write(pair.books[0])
    assert pair.differences() == []
    pair.gate.invalidate(pair.books[1].tenant)
    hits = pair.hits()
    assert pair.differences() == []
    assert pair.hits() == hits


def test_a_write_is_refused_instead_where_the_settings_say_so(
    admin: tuple[ValkeyNode, redis.Redis], gates_at: Callable[..., Gates]
) -> None:
    node, server = admin
    gates = gates_at(node.url, when_away="refuse")
    wait_for(gates.other_hits, "the other gate hits")
    server.config_set("min-replicas-to-write", "1")
    with pytest.raises(CacheUnavailable, match="NOREPLICAS"):
        gates.pair.write(gates.book)
    assert gates.other_hits()
    assert gates.pair.outbox() == 0


def test_a_process_forked_off_that_only_hits_learns_of_it_too(
    admin: tuple[ValkeyNode, redis.Redis], gates_at: Callable[..., Gates]
) -> None:
    node, server = admin
    gates = gates_at(node.url)
    wait_for(gates.other_hits, "the other gate hits")
    book, told = gates.book, multiprocessing.get_context("fork").Pipe()

    def tokens() -> int:
        run = gates.other.workflow_runs.get_workflow_run_by_id(book.tenant, book.app, book.run)
        assert run is not None
        return int(run.total_tokens)

    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            hits, known = gates.served, tokens()
            assert gates.served > hits, "a hit: nothing but the cache was asked"
            told[1].send(known)
            told[1].recv()
            wait_for(lambda: tokens() > known, "the child reads the primary")
            os._exit(0)
        os._exit(1)
    told[0].recv()
    server.config_set("min-replicas-to-write", "1")
    gates.pair.write(book)
    told[0].send("written")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_commit_that_cannot_be_stamped_leaves_its_intent_and_nobody_waits_for_it(
    admin: tuple[ValkeyNode, redis.Redis], gates_at: Callable[..., Gates], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, server = admin
    gates = gates_at(node.url)
    wait_for(gates.other_hits, "the other gate hits")
    opened = RedisStore.open

    def opens_and_refuses_from_now_on(*args: Any) -> None:
        opened(*args)
        server.config_set("min-replicas-to-write", "1")

    with monkeypatch.context() as patch, gates.pair.gate.session(gates.book.tenant) as session:
        patch.setattr(RedisStore, "open", opens_and_refuses_from_now_on)
        gates.book.write(session)
        session.commit()
    assert gates.pair.outbox() == 0
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    for _ in range(20):
        assert gates.other_is_right(), "the intent sends readers to the primary"
        assert gates.pair.differences() == []
    monkeypatch.undo()
    assert waits == []
    server.config_set("min-replicas-to-write", "0")
    wait_for(gates.other_hits, "the intent is resolved")


def test_a_crowd_that_may_not_fill_waits_for_nobody(
    admin: tuple[ValkeyNode, redis.Redis], gates_at: Callable[..., Gates], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, server = admin
    gates = gates_at(node.url)
    wait_for(gates.other_hits, "the other gate hits")
    server.config_set("min-replicas-to-write", "1")
    lookups: list[str] = []
    looked = RedisStore.lookup

    def counted(self: RedisStore, tenant: str, *args: Any, **kwargs: Any) -> Any:
        lookups.append(tenant)
        return looked(self, tenant, *args, **kwargs)

    monkeypatch.setattr(RedisStore, "lookup", counted)
    with ThreadPoolExecutor(_CROWD) as pool:
        for limit in range(4, 9):  # pages that nobody has asked for
            page = partial(gates.other.workflow_runs.get_paginated_workflow_runs, gates.book.tenant, gates.book.app)
            rows = [page_of.result().data for page_of in [pool.submit(page, SOURCE, limit) for _ in range(_CROWD)]]
            assert len({tuple(row.id for row in some) for some in rows}) == 1
    assert len(lookups) <= 5 * 3 * _CROWD
