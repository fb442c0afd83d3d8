"""Methods that take the caller's session, where there are several shards: a session is on one.

A session of no tenant yet becomes that of the first call which says whose rows it is about. A read of several tenants
is answered from their shards, with sessions of its own, if the caller's has done nothing yet; its rows are detached.
Anything else that is about another tenant than the session is refused: part of an answer would not be one.
"""

from __future__ import annotations

import inspect
from functools import lru_cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from tidegate.errors import TenantSwitch
from tidegate.proxy.call import bound_copy
from tidegate.proxy.sessions import RoutedSession
from tidegate.repositories.places import InSession
from tidegate.routing.scatter import merged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from tidegate.proxy.finder import Finder
    from tidegate.proxy.shards import Shards
    from tidegate.repositories.policies import Policy
    from tidegate.routing.scatter import Scatter


class InSessions:
    """Runs methods in their callers' sessions.

    Args:
        shards: all of them.
        scatter: asks them.
        find: whose ids are whose.
    """

    def __init__(self, shards: Shards, scatter: Scatter, find: Finder) -> None:
        self._shards: Final = shards
        self._scatter: Final = scatter
        self._find: Final = find

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
        arguments = _bound(plain, args, kwargs)
        where = policy.where
        session = None if arguments is None else arguments.get("session")
        # A session of a shard, as a part of a split call has, is on the right one already.
        if arguments is None or not isinstance(session, RoutedSession) or not isinstance(where, InSession):
            return plain(twin, *args, **kwargs)
        tenants = self._tenants(where, arguments)
        if tenants == [] and session.tenant is None:  # there are no such rows
            return self._elsewhere(twin, plain, where, arguments, self._shards.names()[:1])
        if tenants and session.tenant is None and len(set(tenants)) == 1:
            session.become(tenants[0])
        names = self._shards.names() if tenants is None else [self._shards.holding(t).shard for t in tenants]
        here = None if session.tenant is None else self._shards.holding(session.tenant).shard
        others = set(names) - {here}
        if here is not None and not others:
            return plain(twin, **arguments)
        if where.writes or session.in_transaction():
            raise TenantSwitch(
                f"this is about rows on {', '.join(sorted(others))}, and the session is that of the tenant "
                f"{session.tenant}: use gate.session() of each tenant"
            )
        return self._elsewhere(twin, plain, where, arguments, list(dict.fromkeys(names)))

    def _tenants(self, where: InSession, arguments: Mapping[str, Any]) -> list[str] | None:
        """Of whom the call asks; None: of everybody."""
        if where.tenants is not None:
            return list(arguments[where.tenants]) if arguments[where.tenants] else None
        given = arguments[where.ids or ""]
        items = [given] if isinstance(given, str) or not hasattr(given, "__iter__") else list(given)
        found = self._find(where.kind, [item for item in items if isinstance(item, str)])
        rows = [item.tenant_id for item in items if not isinstance(item, str)]
        return list(dict.fromkeys([*rows, *found.values()]))

    def _elsewhere(
        self,
        twin: Any,
        plain: Callable[..., Any],
        where: InSession,
        arguments: Mapping[str, Any],
        names: Sequence[str],
    ) -> Any:
        def ask(shard: str) -> Any:
            session: Session
            with self._shards.at(shard).sessions() as session:
                answer = plain(twin, **{**arguments, "session": session})
                session.expunge_all()
                return answer

        parts = list(self._scatter(plain.__qualname__, {name: partial(ask, name) for name in names}).values())
        if where.order:
            return merged(parts, attrgetter(*where.order), limit=arguments[where.limit or ""])
        return _together(parts)


def _together(parts: Sequence[Any]) -> Any:
    first = parts[0]
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
