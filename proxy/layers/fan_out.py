"""Calls of several tenants: a part on each shard, and one answer made of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from tidegate.cache.request import Answer
from tidegate.cache.tags import as_text
from tidegate.errors import PartialResult, RoutingError, StaleShardMap
from tidegate.ids import is_no_id
from tidegate.interruptions import pass_interruption
from tidegate.proxy.call import OneShard
from tidegate.proxy.layers.partial_results import may_be_missing
from tidegate.proxy.shards.ownership_checks import ownership_checks
from tidegate.proxy.shards.registry import of_all_shards, with_newest_map
from tidegate.proxy.shards.retry import StaleMapRetry
from tidegate.repositories.policies import Read
from tidegate.repositories.scopes import AllShards, AllShardsInOrder, ByRowIds
from tidegate.routing.sharding.scatter import OF_THE_SHARD, merged, summed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tidegate.proxy.call import Call, Layer
    from tidegate.proxy.shards.id_search import IdSearch
    from tidegate.proxy.shards.registry import Shards
    from tidegate.repositories.scopes import ByRowId
    from tidegate.repositories.tenant_directory import Kind
    from tidegate.routing.sharding.scatter import Scatter
    from tidegate.routing.sharding.shard_map import Ownership


class _Owned(NamedTuple):
    """Something that a call is about, and whose it is; of what is nobody's, the shard where something of it lies."""

    item: Any
    tenant: str | None
    shard: str | None = None


class _ShardItems(NamedTuple):
    """What goes to one shard, and of whom that shard has by the map by which it was chosen."""

    owned: list[_Owned]
    ownerships: dict[str, Ownership]


_ByShard: TypeAlias = Mapping[str, _ShardItems]
_Asked: TypeAlias = "Mapping[str, Callable[[], Any]]"


class FanOut:
    """Split calls, have the shards answer their parts at once, and merge the answers.

    With one shard nothing is split: the layers below answer the call as it is.

    Args:
        below: the layers that answer for one shard.
        shards: all of them.
        scatter: runs parts at once.
        search: finds whose ids are whose.
        flip_wait_s: how long a part waits for a flip to get by, in seconds.
    """

    def __init__(self, below: Layer, shards: Shards, scatter: Scatter, search: IdSearch, flip_wait_s: float) -> None:
        self._below: Final = below
        self._shards: Final = shards
        self._scatter: Final = scatter
        self._search: Final = search
        self._flip_wait_s: Final = flip_wait_s

    def __call__(self, call: Call) -> Answer:
        """Answer a call that is about no single id."""
        scope = call.scope
        if self._shards.only is not None or scope is None:
            return self._below(call)
        if isinstance(scope, ByRowIds):
            return Answer(self._by_ids(call, scope))
        if isinstance(scope, AllShards):
            return Answer(self._on_all(call, scope))
        if isinstance(scope, AllShardsInOrder):
            return Answer(self._in_order(call, scope))
        return Answer(call.run())  # it touches no row

    def tenant_of(self, kind: Kind, key: str) -> str | None:
        """Find the tenant of an id that the directory does not know; None: there is none, or one shard has all."""
        if self._shards.only is not None or is_no_id(key):
            return None
        return self._search(kind, [key]).get(key)

    def on_first(self, call: Call) -> Answer:
        """Answer from a shard of which nothing is known: to say what one database with no such row would."""
        return self._below(call) if self._shards.only is not None else self._on_some(call, {})

    def of_nobody(self, call: Call, kind: Kind, key: str) -> Answer:
        """Answer about an id that is no tenant's: from the shard where something of it was left, or from any."""
        if self._shards.only is not None:
            return self._below(call)
        orphans = {} if is_no_id(key) else self._search.orphans(kind, [key])
        return Answer(self._on(call, orphans.get(key, self._shards.names()[0]), {}))

    def searched(self, call: Call, scope: ByRowId) -> Answer:
        """Answer with the row that the call finds on any shard; of several with the first.

        One shard that has it will do, if others fail.

        Raises:
            PartialResult: no shard that answered has it, and one did not answer.
        """
        if self._shards.only is not None:
            return self._below(call)

        def ask(names: Sequence[str], epoch: int | None) -> object:
            asked = {name: partial(self._on, call, name, {}, epoch=epoch) for name in names}
            # One is enough, unless it must be the first: an id is on one shard.
            answers = self._scatter.all_of(asked, enough=None if scope.first else _any_row)
            found = [row for row in answers.succeeded.values() if row is not None]
            if not found or scope.first:
                _raise_if_failed(call, answers.succeeded, answers.failed)
            if not found:
                return None
            return min(found, key=attrgetter(*scope.first)) if scope.first else found[0]

        return Answer(of_all_shards(self._shards, ask))

    def _on_some(self, call: Call, new: Mapping[str, Any]) -> Answer:
        return Answer(self._on(call, self._shards.names()[0], new))

    def _by_ids(self, call: Call, scope: ByRowIds) -> object:
        """Return the sum of the parts, each one transaction on its shard.

        Raises:
            PartialResult: a shard failed, after which the others had done their parts.
        """
        items = call.arguments[scope.argument]
        if not items or isinstance(items, str):
            return self._on_some(call, {}).value
        items = list(items)
        if not items or any(is_no_id(self._search.tracked.named(scope.kind, item)[0]) for item in items):
            return self._on_some(call, {scope.argument: items}).value
        owners = self._owners(scope, items)
        if isinstance(call.policy, Read):
            return _added(self._read(call, scope.argument, owners).values())
        return self._written(call, scope, owners)

    def _on_all(self, call: Call, scope: AllShards) -> object:
        """Return the rows of all shards, or of those that the named tenants are on, in order."""
        tenants = call.arguments[scope.tenants] if scope.tenants else None
        if scope.tenants and tenants and not isinstance(tenants, str):
            named = list(tenants)
            if not named or any(map(is_no_id, named)):  # nobody's, as an iterator at its end says, and not everybody's
                return self._on_some(call, {scope.tenants: named or tenants}).value
            rows = self._read(call, scope.tenants, [_Owned(tenant, as_text(tenant)) for tenant in named])
        else:
            rows = of_all_shards(self._shards, partial(self._each, call))
        if len(rows) == 1:
            return next(iter(rows.values()))
        return merged(rows.values(), attrgetter(*scope.order), limit=call.arguments[scope.limit])

    def _in_order(self, call: Call, scope: AllShardsInOrder) -> object:
        """Return what was done, on whichever shard, in order.

        Raises:
            PartialResult: one of them failed; what had been done before is in it.
        """
        given = list(call.arguments.values())

        def find(names: Sequence[str], epoch: int | None) -> Mapping[str, Any]:
            asked = {name: partial(self._run, call, name, scope.find, *given, epoch=epoch) for name in names}
            return self._scatter(call.method.qualified_name, asked)

        found = of_all_shards(self._shards, find)
        most = scope.most if call.arguments[scope.limit] is None else call.arguments[scope.limit]
        due = merged([[(item, name) for item in items] for name, items in found.items()], _itself, limit=most)
        done: dict[str, list[Any]] = {}
        answer = []
        for item, name in due:
            try:
                if self._do(call, name, scope.do, item, *given):
                    answer.append(item[-1])
                    done.setdefault(name, []).append(item[-1])
            except Exception as error:
                if not answer:
                    raise
                pass_interruption(error)
                raise PartialResult(call.method.qualified_name, done, {name: error}) from error
        return answer

    def _do(self, call: Call, name: str, *step: Any) -> bool:
        """Whether a step was done on the shard *name*; on any, once it was refused there, as its tenant moves."""
        again = StaleMapRetry(self._shards, self._flip_wait_s)
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
            if not again(stale):
                raise stale
            names = self._shards.names()

    def _written(self, call: Call, scope: ByRowIds, remaining: Sequence[_Owned]) -> object:
        done: dict[str, Any] = {}
        again = StaleMapRetry(self._shards, self._flip_wait_s)
        while remaining:
            parts = self._split(remaining)
            succeeded, failed = self._answers(self._asked(call, scope.argument, parts, check=True))
            for name, answer in succeeded.items():
                done[name] = answer if name not in done else _added([done[name], answer])
            stale = {name: error for name, error in failed.items() if isinstance(error, StaleShardMap)}
            if failed and (stale.keys() != failed.keys() or not again(next(iter(stale.values())))):
                _raise_if_failed(call, done, failed)
            remaining = [owned for name in stale for owned in parts[name].owned]
        return _added(done.values())

    def _read(self, call: Call, argument: str, owned: Sequence[_Owned]) -> Mapping[str, Any]:
        def ask(parts: _ByShard, *, check: bool) -> Mapping[str, Any]:
            succeeded, failed = self._answers(self._asked(call, argument, parts, check=check))
            _raise_if_failed(call, succeeded, failed)
            return succeeded

        split = partial(self._split, owned)
        return with_newest_map(self._shards, split, partial(ask, check=True), partial(ask, check=False))

    def _owners(self, scope: ByRowIds, items: Sequence[Any]) -> list[_Owned]:
        ids, named = zip(*(self._search.tracked.named(scope.kind, item) for item in items), strict=True)
        unknown = [key for key, tenant in zip(ids, named, strict=True) if tenant is None]
        found = self._search(scope.kind, unknown) if unknown else {}
        nobodys = [key for key in unknown if key not in found]
        orphans = self._search.orphans(scope.kind, nobodys) if nobodys else {}
        tenants = [found.get(key) if name is None else as_text(name) for key, name in zip(ids, named, strict=True)]
        return [_Owned(item, tenants[at], orphans.get(ids[at])) for at, item in enumerate(items)]

    def _split(self, owned: Iterable[_Owned]) -> _ByShard:
        parts: dict[str, _ShardItems] = {}
        for each in owned:
            ownership = None if each.tenant is None else self._shards.ownership(each.tenant)
            # Of what is not there any shard answers as all would.
            shard = (each.shard or self._shards.names()[0]) if ownership is None else ownership.shard
            part = parts.setdefault(shard, _ShardItems([], {}))
            part.owned.append(each)
            if ownership is not None:
                part.ownerships[ownership.unit] = ownership
        return parts

    def _asked(self, call: Call, argument: str, parts: _ByShard, *, check: bool) -> _Asked:
        """By shard what asks it; *check*: after it has seen that it owns the tenants of its part."""

        def ask(name: str, part: _ShardItems) -> Any:
            ownerships = part.ownerships.values() if check else ()
            return self._on(call, name, {argument: [each.item for each in part.owned]}, *ownerships)

        return {name: partial(ask, name, part) for name, part in parts.items()}

    def _each(self, call: Call, names: Sequence[str], epoch: int | None) -> Mapping[str, Any]:
        succeeded, failed = self._answers({name: partial(self._on, call, name, {}, epoch=epoch) for name in names})
        _raise_if_failed(call, succeeded, failed)
        return succeeded

    def _answers(self, asked: _Asked) -> tuple[Mapping[str, Any], Mapping[str, BaseException]]:
        if len(asked) > 1:
            return self._scatter.all_of(asked)
        ((name, ask),) = asked.items()
        try:
            return {name: ask()}, {}
        except Exception as error:  # noqa: BLE001  # raised again by who asked
            pass_interruption(error)
            return {}, {name: error}

    def _on(
        self, call: Call, shard: str, new: Mapping[str, Any], *ownerships: Ownership, epoch: int | None = None
    ) -> Any:
        with ownership_checks(*ownerships, epoch=epoch):  # and nothing of what a call checks that has made this one
            return self._below(call._replace(arguments={**call.arguments, **new}, scope=OneShard(shard))).value

    def _run(self, call: Call, shard: str, method: str, *given: Any, epoch: int | None = None) -> Any:
        """A method of the repository's own, on one shard."""

        def step(repository: Any, **_arguments: Any) -> Any:
            return getattr(repository, method)(*given)

        with ownership_checks(epoch=epoch):
            return self._below(call._replace(method=call.method._replace(plain=step), scope=OneShard(shard))).value


def _raise_if_failed(call: Call, succeeded: Mapping[str, Any], failed: Mapping[str, BaseException]) -> None:
    if not failed:
        return
    stale = [error for error in failed.values() if isinstance(error, StaleShardMap)]
    if stale and isinstance(call.policy, Read):  # with a newer map, all are to be asked again
        raise stale[0]
    first = next(iter(failed.values()))
    if not succeeded and len({(type(error), str(error)) for error in failed.values()}) == 1:
        raise first
    about_the_call = [error for error in failed.values() if not isinstance(error, (*OF_THE_SHARD, RoutingError))]
    if about_the_call and isinstance(call.policy, Read):  # nothing was done that would have to be told
        raise about_the_call[0]
    if succeeded and isinstance(call.policy, Read) and may_be_missing(failed):
        return
    raise PartialResult(call.method.qualified_name, succeeded, failed) from first


def _any_row(answers: Mapping[str, Any]) -> bool:
    return any(row is not None for row in answers.values())


def _added(answers: Iterable[Any]) -> Any:
    parts = list(answers)
    if isinstance(parts[0], Mapping):
        return summed(parts)
    return sum(parts)


def _itself(item: Any) -> Any:
    return item
