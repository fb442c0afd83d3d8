"""The base of every repository: a transaction template, and batches with bounded memory."""

from __future__ import annotations

from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from tidegate.errors import StaleShardMap
from tidegate.interruptions import pass_interruption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sqlalchemy.orm import Session, sessionmaker

T = TypeVar("T")
R = TypeVar("R")

_MOST_MOVES = 4
"""How often, at most, one read is repeated because its rows have moved to another shard."""
BATCH_SIZE = 1000
"""How many rows a batch holds unless the caller says otherwise."""


Retry: TypeAlias = "Callable[[], Callable[[StaleShardMap], bool]]"
"""Makes, for one transaction, a function that tells whether it may be tried again after a shard has refused it.

The function waits while a flip is under way. Each transaction has one of its own, since each has its own patience.
"""


class Binding(NamedTuple):
    """How a repository is bound to a gate.

    Args:
        home: opens sessions where every row is, which is a primary; the same for a copy that reads on a replica.
        layer: where the calls of the repository go; None: its methods run plain. A call itself runs on such a copy.
        retry: tells whether a transaction that a shard has refused may be tried again; None: it may not.
        caller_sessions: runs the methods that take the caller's session; None: they run plain.
        made_with: what the constructor was given besides the session maker; it tells the answers of repositories apart.
        attributes: what the repository had when it was bound.
    """

    home: sessionmaker[Session]
    layer: Callable[[Any], Any] | None = None
    retry: Retry | None = None
    caller_sessions: Callable[..., Any] | None = None
    made_with: tuple[Any, ...] = ()
    attributes: Mapping[str, Any] = MappingProxyType({})

    def of_copy(self, home: sessionmaker[Session] | None = None, retry: Retry | None = None) -> Binding:
        """Return the binding of a copy that runs plain, with another *home* or *retry* if one is given."""
        # Each call makes a copy, and _replace takes three times as long.
        was, _, retried, caller_sessions, made_with, attributes = self
        return Binding(home or was, None, retry or retried, caller_sessions, made_with, attributes)


class Bindable:
    """Declare where a repository keeps its binding. A plain repository has none."""

    tidegate_binding: Binding | None = None


def bind(repository: R, binding: Binding) -> R:
    """Bind *repository*, whatever it makes of attributes that are set, and return it."""
    object.__setattr__(repository, "tidegate_binding", binding)
    return repository


class SQLAlchemyRepository(Bindable):
    """Read and write through one ``sessionmaker``. To make a repository costs nothing and opens nothing.

    Args:
        session_maker: opens the sessions; its engine is the caller's.
    """

    def __init__(self, session_maker: sessionmaker[Session]) -> None:
        self._session_maker = session_maker

    @property
    def _home(self) -> sessionmaker[Session]:
        """Return what opens sessions where every row is, even if this repository is a copy that reads on a replica."""
        return self._session_maker if self.tidegate_binding is None else self.tidegate_binding.home

    def _describe(self, method: str, arguments: Mapping[str, Any]) -> str:  # noqa: ARG002  # for those who override it
        """Return how the database is asked by a call of *method*, where that depends on its indexes; else nothing."""
        return ""

    def _read(self, operation: Callable[[Session], T]) -> T:
        """Run *operation* in a session of its own. What it returns comes back detached."""
        return read_in(self._session_maker, operation)

    def _transact(self, operation: Callable[[Session], T]) -> T:
        """Run *operation* in a transaction and commit it.

        On failure everything is rolled back, :meth:`_on_failure` is told, and the exception is raised unchanged. If the
        rollback or the hook fails too, a note on the exception says so. If a shard refuses the transaction because it
        does not own the tenant any more, *operation* is run again on the shard that does.
        """
        binding = self.tidegate_binding
        may_retry = None if binding is None or binding.retry is None else binding.retry()
        while True:
            try:
                with self._session_maker() as session:
                    return self._committed(session, operation)
            except StaleShardMap as error:
                if may_retry is None or not may_retry(error):
                    raise

    def _committed(self, session: Session, operation: Callable[[Session], T]) -> T:
        try:
            result = operation(session)
            session.commit()
        except BaseException as error:
            _beside(error, "rollback", session.rollback)
            _beside(error, "failure hook", partial(self._on_failure, error))
            raise
        return result

    def _on_failure(self, error: BaseException) -> None:
        """Take note of a transaction that failed, after its rollback; for subclasses."""

    def _transact_until_empty(
        self,
        operation: Callable[[Session], tuple[int, int]],
        batch_size: int,
        after_commit: Callable[[], None] | None = None,
    ) -> int:
        """Run *operation* again and again, one transaction each, until it finds fewer than *batch_size* rows.

        Args:
            operation: changes at most *batch_size* rows, and returns how many it found and how many it changed. The
                loop ends by how many it found: another process may have changed some of them first, and rows may be
                left.
            batch_size: the rows of one transaction; see :func:`checked_batch_size`.
            after_commit: is called after each commit.

        Returns:
            How many rows all transactions changed. What was committed before a failure stays committed.
        """
        checked_batch_size(batch_size)
        total = 0
        while True:
            found, changed = self._transact(operation)
            total += changed
            if after_commit is not None:
                after_commit()
            if found < batch_size:
                return total


def read_in(session_maker: Callable[[], Session], operation: Callable[[Session], T]) -> T:
    """Run *operation*, which only reads, in a session of *session_maker*. Run it again if its rows have moved."""
    for _ in range(_MOST_MOVES):
        try:
            with session_maker() as session:
                return operation(session)
        except StaleShardMap as error:
            if not error.map_is_new:
                raise
    with session_maker() as session:
        return operation(session)


def _beside(error: BaseException, what: str, step: Callable[[], None]) -> None:
    """Run *step*. If it fails, *error* stays what the caller sees, as the cause, and gets a note."""
    try:
        step()
    except Exception as also:  # noqa: BLE001  # no error of the step may hide the cause
        pass_interruption(also)
        error.add_note(f"the {what} failed too: {type(also).__name__}: {also}")


def batches(items: Iterable[T], size: int = BATCH_SIZE) -> Iterator[list[T]]:
    """Split *items* into lists of at most *size*, and never hold more than one list.

    Raises:
        ValueError: *size* is not from 1 to 100,000, or *items* is one text, whose letters nobody means.
    """
    checked_batch_size(size)
    source = iter(not_one_text(items))
    while chunk := list(islice(source, size)):
        yield chunk
        del chunk  # so that it is gone before the next is read


def not_one_text(items: Iterable[T]) -> Iterable[T]:
    """Return *items*, unless it is one text, whose letters nobody means.

    Raises:
        ValueError: *items* is one text.
    """
    if isinstance(items, str):
        raise ValueError(f"expected a list, not the text {items!r}")  # noqa: TRY004  # as for other bad values
    return items


def checked_batch_size(batch_size: int) -> int:
    """Return *batch_size*, if it can work.

    Raises:
        ValueError: it is not a whole number from 1 to 100,000.
    """
    return checked_count("batch_size", batch_size, 1, 100_000)


def checked_count(name: str, value: int, least: int, most: int) -> int:
    """Return *value*, if it is a whole number from *least* to *most*.

    Raises:
        ValueError: it is not; the message names the argument, the value and the range.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} must be a whole number from {least:,} to {most:,}, not {value!r}")
    return value


def checked_text(name: str, value: str | None) -> None:
    """Check that *value* is one text, or None.

    Raises:
        ValueError: it is something else; the message names the argument and the value.
    """
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} must be one text, not {value!r}")  # as for other bad values
