"""A tenant whose every answer tells how many writes it knows of, so that an answer is stale or it is not.

A write is one transaction: the counted run's ``total_tokens`` goes up by one, and a run is added whose id and
``total_steps`` are that number. So by id, in a page, by a count and by statistics the same number must be seen.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import NAMESPACE_OID, uuid4, uuid5

from sqlalchemy import update

from tidegate.repositories.enums import WorkflowRunTriggeredFrom
from tidegate.repositories.models import WorkflowRun, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.orm import Session

    from tidegate.proxy.gate import Gate

_MORNING: Final = datetime.fromisoformat("2024-03-05T00:00:00")
_EVENING: Final = datetime.fromisoformat("2024-03-05T23:59:59")
SOURCE: Final = WorkflowRunTriggeredFrom.APP_RUN
_GRAPH: Final = json.dumps({"nodes": ["a node"] * 100})
FLOOR: Final = "SELECT total_tokens FROM workflow_runs WHERE id = %s"
"""How many writes are visible on the primary now."""


@dataclass(frozen=True, slots=True)
class Book:
    """One tenant with one app, and its counted run."""

    tenant: str
    app: str
    run: str

    @classmethod
    def new(cls) -> Self:
        return cls(str(uuid4()), str(uuid4()), str(uuid4()))

    def plain(self) -> dict[str, str]:
        """As JSON."""
        return asdict(self)

    def id_of(self, version: int) -> str:
        """The run that the write of this number adds."""
        return str(uuid5(NAMESPACE_OID, f"{self.run} {version}"))

    def first(self) -> WorkflowRun:
        """The counted run, to be added before anything else."""
        return self._run(id=self.run, created_at=_EVENING)

    def write(self, session: Session) -> int:
        """One write, up to and without its commit; gives its number."""
        counted = update(WorkflowRun).where(WorkflowRun.id == self.run)
        counted = counted.values(total_tokens=WorkflowRun.total_tokens + 1).returning(WorkflowRun.total_tokens)
        (version,) = session.scalars(counted, execution_options={"synchronize_session": False}).all()
        at = _MORNING + timedelta(seconds=version)
        session.add(self._run(id=self.id_of(version), created_at=at, total_steps=version))
        session.flush()
        return version

    def _run(self, **values: Any) -> WorkflowRun:
        return WorkflowRun(
            tenant_id=self.tenant,
            app_id=self.app,
            workflow_id=new_id(),
            type="workflow",
            triggered_from=SOURCE.value,
            version="1",
            graph=_GRAPH,
            status="succeeded",
            created_by_role="account",
            created_by=new_id(),
            **values,
        )


def by_id(gate: Gate, book: Book, _floor: int) -> int:
    run = gate.workflow_runs.get_workflow_run_by_id(book.tenant, book.app, book.run)
    assert run is not None
    return run.total_tokens


def newborn(gate: Gate, book: Book, floor: int) -> int:
    """By ids that were not there a moment ago: "not there" is cached too."""
    runs = gate.workflow_runs
    runs.get_workflow_run_by_id(book.tenant, book.app, book.id_of(floor + 1))
    found = floor == 0 or runs.get_workflow_run_by_id(book.tenant, book.app, book.id_of(floor)) is not None
    return floor if found else floor - 1


def first_page(gate: Gate, book: Book, _floor: int) -> int:
    page = gate.workflow_runs.get_paginated_workflow_runs(book.tenant, book.app, SOURCE, limit=3)
    return page.data[0].total_tokens


def page_below(gate: Gate, book: Book, _floor: int) -> int:
    page = gate.workflow_runs.get_paginated_workflow_runs(book.tenant, book.app, SOURCE, limit=1, last_id=book.run)
    return page.data[0].total_steps or 0 if page.data else 0


def count(gate: Gate, book: Book, _floor: int) -> int:
    return gate.workflow_runs.get_workflow_runs_count(book.tenant, book.app, "app-run")["total"] - 1


def statistics(gate: Gate, book: Book, _floor: int) -> int:
    rows = gate.workflow_runs.get_daily_runs_statistics(book.tenant, book.app, "app-run", _MORNING, _EVENING)
    return sum(row["runs"] for row in rows)


READS: Final[Mapping[str, Callable[[Gate, Book, int], int]]] = {
    read.__name__: read for read in (by_id, newborn, first_page, page_below, count, statistics)
}
CALLS: Final = {"newborn": 2}
"""How many calls a read makes, where it is not one."""
