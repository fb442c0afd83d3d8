"""How runs are paused, and how they go on.

A run waits if its row says so and its pause has no ``resumed_at``. One UPDATE decides each step, and names the state
that the step starts from. So if two callers try the same step at once, one of them finds nothing to update, in every
database.

The state is stored before the transaction, and removed if the transaction fails: a committed pause always has its
state. What a transaction no longer needs is removed after its commit.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, or_, select, update

from tidegate.errors import WorkflowRunError
from tidegate.repositories.base import checked_count
from tidegate.repositories.columns import naive_utc_now
from tidegate.repositories.entities.pause_reason import reason_columns, reason_of
from tidegate.repositories.entities.workflow_pause import WorkflowPauseEntity
from tidegate.repositories.enums import WorkflowExecutionStatus as Status
from tidegate.repositories.models import WorkflowPause, WorkflowPauseReason, WorkflowRun, new_id
from tidegate.repositories.query_builder import Query
from tidegate.repositories.runs.pause_states import RunStates, may_be_committed
from tidegate.repositories.runs.related_rows import delete_pauses

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from tidegate.repositories.entities.pause_reason import PauseReason
    from tidegate.repositories.runs.pause_storage import ObjectStorage

MOST_PRUNED: Final = 1000


class RunPauses(RunStates):
    """Pause runs and resume them: a part of the run repository."""

    def create_workflow_pause(
        self,
        workflow_run_id: str,
        state_owner_user_id: str,  # noqa: ARG002  # the interface's: these tables have no column for it
        state: str,
        pause_reasons: Sequence[PauseReason],
    ) -> WorkflowPauseEntity:
        """Pause a running run, and keep *state* to go on from. A pause that the run had before is replaced.

        Args:
            workflow_run_id: the run.
            state_owner_user_id: accepted and not stored.
            state: what to go on from, kept as UTF-8.
            pause_reasons: why, in order; their attributes count, not their classes.

        Raises:
            ValueError: there is no such run, or a reason's ``TYPE`` is not known.
            WorkflowRunError: the run is not running; a RuntimeError.
            SettingsError: no storage is known.
        """
        reasons = [reason_columns(reason) for reason in pause_reasons]
        key = f"workflow-state-{new_id()}.json"
        self._storage().save(key, state.encode())
        try:
            pause, replaced = self._transact(lambda session: self._pause(session, workflow_run_id, key, reasons))
        except BaseException as error:
            if not may_be_committed(error):
                self._discard_states([key])
            raise
        self._discard_states(replaced)
        return pause

    def get_workflow_pause(self, workflow_run_id: str) -> WorkflowPauseEntity | None:
        """Return the pause of a run, resumed or not; None if it was never paused.

        Raises:
            ValueError: there is no such run.
        """

        def operation(session: Session) -> WorkflowPauseEntity | None:
            joined = Query(WorkflowRun).where("id", "eq", workflow_run_id)
            joined = joined.join(WorkflowPause, WorkflowPause.workflow_run_id == WorkflowRun.id, outer=True)
            found = session.execute(joined.columns(WorkflowRun.id, WorkflowPause)).one_or_none()
            if found is None:
                raise _no_run(workflow_run_id)
            return None if found[1] is None else self._entity(session, found[1])

        return self._read(operation)

    def resume_workflow_pause(self, workflow_run_id: str, pause_entity: WorkflowPauseEntity) -> WorkflowPauseEntity:
        """Resume a paused run. Its pause stays, with ``resumed_at``.

        Raises:
            ValueError: there is no such run.
            WorkflowRunError: the run is not paused, has no pause or another one, or has gone on already; a
                RuntimeError.
        """

        def operation(session: Session) -> WorkflowPauseEntity:
            _change_status(session, workflow_run_id, Status.PAUSED, Status.RUNNING)
            resumed = (
                update(WorkflowPause)
                .where(WorkflowPause.workflow_run_id == workflow_run_id, WorkflowPause.id == pause_entity.id)
                .where(WorkflowPause.resumed_at.is_(None))
                .values(resumed_at=naive_utc_now())
                .returning(WorkflowPause)
            )
            pause = session.scalars(resumed, execution_options={"synchronize_session": False}).one_or_none()
            if pause is None:
                raise _cannot_resume(session, workflow_run_id, pause_entity)
            return self._entity(session, pause)

        return self._transact(operation)

    def delete_workflow_pause(self, pause_entity: WorkflowPauseEntity) -> None:
        """Delete a pause with its reasons. Its state is removed after the commit.

        Raises:
            WorkflowRunError: there is no such pause; a RuntimeError.
            SettingsError: no storage is known; nothing is deleted.
        """
        self._storage()
        if not self._delete_pauses_where(WorkflowPause.id == pause_entity.id):
            raise WorkflowRunError(f"there is no pause {pause_entity.id} any more: it was deleted or replaced")

    def prune_pauses(
        self, expiration: datetime, resumption_expiration: datetime, limit: int | None = None
    ) -> Sequence[str]:
        """Delete old pauses with their reasons and states, oldest first, with a commit after each.

        Args:
            expiration: pauses created before this are deleted.
            resumption_expiration: pauses whose run went on before this are deleted too.
            limit: at most this many, 0 to 100,000; None: 1,000.

        Returns:
            The ids of the pauses that were deleted.

        Raises:
            ValueError: *limit* is out of range.
            SettingsError: no storage is known; nothing is deleted.
        """
        found = self._pauses_to_prune(expiration, resumption_expiration, limit)
        # A pause that another process has deleted first is not in the answer.
        return [due[1] for due in found if self._prune(due, expiration, resumption_expiration, limit)]

    def _pauses_to_prune(
        self, expiration: datetime, resumption_expiration: datetime, limit: int | None
    ) -> Sequence[tuple[datetime, str]]:
        most = checked_count("limit", MOST_PRUNED if limit is None else limit, 0, 100_000)
        query = Query(WorkflowPause).where_sql(_old(expiration, resumption_expiration)).order_by("created_at", "id")
        columns = query.limit(most).columns(WorkflowPause.created_at, WorkflowPause.id)
        self._storage()
        found = self._read(lambda session: session.execute(columns).all())
        return [(row.created_at, row.id) for row in found]

    def _prune(
        self, due: tuple[datetime, str], expiration: datetime, resumption_expiration: datetime, _limit: int | None
    ) -> bool:
        old = _old(expiration, resumption_expiration)
        return bool(self._delete_pauses_where(WorkflowPause.id == due[1], old))

    def _delete_pauses_where(self, *conditions: ColumnElement[bool]) -> int:
        deleted = self._transact(lambda session: delete_pauses(session, *conditions))
        self._discard_states(deleted.state_keys)
        return deleted.pauses

    def _pause(
        self, session: Session, run_id: str, key: str, reasons: Sequence[dict[str, Any]]
    ) -> tuple[WorkflowPauseEntity, list[str]]:
        run_id, workflow_id = _change_status(session, run_id, Status.RUNNING, Status.PAUSED)
        replaced = delete_pauses(session, WorkflowPause.workflow_run_id == run_id)
        pause = WorkflowPause(id=new_id(), workflow_id=workflow_id, workflow_run_id=run_id, state_object_key=key)
        now = naive_utc_now()
        # One microsecond apart, so that they come back in the order in which they were given.
        rows = [
            WorkflowPauseReason(pause_id=pause.id, created_at=now + timedelta(microseconds=i), **columns)
            for i, columns in enumerate(reasons)
        ]
        session.add_all([pause, *rows])
        session.flush()
        return _Pause(pause, [reason_of(row) for row in rows], self._storage), replaced.state_keys

    def _entity(self, session: Session, pause: WorkflowPause) -> WorkflowPauseEntity:
        of_pause = Query(WorkflowPauseReason).where("pause_id", "eq", pause.id).order_by("created_at", "id")
        reasons = [reason_of(row) for row in session.scalars(of_pause.statement())]
        return _Pause(pause, reasons, self._storage)


class _Pause(WorkflowPauseEntity):
    """Hold values, not the row: under ``expire_on_commit`` a row's attributes are gone with its session."""

    def __init__(
        self, pause: WorkflowPause, reasons: Sequence[PauseReason], storage: Callable[[], ObjectStorage]
    ) -> None:
        self._id = pause.id
        self._run_id = pause.workflow_run_id
        self._resumed_at = pause.resumed_at
        self._key = pause.state_object_key
        self._reasons = tuple(reasons)
        self._storage = storage
        self._state: bytes | None = None

    @property
    def id(self) -> str:
        return self._id

    @property
    def workflow_execution_id(self) -> str:
        return self._run_id

    @property
    def resumed_at(self) -> datetime | None:
        return self._resumed_at

    def get_state(self) -> bytes:
        if self._state is None:
            self._state = self._storage().load(self._key)
        return self._state

    def get_pause_reasons(self) -> Sequence[PauseReason]:
        return list(self._reasons)


def _old(expiration: datetime, resumption_expiration: datetime) -> ColumnElement[bool]:
    resumed = and_(WorkflowPause.resumed_at.is_not(None), WorkflowPause.resumed_at < resumption_expiration)
    return or_(WorkflowPause.created_at < expiration, resumed)


def _change_status(session: Session, run_id: str, before: Status, after: Status) -> tuple[str, str]:
    """Change a run's status, and return its (id, workflow_id). The row stays locked until the transaction ends."""
    changed = (
        update(WorkflowRun)
        .where(WorkflowRun.id == run_id, WorkflowRun.status == before.value)
        .values(status=after.value)
        .returning(WorkflowRun.id, WorkflowRun.workflow_id)
    )
    run = session.execute(changed, execution_options={"synchronize_session": False}).one_or_none()
    if run is None:
        status = session.scalar(select(WorkflowRun.status).where(WorkflowRun.id == run_id))
        if status is None:
            raise _no_run(run_id)
        raise WorkflowRunError(f"run {run_id} is {status}, and must be {before} to become {after}")
    return run.id, run.workflow_id


def _no_run(run_id: str) -> ValueError:
    return ValueError(f"WorkflowRun not found: {run_id}")


def _cannot_resume(session: Session, run_id: str, entity: WorkflowPauseEntity) -> WorkflowRunError:
    of_run = select(WorkflowPause.id, WorkflowPause.resumed_at).where(WorkflowPause.workflow_run_id == run_id)
    found = session.execute(of_run).one_or_none()
    if found is None:
        return WorkflowRunError(f"run {run_id} has no pause")
    if found.id != entity.id:
        return WorkflowRunError(f"run {run_id} waits for pause {found.id}, not for {entity.id}")
    return WorkflowRunError(f"pause {found.id} was resumed already, at {found.resumed_at}")
