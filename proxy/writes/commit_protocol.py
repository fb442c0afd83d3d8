"""The contract between a watched engine and the commit protocol.

The engine tells the protocol of each COMMIT, and the protocol may ask the committing connection some things.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Executable

    from tidegate.cache.root_recovery import Transaction
    from tidegate.cache.store import Change
    from tidegate.position import History, Position
    from tidegate.routing.sharding.shard_map import Ownership


class Committing(Protocol):
    """The connection that commits. On a database without a log, ids are "" and positions are ``NOWHERE``."""

    def transaction_id(self) -> Transaction:
        """Return the transaction's id, the position and the history; in at most one statement, before COMMIT only."""
        ...

    def verify_ownership(self, ownerships: Sequence[Ownership], /) -> None:
        """Check that the shard owns these units, and keep it so until the end; before COMMIT only.

        This is at most one statement, and none if triggers have checked them.

        Raises:
            StaleShardMap: the shard does not own one of them.
        """
        ...

    def position(self) -> tuple[Position, History | None]:
        """Return a position behind the COMMIT, and the history; in one statement without a transaction at most."""
        ...

    def execute(self, statement: Executable, parameters: Any = None, /) -> Any:
        """Run a statement inside the transaction; before COMMIT only."""
        ...


Ticket = TypeVar("Ticket")


class CommitProtocol(Protocol[Ticket]):
    """Take part in each COMMIT that changes tracked rows, or that a tenant's session has written anything in."""

    def before_commit(self, connection: Committing, changes: Sequence[Change], everything: str) -> Ticket | None:
        """Prepare for a COMMIT (or PREPARE TRANSACTION), after the last flush and before it is sent.

        Args:
            connection: the one that commits.
            changes: what the transaction changes.
            everything: why it may have changed anything; "": only that.

        An exception that is raised here prevents the COMMIT.

        Returns:
            A ticket for :meth:`after_commit`. None: then :meth:`after_commit` is not called.
        """
        ...

    def verify_ownership(self, connection: Committing, tenant: str) -> None:
        """Check that this shard owns *tenant*, before a COMMIT that changes no tracked rows.

        This is called instead of :meth:`before_commit` where a transaction of the tenant's session has written other
        rows.

        Raises:
            StaleShardMap: this shard does not own the tenant. Nothing is committed.
        """
        ...

    def after_commit(self, connection: Committing, ticket: Ticket) -> None:
        """Finish after a COMMIT that returned, and only then. Must not raise; an error is logged."""
        ...
