"""What a scenario asks for, and those who can answer it."""

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
    """One invocation: a repository's method with its arguments, by position.

    ``touch`` names columns that are read of every row of the page that comes back, as a caller would that needs them.
    """

    repository: Literal["runs", "nodes"]
    method: str
    arguments: tuple[Any, ...]
    touch: tuple[str, ...] = ()


class Contender(Protocol):
    """Somebody who answers calls, and is measured; its statements go through ``engine``."""

    @property
    def name(self) -> str:
        """The name of its column in the report."""
        ...

    @property
    def engine(self) -> Engine:
        """What its statements are counted on."""
        ...

    def run(self, call: ScenarioCall) -> Any:
        """Answer *call*."""
        ...


@dataclass(frozen=True, slots=True)
class Repositories:
    """A contender that is a run repository and a node repository."""

    name: str
    engine: Engine
    runs: Any
    nodes: Any

    def run(self, call: ScenarioCall) -> Any:
        """Call the method, and touch what is to be touched."""
        repository = self.runs if call.repository == "runs" else self.nodes
        answer = getattr(repository, call.method)(*call.arguments)
        for column in call.touch:
            for row in answer.data:
                getattr(row, column)
        return answer


def plain(url: URL) -> Repositories:
    """The plain repositories through psycopg, as they come."""
    engine = create_engine(url.set(drivername="postgresql+psycopg"), connect_args={"options": "-c timezone=UTC"})
    makers = sessionmaker(engine)
    return Repositories(
        "plain",
        engine,
        DifyAPISQLAlchemyWorkflowRunRepository(makers),
        DifyAPISQLAlchemyWorkflowNodeExecutionRepository(makers),
    )


def baseline(url: URL) -> Repositories:
    """Dify's statements through psycopg2.

    psycopg would prepare them after five executions, and the generic plans of some are far slower: that would be
    measuring a driver Dify does not use.
    """
    engine = create_engine(url.set(drivername="postgresql+psycopg2"), connect_args={"options": "-c timezone=UTC"})
    makers: sessionmaker[Session] = sessionmaker(engine)
    return Repositories("baseline", engine, BaselineRuns(makers), BaselineNodes(makers))
