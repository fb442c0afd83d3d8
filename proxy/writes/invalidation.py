"""Invalidation by hand, for changes that no watched engine has seen: ``gate.invalidate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tidegate.cache.store import Change, StoreUnavailable
from tidegate.cache.tags import as_text
from tidegate.position import NOWHERE

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.cache.store import Store
    from tidegate.proxy.writes.outbox import Outbox
    from tidegate.proxy.writes.watch import Watch


def change_of(tenant_id: str, app_id: str | None, run_id: str | None) -> Change:
    """Return what becomes invalid: all of a tenant, or only what concerns an app, or a run and its node executions.

    Args:
        tenant_id: the tenant.
        app_id: an app of the tenant; None: no app was named.
        run_id: a run of the tenant; None: no run was named. With neither, the whole tenant is invalid.
    """
    tags = [] if app_id is None else [f"app:{as_text(app_id)}"]
    if run_id is not None:
        run = as_text(run_id)
        tags += [f"run:{run}", f"nodes:{run}", f"nodesof:{run}"]
    return Change(as_text(tenant_id), frozenset(tags), whole=not tags)


def invalidate_at_commit(change: Change, session: Session, watch: Watch) -> None:
    """Add *change* to the changes of the session's transaction, so that it takes effect with the commit."""
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
