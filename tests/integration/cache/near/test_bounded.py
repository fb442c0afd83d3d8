"""The near cache in bounded mode, on real servers: what it saves, and how old its answers may be."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import redis
from real_servers.deadlines import busyness, patient
from real_servers.sent_packets import packets_sent
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

import tidegate
from tidegate.cache.events import Served
from tidegate.cache.near.push_versions import ALIVE_S
from tidegate.cache.redis.push_stream import RedisPushes
from tidegate.cache.redis.store import RedisStore
from tidegate.cache.store import Change
from tidegate.position import NOWHERE, History, Origin
from tidegate.proxy.settings import CacheSettings
from tidegate.repositories.models import Base, WorkflowRun, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.proxy.embedded.valkey import ValkeyNode

TENANT, APP = new_id(), new_id()
BOUNDED: dict[str, Any] = {"near": True, "near_modes": {"all": "bounded"}}


class Place:
    """Gates on one database, and what they tell."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.gates: list[tidegate.Gate] = []
        self.served: list[str] = []

    def gate(self, cache_url: str, **cache: Any) -> tidegate.Gate:
        engine = create_engine(self.url)
        settings = tidegate.Settings(cache=CacheSettings(url=cache_url, **(BOUNDED | cache)))
        gate = tidegate.gate_on(engine, sessionmaker(engine), settings, observe=self._note, on_close=engine.dispose)
        self.gates.append(gate)
        return gate

    def _note(self, event: object) -> None:
        if isinstance(event, Served):
            self.served.append(event.where)


@pytest.fixture
def place(database_url: str) -> Iterator[Place]:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    engine.dispose()
    place = Place(database_url)
    yield place
    for gate in place.gates:
        gate.close()


@pytest.fixture
def node(start_valkey: Callable[..., ValkeyNode]) -> Iterator[ValkeyNode]:
    node = start_valkey()
    yield node
    node.resume()
    node.kill()


def pushes_of(gate: tidegate.Gate) -> RedisPushes:
    pushes = gate._parts.pushes
    assert isinstance(pushes, RedisPushes)
    return pushes


def save(gate: tidegate.Gate) -> str:
    with gate.session_maker.begin() as session:
        run = WorkflowRun(
            tenant_id=TENANT,
            app_id=APP,
            workflow_id=new_id(),
            type="workflow",
            triggered_from="app-run",
            version="1",
            status="succeeded",
            total_tokens=0,
            created_by_role="account",
            created_by=new_id(),
        )
        session.add(run)
        session.flush()
        return str(run.id)


def set_tokens(gate: tidegate.Gate, run_id: str, tokens: int) -> None:
    with gate.session_maker.begin() as session:
        session.get_one(WorkflowRun, run_id).total_tokens = tokens


def tokens(gate: tidegate.Gate, run_id: str) -> int:
    run = gate.workflow_runs.get_workflow_run_by_id(TENANT, APP, run_id)
    assert run is not None
    return run.total_tokens


def keep(gate: tidegate.Gate, run_id: str, place: Place) -> None:
    """Read until the answer is kept, and served without asking."""
    deadline = time.monotonic() + patient(10)
    while True:
        assert pushes_of(gate).caught_up(patient(10))
        served = len(place.served)
        for _ in range(3):  # missed and stored; from the store, and kept; near
            tokens(gate, run_id)
        if place.served[served:][-1:] == ["near"]:
            return
        assert time.monotonic() < deadline, "the answer was never kept"


def test_a_near_answer_costs_no_round_trip_also_while_others_are_stored(
    place: Place, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = packets_sent(monkeypatch)
    gate = place.gate(valkey_url)
    run_id, other = save(gate), save(gate)
    keep(gate, run_id, place)
    tokens(gate, other)  # a fill, which changes no mark
    assert pushes_of(gate).caught_up(patient(10))
    sent.clear()
    assert [tokens(gate, run_id) for _ in range(200)] == [0] * 200
    # While a reply or a push waits to be read, a few times a second, answers are checked.
    assert len(sent) <= 20
    assert place.served[-200:] == ["near"] * 200


def test_on_a_cluster_every_near_answer_is_checked_and_that_is_told(
    place: Place, valkey_cluster: list[ValkeyNode], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = packets_sent(monkeypatch)
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in valkey_cluster)
    gate, writer = (place.gate(url, connect_timeout_ms=5_000, read_timeout_ms=5_000) for _ in range(2))
    assert "has no pushes, so 'bounded' is 'strict'" in caplog.text
    run_id = save(writer)
    for number in range(1, 4):
        place.served.clear()
        while place.served[-1:] != ["near"]:
            tokens(gate, run_id)
        checked = gate.stats().events.get("NearChecked", 0)
        sent.clear()
        assert [tokens(gate, run_id) for _ in range(20)] == [number - 1] * 20
        assert place.served[-20:] == ["near"] * 20
        assert gate.stats().events["NearChecked"] - checked == 20
        # What was sent is one check for each answer.
        assert len(sent) == 20
        set_tokens(writer, run_id, number)
        assert tokens(gate, run_id) == number  # at once: strict


def test_what_another_process_changed_is_seen_and_what_it_did_not_change_is_kept(
    place: Place, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = packets_sent(monkeypatch)
    gate, writer = place.gate(valkey_url), place.gate(valkey_url)
    changed, same = save(writer), save(writer)
    with writer.session_maker.begin() as session:  # of another app, so that nothing of it depends on the first
        session.get_one(WorkflowRun, same).app_id = (other_app := new_id())
    keep(gate, changed, place)

    def read_same() -> object:
        return gate.workflow_runs.get_workflow_run_by_id(TENANT, other_app, same)

    read_same()
    read_same()
    set_tokens(writer, changed, 7)
    assert pushes_of(gate).caught_up(patient(10))
    sent.clear()
    for _ in range(100):  # the tenant was named: asked once, and vouched for again
        read_same()
    assert place.served[-100:] == ["near"] * 100
    assert 1 <= len(sent) <= 10
    assert tokens(gate, changed) == 7


def test_a_push_between_the_lookup_and_the_keeping_is_not_lost(
    place: Place, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, writer = place.gate(valkey_url), place.gate(valkey_url)
    run_id = save(writer)
    assert pushes_of(gate).caught_up(patient(10))
    tokens(gate, run_id)  # stored, and not kept yet
    store: Any = gate._parts.store
    plain = store.lookup

    def lookup(*args: Any, **kwargs: Any) -> object:
        found = plain(*args, **kwargs)
        monkeypatch.undo()
        set_tokens(writer, run_id, 7)
        assert pushes_of(gate).caught_up(patient(10))  # the push has come, before what it voids is kept
        return found

    monkeypatch.setattr(store, "lookup", lookup)
    assert tokens(gate, run_id) == 0  # began before the change
    assert place.served[-1] == "store"
    assert tokens(gate, run_id) == 7


def test_flushed_marks_void_all_that_is_near(place: Place, valkey_url: str) -> None:
    gate = place.gate(valkey_url)
    run_id = save(gate)
    keep(gate, run_id, place)
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
    assert pushes_of(gate).caught_up(patient(10))
    served = len(place.served)
    assert tokens(gate, run_id) == 0
    assert "near" not in place.served[served:]


@pytest.mark.alone
def test_how_late_a_change_is_seen_while_the_stream_is_alive(
    place: Place, valkey_url: str, record_property: Callable[[str, object], None]
) -> None:
    gate, writer = place.gate(valkey_url), place.gate(valkey_url)
    run_id = save(writer)
    keep(gate, run_id, place)
    late_ms = []
    for number in range(1, 501):
        tokens(gate, run_id)
        tokens(gate, run_id)
        set_tokens(writer, run_id, number)
        late_ms.append(stale_until(gate, run_id, number, time.perf_counter()) * 1000)
    cuts = statistics.quantiles(late_ms, n=100)
    text = f"p50 {cuts[49]:.3f}, p99 {cuts[98]:.3f}, max {max(late_ms):.3f} ms"
    print(f"from a commit's return until the last old answer was asked for: {text}")  # noqa: T201  # the figure
    record_property("staleness", text)
    assert cuts[49] < busyness()
    assert max(late_ms) < ALIVE_S * 1000


class Forwarder:
    """Carries bytes between clients and a server, until it is told to keep them."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.forwards = threading.Event()
        self.forwards.set()
        self._closed = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with self._listener:
            while True:
                client, _ = self._listener.accept()
                if self._closed:
                    client.close()
                    return
                pair = client, socket.create_connection(("127.0.0.1", self._to))
                self._threads += [threading.Thread(target=self._carry, args=ends) for ends in (pair, pair[::-1])]
                for thread in self._threads[-2:]:
                    thread.start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError), one:
            while data := one.recv(65536):
                self.forwards.wait()
                other.sendall(data)
            other.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """When its clients have closed their connections."""
        self._closed = True
        self.forwards.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in self._threads:
            thread.join(patient(10))


@contextlib.contextmanager
def forwarder(port: int) -> Iterator[Forwarder]:
    forwarding = Forwarder(port)
    yield forwarding
    forwarding.close()


def stale_until(gate: tidegate.Gate, run_id: str, new: int, since: float) -> float:
    """Read until the new answer comes; gives how long after *since* the last call with an old answer began."""
    last = since
    deadline = since + patient(10)
    while time.perf_counter() < deadline:
        began = time.perf_counter()
        if tokens(gate, run_id) == new:
            return last - since
        last = began
    pytest.fail("the new answer never came")


def test_in_a_partition_answers_are_old_by_the_bound_at_most(place: Place, node: ValkeyNode) -> None:
    with forwarder(node.port) as between:
        writer = place.gate(node.url)
        run_id = save(writer)
        behind = node.url.replace(str(node.port), str(between.port))
        gate, old_s = place.gate(behind), []
        for number in range(1, 5):
            keep(gate, run_id, place)
            between.forwards.clear()
            set_tokens(writer, run_id, number)
            old_s.append(stale_until(gate, run_id, number, time.perf_counter()))
            between.forwards.set()
        gate.close()
        print(f"old for {max(old_s) * 1000:.0f} ms after the commit at most")  # noqa: T201  # the figure
        assert 0 < max(old_s) <= ALIVE_S


def test_of_a_stopped_server_nothing_is_served_near_after_the_bound(place: Place, node: ValkeyNode) -> None:
    gate = place.gate(node.url)
    run_id = save(gate)
    keep(gate, run_id, place)
    node.pause()
    stopped = time.perf_counter()
    set_tokens(gate, run_id, 7)  # by the outbox, for the cache cannot be told
    assert stale_until(gate, run_id, 7, stopped) <= ALIVE_S
    node.resume()
    assert pushes_of(gate).caught_up(patient(10))


def pushing(node_url: str) -> tuple[RedisStore, RedisPushes]:
    store = RedisStore.from_url(node_url, "ab12", read_timeout_ms=5_000)
    store.make_root("t", "n", Origin(1, History(1), "s0"))
    pushes = store.pushes()
    assert pushes is not None
    assert pushes.caught_up(patient(10))
    return store, pushes


def test_only_marks_of_this_namespace_are_pushed(valkey_url: str) -> None:
    store, pushes = pushing(valkey_url)
    other = RedisStore.from_url(valkey_url, "ab123", read_timeout_ms=5_000)
    other.make_root("t", "n", Origin(1, History(1), "s0"))
    before = pushes.version("t")
    other.bump([Change("t", frozenset({"a"}))], None, NOWHERE)
    store.bump([Change("u", whole=True)], None, NOWHERE)
    assert pushes.caught_up(patient(10))
    assert pushes.version("t") == before
    store.bump([Change("t", frozenset({"a"}))], None, NOWHERE)
    assert pushes.caught_up(patient(10))
    assert pushes.version("t") != before
    pushes.close()


def test_a_demoted_server_vouches_for_nothing(node: ValkeyNode) -> None:
    _, pushes = pushing(node.url)
    with redis.Redis.from_url(node.url) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert not pushes.caught_up(2 * ALIVE_S)
    assert not pushes.alive()
    pushes.close()


def test_a_killed_server_s_successor_begins_with_other_versions(node: ValkeyNode) -> None:
    _, pushes = pushing(node.url)
    before = pushes.version("t")
    node.kill()
    node.start()
    assert pushes.caught_up(patient(10))
    assert pushes.version("t") != before
    pushes.close()


def test_a_process_forked_off_has_a_stream_of_its_own(valkey_url: str) -> None:
    _, pushes = pushing(valkey_url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is what this is about
        child = os.fork()
    if child == 0:
        alive_at_once = pushes._versions.alive()
        os._exit(0 if not alive_at_once and pushes.caught_up(patient(10)) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert pushes.caught_up(patient(10))
    pushes.close()


def test_a_closed_gate_has_no_thread_and_serves_nothing_unasked(place: Place, valkey_url: str) -> None:
    gate = place.gate(valkey_url)
    run_id = save(gate)
    keep(gate, run_id, place)
    thread = pushes_of(gate)._thread
    assert thread is not None
    assert thread.is_alive()
    gate.close()
    assert not thread.is_alive()
    assert not pushes_of(gate).alive()


def test_a_gate_counts_who_answered(place: Place, valkey_url: str) -> None:
    gate = place.gate(valkey_url)
    run_id = save(gate)
    keep(gate, run_id, place)
    (stats,) = [one for name, one in gate.stats().methods.items() if name.endswith(".get_workflow_run_by_id")]
    assert stats.answered["node"] == stats.missed == 1
    assert stats.served == stats.calls - 1
    assert stats.answered["near"] == place.served.count("near")
    assert gate.stats().events["Filled"] == 1
    gate.workflow_runs.get_archived_log_by_run_id(run_id)
    plain = [one for name, one in gate.stats().methods.items() if name.endswith("get_archived_log_by_run_id")]
    assert [one.answered for one in plain] == [{"plain": 1}]
