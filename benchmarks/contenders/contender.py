"""The calls of a scenario, and those who can answer them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from tidegate.benchmarks.contenders.dify_baseline import BaselineNodes, BaselineRuns
from tidegate.repositories.sqlalchemy_api_workflow_node_execution_repository import (
    DifyAPISQLAlchemyWorkflowNodeExecutionRepository,
)
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine


@dataclass(frozen=True, slots=True)
class ScenarioCall:
    """One call: a repository's method with its arguments, by position.

    ``touch`` names columns that are read of every row of the page that comes back, as a caller who needs them would do.
    """

    repository: Literal["runs", "nodes"]
    method: str
    arguments: tuple[Any, ...]
    touch: tuple[str, ...] = ()


class Contender(Protocol):
    """Answer calls, and be measured; all statements go through ``engine``."""

    @property
    def name(self) -> str:
        """Return the name of the contender's column in the report."""
        ...

    @property
    def engine(self) -> Engine:
        """Return the engine on which the contender's statements are counted."""
        ...

    def run(self, call: ScenarioCall) -> Any:
        """Answer *call*."""
        ...


@dataclass(frozen=True, slots=True)
class Repositories:
    """A contender that is made of a run repository and a node execution repository."""

    name: str
    engine: Engine
    runs: Any
    nodes: Any

    def run(self, call: ScenarioCall) -> Any:
        """Call the method, and read the columns that the call touches."""
        repository = self.runs if call.repository == "runs" else self.nodes
        answer = getattr(repository, call.method)(*call.arguments)
        for column in call.touch:
            for row in answer.data:
                getattr(row, column)
        return answer


def plain(url: URL) -> Repositories:
    """Make the plain repositories on psycopg, without any change."""
    engine = create_engine(url.set(drivername="postgresql+psycopg"), connect_args={"options": "-c timezone=UTC"})
    makers = sessionmaker(engine)
    return Repositories(
        "plain",
        engine,
        DifyAPISQLAlchemyWorkflowRunRepository(makers),
        DifyAPISQLAlchemyWorkflowNodeExecutionRepository(makers),
    )


def baseline(url: URL) -> Repositories:
    """Make the repositories with Dify's statements, on psycopg2.

    psycopg would prepare the statements after five executions, and some of their generic plans are far slower. That
    would measure a driver that Dify does not use.
    """
    engine = create_engine(url.set(drivername="postgresql+psycopg2"), connect_args={"options": "-c timezone=UTC"})
    makers: sessionmaker[Session] = sessionmaker(engine)
    return Repositories("baseline", engine, BaselineRuns(makers), BaselineNodes(makers))
