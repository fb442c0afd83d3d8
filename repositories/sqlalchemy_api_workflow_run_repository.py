"""The plain run repository, put together from its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from tidegate.repositories.runs.archive import RunArchive
from tidegate.repositories.runs.deletion import RunDeletion
from tidegate.repositories.runs.pauses import RunPauses
from tidegate.repositories.runs.queries import RunQueries
from tidegate.repositories.runs.statistics import RunStatistics

if TYPE_CHECKING:
    from tidegate.repositories.entities.workflow_execution import WorkflowExecution


class DifyAPISQLAlchemyWorkflowRunRepository(RunQueries, RunStatistics, RunArchive, RunPauses, RunDeletion):
    """Read, count, pause, archive and delete workflow runs on one database, with no cache and no routing.

    Args:
        session_maker: a ``sessionmaker`` bound to the database's engine.
        storage: where the states of paused runs lie; None: what TIDEGATE_PAUSE_STORAGE names, as soon as one is needed.
    """

    def save(self, execution: WorkflowExecution) -> NoReturn:  # the protocol's
        """Raise ``NotImplementedError``: the repository of the write side saves runs."""
        raise NotImplementedError(
            "save() needs a user and an app: it is a method of SQLAlchemyWorkflowExecutionRepository"
        )
