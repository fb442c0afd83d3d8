"""What a watched engine tells the commit protocol, and what that may ask of the committing connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Executable

    from tidegate.cache.store import Change
    from tidegate.position import Position
    from tidegate.routing.sharding.shard_map import Ownership


class Committing(Protocol):
    """The connection that commits. On a database without a log, ids are "" and positions ``NOWHERE``."""

    def transaction_id(self) -> tuple[str, Position]:
        """The transaction's id and the position now, in at most one statement; before COMMIT only."""
        ...

    def verify_ownership(self, ownerships: Sequence[Ownership], /) -> None:
        """See that the shard owns what a map says, and hold it until the end; in one statement, before COMMIT only.

        Raises:
            StaleShardMap: it does not.
        """
        ...

    def position(self) -> Position:
        """The position now, in one statement that leaves no transaction open; after COMMIT only."""
        ...

    def execute(self, statement: Executable, parameters: Any = None, /) -> Any:
        """Run a statement inside the transaction; before COMMIT only."""
        ...


Ticket = TypeVar("Ticket")


class CommitProtocol(Protocol[Ticket]):
    """Told of each transaction that changes tracked rows, and of a tenant's session that has written anything."""

    def before_commit(self, connection: Committing, changes: Sequence[Change]) -> Ticket | None:
        """After the last flush, before COMMIT (or PREPARE TRANSACTION) is sent; what is raised here prevents it.

        Returns:
            A ticket for :meth:`after_commit`; None: nothing to be told.
        """
        ...

    def verify_ownership(self, connection: Committing, tenant: str) -> None:
        """Instead, where a transaction of *tenant*'s session changes no tracked rows, and has written others.

        Raises:
            StaleShardMap: this shard does not own the tenant; nothing is committed.
        """
        ...

    def after_commit(self, connection: Committing, ticket: Ticket) -> None:
        """After a COMMIT that returned, and only then. Must not raise; an error is logged."""
        ...
