"""The transaction template and the batches that every repository is built on."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import StaticPool, create_engine, event, text
from sqlalchemy.orm import Session, sessionmaker

from tidegate.repositories.base import Bindable, Binding, SQLAlchemyRepository, batches, bind, checked_batch_size

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.fast


class Thing:
    """An object whose life can be watched."""


class Told(SQLAlchemyRepository):
    """Keeps what its hook was told, and how many rows there were then."""

    told: BaseException | None = None
    broken = False

    def _on_failure(self, error: BaseException) -> None:
        self.told = error
        if self.broken:
            raise OSError("the hook fails too")

    def count(self) -> int:
        return self._read(lambda session: session.scalar(text("SELECT count(*) FROM t")) or 0)


@pytest.fixture
def repository() -> Iterator[Told]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (n int)"))
    yield Told(sessionmaker(engine))
    engine.dispose()


def insert(session: Session, failing: BaseException | None = None) -> int:
    session.execute(text("INSERT INTO t VALUES (1)"))
    if failing is not None:
        raise failing
    return 7


def test_what_succeeds_is_committed_and_its_result_returned(repository: Told) -> None:
    assert repository._transact(insert) == 7
    assert (repository.count(), repository.told) == (1, None)


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()])
def test_what_fails_is_rolled_back_told_and_raised_unchanged(repository: Told, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        repository._transact(lambda session: insert(session, error))
    assert raised.value is error
    assert repository.told is error
    assert repository.count() == 0


def test_a_commit_that_fails_is_told_too(repository: Told) -> None:
    def refuse(session: Session) -> int:
        event.listen(session, "before_commit", lambda _: (_ for _ in ()).throw(OSError("disk")))
        return insert(session)

    with pytest.raises(OSError, match="disk"):
        repository._transact(refuse)
    assert isinstance(repository.told, OSError)
    assert repository.count() == 0


def test_a_failing_hook_or_rollback_hides_no_cause(repository: Told) -> None:
    error = ValueError("the cause")
    repository.broken = True
    with pytest.raises(ValueError, match="the cause") as raised:
        repository._transact(lambda session: insert(session, error))
    assert raised.value is error
    assert "the hook fails too" in "".join(error.__notes__)

    def break_rollback(session: Session) -> int:
        event.listen(session, "after_rollback", lambda _: (_ for _ in ()).throw(OSError("no rollback")))
        return insert(session, second)

    repository.broken, second = False, ValueError("the second cause")
    with pytest.raises(ValueError, match="the second cause"):
        repository._transact(break_rollback)
    assert repository.told is second
    assert "no rollback" in "".join(second.__notes__)


def test_until_empty_commits_each_batch_and_keeps_what_was_before_a_failure(repository: Told) -> None:
    left = [(3, 3), (3, 2), (2, 2)]  # found and changed: of the second batch somebody else took one
    commits: list[int] = []

    def one_batch(session: Session) -> tuple[int, int]:
        insert(session)
        return left.pop(0)

    assert repository._transact_until_empty(one_batch, 3, lambda: commits.append(repository.count())) == 7
    assert commits == [1, 2, 3]
    assert repository.count() == 3
    turns = iter((None, ValueError("second")))
    with pytest.raises(ValueError, match="second"):
        repository._transact_until_empty(lambda session: (insert(session, next(turns)), 1), 1)
    assert repository.count() == 4


def test_batches_hold_no_more_than_one_batch_at_a_time() -> None:
    alive: weakref.WeakSet[Thing] = weakref.WeakSet()
    most = 0

    def things() -> Iterator[Thing]:
        nonlocal most
        for _ in range(1000):
            thing = Thing()
            alive.add(thing)
            most = max(most, len(alive))
            yield thing
            del thing

    sizes = []
    for batch in batches(things(), 10):
        sizes.append(len(batch))
        del batch
    assert sizes == [10] * 100
    assert most <= 11  # a batch, and the one that the source has in hand


def test_batches_of_nothing_and_a_last_one_that_is_not_full() -> None:
    assert list(batches([], 3)) == []
    assert list(batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("size", [0, -1, 100_001, True, 1.0, "10", None])
def test_a_size_that_cannot_work_is_refused_with_its_value(size: object) -> None:
    with pytest.raises(ValueError, match=f"batch_size must be a whole number from 1 to 100,000, not {size!r}"):
        checked_batch_size(size)  # type: ignore[arg-type]  # what an untyped caller may pass


def test_a_repository_that_refuses_attributes_is_bound_all_the_same() -> None:
    class Closed(Bindable):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    home: Any = object()
    assert bind(Closed(), Binding(home)).tidegate_binding == Binding(home)
