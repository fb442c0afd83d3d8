"""The rules of the protocol taken away, as patches of the real code; each with a world in which that must show.

Some rules cover each other: taken away alone, none of them shows. Of such, all are taken away, and each of them left in
place must be enough.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from simulation.one_shard_world import TENANT, PlainSimStore, Shape, SimRequest, SimStore, SimWriter

from tidegate.cache import marks
from tidegate.cache.marks import Mark, Root, RootState
from tidegate.cache.memory_store import MemoryStore
from tidegate.cache.root_recovery import RootRecovery
from tidegate.cache.store import Miss, OtherHistory
from tidegate.position import NOWHERE, History, HistoryRecord, Origin, Position
from tidegate.proxy.database import history_record
from tidegate.routing.replicas import choose
from tidegate.routing.replicas.attempt import Attempt
from tidegate.routing.replicas.topology import View

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest
    from simulation.servers import SimConnection

    from tidegate.cache.request import Answer, ReadRequirement


@dataclass(frozen=True)
class Mutant:
    """Rules that cover each other (most often one alone), and a world where one of them is needed."""

    rules: tuple[str, ...]
    shape: Shape

    @property
    def name(self) -> str:
        return " and ".join(self.rules)


def take_away(rules: Iterable[str], patch: pytest.MonkeyPatch) -> None:
    for rule in rules:
        globals()[f"_without_{rule}"](patch)


def _without_intent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "open", lambda *_args: None)


def _without_fence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(marks, "may_not_fill", lambda root, noted, _tags, _origin: marks.stale(root, noted, ()))
    _store_with_present_counter(patch)


def _without_noted(patch: pytest.MonkeyPatch) -> None:
    _store_with_present_counter(patch)


def _store_with_present_counter(patch: pytest.MonkeyPatch) -> None:
    fill = MemoryStore.fill

    def filled(self: MemoryStore, tenant: str, filling: Any) -> Any:
        root = self.roots.get(tenant)
        if root is not None and root.nonce == filling.noted.nonce:
            filling = replace(filling, noted=replace(filling.noted, counter=root.counter))
        return fill(self, tenant, filling)

    patch.setattr(MemoryStore, "fill", filled)


def _without_position(patch: pytest.MonkeyPatch) -> None:
    query = SimRequest.query

    def anywhere(self: SimRequest, need: ReadRequirement) -> Answer:
        return query(self, replace(need, position=NOWHERE))

    patch.setattr(SimRequest, "query", anywhere)


def _without_choice(patch: pytest.MonkeyPatch) -> None:
    """Any replica will do, unless its connection has to be asked."""
    patch.setattr(choose, "_not_now", lambda *_args: None)


def _without_vouching(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(View, "vouches_for", lambda *_args: True)


def _without_asking(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Attempt, "_ask", lambda *_args: None)


def _without_nonce(patch: pytest.MonkeyPatch) -> None:
    rooted = MemoryStore._rooted
    patch.setattr(MemoryStore, "_rooted", lambda self, tenant, _nonce, origin: rooted(self, tenant, "same", origin))


def _without_quarantine(patch: pytest.MonkeyPatch) -> None:
    def clean(self: Any, tenant: str, nonce: str, origin: Any) -> Root:
        root: Root | None = self.roots.get(tenant)
        if root is None or origin.outdates(root.origin):
            root = self.roots[tenant] = Root(nonce, origin, RootState.CLEAN, position=self.world.primary.position)
        return root

    patch.setattr(MemoryStore, "_rooted", clean)


def _without_pending(patch: pytest.MonkeyPatch) -> None:
    """The finder asks the primary first, and stores the root, in quarantine, after."""

    def create_root(self: Any, tenant: str) -> Origin:
        xid, position, _ = self._primary.transaction(tenant)
        nonce = self._nonce()
        origin = Origin(0, self._primary.asked(tenant).history, "")
        self._store.make_root(tenant, nonce, origin)
        marks_now = self._store.roots[tenant]
        if marks_now.nonce == nonce:
            self._store.roots[tenant] = marks.completed(marks_now, nonce, xid, position)
        return origin

    patch.setattr(RootRecovery, "create_root", create_root)


def _without_resolve(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(marks, "resolved", lambda root, xids, _position: _forgotten(root, set(xids)))


def _without_unknown(patch: pytest.MonkeyPatch) -> None:
    def failed(self: SimWriter, connection: SimConnection) -> None:
        store = self._world.store
        if TENANT in store.roots:
            store.roots[TENANT] = _forgotten(store.roots[TENANT], {connection.xid})

    patch.setattr(SimWriter, "commit_failed", failed)


def _forgotten(root: Root, xids: set[str]) -> Root:
    def without(intents: Any) -> Any:
        return {xid: since for xid, since in intents.items() if xid not in xids}

    tags = {tag: replace(mark, intents=without(mark.intents)) for tag, mark in root.tags.items()}
    return replace(root, tags=tags, intents=without(root.intents))


def _without_maxmerge(patch: pytest.MonkeyPatch) -> None:
    stamped = marks.stamped

    def overwritten(root: Root, xid: str, tags: Any, *, whole: bool, position: Any) -> Root:
        new = stamped(root, xid, tags, whole=whole, position=position)
        return replace(new, tags={**new.tags, **{tag: replace(new.tags[tag], position=position) for tag in tags}})

    patch.setattr(marks, "stamped", overwritten)


def _without_floor(patch: pytest.MonkeyPatch) -> None:
    def gone(root: Root, tag: str) -> Root:
        if root.tags.get(tag, Mark()).intents:
            return root
        return replace(root, tags={other: mark for other, mark in root.tags.items() if other != tag})

    patch.setattr(marks, "dropped", gone)


def _without_foreign(patch: pytest.MonkeyPatch) -> None:
    """What is looked up for one history is found in the marks of another one."""
    patch.setattr(marks, "foreign", lambda _root, _asked: False)
    settle = RootRecovery._settle
    patch.setattr(
        RootRecovery, "_settle", lambda self, tenant, found, known: found.dirty and settle(self, tenant, found, known)
    )


def _without_remaking(patch: pytest.MonkeyPatch) -> None:
    """A newer history takes the marks of an older one over as they are."""

    def rooted(self: Any, tenant: str, nonce: str, origin: Origin) -> Root:
        root: Root | None = self.roots.get(tenant)
        if root is None:
            root = self.roots[tenant] = Root(nonce, origin)
        elif origin.outdates(root.origin):
            root = self.roots[tenant] = replace(root, origin=origin)
        return root

    patch.setattr(MemoryStore, "_rooted", rooted)


def _without_binding(patch: pytest.MonkeyPatch) -> None:
    """A record counts for every life of a server, also for one after a promotion or a restore."""

    def here_of(row: Any) -> Any:
        lsn, file, started, record = row
        position, known = Position.parse(lsn, file), HistoryRecord.of_text(record)
        history, database = (None, "") if known is None else (known.history, known.database)
        return history_record.Here(position, history, history_record.Life(position.timeline, started), database)

    patch.setattr(history_record, "here_of", here_of)


def _without_token(patch: pytest.MonkeyPatch) -> None:
    """Histories are told apart by their ordinals alone, which count promotions, as timelines do."""
    patch.setattr(marks, "foreign", lambda root, asked: root.origin.history.ordinal != asked.history.ordinal)
    patch.setattr(Origin, "__eq__", lambda one, other: one.text().split(".")[:2] == other.text().split(".")[:2])
    patch.setattr(Origin, "__ne__", lambda one, other: not one == other)  # noqa: SIM201
    patch.setattr(Origin, "__hash__", lambda _self: 0)
    patch.setattr(History, "__eq__", lambda one, other: isinstance(other, History) and one.ordinal == other.ordinal)
    patch.setattr(History, "__ne__", lambda one, other: not one == other)  # noqa: SIM201
    patch.setattr(History, "__hash__", lambda _self: 0)
    newest = MemoryStore.newest_history

    def named(self: Any, shard: str, history: History | None = None) -> History | None:
        return None if history is None else newest(self, shard, history)

    patch.setattr(MemoryStore, "newest_history", named)


def _without_counting(patch: pytest.MonkeyPatch) -> None:
    """A server that has got over a crash by itself is taken for what it was before."""
    patch.setattr(history_record.Asked, "here", property(lambda self: history_record.here_of(self[1:5])))


def _without_origin(patch: pytest.MonkeyPatch) -> None:
    """Whose data an answer is is not compared."""
    patch.setattr(marks, "may_not_fill", lambda root, noted, tags, _origin: marks.stale(root, noted, tags))


def _without_refused(patch: pytest.MonkeyPatch) -> None:
    """An intent that the marks did not take, as they are of another history, counts as told."""
    opened = MemoryStore.open

    def told(self: Any, *args: Any) -> None:
        with suppress(OtherHistory):
            opened(self, *args)

    patch.setattr(MemoryStore, "open", told)


def _without_waiting(patch: pytest.MonkeyPatch) -> None:
    """A root that replaces a clean one without open intents waits for no transaction."""
    rooted = MemoryStore._rooted

    def clean(self: Any, tenant: str, nonce: str, origin: Origin) -> Root:
        root: Root | None = self.roots.get(tenant)
        if root is None or not origin.outdates(root.origin) or root.state is not RootState.CLEAN or _is_open(root):
            return rooted(self, tenant, nonce, origin)
        self.roots[tenant] = Root(nonce, origin, RootState.CLEAN, position=self.world.primary.position)
        return self.roots[tenant]  # type: ignore[no-any-return]

    patch.setattr(MemoryStore, "_rooted", clean)


def _is_open(root: Root) -> bool:
    return bool(root.intents) or any(mark.intents for mark in root.tags.values())


def _without_tending(patch: pytest.MonkeyPatch) -> None:
    """The recovery asks its primary about the transactions of another history."""
    advance = RootRecovery.advance

    def advanced(self: Any, tenant: str, found: Any) -> bool:
        if not isinstance(found, Miss) or not found.dirty:
            return advance(self, tenant, found)
        steps = {RootState.PENDING: self._complete, RootState.QUARANTINE: self._release}
        return bool(steps.get(found.state, self._resolve)(tenant, found))

    patch.setattr(RootRecovery, "advance", advanced)


def _without_answers(patch: pytest.MonkeyPatch) -> None:
    """A primary's answer counts for whatever root was asked about."""
    patch.setattr(RootRecovery, "_is_of", lambda *_args: True)
    resolved = MemoryStore.resolve

    def resolve(self: Any, tenant: str, xids: Any, _origin: Any, position: Any) -> None:
        if tenant in self.roots:
            resolved(self, tenant, xids, self.roots[tenant].origin, position)

    patch.setattr(MemoryStore, "resolve", resolve)


def _without_moment(patch: pytest.MonkeyPatch) -> None:
    """The marks are read by two commands: the root first, and the tags later."""

    def lookup(self: PlainSimStore, tenant: str, entry: str, guard: str, asked: Any, *, refresh: bool = False) -> Any:
        root = None if refresh else self.roots.get(tenant)
        if root is None:
            return SimStore.lookup(self, tenant, entry, guard, asked, refresh=refresh)
        self.world.scheduler.step("tags")
        present = self.roots.get(tenant)
        try:
            self.roots[tenant] = replace(root, tags=present.tags if present else {})
            return MemoryStore.lookup(self, tenant, entry, guard, asked)
        finally:
            self.roots[tenant] = present or root

    patch.setattr(PlainSimStore, "lookup", lookup)


MUTANTS = [
    Mutant(("intent",), Shape(readers=2)),
    Mutant(("fence",), Shape(readers=2)),
    Mutant(("moment",), Shape(readers=2, reads=2, faults={"drop": 1}, plain=True)),
    Mutant(("noted",), Shape(readers=2)),
    Mutant(("position",), Shape(readers=1)),
    Mutant(("choice",), Shape(writers=2, readers=1, reads=3)),
    Mutant(("vouching",), Shape(readers=1, reads=2, faults={"regress": 1})),
    Mutant(("asking",), Shape(readers=1, reads=2, faults={"regress": 1})),
    Mutant(("nonce",), Shape(readers=2, reads=2, faults={"lose": 2})),
    Mutant(("quarantine",), Shape(readers=3, faults={"lose": 1})),
    Mutant(("pending",), Shape(readers=1, reads=2, faults={"lose": 1}, replicas=0, rooted=False)),
    Mutant(("resolve",), Shape(readers=2, faults={"dies after commit": 1})),
    Mutant(("unknown",), Shape(readers=2, faults={"commit answer lost": 1})),
    Mutant(("maxmerge",), Shape(writers=2, readers=1)),
    Mutant(("floor",), Shape(readers=2, faults={"drop": 1})),
    Mutant(("foreign",), Shape(readers=2, reads=2, processes=1, faults={"promote": 1})),
    Mutant(("remaking",), Shape(readers=2, reads=2, processes=1, faults={"promote": 1})),
    Mutant(("binding",), Shape(readers=2, reads=2, processes=1, faults={"promote": 1})),
    Mutant(("token",), Shape(readers=2, reads=3, faults={"promote beside": 2}, replicas=2)),
    Mutant(("counting",), Shape(readers=2, reads=2, processes=1, replicas=0, faults={"crash": 1})),
    Mutant(("origin",), Shape(writers=2, readers=3, reads=2, faults={"promote": 1})),
    # In one shard a root of the writer's own history is made after the intent that was refused, and so its quarantine
    # waits for the writer. Only if it began clean, as after marks without open intents, it would miss him.
    Mutant(("refused", "waiting"), Shape(readers=2, reads=2, replicas=0, faults={"renew": 1})),
    Mutant(("tending", "answers"), Shape(readers=2, reads=2, promoted=True)),
]
