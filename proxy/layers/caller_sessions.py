"""Run methods that take the caller's session. Where there are several shards, a session is on one of them.

A session of no tenant yet becomes that of the first call which says whose rows it is about. A read of several tenants
is answered from their shards, with sessions of its own, if the caller's has done nothing yet; its rows are detached.
Anything else that is about another tenant than the session is refused: part of an answer would not be one.
"""

from __future__ import annotations

import inspect
from functools import lru_cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tidegate.cache.tags import as_text
from tidegate.errors import TenantSwitch
from tidegate.ids import is_no_id
from tidegate.proxy.call import bound_copy
from tidegate.proxy.shards.ownership_checks import ownership_checks
from tidegate.proxy.shards.registry import with_newest_map
from tidegate.proxy.shards.sessions import RoutedSession
from tidegate.repositories.base import batches
from tidegate.repositories.scopes import CallerSession
from tidegate.routing.sharding.scatter import merged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from tidegate.proxy.shards.id_search import IdSearch
    from tidegate.proxy.shards.registry import Shards
    from tidegate.repositories.policies import Policy
    from tidegate.routing.sharding.scatter import Scatter
    from tidegate.routing.sharding.shard_map import Ownership

_Split: TypeAlias = "tuple[int | None, Mapping[str, tuple[Ownership, ...]]]"


class CallerSessions:
    """Run methods in their callers' sessions.

    Args:
        shards: all of them.
        scatter: asks them at once.
        search: finds whose ids are whose.
    """

    def __init__(self, shards: Shards, scatter: Scatter, search: IdSearch) -> None:
        self._shards: Final = shards
        self._scatter: Final = scatter
        self._search: Final = search

    def __call__(
        self,
        repository: Any,
        plain: Callable[..., Any],
        policy: Policy,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """The answer, in the session that is the first argument.

        Raises:
            TenantSwitch: it asks for rows of others than the session's tenant, and cannot be answered elsewhere.
        """
        twin = bound_copy(repository, None)
        if self._shards.only is not None:
            return plain(twin, *args, **kwargs)
        arguments = _bound(plain, args, kwargs)
        scope = policy.scope
        session = None if arguments is None else arguments.get("session")
        # A session of a shard, as a part of a split call has, is on the right one already.
        if arguments is None or not isinstance(session, RoutedSession) or not isinstance(scope, CallerSession):
            return plain(twin, *args, **kwargs)
        for name in filter(None, (scope.lists, scope.tenants)):
            given = arguments[name]
            if given is not None and not isinstance(given, str):
                arguments[name] = list(given) or given  # an iterator that gives none is none the less not left out
        if _is_refused(scope, arguments):
            return self._at(self._shards.names()[0], (), None, twin, plain, arguments)
        tenants, orphans = self._owners(session, scope, arguments)
        if tenants and session.tenant is None and not orphans and len(tenants) == 1:
            session.become(tenants[0])
        if session.tenant is not None and not self._are_others(session.tenant, tenants, orphans):
            return plain(twin, **arguments)
        if session.has_begun or (scope.writes and tenants != []):
            raise TenantSwitch(
                f"{plain.__qualname__} is about rows of {_shown(tenants)}, and the session is that of the tenant "
                f"{session.tenant}: use gate.session() of each tenant"
            )
        return self._elsewhere(twin, plain, scope, arguments, partial(self._split, tenants, orphans))

    def _are_others(self, tenant: str, tenants: Sequence[str] | None, orphans: Mapping[str, str]) -> bool:
        here = {self._shards.ownership(tenant).shard}
        return tenants is None or not {tenant} >= set(tenants) or not here >= set(orphans.values())

    def _split(self, tenants: Sequence[str] | None, orphans: Mapping[str, str]) -> _Split:
        """The shards with rows of *tenants*, each with what it has of them, and those with what is nobody's.

        Of everybody's, by a map of which epoch besides.
        """
        names, epoch = self._shards.all() if tenants is None else (orphans.values(), None)
        parts: dict[str, tuple[Ownership, ...]] = dict.fromkeys(names, ())
        for tenant in tenants or ():
            ownership = self._shards.ownership(tenant)
            parts[ownership.shard] = (*parts.get(ownership.shard, ()), ownership)
        # Of what is not there any shard answers as all would.
        return epoch, parts or {self._shards.names()[0]: ()}

    def _owners(
        self, session: RoutedSession, scope: CallerSession, arguments: Mapping[str, Any]
    ) -> tuple[Sequence[str] | None, Mapping[str, str]]:
        """Of whom the call asks, None: of everybody; and the shards of what it asks for and is nobody's."""
        if scope.tenants is not None:
            given = arguments[scope.tenants]
            return list(dict.fromkeys(map(as_text, given))) if given else None, {}
        items = [arguments[scope.ids]] if scope.ids is not None else arguments[scope.lists or ""]
        kind = scope.kind or ""
        named = [self._search.tracked.named(kind, item) for item in items]
        ids = [key for key, tenant in named if tenant is None]
        found = (partial(self._search.within, session) if session.has_begun else self._search)(kind, ids)
        of_rows = [as_text(tenant) for _, tenant in named if tenant is not None]
        nobodys = [] if scope.writes else [key for key in ids if key not in found]
        orphans = self._search.orphans(kind, nobodys) if nobodys else {}
        return list(dict.fromkeys([*of_rows, *found.values()])), orphans

    def _elsewhere(
        self,
        twin: Any,
        plain: Callable[..., Any],
        scope: CallerSession,
        arguments: Mapping[str, Any],
        split: Callable[[], _Split],
    ) -> Any:
        def ask(by_map: _Split, *, check: bool) -> Any:
            epoch, parts = by_map
            sees = {name: (owned, epoch) if check else ((), None) for name, owned in parts.items()}
            asked = {name: partial(self._at, name, *first, twin, plain) for name, first in sees.items()}
            if scope.lists is None or not scope.order:
                return self._asked(plain, scope, asked, arguments)
            # In order are the rows of each batch of ids, as the plain method reads them.
            some = [{**arguments, scope.lists: part} for part in batches(dict.fromkeys(arguments[scope.lists]))]
            return [row for each in some for row in self._asked(plain, scope, asked, each)]

        return with_newest_map(self._shards, split, partial(ask, check=True), partial(ask, check=False))

    def _asked(
        self,
        plain: Callable[..., Any],
        scope: CallerSession,
        asked: Mapping[str, Callable[[Mapping[str, Any]], Any]],
        arguments: Mapping[str, Any],
    ) -> Any:
        answers = self._scatter(plain.__qualname__, {name: partial(ask, arguments) for name, ask in asked.items()})
        if scope.order:
            limit = None if scope.limit is None else arguments[scope.limit]
            return merged(answers.values(), attrgetter(*scope.order), limit=limit)
        return _together(list(answers.values()))

    def _at(
        self,
        shard: str,
        owned: Sequence[Ownership],
        epoch: int | None,
        twin: Any,
        plain: Callable[..., Any],
        arguments: Mapping[str, Any],
    ) -> Any:
        """The answer of one shard, which sees first that it owns what it is asked about, or knows of no later epoch."""
        session: Session
        with ownership_checks(*owned, epoch=epoch), self._shards.at(shard).sessions() as session:
            answer = plain(twin, **{**arguments, "session": session})
            session.expunge_all()
            return answer


def _shown(tenants: Sequence[str] | None) -> str:
    return "nobody's runs" if tenants == [] else ", ".join(tenants or ["every tenant"])


def _is_refused(scope: CallerSession, arguments: Mapping[str, Any]) -> bool:
    """Whether there is text that is no id, or where a list is meant: the plain method says so best."""
    many = scope.lists or scope.tenants
    if many is None:
        return is_no_id(arguments[scope.ids or ""])
    given = arguments[many] or ()
    return isinstance(given, str) or any(map(is_no_id, given))


def _together(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, set):
        return set().union(*parts)
    if isinstance(first, tuple):
        return tuple(sum(column) for column in zip(*parts, strict=True))
    return [row for part in parts for row in part]


@lru_cache(maxsize=256)
def _signature(plain: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(plain)


def _bound(plain: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments by name; None where the call does not fit, which the plain method says best."""
    try:
        bound = _signature(plain).bind(None, *args, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[1:])
