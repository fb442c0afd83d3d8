"""The rules of several shards taken away, as patches of the real code; each with a world in which that must show.

Some rules cover each other: taken away alone, none of them shows. Of such, all are taken away, and each of them left in
place must be enough.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from simulation import shards
from simulation.shards import SharingConnection
from simulation.two_shard_world import ShardedShape

from tidegate.cache import marks
from tidegate.cache.marks import Root
from tidegate.cache.memory_store import MemoryStore
from tidegate.cache.request import ONLY_PRIMARY
from tidegate.cache.root_recovery import RootRecovery
from tidegate.cache.store import OtherHistory
from tidegate.errors import StaleShardMap
from tidegate.proxy.database import ownership
from tidegate.proxy.layers.sharding import Sharding
from tidegate.proxy.shards.primary import ShardedPrimary
from tidegate.proxy.shards.registry import Shards

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

    from tidegate.cache.request import Answer


@dataclass(frozen=True)
class ShardMutant:
    """Rules that cover each other (most often one alone), and a world where one of them is needed."""

    rules: tuple[str, ...]
    shape: ShardedShape

    @property
    def name(self) -> str:
        return " and ".join(self.rules)


def take_away(rules: Iterable[str], patch: pytest.MonkeyPatch) -> None:
    for rule in rules:
        globals()[f"_without_{rule}"](patch)


def _without_ownership(patch: pytest.MonkeyPatch) -> None:
    """A write asks no shard whether it owns the tenant, and compares no epoch."""
    patch.setattr(SharingConnection, "refuse", lambda *_args: None)
    patch.setattr(shards, "not_held", lambda *_args: [])


def _without_since(patch: pytest.MonkeyPatch) -> None:
    """It is enough that a shard owns the tenant, since whichever epoch."""

    def compare(rows: Any, ownerships: Any) -> None:
        if not all(row.owned for row in rows):
            raise StaleShardMap(str(ownerships))

    patch.setattr(ownership, "_compare", compare)
    patch.setattr(shards, "not_held", lambda *_args: [])


def _without_share(patch: pytest.MonkeyPatch) -> None:
    """The check holds nothing: a fence does not wait for the write."""
    patch.setattr(SharingConnection, "share", lambda _self: None)


def _without_remaking(patch: pytest.MonkeyPatch) -> None:
    """A flip leaves the root as it is, but for the origin."""

    def rooted(self: MemoryStore, tenant: str, nonce: str, origin: Any) -> Root:
        root = self.roots.get(tenant)
        root = self.roots[tenant] = (
            Root(nonce, origin)
            if root is None
            else replace(root, origin=origin if origin.outdates(root.origin) else root.origin)
        )
        return root

    patch.setattr(MemoryStore, "_rooted", rooted)


def _without_root(patch: pytest.MonkeyPatch) -> None:
    """A root is made by who has not read the ownership row."""
    origin = ShardedPrimary._origin
    patch.setattr(ShardedPrimary, "_origin", lambda self, ownership, **_: origin(self, ownership, check=False))


def _without_check(patch: pytest.MonkeyPatch) -> None:
    """A read does not ask its shard whether it owns the tenant."""
    run = Sharding._run
    patch.setattr(
        Sharding,
        "_run",
        lambda self, call, ownership, shard, need, **_: run(self, call, ownership, shard, need, check=False),
    )


def _without_answered(patch: pytest.MonkeyPatch) -> None:
    """A catalogue that does not answer is taken for one that has no newer map."""

    def moved(self: Any, tenant: str, ownership: Any, _refused: object) -> bool:
        self._maps.refresh()
        return bool(self.ownership(tenant) != ownership)

    patch.setattr(Shards, "moved", moved)


def _without_epoch(patch: pytest.MonkeyPatch) -> None:
    """What is looked up by an old map is found all the same: ``Refusal.EPOCH``."""
    patch.setattr(marks, "ahead", lambda _root, _asked: False)


def _without_newer(patch: pytest.MonkeyPatch) -> None:
    """A root of a later epoch tells the sharding nothing of the map."""
    read = Sharding._read_at

    def read_at(self: Sharding, call: Any, ownership: Any) -> Answer:
        root = call.route.requirement.root
        newer = root is not None and root.epoch > ownership.since_epoch
        return read(self, call.at(call.route._replace(requirement=ONLY_PRIMARY)) if newer else call, ownership)

    patch.setattr(Sharding, "_read_at", read_at)


def _without_vouching(patch: pytest.MonkeyPatch) -> None:
    """The position of a root that does not vouch for the shard is taken for one in the shard's log."""

    def read_at(self: Sharding, call: Any, ownership: Any) -> Answer:
        requirement = call.route.requirement
        root = requirement.root
        vouched = root is not None and (root.epoch, root.shard) == (ownership.since_epoch, ownership.shard)
        shard = self._shards.at(ownership.shard)
        return self._run(call, ownership, shard, requirement, check=not vouched)

    patch.setattr(Sharding, "_read_at", read_at)


def _without_tending(patch: pytest.MonkeyPatch) -> None:
    """The recovery asks the shard of its map about another one's transactions."""
    advance = RootRecovery.advance

    def advanced(self: Any, tenant: str, miss: Any) -> bool:
        epoch = self._primary.asked(tenant).epoch
        return advance(self, tenant, replace(miss, origin=miss.origin._replace(epoch=min(epoch, miss.origin.epoch))))

    patch.setattr(RootRecovery, "advance", advanced)


def _without_refused(patch: pytest.MonkeyPatch) -> None:
    """An intent that the marks did not take, as they are of a later epoch, counts as told."""
    opened = MemoryStore.open

    def told(self: Any, *args: Any) -> None:
        with suppress(OtherHistory):
            opened(self, *args)

    patch.setattr(MemoryStore, "open", told)


def _without_origin(patch: pytest.MonkeyPatch) -> None:
    """Intents are closed by what another shard says of its own transactions."""
    resolve = MemoryStore.resolve

    def resolved(self: Any, tenant: str, xids: Any, _origin: Any, position: Any) -> None:
        if tenant in self.roots:
            resolve(self, tenant, xids, self.roots[tenant].origin, position)

    patch.setattr(MemoryStore, "resolve", resolved)


def _without_answers(patch: pytest.MonkeyPatch) -> None:
    """A primary's answer counts for whatever root was asked about."""
    patch.setattr(RootRecovery, "_is_of", lambda *_args: True)


def _without_fill(patch: pytest.MonkeyPatch) -> None:
    """Whose data an answer is is not compared."""
    patch.setattr(marks, "may_not_fill", lambda root, noted, tags, _origin: marks.stale(root, noted, tags))


OLD_WRITER, OLD_READER = (2, 1), (1, 2)
MUTANTS = [
    ShardMutant(("ownership", "refused"), ShardedShape(maps=OLD_WRITER, rooted=2, faults={})),
    ShardMutant(("since", "refused"), ShardedShape(maps=(3, 1), reads=2, rooted=3, faults={})),
    ShardMutant(("share",), ShardedShape(readers=1)),
    ShardMutant(("remaking",), ShardedShape(writers=0, readers=1, reads=3, maps=(2,), faults={}, replicas=1)),
    ShardMutant(("root",), ShardedShape(maps=OLD_READER, rooted=2, faults={"lose": 1})),
    ShardMutant(("check",), ShardedShape(maps=OLD_READER, rooted=2, faults={"store away": 1})),
    ShardMutant(("answered",), ShardedShape(maps=OLD_READER, rooted=2, faults={"store away": 1, "catalogue away": 1})),
    ShardMutant(("epoch", "check"), ShardedShape(writers=2, maps=OLD_READER, rooted=2, faults={})),
    ShardMutant(("newer", "check"), ShardedShape(maps=OLD_READER, rooted=2, faults={})),
    ShardMutant(
        ("epoch", "tending", "origin", "answers"),
        ShardedShape(readers=3, reads=2, maps=OLD_READER, rooted=2, faults={}),
    ),
    ShardMutant(("vouching", "check"), ShardedShape(writers=0, readers=1, maps=(2,), faults={}, replicas=1)),
    ShardMutant(
        ("fill", "epoch", "newer", "check"),
        ShardedShape(readers=2, maps=OLD_READER, rooted=2, faults={}, judged="newest"),
    ),
]
