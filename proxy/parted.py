"""Calls of several tenants: a part on each shard, and one answer made of theirs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tidegate.errors import PartialResult, StaleShardMap
from tidegate.repositories.places import Everywhere, InTurn, OfIds
from tidegate.repositories.policies import Read
from tidegate.routing.scatter import merged, summed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tidegate.proxy.call import Call, Pipeline
    from tidegate.proxy.finder import Finder
    from tidegate.proxy.shards import Shards
    from tidegate.repositories.places import OfId, Place
    from tidegate.routing.scatter import Scatter

_WAIT_S: Final = 0.02


class _Owned(NamedTuple):
    item: Any
    tenant: str | None


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

    def searched(self, call: Call, where: OfId) -> object:
        """The row that the call finds on any shard; of several the first. One that has it will do, if others fail.

        Raises:
            PartialResult: no shard that answered has it, and one did not answer.
        """
        answers = self._scatter.all_of({name: partial(self._on, call, name, {}) for name in self._shards.names()})
        found = [row for row in answers.succeeded.values() if row is not None]
        if found and (not answers.failed or not where.first):
            return min(found, key=attrgetter(*where.first)) if where.first else found[0]
        _raise_if_failed(call, answers.succeeded, answers.failed)
        return None

    def by_ids(self, call: Call, where: OfIds) -> object:
        """The sum of the parts, each one transaction on its shard.

        Raises:
            PartialResult: a shard failed, after which the others had done their parts.
        """
        items = call.arguments[where.argument]
        if not items or isinstance(items, str):
            return self.on_first(call)
        owners = self._owners(where, list(items))
        if isinstance(call.policy, Read):
            return _added(self._each(call, _arguments(where.argument, self._split(owners))).values())
        return self._written(call, where, owners)

    def everywhere(self, call: Call, where: Everywhere) -> object:
        """The rows of all shards, or of those that the named tenants are on, in order."""
        tenants = call.arguments[where.tenants] if where.tenants else None
        asked: Mapping[str, Mapping[str, Any]] = {key: {} for key in self._shards.names()}
        if where.tenants and tenants and not isinstance(tenants, str):
            asked = _arguments(where.tenants, self._split([_Owned(tenant, tenant) for tenant in tenants]))
        rows = self._each(call, asked)
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
                if self._run(call, name, where.do, item, *given):
                    answer.append(item[-1])
                    done.setdefault(name, []).append(item[-1])
            except Exception as error:
                if not answer:
                    raise
                raise PartialResult(call.name, done, {name: error}) from error
        return answer

    def _written(self, call: Call, where: OfIds, left: Sequence[_Owned]) -> object:
        done: dict[str, Any] = {}
        until_s = time.monotonic() + self._patience_s
        while left:
            parts = self._split(left)
            succeeded, failed = self._answers(call, _arguments(where.argument, parts))
            for name, answer in succeeded.items():
                done[name] = answer if name not in done else _added([done[name], answer])
            stale = {name for name, error in failed.items() if isinstance(error, StaleShardMap)}
            if failed and (stale != failed.keys() or not self._may_go_on(until_s)):
                _raise_if_failed(call, done, failed)
            left = [owned for name in stale for owned in parts[name]]
        return _added(done.values())

    def _may_go_on(self, until_s: float) -> bool:
        """After a refusal that committed nothing: read the map again, and wait a little for a flip to get by."""
        self._shards.refresh()
        time.sleep(_WAIT_S)
        return time.monotonic() < until_s

    def _owners(self, where: OfIds, items: Sequence[Any]) -> list[_Owned]:
        ids = [item if isinstance(item, str) else item.id for item in items]
        named = [None if isinstance(item, str) else getattr(item, "tenant_id", None) for item in items]
        unknown = [key for key, tenant in zip(ids, named, strict=True) if tenant is None]
        found = self.find(where.kind, unknown) if unknown else {}
        return [_Owned(item, named[at] or found.get(ids[at])) for at, item in enumerate(items)]

    def _shard_of(self, tenant: str | None) -> str:
        """What is nobody's is asked of the first shard, which answers as any would."""
        return self._shards.names()[0] if tenant is None else self._shards.holding(tenant).shard

    def _split(self, owned: Iterable[_Owned]) -> dict[str, list[_Owned]]:
        parts: dict[str, list[_Owned]] = {}
        for each in owned:
            parts.setdefault(self._shard_of(each.tenant), []).append(each)
        return parts

    def _each(self, call: Call, asked: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
        succeeded, failed = self._answers(call, asked)
        _raise_if_failed(call, succeeded, failed)
        return succeeded

    def _answers(
        self, call: Call, asked: Mapping[str, Mapping[str, Any]]
    ) -> tuple[Mapping[str, Any], Mapping[str, BaseException]]:
        if len(asked) > 1:
            return self._scatter.all_of({name: partial(self._on, call, name, new) for name, new in asked.items()})
        ((name, new),) = asked.items()
        try:
            return {name: self._on(call, name, new)}, {}
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
    raise PartialResult(call.name, succeeded, failed) from first


def _arguments(name: str, parts: Mapping[str, Sequence[_Owned]]) -> Mapping[str, Mapping[str, Any]]:
    return {shard: {name: [owned.item for owned in part]} for shard, part in parts.items()}


def _added(answers: Iterable[Any]) -> Any:
    parts = list(answers)
    if isinstance(parts[0], Mapping):
        return summed(parts)
    return sum(parts)


def _itself(item: Any) -> Any:
    return item
