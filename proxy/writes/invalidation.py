"""Invalidate by hand, for changes that no watched engine has seen: ``gate.invalidate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from sqlalchemy.exc import SQLAlchemyError

from tidegate.cache.store import Change, StoreUnavailable
from tidegate.cache.tags import as_text, template
from tidegate.errors import PolicyError, RoutingError
from tidegate.proxy.tracking.notes import note_of
from tidegate.proxy.writes.watch import note_by_hand

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.cache.store import Store
    from tidegate.position import Origin
    from tidegate.proxy.database.history_record import Here
    from tidegate.proxy.writes.outbox import Outbox


_BY_HAND: Final = "byhand"


def checked_invalidation(templates: Mapping[str, Sequence[str]]) -> None:
    """Check what a policy table says of invalidation by hand.

    Raises:
        PolicyError: a name has no template, or a template needs something else than what has its name.
    """
    for name, texts in templates.items():
        if isinstance(texts, str) or not texts:
            raise PolicyError(
                f"invalidation: {name!r} needs a tuple of templates, as ('app:{{{name}}}',), not {texts!r}"
            )
        for text in texts:
            if template(text).fields != (name,):
                raise PolicyError(f"invalidation: {text!r} must name {{{name}}}, once, and nothing else")


def change_of(tenant_id: str, named: Mapping[str, str], templates: Mapping[str, Sequence[str]]) -> Change:
    """Return what is void: all of a tenant, or what depends on the things that are named.

    Args:
        tenant_id: the tenant.
        named: values by name, {"app_id": "..."}; empty: all of the tenant.
        templates: the tags to bump, by that name; see ``PolicyTable.invalidation``.

    Raises:
        ValueError: nothing is known by such a name; the message lists those that are.
    """
    if unknown := sorted(named.keys() - templates.keys()):
        known = ", ".join(sorted(templates)) or "none"
        raise ValueError(f"invalidate() knows no {', '.join(unknown)}: expected one of {known}, or the tenant alone")
    tags = [str(template(text).expand(named)) for name in named for text in templates[name]]
    marks = [f"{_BY_HAND}:{tag.partition(':')[2]}" for tag in tags]
    return Change(as_text(tenant_id), frozenset(tags + marks), whole=not tags)


def is_by_hand(tag: str, change: Change) -> bool:
    """Tell whether *tag* of *change* was named by hand: it proves nothing about whose the row is."""
    return f"{_BY_HAND}:{tag.partition(':')[2]}" in change.tags


def invalidate_at_commit(change: Change, session: Session) -> None:
    """Make *change* one of the changes of the session's transaction."""
    note_by_hand(session.connection(), note_of([change]))


class Primary(Protocol):
    """The primary of the tenant's shard."""

    def here(self) -> Here:
        """Return where its log is now and which history it has."""
        ...


def invalidate_now(change: Change, store: Store, at_shard: Origin, primary: Primary) -> None:
    """Tell the cache of *change*, with the position of the tenant's primary: what a replica shows may be older.

    Where the primary does not answer, the tenant's marks are forgotten instead: nothing is stored until it does.

    Args:
        change: what becomes invalid.
        store: the cache.
        at_shard: the tenant's origin, but for the history.
        primary: of the tenant's shard.

    Raises:
        StoreUnavailable: the cache was not told.
    """
    try:
        found = primary.here()
    except (SQLAlchemyError, RoutingError):
        store.forget([change.tenant])
        return
    if found.history is None:
        raise StoreUnavailable("nobody knows yet which history the database has")
    store.bump([change], at_shard._replace(history=found.history), found.position)


def invalidate_by_outbox(change: Change, outbox: Outbox, sessions: sessionmaker[Session]) -> None:
    """Write *change* to the outbox of the tenant's shard, for a gate that can tell the cache."""
    with sessions() as session:
        outbox.put(cast("Any", session.connection()), [change])
        session.commit()
