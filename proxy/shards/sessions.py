"""Sessions of a gate with several shards: on the shard of their tenant, or on a shard that a call has chosen."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Insert, event
from sqlalchemy.orm import Session, sessionmaker

from tidegate.cache.tags import as_text
from tidegate.errors import StaleShardMap, UnknownTenant
from tidegate.proxy.database.deadlines import set_statement_deadline
from tidegate.proxy.database.ownership import check_epoch_to_read, check_ownership_to_read
from tidegate.proxy.shards.ownership_checks import current_checks
from tidegate.proxy.writes.one_tenant import hold_to_tenant, look_now

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import SessionTransaction

    from tidegate.proxy.shards.registry import Shards
    from tidegate.routing.sharding.shard_map import Ownership


class RoutedSession(Session):
    """Work on the primary of the tenant's shard, which is looked up anew for each transaction.

    The first thing that a transaction does is to check that the shard owns the tenant. If it begins with rows that it
    inserts, it does so before the first statement of another kind, or at COMMIT. All that it writes must belong to the
    tenant.

    Args:
        shards: the shards of the gate.
        tenant: the tenant whose rows it works on; None: it can do nothing yet.
        options: of SQLAlchemy's ``Session``.
    """

    def __init__(self, *, shards: Shards, tenant: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._shards = shards
        self._tenant = tenant
        self._chosen: tuple[SessionTransaction | None, Ownership, Engine] | None = None
        self._refused: StaleShardMap | None = None
        self._flushes = self._may_insert = False

    @property
    def tenant(self) -> str | None:
        """Return the tenant whose rows the session works on; None while it has none."""
        return self._tenant

    @property
    def has_begun(self) -> bool:
        """Tell whether the session's transaction has asked its shard for anything."""
        transaction = self.get_transaction()
        return transaction is not None and self._chosen is not None and self._chosen[0] is transaction

    def become(self, tenant: str) -> None:
        """Take *tenant* as the session's tenant, from now on; the session had none before."""
        self._tenant = as_text(tenant)

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        """Write all changes to the database, as SQLAlchemy's does."""
        self._flushes = True
        try:
            super().flush(objects)
        finally:
            self._flushes = False

    def get_bind(self, mapper: Any = None, *, clause: Any = None, bind: Any = None, **_kw: Any) -> Any:  # noqa: ARG002  # SQLAlchemy's
        """Return the engine of the tenant's shard.

        Raises:
            UnknownTenant: the session has no tenant, or the shard map was never read.
            StaleShardMap: this transaction was refused as it began, and its connection must not be used.
        """
        if bind is not None:
            return bind
        if self._tenant is None:
            raise UnknownTenant(
                "this gate has several shards, and a session of gate.session_maker does not name the tenant whose rows "
                "it works on: use gate.session(tenant_id)"
            )
        transaction = self.get_transaction()
        if self._chosen is None or transaction is None or self._chosen[0] is not transaction:
            ownership = self._shards.ownership(self._tenant)
            self._chosen = (transaction, ownership, self._shards.at(ownership.shard).engine)
            self._refused = None
        if self._refused is not None:
            raise self._refused
        self._may_insert = self._flushes or isinstance(clause, Insert)
        return self._chosen[2]

    def begun(self, connection: Connection) -> None:
        """Check that the shard owns the tenant, as the session's transaction begins on *connection*, or soon after.

        Rows that are inserted are checked by triggers, which the transaction need not look beforehand for.

        Raises:
            StaleShardMap: the shard does not own the tenant. The map has been read again, so a new transaction may find
                the right shard.
        """
        if self._chosen is None or self._tenant is None:
            return
        # For a first statement, SQLAlchemy asks for the engine before there is a transaction. From now on the choice
        # belongs to the transaction that has just begun.
        _, ownership, engine = self._chosen
        self._chosen = (self.get_transaction(), ownership, engine)
        heed = partial(self._heed, self._tenant, ownership)
        hold_to_tenant(connection, self._tenant, partial(self._look, connection, ownership, heed), heed)
        if not self._may_insert:
            look_now(connection)

    def _look(self, connection: Connection, ownership: Ownership, heed: Callable[[StaleShardMap], None]) -> None:
        try:
            check_ownership_to_read(connection, [ownership])
        except StaleShardMap as refused:
            self._refused = refused
            heed(refused)
            if refused.map_is_new:
                raise
            self._refused = None

    def _heed(self, tenant: str, ownership: Ownership, refused: StaleShardMap) -> None:
        refused.map_is_new = self._shards.moved(tenant, ownership, refused)


class ShardSession(Session):
    """Work on one shard, for rows of any tenants."""


class CheckedSession(ShardSession):
    """Work on one shard, where the context says what each transaction checks first, and how long it may take.

    The checks come from :class:`~tidegate.proxy.shards.ownership_checks.ownership_checks`, the time from
    :func:`~tidegate.proxy.database.deadlines.set_statement_deadline`.
    """


def _routed_begins(session: RoutedSession, transaction: SessionTransaction, connection: Connection) -> None:
    if not transaction.nested:
        session.begun(connection)


def _timed_begins(_session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    if not transaction.nested:
        set_statement_deadline(connection)


def _checked_begins(_session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
    ownerships, epoch = current_checks()
    if ownerships:
        check_ownership_to_read(connection, ownerships)
    if epoch is not None:
        check_epoch_to_read(connection, epoch)


event.listen(RoutedSession, "after_begin", _routed_begins)
event.listen(CheckedSession, "after_begin", _timed_begins)
event.listen(CheckedSession, "after_begin", _checked_begins)


def routed_maker(shards: Shards, **options: Any) -> sessionmaker[Session]:
    """Make a session maker whose sessions have no tenant yet; :func:`for_tenant` gives them one."""
    made: Any = sessionmaker(class_=RoutedSession, shards=shards, **options)
    return cast("sessionmaker[Session]", made)


def is_routed(maker: Any, shards: Shards) -> bool:
    """Tell whether *maker* was made by :func:`routed_maker` for these shards."""
    return isinstance(maker, sessionmaker) and maker.kw.get("shards") is shards


def for_tenant(maker: sessionmaker[Session], tenant: str) -> sessionmaker[Session]:
    """Return a copy of *maker*, which :func:`routed_maker` made, whose sessions work on the rows of *tenant*."""
    return for_canonical_tenant(maker, as_text(tenant))


def for_canonical_tenant(maker: sessionmaker[Session], tenant: str) -> sessionmaker[Session]:
    """Do as :func:`for_tenant` does, for a tenant id that is canonical already, as a call has it."""
    twin: sessionmaker[Session] = object.__new__(maker.__class__)
    twin.__dict__.update(maker.__dict__)
    twin.kw = kw = maker.kw.copy()
    kw["tenant"] = tenant
    return twin


class ShardMakers:
    """Make session makers for one shard, each with the options of a routed one.

    Args:
        engine: the engine of the shard.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._made: dict[bool, dict[type[Any], sessionmaker[Session]]] = {False: {}, True: {}}

    def like(self, routed: sessionmaker[Session], *, checked: bool) -> sessionmaker[Session]:
        """Return a session maker on this shard with the class and options of *routed*.

        Args:
            routed: a maker that :func:`routed_maker` or :func:`for_tenant` made.
            checked: whether its sessions are of :class:`CheckedSession`, or else of :class:`ShardSession`.
        """
        made = self._made[checked].get(routed.class_)
        if made is None:
            options = {key: value for key, value in routed.kw.items() if key not in ("shards", "tenant", "bind")}
            made = sessionmaker(self._engine, class_=CheckedSession if checked else ShardSession, **options)
            self._made[checked][routed.class_] = made
        return made
