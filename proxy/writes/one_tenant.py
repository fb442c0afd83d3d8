"""A transaction that is one tenant's, on a shard that must own the tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Insert

from tidegate.error_text import first_line
from tidegate.errors import StaleShardMap, TenantSwitch
from tidegate.proxy.database.ownership_functions import NOT_OWNED
from tidegate.routing.replicas.failures import sqlstate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection, ExceptionContext

    from tidegate.cache.store import Change

_ONLY: Final = "tidegate.only"
_LOOK: Final = "tidegate.look"
_REFUSED: Final = "tidegate.refused"
HELD: Final = (_ONLY, _LOOK, _REFUSED)
"""What is kept of it in the info of its connection."""


def hold_to_tenant(
    connection: Connection, tenant: str, look: Callable[[], None], refused: Callable[[StaleShardMap], None]
) -> None:
    """Let the transaction of *connection* change rows of this tenant only, on a shard that owns it.

    Args:
        connection: the connection, which is watched.
        tenant: the tenant's id.
        look: checks that the shard owns the tenant. It is called before the first statement that is no plain INSERT, or
            at COMMIT; by :func:`look_now`, at once.
        refused: is told of a statement, or a COMMIT, that the shard has refused; not of what *look* raises.
    """
    connection.info[_ONLY], connection.info[_LOOK], connection.info[_REFUSED] = tenant, look, refused


def only_tenant(connection: Connection) -> str | None:
    """Return the tenant whose transaction this is; None if it is nobody's alone."""
    return connection.info.get(_ONLY)


def take_look(connection: Connection) -> Callable[[], None]:
    """Return what checks that the shard owns the tenant, and does nothing if that was done, or was returned before."""
    look: Callable[[], None] = connection.info.pop(_LOOK, _nothing)
    return look


def look_now(connection: Connection) -> None:
    """Check that the shard owns the tenant of the transaction of *connection*, if that was not done yet."""
    take_look(connection)()


def look_before(connection: Connection, context: Any) -> None:
    """Do as :func:`look_now` does, before a statement, unless it is a plain INSERT.

    An INSERT shows nothing of what is there, which may be old on a shard that does not own the tenant any more. Whether
    that shard may have the row is seen by a trigger, or at COMMIT.
    """
    statement = getattr(context.compiled, "statement", None)
    if not isinstance(statement, Insert) or statement.select is not None:
        look_now(connection)


def refuse_others(changes: Sequence[Change], only: str | None) -> None:
    """Raise if rows of another tenant than *only* have changed; None: any may.

    Raises:
        TenantSwitch: they have.
    """
    if only is None:
        return
    for change in changes:
        if change.tenant != only:
            raise TenantSwitch(
                f"a row of the tenant {change.tenant} changes in a session of the tenant {only}: the two tenants may "
                "be on different shards, and a transaction is on one shard; use one gate.session() for each tenant"
            )


def refusal_told_to(info: Any) -> Callable[[StaleShardMap], None]:
    """Return who is to be told if the shard refuses the transaction, by the *info* of its connection."""
    tell: Callable[[StaleShardMap], None] = info.get(_REFUSED, _nothing)
    return tell


def refused_by_shard(context: ExceptionContext) -> None:
    """Raise ``StaleShardMap`` where a trigger has found that this shard does not own a tenant; for ``handle_error``.

    Raises:
        StaleShardMap: it has.
    """
    error = context.original_exception
    if sqlstate(error) == NOT_OWNED:
        refusal = StaleShardMap(first_line(error))
        if context.connection is not None:
            refusal_told_to(context.connection.info)(refusal)
        raise refusal from error


def _nothing(*_: Any) -> None:
    pass
