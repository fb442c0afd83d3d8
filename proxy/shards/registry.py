"""The shards of a gate, and which shard has a tenant: every layer that must know a shard asks here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from tidegate.cache.root_recovery import Primary
from tidegate.errors import NoNodeAvailable, PolicyError, StaleShardMap
from tidegate.position import NOWHERE, UNKNOWN, AskedFor
from tidegate.proxy.shards.sessions import for_canonical_tenant, is_routed, routed_maker
from tidegate.routing.replicas.token import Token

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tidegate.proxy.call import Call, Layer
    from tidegate.proxy.database.histories import Histories
    from tidegate.proxy.database.history_record import Here
    from tidegate.proxy.nodes.shard_nodes import ShardNodes
    from tidegate.proxy.shards.catalogue import MapSource
    from tidegate.proxy.writes.applier import Applier
    from tidegate.proxy.writes.outbox import Outbox
    from tidegate.proxy.writes.watch import Watch
    from tidegate.routing.replicas.own_writes import OwnWrites
    from tidegate.routing.sharding.shard_map import Ownership, ShardMap

ONLY_SHARD: Final = ""
"""In marks the one shard has no name: gates that call it differently would take each other for strangers."""
_MOST_FOUND: Final = 16_384
"""How many tenants' ownerships are remembered while the map stays the same."""


P = TypeVar("P")
T = TypeVar("T")


class ShardPrimary(Primary, Protocol):
    """The primary of one shard."""

    def here(self) -> Here:
        """Return where its log is now and which history it has; a new one is made first if that is due."""
        ...


@dataclass(frozen=True, slots=True)
class Shard:
    """What a gate has of one shard; ``assemble_shard`` makes it.

    Args:
        name: the shard's name; "" where there is only one shard.
        engine: the primary's engine, which is watched.
        watch: the watch of that engine.
        outbox: takes the changes that the cache cannot be told of.
        applier: applies the outbox; None: this gate has no cache.
        primary: answers the questions of the root recovery.
        histories: knows the history of its database.
        routing: runs a call on one of the shard's nodes.
        nodes: the shard's servers; None: there is one server, which nobody monitors.
        all_writes: positions of all writes of this process; None where there is one server.
        unmarked_writes: positions of the writes that the marks do not have; None where there is one server.
        sessions: makes sessions on the primary for no particular tenant.
    """

    name: str
    engine: Engine
    watch: Watch
    outbox: Outbox
    applier: Applier | None
    primary: ShardPrimary
    histories: Histories
    routing: Layer
    nodes: ShardNodes | None
    all_writes: OwnWrites | None
    unmarked_writes: OwnWrites | None
    sessions: sessionmaker[Session]

    def keep_alive(self) -> None:
        """Start the threads that this process needs."""
        if self.applier is not None:
            self.applier.ensure_started()

    def reach(self, tenant: str, token: Token) -> None:
        """Have reads of *tenant* in this process show from now on what *token* stands for."""
        if self.unmarked_writes is None:
            return
        # A position in the log of a shard that had the tenant before says nothing here; what was moved is here by now.
        position = token.position if token.shard == self.name else self.primary.here().position
        self.unmarked_writes.reach(tenant, position)

    def token(self, tenant: str | None) -> Token:
        """Return where the writes of this process stand, those of *tenant* alone if one is named."""
        position = None
        if self.all_writes is not None:
            position = self.all_writes.newest if tenant is None else self.all_writes.position(tenant)
        if position is None or position == NOWHERE:  # a commit is on its way, or nobody keeps count: now is late enough
            position = self.primary.here().position
        return Token(position, self.name)

    def close(self) -> None:
        """End the threads that run beside the program, and close the connections to replicas."""
        if self.applier is not None:
            self.applier.close()
        if self.nodes is not None:
            self.nodes.close()


class Shards:
    """Tell which shard has a tenant. One shard is a case of many: it has every tenant, and is asked for nothing.

    Args:
        maps: the source of the shard map.
        ready: is called with a shard's name before the shard is used. It raises what the database raises while that
            does not answer.
        session_maker: makes the sessions of the gate; None: sessions on the shard of their tenant.
    """

    def __init__(
        self,
        maps: MapSource,
        ready: Callable[[str], None] = lambda _name: None,
        session_maker: sessionmaker[Session] | None = None,
    ) -> None:
        self._maps = maps
        self._ready = ready
        self._by_name: dict[str, Shard] = {}
        self._found: tuple[ShardMap | None, dict[str, Ownership]] = (None, {})
        self.only: Shard | None = None
        """The one shard that has every tenant; None where there are several."""
        self.session_maker: Final = routed_maker(self) if session_maker is None else session_maker

    def add(self, shard: Shard) -> None:
        """Add one of the shards; all are added before the first call."""
        self._by_name[shard.name] = shard
        self.only = shard if shard.name == ONLY_SHARD else None

    @property
    def by_name(self) -> Mapping[str, Shard]:
        """Return all shards by name."""
        return self._by_name

    @property
    def every(self) -> tuple[Shard, ...]:
        """Return all shards, as they were added."""
        return tuple(self._by_name.values())

    def keep_alive(self) -> None:
        """Start the threads that this process needs."""
        for shard in self.every:
            shard.keep_alive()

    def close(self) -> None:
        """End what runs beside the program."""
        for shard in self.every:
            shard.close()

    def asked(self, tenant: str) -> AskedFor:
        """Return whose marks the tenant's must be, by the newest map and history that are known here; ask nobody."""
        if self.only is not None:
            return self.only.histories.asked
        ownership = self.ownership(tenant)
        held = self._by_name.get(ownership.shard)
        return AskedFor(UNKNOWN if held is None else held.histories.asked.history, ownership.since_epoch)

    def home(self, session_maker: sessionmaker[Session], tenant: str) -> sessionmaker[Session]:
        """Return what opens sessions like *session_maker*, on the primary of a tenant in canonical form."""
        return session_maker if self.only is not None else for_canonical_tenant(session_maker, tenant)

    def at_home(self, call: Call) -> Call:
        """Return *call* with what opens sessions where its tenant's rows are."""
        if self.only is not None or call.tenant is None:
            return call
        return call.at(call.route.at_home(for_canonical_tenant(call.binding.home, call.tenant)))

    def of_tenant(self, tenant: str) -> Shard:
        """Return the shard of a tenant in canonical form, once it can be used."""
        return self.only or self.at(self.ownership(tenant).shard)

    def check_session_maker(self, session_maker: Any) -> None:
        """See that a repository with this session maker reads and writes where the gate does.

        Raises:
            PolicyError: it does not: what it reads is not what the gate's entries hold, or its writes are not watched.
        """
        if self.only is None:
            if not is_routed(session_maker, self):
                raise PolicyError(f"a repository of this gate needs its session_maker, not {session_maker!r}")
            return
        bind = session_maker.kw.get("bind") if isinstance(session_maker, sessionmaker) else None
        if not isinstance(bind, Engine) or bind.dialect is not self.only.engine.dialect:
            raise PolicyError(
                f"a repository of this gate needs a sessionmaker bound to its engine, not {session_maker!r}"
            )
        if bind.get_execution_options().get("schema_translate_map"):
            raise PolicyError("a repository behind a gate must not translate schemas: they would share one cache")

    def names(self) -> tuple[str, ...]:
        """Return the names of the shards of the newest map that this process has.

        Raises:
            UnknownTenant: the shard map was never read.
        """
        return self._maps.current().shards

    def epoch(self) -> int:
        """Return the epoch of the newest map that this process has.

        Raises:
            UnknownTenant: the shard map was never read.
        """
        return self._maps.current().epoch

    def all(self) -> tuple[tuple[str, ...], int]:
        """Return the names of the shards and the epoch, both of the same map.

        Raises:
            UnknownTenant: the shard map was never read.
        """
        shard_map = self._maps.current()
        return shard_map.shards, shard_map.epoch

    def ownership(self, tenant: str) -> Ownership:
        """Return the unit of a tenant, and its shard, by the newest map that this process has.

        Raises:
            UnknownTenant: the shard map was never read.
        """
        shard_map = self._maps.current()
        found_by, found = self._found
        if found_by is not shard_map or len(found) > _MOST_FOUND:
            found = {}
            self._found = shard_map, found
        ownership = found.get(tenant)
        if ownership is None:
            ownership = found[tenant] = shard_map.ownership(tenant)
        return ownership

    def ownerships_on(self, shard: str, tenants: Sequence[str]) -> Sequence[Ownership]:
        """Return the ownerships of *tenants*, which must all be on *shard*.

        Raises:
            StaleShardMap: by the newest map one of them is on another shard.
            UnknownTenant: the shard map was never read.
        """
        ownerships = [self.ownership(tenant) for tenant in tenants]
        for ownership in ownerships:
            if ownership.shard != shard:
                raise StaleShardMap(
                    f"{ownership.unit} is on the shard {ownership.shard}, and this transaction is on {shard}"
                )
        return ownerships

    def at(self, shard: str) -> Shard:
        """Return what the gate has of *shard*, after joining it if this process has not.

        Raises:
            NoNodeAvailable: the shard map has the shard, and this gate's settings do not; or the shard does not answer.
        """
        found = self._by_name.get(shard)
        if found is None:
            raise NoNodeAvailable(
                f"the shard map names {shard!r}, and this gate's settings have no such shard: add it to them"
            )
        self._ready(shard)
        return found

    def refresh(self) -> bool:
        """Read the map again. Tell whether its source answered."""
        return self._maps.refresh()

    def moved(self, tenant: str, ownership: Ownership, refused: StaleShardMap) -> bool:
        """Read the map again, after a shard has refused *ownership*.

        Returns:
            Whether the tenant's ownership is another one now. If it is not, nobody has written the tenant's rows
            elsewhere yet. A flip may be under way, and the rows that are where the map says are still the newest.

        Raises:
            StaleShardMap: *refused*, if nobody could say whether there is a newer map.
        """
        answered = self._maps.refresh()
        if self.ownership(tenant) != ownership:
            return True
        if not answered:
            raise refused
        return False


def with_newest_map(shards: Shards, split: Callable[[], P], checked: Callable[[P], T], plainly: Callable[[P], T]) -> T:
    """Run a read that touches rows of several tenants, again with a newer map as long as shards refuse it.

    Args:
        shards: the shards of the gate.
        split: splits the read by the map at hand. Two results are equal if the maps say the same of them.
        checked: runs the read; each shard first checks that it owns what its part is about.
        plainly: runs the read without that check.

    Raises:
        StaleShardMap: nobody could say whether there is a newer map, or tenants are flipped again and again.
    """
    moves = 0
    while True:
        parts = split()
        try:
            return checked(parts)
        except StaleShardMap:
            moves += 1
            answered = shards.refresh()
            if split() != parts and moves < MOST_MOVES:
                continue
            if split() != parts or not answered:
                raise
        # Nobody has written these rows elsewhere: they are the newest, whatever the shards' own tables say by now.
        return plainly(parts)


def of_all_shards(shards: Shards, ask: Callable[[Sequence[str], int | None], T]) -> T:
    """Ask all shards for rows that belong to no known tenant, again with a newer map as long as shards refuse.

    Args:
        shards: the shards of the gate.
        ask: asks the shards of these names. Each checks first that it knows no later epoch than the one given; None: it
            does not check.

    Raises:
        StaleShardMap: as for :func:`with_newest_map`.
    """
    return with_newest_map(shards, shards.all, lambda every: ask(*every), lambda every: ask(every[0], None))


MOST_MOVES: Final = 5
"""How often one call follows a tenant that is flipped again and again."""
