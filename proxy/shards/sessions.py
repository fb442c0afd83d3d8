"""Sessions of a gate with several shards: on the shard of their tenant, or on one that a call has chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from tidegate.cache.tags import as_text
from tidegate.errors import StaleShardMap, UnknownTenant
from tidegate.proxy.database.deadlines import set_statement_deadline
from tidegate.proxy.database.ownership import check_epoch_to_read, check_ownership_to_read
from tidegate.proxy.shards.ownership_checks import current_checks

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.orm import SessionTransaction

    from tidegate.proxy.shards.registry import Shards
    from tidegate.routing.sharding.shard_map import Ownership


class RoutedSession(Session):
    """A session on the primary of its tenant's shard; which that is, is asked anew for each transaction.

    The first thing a transaction does is to see that the shard owns the tenant. What it writes must be its tenant's.

    Args:
        shards: of the gate.
        tenant: whose rows; None: it can do nothing.
        options: of ``Session``.
    """

    def __init__(self, *, shards: Shards, tenant: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._shards = shards
        self._tenant = tenant
        self._chosen: tuple[SessionTransaction | None, Ownership, Engine] | None = None
        self._refused: StaleShardMap | None = None

    @property
    def tenant(self) -> str | None:
        """Whose rows it works on."""
        return self._tenant

    @property
    def has_begun(self) -> bool:
        """Whether its transaction has asked its shard for anything."""
        transaction = self.get_transaction()
        return transaction is not None and self._chosen is not None and self._chosen[0] is transaction

    def become(self, tenant: str) -> None:
        """Of no tenant yet, work on the rows of *tenant* from now on."""
        self._tenant = as_text(tenant)

    def get_bind(self, mapper: Any = None, *, bind: Any = None, **_kw: Any) -> Any:  # noqa: ARG002  # SQLAlchemy's
        """The engine of the tenant's shard.

        Raises:
            UnknownTenant: the session has no tenant.
            StaleShardMap: this transaction was refused as it began, and its connection must not be used.
        """
        if bind is not None:
            return bind
        if self._tenant is None:
            raise UnknownTenant(
                "this gate has several shards, and a session of gate.session_maker does not say whose rows it is for: "
                "use gate.session(tenant_id)"
            )
        transaction = self.get_transaction()
        if self._chosen is None or transaction is None or self._chosen[0] is not transaction:
            ownership = self._shards.ownership(self._tenant)
            self._chosen = (transaction, ownership, self._shards.at(ownership.shard).engine)
            self._refused = None
        if self._refused is not None:
            raise self._refused
        return self._chosen[2]

    def begun(self, connection: Connection) -> None:
        """Its transaction has begun on *connection*.

        Raises:
            StaleShardMap: the shard does not own the tenant; the map has been read again, so the next may find it.
        """
        if self._chosen is None or self._tenant is None:
            return
        # The engine of a first statement is asked for before there is a transaction; from now on it is this one's.
        _, ownership, engine = self._chosen
        self._chosen = (self.get_transaction(), ownership, engine)
        self._shards.by_name[ownership.shard].watch.collected(connection).only = self._tenant
        try:
            check_ownership_to_read(connection, [ownership])
        except StaleShardMap as refused:
            self._refused = refused
            refused.map_is_new = self._shards.moved(self._tenant, ownership, refused)
            if refused.map_is_new:
                raise
            self._refused = None


class ShardSession(Session):
    """A session on one shard, whatever the tenants."""


class CheckedSession(ShardSession):
    """One whose context says what it checks first, and how long it may take.

    The first comes from :class:`~tidegate.proxy.shards.ownership_checks.ownership_checks`, the second from
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
    """Makes sessions of no tenant yet; see :func:`for_tenant`."""
    made: Any = sessionmaker(class_=RoutedSession, shards=shards, **options)
    return cast("sessionmaker[Session]", made)


def is_routed(maker: Any, shards: Shards) -> bool:
    """Whether *maker* was made by :func:`routed_maker` for these shards."""
    return isinstance(maker, sessionmaker) and maker.kw.get("shards") is shards


def for_tenant(maker: sessionmaker[Session], tenant: str) -> sessionmaker[Session]:
    """One like *maker*, which is a routed one, for a tenant."""
    return for_canonical_tenant(maker, as_text(tenant))


def for_canonical_tenant(maker: sessionmaker[Session], tenant: str) -> sessionmaker[Session]:
    """The same for a tenant as writers name it, as a call has it; costs next to nothing."""
    twin: sessionmaker[Session] = object.__new__(maker.__class__)
    twin.__dict__.update(maker.__dict__)
    twin.kw = kw = maker.kw.copy()
    kw["tenant"] = tenant
    return twin


class ShardMakers:
    """Session makers of one shard, each like a routed one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._made: dict[bool, dict[type[Any], sessionmaker[Session]]] = {False: {}, True: {}}

    def like(self, routed: sessionmaker[Session], *, checked: bool) -> sessionmaker[Session]:
        """The one like *routed*, or like what :func:`for_tenant` made of it; *checked*: of :class:`CheckedSession`."""
        made = self._made[checked].get(routed.class_)
        if made is None:
            options = {key: value for key, value in routed.kw.items() if key not in ("shards", "tenant", "bind")}
            made = sessionmaker(self._engine, class_=CheckedSession if checked else ShardSession, **options)
            self._made[checked][routed.class_] = made
        return made
