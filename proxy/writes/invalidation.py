"""Invalidate by hand, for changes that no watched engine has seen: ``gate.invalidate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from tidegate.cache.store import Change, StoreUnavailable
from tidegate.cache.tags import as_text, template
from tidegate.errors import PolicyError
from tidegate.position import NOWHERE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.cache.store import Store
    from tidegate.proxy.writes.outbox import Outbox
    from tidegate.proxy.writes.watch import Watch


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


def invalidate_at_commit(change: Change, session: Session, watch: Watch) -> None:
    """Make *change* one of the changes of the session's transaction."""
    collected = watch.collected(session.connection())
    if change.whole:
        collected.whole(change.tenant)
    else:
        collected.tagged(change.tenant, change.tags)


def invalidate_now(change: Change, store: Store | None, outbox: Outbox, sessions: sessionmaker[Session]) -> None:
    """Tell the cache of *change*, or write it to the outbox of the tenant's shard if the cache does not answer.

    Args:
        change: what becomes invalid.
        store: the cache. None: this gate must not or cannot speak to the cache.
        outbox: the shard's outbox.
        sessions: opens sessions on the shard.
    """
    if store is not None:
        try:
            store.bump([change], NOWHERE)
        except StoreUnavailable:
            pass
        else:
            return
    with sessions() as session:
        outbox.put(cast("Any", session.connection()), [change])
        session.commit()
