"""How runs are deleted with everything that belongs to them, and how one counts what would be deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.repositories.base import batches, checked_batch_size, not_one_text
from tidegate.repositories.models import WorkflowAppLog, WorkflowRun
from tidegate.repositories.query_builder import Query
from tidegate.repositories.runs.pause_states import RunStates
from tidegate.repositories.runs.related_rows import (
    count_pauses_of_runs,
    count_where,
    delete_logs_of_runs,
    delete_nodes_of_runs,
    delete_pauses_of_runs,
    delete_where,
)
from tidegate.repositories.types import RelatedCounts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.orm import Session


class RunDeletion(RunStates):
    """Delete runs: a part of the run repository. The states of pauses are removed after the deletion is committed.

    If one of the runs has a pause and no storage is known, each method that deletes raises ``SettingsError``, and the
    transaction deletes nothing.
    """

    def delete_runs_by_ids(self, run_ids: Sequence[str]) -> int:
        """Delete some runs, with their node executions, offloads, logs, pauses and reasons, in one transaction.

        Returns:
            How many runs were deleted.
        """
        if not run_ids:
            return 0
        deleted, keys = self._transact(lambda session: self._delete_whole(session, run_ids))
        self._discard_states(keys)
        return deleted

    def delete_runs_by_app(self, tenant_id: str, app_id: str, batch_size: int = 1000) -> int:
        """Delete the runs of an app as :meth:`delete_runs_by_ids` does, with a commit after each batch.

        Returns:
            How many runs were deleted.

        Raises:
            ValueError: *batch_size* is not from 1 to 100,000.
        """
        of_app = Query(WorkflowRun).where("tenant_id", "eq", tenant_id).where("app_id", "eq", app_id)
        statement = of_app.limit(checked_batch_size(batch_size)).columns(WorkflowRun.id)
        keys: list[str] = []

        def one_batch(session: Session) -> tuple[int, int]:
            found = session.scalars(statement).all()
            deleted, keys[:] = self._delete_whole(session, found)
            return len(found), deleted

        return self._transact_until_empty(one_batch, batch_size, lambda: self._discard_states(keys))

    def delete_runs_with_related(
        self,
        runs: Sequence[WorkflowRun],
        delete_node_executions: Callable[[Session, Sequence[WorkflowRun]], tuple[int, int]] | None = None,
        delete_trigger_logs: Callable[[Session, Sequence[str]], int] | None = None,
    ) -> RelatedCounts:
        """Delete runs, their app logs, pauses and reasons, and what the callbacks delete, in one transaction.

        Args:
            runs: rows, or anything with an ``id``.
            delete_node_executions: deletes the runs' node executions in the session given, and returns (node
                executions, offloads); None: they stay where they are.
            delete_trigger_logs: deletes the trigger logs of the run ids in the session given, and returns how many;
                None: they stay where they are.

        Returns:
            How many rows of each kind were deleted.
        """
        if not runs:
            return _no_rows()
        run_ids = [run.id for run in runs]

        def operation(session: Session) -> tuple[RelatedCounts, list[str]]:
            _lock(session, run_ids)
            nodes, offloads = delete_node_executions(session, runs) if delete_node_executions else (0, 0)
            app_logs = delete_where(session, WorkflowAppLog, "workflow_run_id", run_ids)
            pauses = self._delete_pauses(session, run_ids)
            counts = RelatedCounts(
                node_executions=nodes,
                offloads=offloads,
                app_logs=app_logs,
                trigger_logs=delete_trigger_logs(session, run_ids) if delete_trigger_logs else 0,
                pauses=pauses[0],
                pause_reasons=pauses[1],
                runs=delete_where(session, WorkflowRun, "id", run_ids),
            )
            return counts, pauses[2]

        counts, keys = self._transact(operation)
        self._discard_states(keys)
        return counts

    def count_runs_with_related(
        self,
        runs: Sequence[WorkflowRun],
        count_node_executions: Callable[[Session, Sequence[WorkflowRun]], tuple[int, int]] | None = None,
        count_trigger_logs: Callable[[Session, Sequence[str]], int] | None = None,
    ) -> RelatedCounts:
        """Count what :meth:`delete_runs_with_related` would delete; ``runs`` is how many were given.

        Args:
            runs: rows, or anything with an ``id``.
            count_node_executions: counts (node executions, offloads) in the session given; None: none are counted.
            count_trigger_logs: counts the trigger logs of the run ids in the session given; None: none are counted.
        """
        if not runs:
            return _no_rows()
        run_ids = [run.id for run in runs]

        def operation(session: Session) -> RelatedCounts:
            nodes, offloads = count_node_executions(session, runs) if count_node_executions else (0, 0)
            pauses, reasons = count_pauses_of_runs(session, run_ids)
            return RelatedCounts(
                runs=len(runs),
                node_executions=nodes,
                offloads=offloads,
                app_logs=count_where(session, WorkflowAppLog, "workflow_run_id", run_ids),
                trigger_logs=count_trigger_logs(session, run_ids) if count_trigger_logs else 0,
                pauses=pauses,
                pause_reasons=reasons,
            )

        return self._read(operation)

    def _delete_whole(self, session: Session, run_ids: Sequence[str]) -> tuple[int, list[str]]:
        _lock(session, run_ids)
        delete_nodes_of_runs(session, run_ids)
        delete_logs_of_runs(session, run_ids)
        keys = self._delete_pauses(session, run_ids)[2]
        return delete_where(session, WorkflowRun, "id", run_ids), keys

    def _delete_pauses(self, session: Session, run_ids: Sequence[str]) -> tuple[int, int, list[str]]:
        deleted = delete_pauses_of_runs(session, run_ids)
        if deleted.state_keys:
            self._storage()  # if there is none, this raises now, while nothing is committed
        return deleted


def _lock(session: Session, run_ids: Sequence[str]) -> None:
    # A pause that is made meanwhile locks its run's row. Either it is committed first: then it is found and deleted
    # here. Or it comes too late: then it does not find its run. The rows are locked in the order of their ids, so that
    # two deletions that share runs do not wait for each other.
    for ids in batches(sorted(not_one_text(run_ids))):
        session.execute(Query(WorkflowRun).where("id", "in", ids).order_by("id").for_update().columns(WorkflowRun.id))


def _no_rows() -> RelatedCounts:
    return RelatedCounts(runs=0, node_executions=0, offloads=0, app_logs=0, trigger_logs=0, pauses=0, pause_reasons=0)
