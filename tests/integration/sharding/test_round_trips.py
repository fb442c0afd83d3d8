"""What a write on shards costs: as many round trips as on one database."""

from __future__ import annotations

import socket
import threading
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pytest
from real_servers.sharded import run_of, run_row, settings_of, tenant_on
from sqlalchemy import URL, make_url

import tidegate
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from real_servers.shards import Shards

NOW: Final = datetime.fromisoformat("2024-03-05T12:00:00")
APP: Final = str(uuid4())


class Wire:
    """A way to a server that counts how often somebody speaks and the server answers."""

    def __init__(self, url: URL) -> None:
        self._to = (url.host, url.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.trips = 0
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._to)
            except OSError:
                return
            self._open += [near, far]
            asked = threading.Event()
            threading.Thread(target=self._carry, args=(near, far, asked.set), daemon=True).start()
            threading.Thread(
                target=self._carry, args=(far, near, lambda asked=asked: self._count(asked)), daemon=True
            ).start()

    def _count(self, asked: threading.Event) -> None:
        if asked.is_set():  # the first that comes back since somebody spoke
            asked.clear()
            self.trips += 1

    def _carry(self, source: socket.socket, to: socket.socket, note: Callable[[], None]) -> None:
        while True:
            try:
                some = source.recv(65_536)
                if not some:
                    to.shutdown(socket.SHUT_WR)
                    return
                note()
                to.sendall(some)
            except OSError:
                return

    def close(self) -> None:
        for each in self._open:
            each.close()


@pytest.fixture
def wire(stocked: Shards) -> Iterator[Wire]:
    made = Wire(stocked.engines["s0"].url)
    yield made
    made.close()


def through(url: str, wire: Wire) -> str:
    return make_url(url).set(host="127.0.0.1", port=wire.port).render_as_string(hide_password=False)


def trips_of_writes(gate: tidegate.Gate, tenant: str, wire: Wire) -> dict[str, int]:
    """Give how many round trips each of some writes takes, once all is warm."""
    runs = gate.workflow_executions(SimpleNamespace(id=APP, tenant_id=tenant), APP, "app-run")

    def unit_of_work() -> None:
        with gate.session(tenant) as session:
            session.add(run_row(tenant))
            session.commit()

    found = {}
    for name, write in {"repository": lambda: runs.save(run_of(APP, NOW)), "session": unit_of_work}.items():
        counts = []
        for _ in range(12):  # so often that statements are prepared
            before = wire.trips
            write()
            counts.append(wire.trips - before)
        found[name] = min(counts)
    return found


def test_a_write_on_shards_takes_the_round_trips_of_one_on_one_database(stocked: Shards, wire: Wire) -> None:
    settings, tenant = settings_of(stocked, catalogue="s2"), tenant_on("s0")
    first = settings.shards[0].model_copy(update={"primary": through(settings.shards[0].primary, wire)})
    with tidegate.connect(settings.model_copy(update={"shards": (first, *settings.shards[1:])})) as gate:
        on_shards = trips_of_writes(gate, tenant, wire)
        assert slot_of(tenant) < 4096
    stocked.empty()
    stocked.cluster.cache.flush()
    alone: Any = {"shards": (first,), "sharding": type(settings.sharding)()}
    with tidegate.connect(settings.model_copy(update=alone)) as gate:
        on_one = trips_of_writes(gate, tenant, wire)
    assert on_shards == on_one
    # BEGIN, the row, its notes, and COMMIT together with its position.
    assert set(on_one.values()) == {4}, on_one
