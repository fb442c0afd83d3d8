"""A world in which the cache's URL may lead to another server: for some processes only, as on another host, or for all.

What a process finds there is told by the real rules: the check of each new connection, and the look at what the
database names, with its claims and objections. The seconds that a claim waits pass only once every process has looked.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from simulation.one_shard_world import _STORE_CALLS, Shape, SimStore, World

from tidegate.cache.redis.same_server import ExpectedServer
from tidegate.cache.store import CacheServer, StoreUnavailable
from tidegate.proxy.assembly.serving import CLAIM_S, ServingCache
from tidegate.proxy.database.serving import Served, Serving

if TYPE_CHECKING:
    from simulation.scheduler import Scheduler
    from simulation.servers import Action

    from tidegate.cache.store import Store

URL: Final = "redis://localhost"


@dataclass(frozen=True)
class CacheShape(Shape):
    """Faults may also be "led" (a process finds the other server under the URL, or the first one again), and "emptied"
    (the first server is started anew).

    Args:
        clone: whether the other server has the id of the first, as one that was started from its file.
    """

    clone: bool = False


@dataclass
class SimCache:
    """A cache server. Marks of another life are void, so that a clone begins without any."""

    store: SimStore
    id: str | None
    life: str


class SimClient:
    """What one process finds under the URL, by the real check of its connections."""

    def __init__(self, world: TwoCachesWorld) -> None:
        self._world = world
        self._expected = ExpectedServer(b"id")
        self._line: SimCache | None = None
        self.at = world.first
        self.expect(self.server())

    def __getattr__(self, name: str) -> Any:
        if name not in {*_STORE_CALLS, "newest_history"}:
            raise AttributeError(name)
        return getattr(self._connected().store, name)

    def fill_soon(self, *args: Any) -> None:
        self._soon("fill_soon", *args)

    def stamp_soon(self, *args: Any) -> None:
        self._soon("stamp_soon", *args)

    def _soon(self, name: str, *args: Any) -> None:
        try:
            store = self._connected().store
        except StoreUnavailable as error:
            args[-1](error)
        else:
            getattr(store, name)(*args)

    def _connected(self) -> SimCache:
        self._expected.refuse()
        if self._line is None:
            found = self.at
            named = None if found.id is None else found.id.encode()
            command = self._expected.check(named, f"master_replid:{found.life}\r\n".encode())
            if command is not None:
                found.id = command[2].decode()
            self._line = found
        return self._line

    def cut(self) -> None:
        """The connection ends."""
        self._line = None

    def server(self) -> CacheServer:
        return CacheServer(self.at.id, self.at.life)

    def name_server(self, name: str) -> str:
        self.at.id = self.at.id or name
        return self.at.id

    def expect(self, server: CacheServer | None, why: str = "") -> None:
        self._expected.server, self._expected.why = server, why if server is None else None
        self.cut()

    @property
    def expected(self) -> CacheServer | None:
        return self._expected.server if self._expected.why is None else None


class SimServing(ServingCache):
    """The real look, at facts of the world in place of a database."""

    def __init__(self, world: TwoCachesWorld, client: SimClient) -> None:
        self._world = world
        database: Any = world
        store: Any = client
        super().__init__(store, URL, lambda: [database], clock=lambda: world.clock_s)

    def _served(self, _engine: object) -> Served:
        return self._world.facts

    def _record_serving(self, _engine: object, serving: Serving, instead_of: Serving | None) -> None:
        if self._world.facts.by == instead_of:
            self._world.facts = Served(serving, None)

    def _record_claim(self, _engine: object, claim: Serving) -> None:
        if self._world.facts.claim is None:
            self._world.facts = replace_claim(self._world.facts, claim)
            self._world.looked.clear()

    def _remove_claim(self, _engine: object, claim: Serving) -> None:
        if self._world.facts.claim == claim:
            self._world.facts = replace_claim(self._world.facts, None)


def replace_claim(facts: Served, claim: Serving | None) -> Served:
    return facts._replace(claim=claim)


class TwoCachesWorld(World):
    """Everything one run needs."""

    def __init__(self, shape: CacheShape, scheduler: Scheduler) -> None:
        self.clock_s = 0.0
        self.looked: set[int] = set()
        self._due: set[int] = set()
        self._found: dict[int, tuple[Served, str, float]] = {}
        self._clients: dict[int, SimClient] = {}
        self._shape = shape
        super().__init__(shape, scheduler)
        self._looks = {n: SimServing(self, client) for n, client in self._clients.items()}

    def _begin_caches(self) -> None:
        self.first = SimCache(self.store, "1" * 16, "a" * 40)
        self.other = SimCache(SimStore(self), "1" * 16 if self._shape.clone else None, "b" * 40)
        self.facts = Served(Serving(URL, self.first.id or "", self.first.life), None)

    def store_of(self, process: int) -> Store:
        if not self._clients:
            self._begin_caches()
        client: Any = self._clients.setdefault(process, SimClient(self))
        return client  # type: ignore[no-any-return]

    def actions(self) -> list[Action]:
        possible = super().actions()
        news = {number for number, client in self._clients.items() if self._has_news(number, client)}
        for number in self._clients:
            if self.faults.get("led", 0):
                possible.append((f"process {number} is led to the other cache", lambda n=number: self._lead(n)))  # type: ignore[misc]
            if number in self._due & news:
                possible.append((f"process {number} looks at the cache", lambda n=number: self._look(n)))  # type: ignore[misc]
        if news and not self._due & news:
            possible.append(("a quarter of a second passes", lambda: self._due.update(news)))
        if self.faults.get("emptied", 0):
            possible.append(("the cache is started anew", self._empty))
        if self.facts.claim is not None and self.looked == set(self._clients):
            possible.append(("seconds pass", self._pass))
        return possible

    def _has_news(self, number: int, client: SimClient) -> bool:
        if self._found.get(number) == (self.facts, client.at.life, self.clock_s):
            return False
        used, by = client.expected, self.facts.by
        settled = used is not None and by is not None and (used.id, used.life) == (by.id, by.life)
        return not settled or (self.facts.claim is not None and number not in self.looked)

    def _lead(self, process: int) -> None:
        self.faults["led"] -= 1
        client = self._clients[process]
        client.at = self.other if client.at is self.first else self.first
        client.cut()

    def _look(self, process: int) -> None:
        self.looked.add(process)
        self._due.discard(process)
        with suppress(StoreUnavailable):
            self._looks[process].look(self)  # type: ignore[arg-type]
        self._found[process] = (self.facts, self._clients[process].at.life, self.clock_s)

    def _empty(self) -> None:
        self.faults["emptied"] -= 1
        self.first.id, self.first.life = None, "c" * 40
        self.first.store.roots.clear()
        for client in self._clients.values():
            client.cut()

    def _pass(self) -> None:
        self.looked.clear()
        self.clock_s += CLAIM_S + 1
