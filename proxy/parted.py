"""Calls of several tenants: a part on each shard, and one answer made of theirs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from tidegate.errors import PartialResult, RoutingError, StaleShardMap
from tidegate.proxy.partial_answers import may_be_missing
from tidegate.proxy.shards import by_newest_map, checking
from tidegate.repositories.ids import is_no_id
from tidegate.repositories.places import Everywhere, InTurn, OfIds
from tidegate.repositories.policies import Read
from tidegate.routing.scatter import OF_THE_SHARD, merged, summed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tidegate.proxy.call import Call, Pipeline
    from tidegate.proxy.finder import Finder
    from tidegate.proxy.shards import Shards
    from tidegate.repositories.directory import Kind
    from tidegate.repositories.places import OfId, Place
    from tidegate.routing.scatter import Scatter
    from tidegate.routing.shard_map import Holding

_WAIT_S: Final = 0.02


class _Owned(NamedTuple):
    """Something that a call is about, and whose it is; of what is nobody's, the shard where something of it lies."""

    item: Any
    tenant: str | None
    shard: str | None = None


class _Part(NamedTuple):
    """What goes to one shard, and of whom that shard has by the map by which it was chosen."""

    owned: list[_Owned]
    holdings: dict[str, Holding]


_Parts: TypeAlias = Mapping[str, _Part]
_Asked: TypeAlias = "Mapping[str, Callable[[], Any]]"


class Parted:
    """Splits calls, and merges what their parts answer.

    Args:
        below: the layers that answer for one shard.
        shards: all of them.
        scatter: runs parts at once.
        find: whose ids are whose.
        patience_s: how long a part waits for a flip to get by, in seconds.
    """

    def __init__(self, below: Pipeline, shards: Shards, scatter: Scatter, find: Finder, patience_s: float) -> None:
        self._below: Final = below
        self._shards: Final = shards
        self._scatter: Final = scatter
        self.find: Final = find
        self._patience_s: Final = patience_s

    def __call__(self, call: Call, where: Place) -> object:
        """The answer of a call that is about no single id."""
        if isinstance(where, OfIds):
            return self.by_ids(call, where)
        if isinstance(where, Everywhere):
            return self.everywhere(call, where)
        if isinstance(where, InTurn):
            return self.in_turn(call, where)
        return call.run_plain()  # it touches no row

    def on_first(self, call: Call) -> object:
        """The answer of a shard of which nothing is known: to say what one database with no such row would."""
        return self._on(call, self._shards.names()[0], {})

    def of_nobody(self, call: Call, kind: Kind, key: str) -> object:
        """The answer about an id that is no tenant's: of the shard where something of it was left, or of any."""
        left = {} if is_no_id(key) else self.find.left(kind, [key])
        return self._on(call, left.get(key, self._shards.names()[0]), {})

    def searched(self, call: Call, where: OfId) -> object:
        """The row that the call finds on any shard; of several the first. One that has it will do, if others fail.

        Raises:
            PartialResult: no shard that answered has it, and one did not answer.
        """
        answers = self._scatter.all_of({name: partial(self._on, call, name, {}) for name in self._shards.names()})
        found = [row for row in answers.succeeded.values() if row is not None]
        if not found or where.first:  # else one is enough: an id is on one shard
            _raise_if_failed(call, answers.succeeded, answers.failed)
        if not found:
            return None
        return min(found, key=attrgetter(*where.first)) if where.first else found[0]

    def by_ids(self, call: Call, where: OfIds) -> object:
        """The sum of the parts, each one transaction on its shard.

        Raises:
            PartialResult: a shard failed, after which the others had done their parts.
        """
        items = call.arguments[where.argument]
        if not items or isinstance(items, str) or any(is_no_id(_id(item)) for item in items):
            return self.on_first(call)
        owners = self._owners(where, list(items))
        if isinstance(call.policy, Read):
            return _added(self._read(call, where.argument, owners).values())
        return self._written(call, where, owners)

    def everywhere(self, call: Call, where: Everywhere) -> object:
        """The rows of all shards, or of those that the named tenants are on, in order."""
        tenants = call.arguments[where.tenants] if where.tenants else None
        if where.tenants and tenants and not isinstance(tenants, str):
            if any(map(is_no_id, tenants)):
                return self.on_first(call)
            rows = self._read(call, where.tenants, [_Owned(tenant, tenant) for tenant in tenants])
        else:
            rows = self._each(call, {name: partial(self._on, call, name, {}) for name in self._shards.names()})
        if len(rows) == 1:
            return next(iter(rows.values()))
        return merged(rows.values(), attrgetter(*where.order), limit=call.arguments[where.limit])

    def in_turn(self, call: Call, where: InTurn) -> object:
        """What was done, on whichever shard, in order.

        Raises:
            PartialResult: one of them failed; what had been done before is in it.
        """
        given = list(call.arguments.values())
        found = self._scatter(
            call.name,
            {name: partial(self._run, call, name, where.find, *given) for name in self._shards.names()},
        )
        most = where.most if call.arguments[where.limit] is None else call.arguments[where.limit]
        due = merged([[(item, name) for item in items] for name, items in found.items()], _itself, limit=most)
        done: dict[str, list[Any]] = {}
        answer = []
        for item, name in due:
            try:
                if self._do(call, name, where.do, item, *given):
                    answer.append(item[-1])
                    done.setdefault(name, []).append(item[-1])
            except Exception as error:
                if not answer:
                    raise
                raise PartialResult(call.name, done, {name: error}) from error
        return answer

    def _do(self, call: Call, name: str, *step: Any) -> bool:
        """Whether a step was done on the shard *name*; on any, once it was refused there, as its tenant moves."""
        until_s = time.monotonic() + self._patience_s
        names: Sequence[str] = (name,)
        while True:
            stale = None
            for shard in names:
                try:
                    if self._run(call, shard, *step):
                        return True
                except StaleShardMap as error:
                    stale = error
            if stale is None:
                return False
            if not self._shards.refresh() or time.monotonic() > until_s:
                raise stale
            time.sleep(_WAIT_S)
            names = self._shards.names()

    def _written(self, call: Call, where: OfIds, left: Sequence[_Owned]) -> object:
        done: dict[str, Any] = {}
        until_s = time.monotonic() + self._patience_s
        while left:
            parts = self._split(left)
            succeeded, failed = self._answers(self._checked(call, where.argument, parts))
            for name, answer in succeeded.items():
                done[name] = answer if name not in done else _added([done[name], answer])
            stale = {name for name, error in failed.items() if isinstance(error, StaleShardMap)}
            if failed and (stale != failed.keys() or not self._may_go_on(until_s)):
                _raise_if_failed(call, done, failed)
            left = [owned for name in stale for owned in parts[name].owned]
        return _added(done.values())

    def _read(self, call: Call, argument: str, owned: Sequence[_Owned]) -> Mapping[str, Any]:
        def ask(of_shards: Callable[[Call, str, _Parts], _Asked], parts: _Parts) -> Mapping[str, Any]:
            succeeded, failed = self._answers(of_shards(call, argument, parts))
            for error in failed.values():
                if isinstance(error, StaleShardMap):
                    raise error
            _raise_if_failed(call, succeeded, failed)
            return succeeded

        split = partial(self._split, owned)
        return by_newest_map(self._shards, split, partial(ask, self._checked), partial(ask, self._unchecked))

    def _may_go_on(self, until_s: float) -> bool:
        """After a refusal that committed nothing: read the map again, and wait a little for a flip to get by."""
        self._shards.refresh()
        time.sleep(_WAIT_S)
        return time.monotonic() < until_s

    def _owners(self, where: OfIds, items: Sequence[Any]) -> list[_Owned]:
        ids = [_id(item) for item in items]
        named = [getattr(item, "tenant_id", None) for item in items]
        unknown = [key for key, tenant in zip(ids, named, strict=True) if tenant is None]
        found = self.find(where.kind, unknown) if unknown else {}
        nobodys = [key for key in unknown if key not in found]
        left = self.find.left(where.kind, nobodys) if nobodys else {}
        return [_Owned(item, named[at] or found.get(ids[at]), left.get(ids[at])) for at, item in enumerate(items)]

    def _split(self, owned: Iterable[_Owned]) -> _Parts:
        parts: dict[str, _Part] = {}
        for each in owned:
            holding = None if each.tenant is None else self._shards.holding(each.tenant)
            # Of what is not there any shard answers as all would.
            shard = (each.shard or self._shards.names()[0]) if holding is None else holding.shard
            part = parts.setdefault(shard, _Part([], {}))
            part.owned.append(each)
            if holding is not None:
                part.holdings[holding.unit] = holding
        return parts

    def _unchecked(self, call: Call, argument: str, parts: _Parts) -> _Asked:
        return {
            name: partial(self._on, call, name, {argument: [each.item for each in part.owned]})
            for name, part in parts.items()
        }

    def _checked(self, call: Call, argument: str, parts: _Parts) -> _Asked:
        """The same, where each shard sees first that it owns the tenants of its part."""

        def ask(part: _Part, plainly: Callable[[], Any]) -> Any:
            with checking(*part.holdings.values()):
                return plainly()

        asked = self._unchecked(call, argument, parts)
        return {name: partial(ask, parts[name], plainly) for name, plainly in asked.items()}

    def _each(self, call: Call, asked: _Asked) -> Mapping[str, Any]:
        succeeded, failed = self._answers(asked)
        _raise_if_failed(call, succeeded, failed)
        return succeeded

    def _answers(self, asked: _Asked) -> tuple[Mapping[str, Any], Mapping[str, BaseException]]:
        if len(asked) > 1:
            return self._scatter.all_of(asked)
        ((name, ask),) = asked.items()
        try:
            return {name: ask()}, {}
        except Exception as error:  # noqa: BLE001  # raised again by who asked
            return {}, {name: error}

    def _on(self, call: Call, shard: str, new: Mapping[str, Any]) -> Any:
        return self._below(replace(call, arguments={**call.arguments, **new}, shard=shard))

    def _run(self, call: Call, shard: str, method: str, *given: Any) -> Any:
        """A method of the repository's own, on one shard."""

        def step(repository: Any, **_arguments: Any) -> Any:
            return getattr(repository, method)(*given)

        return self._below(replace(call, plain=step, shard=shard))


def _raise_if_failed(call: Call, succeeded: Mapping[str, Any], failed: Mapping[str, BaseException]) -> None:
    if not failed:
        return
    first = next(iter(failed.values()))
    if not succeeded and len({(type(error), str(error)) for error in failed.values()}) == 1:
        raise first
    about_the_call = [error for error in failed.values() if not isinstance(error, (*OF_THE_SHARD, RoutingError))]
    if about_the_call and isinstance(call.policy, Read):  # nothing was done that would have to be told
        raise about_the_call[0]
    if succeeded and isinstance(call.policy, Read) and may_be_missing(failed):
        return
    raise PartialResult(call.name, succeeded, failed) from first


def _id(item: Any) -> Any:
    return getattr(item, "id", item)


def _added(answers: Iterable[Any]) -> Any:
    parts = list(answers)
    if isinstance(parts[0], Mapping):
        return summed(parts)
    return sum(parts)


def _itself(item: Any) -> Any:
    return item
