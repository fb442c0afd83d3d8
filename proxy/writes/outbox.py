"""The outbox: changes that the cache could not be told of. Their transaction writes them, and any gate applies them.

Until a row is applied, hits elsewhere may be older than the write by that time: the outbox window. Rows are taken with
SKIP LOCKED, and deleted in the transaction that applies them. A gate never takes "the rows after the last one I saw",
because transactions do not commit in the order of their rows. A row that is applied twice bumps twice: that is
harmless.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Final

from sqlalchemy import Boolean, Text, bindparam, delete, exists, func, insert, select
from sqlalchemy.exc import DBAPIError

from tidegate.cache.store import Change, StoreUnavailable
from tidegate.errors import RoutingError
from tidegate.position import NOWHERE, Position
from tidegate.proxy.database.notifications import Listener, NotifiedThread, listens
from tidegate.proxy.database.schema import CACHE, OUTBOX, STATE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy import Engine
    from sqlalchemy.engine import Connection

    from tidegate.cache.store import Store
    from tidegate.cache.untold import UntoldChanges
    from tidegate.proxy.writes.commit_protocol import Committing

_CHANNEL: Final = "tidegate_outbox"
_BATCH: Final = 200
_MOST_WAITING: Final = 1000
_POSITION: Final = "SELECT pg_current_wal_insert_lsn()::text, pg_walfile_name(pg_current_wal_insert_lsn())"
_log: Final = logging.getLogger(__name__)


# Rows are written only where a cache serves this database: otherwise nobody would ever take them out. A cache that
# begins to serve it at this very moment misses nothing: it has no entry yet, and it makes none before this transaction
# has ended, because its marks are in quarantine until then.
_SERVED: Final = exists(select(STATE.c.name).where(STATE.c.name == CACHE))
_PUT: Final = insert(OUTBOX).from_select(
    ["tenant", "tags", "whole"],
    select(bindparam("tenant", type_=Text), bindparam("tags", type_=Text), bindparam("whole", type_=Boolean)).where(
        _SERVED
    ),
)
_NOTIFY: Final = select(func.pg_notify(_CHANNEL, "")).where(_SERVED)


class Outbox:
    """Write the changes of a transaction to the outbox table.

    Args:
        notify: whether the database has NOTIFY.
        untold: is told whose changes are written; None: this gate has no cache.
    """

    def __init__(self, *, notify: bool, untold: UntoldChanges | None = None) -> None:
        self._notify = notify
        self._untold = untold

    def put(self, connection: Committing, changes: Sequence[Change]) -> None:
        """Write *changes* in the connection's transaction: they are there if it is committed, and only then.

        Nothing is written where no cache serves the database.
        """
        for c in changes:
            connection.execute(_PUT, {"tenant": c.tenant, "tags": json.dumps(sorted(c.tags)), "whole": c.whole})
        if self._notify:
            connection.execute(_NOTIFY)
        if self._untold is not None:
            self._untold.wrote(c.tenant for c in changes)


def apply(engine: Engine, store: Store, make_root: Callable[[str], bool] | None = None) -> int:
    """Apply the rows of the outbox to the cache, and delete them.

    Args:
        engine: the primary's engine.
        store: the cache.
        make_root: is needed where there are several shards. It makes the tenant's root that of the shard which has the
            tenant now, and tells whether that is the shard of this outbox. Only then does a position of this shard's
            log mean anything to the tenant's marks.

    Returns:
        The number of rows that were applied.

    Raises:
        StoreUnavailable: the cache cannot be told. The rows that were not applied stay in the outbox.
        RoutingError, DBAPIError: the root of a tenant cannot be made now. That tenant's rows stay; the rows of the
            other tenants were applied.
    """
    total, last_id = 0, 0
    failed: list[Exception] = []
    while True:
        with engine.begin() as connection:
            waiting = select(OUTBOX).where(OUTBOX.c.id > last_id).order_by(OUTBOX.c.id).limit(_BATCH)
            rows = connection.execute(waiting.with_for_update(skip_locked=True)).all()
            is_here = _with_roots({row.tenant for row in rows}, make_root, failed)
            taken = [row for row in rows if row.tenant in is_here]
            if taken:
                connection.execute(delete(OUTBOX).where(OUTBOX.c.id.in_([row.id for row in taken])))
                for here, position in ((True, _position(connection)), (False, NOWHERE)):
                    some = [row for row in taken if is_here[row.tenant] is here]
                    if some:
                        store.bump([Change(r.tenant, frozenset(json.loads(r.tags)), r.whole) for r in some], position)
        total += len(taken)
        if len(rows) < _BATCH:
            break
        last_id = rows[-1].id  # for this round only: the next round begins with the first row again
    if failed:
        raise failed[0]
    return total


def waiting(engine: Engine) -> Collection[str] | None:
    """Return the tenants of all rows in the outbox, those that another gate is applying included; None: too many."""
    with engine.connect() as connection:
        tenants = connection.scalars(select(OUTBOX.c.tenant).distinct().limit(_MOST_WAITING + 1)).all()
    return None if len(tenants) > _MOST_WAITING else tenants


def _with_roots(
    tenants: Collection[str], make_root: Callable[[str], bool] | None, failed: list[Exception]
) -> dict[str, bool]:
    """Return the tenants whose roots are made, and whether they are of this database; put the errors into *failed*."""
    if make_root is None:
        return dict.fromkeys(tenants, True)
    made = {}
    for tenant in tenants:
        try:
            made[tenant] = make_root(tenant)
        except (RoutingError, DBAPIError) as error:
            failed.append(error)
    return made


def _position(connection: Connection) -> Position:
    if connection.dialect.name != "postgresql":
        return NOWHERE
    ((lsn, file),) = connection.exec_driver_sql(_POSITION).all()
    return Position.parse(lsn, file)


class Applier:
    """Run a thread that applies the outbox: when the database notifies it, and every *poll_s* seconds.

    What the cache does not take stays in the outbox, and the thread says whose it is: the cache may answer all the
    same, and must not be asked about these.

    Args:
        engine: the primary's engine.
        store: the cache that serves this database.
        shard: the shard's name.
        untold: is told whose rows wait.
        poll_s: how long to wait for a notification before it looks all the same, in seconds.
        make_root: as for :func:`apply`.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        shard: str,
        untold: UntoldChanges,
        *,
        poll_s: float = 0.25,
        make_root: Callable[[str], bool] | None = None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._shard = shard
        self._untold = untold
        self._make_root = make_root
        self._notified = NotifiedThread(
            "tidegate-outbox",
            (lambda: Listener(engine, _CHANNEL, "tidegate-outbox")) if listens(engine) else None,
            self._apply,
            failed="the outbox could not be applied: %s",
            poll_s=poll_s,
            again_s=4 * poll_s,
        )

    def ensure_started(self) -> None:
        """Start the thread in this process, if it does not run."""
        self._notified.ensure_started()

    def close(self) -> None:
        """End the thread."""
        self._notified.close()

    def _apply(self) -> bool:
        if not self._waiting():
            return True
        try:
            apply(self._engine, self._store, self._make_root)
        except StoreUnavailable:  # the rows stay in the outbox
            return False
        finally:
            # Also the rows that another gate has locked: it may have been refused what this one was not.
            self._waiting()
        return True

    def _waiting(self) -> bool:
        """Look who waits in the outbox, and tell whether anybody does."""
        tenants = waiting(self._engine)
        self._untold.found(self._shard, tenants)
        return tenants is None or bool(tenants)
