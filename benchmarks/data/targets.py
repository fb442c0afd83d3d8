"""The rows of a loaded data set that scenarios ask for: cursors at a depth, an ordinary app, runs with nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select

from tidegate.repositories.enums import WorkflowRunTriggeredFrom as Source
from tidegate.repositories.models import WorkflowNodeExecutionModel as Node
from tidegate.repositories.models import WorkflowRun as Run

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from tidegate.benchmarks.data.population import Population

_ORDINARY_RUNS: Final = 100
_RUNS_BY_ID: Final = 50
_NODES_BY_ID: Final = 50
_LARGEST_BURST_READ: Final = 500
_LEAST_NODES: Final = 8


@dataclass(frozen=True, slots=True)
class Where:
    """An app of a tenant, whose runs are read."""

    tenant_id: str
    app_id: str


@dataclass(frozen=True, slots=True)
class NodePlace:
    """One node of one workflow."""

    workflow_id: str
    node_id: str


class Targets:
    """Find what scenarios ask for, in the database of *session*.

    Args:
        session: on a database that holds the data set.
        population: the population of the data set.
    """

    def __init__(self, session: Session, population: Population) -> None:
        self._session = session
        self.main = Where(population.main_app.tenant_id, population.main_app.id)
        self.quiet = Where(population.quiet_app.tenant_id, population.quiet_app.id)

    def runs_of_main(self, source: Source = Source.APP_RUN, status: str | None = None) -> int:
        """Count the runs that the main app has from *source*, of one state or of all (None)."""
        query = select(func.count()).select_from(Run).where(Run.app_id == self.main.app_id)
        query = query.where(Run.tenant_id == self.main.tenant_id, Run.triggered_from == source)
        return self._session.scalar(query.where(Run.status == status) if status else query) or 0

    def cursor(self, depth: int, source: Source = Source.APP_RUN, status: str | None = None) -> str:
        """Return the id of the run that *depth* runs lead up to: the page after it begins there.

        If runs of the same time would be on both sides of it, it is some runs deeper: the baseline would skip those of
        them that belong on the page.
        """
        query = select(Run.id, Run.created_at).where(Run.tenant_id == self.main.tenant_id)
        query = query.where(Run.app_id == self.main.app_id, Run.triggered_from == source)
        if status:
            query = query.where(Run.status == status)
        newest = query.order_by(Run.created_at.desc(), Run.id.desc())
        rows = self._session.execute(newest.offset(depth - 1).limit(_LARGEST_BURST_READ)).all()
        following = [*rows[1:], None]
        return str(next(row.id for row, after in zip(rows, following, strict=True) if not _tied(row, after)))

    def ordinary_app(self) -> Where:
        """Return an app of a tenant other than the whale, with about a hundred runs from the app itself."""
        runs = func.count()
        query = select(Run.tenant_id, Run.app_id).where(
            Run.triggered_from == Source.APP_RUN, Run.tenant_id != self.main.tenant_id
        )
        nearest = query.group_by(Run.tenant_id, Run.app_id).order_by(func.abs(runs - _ORDINARY_RUNS), Run.app_id)
        found = self._session.execute(nearest.limit(1)).one()
        return Where(found.tenant_id, found.app_id)

    def run_ids(self) -> list[str]:
        """Return some runs of the main app, from all of its time."""
        of_main = select(Run.id).where(Run.tenant_id == self.main.tenant_id, Run.app_id == self.main.app_id)
        return list(self._session.scalars(of_main.order_by(Run.id).limit(_RUNS_BY_ID)))

    def runs_with_nodes(self) -> list[str]:
        """Return some runs of the main app with eight node executions or more, or with the most that there are."""
        query = select(Run.id).where(Run.tenant_id == self.main.tenant_id, Run.app_id == self.main.app_id)
        many = query.order_by((Run.total_steps >= _LEAST_NODES).desc(), Run.total_steps, Run.id)
        return list(self._session.scalars(many.limit(_RUNS_BY_ID)))

    def node_ids(self) -> list[str]:
        """Return some node executions of the main app."""
        query = select(Node.id).where(Node.tenant_id == self.main.tenant_id, Node.app_id == self.main.app_id)
        return list(self._session.scalars(query.order_by(Node.id).limit(_NODES_BY_ID)))

    def busy_node(self) -> NodePlace:
        """Return the node of the main app that was executed most often."""
        query = select(Node.workflow_id, Node.node_id).where(
            Node.tenant_id == self.main.tenant_id, Node.app_id == self.main.app_id
        )
        most = query.group_by(Node.workflow_id, Node.node_id).order_by(func.count().desc(), Node.node_id)
        found = self._session.execute(most.limit(1)).one()
        return NodePlace(found.workflow_id, found.node_id)


def _tied(row: object, after: object) -> bool:
    return getattr(row, "created_at", None) == getattr(after, "created_at", None)
