"""Repositories behind a gate, as classes; plain until a gate makes one of their objects its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from tidegate.proxy.layers.facade import gated
from tidegate.proxy.layers.fingerprint import WRAPPED
from tidegate.public import public
from tidegate.repositories.base import Bindable
from tidegate.repositories.node_policies import NODE_EXECUTION_POLICIES
from tidegate.repositories.run_policies import WORKFLOW_RUN_POLICIES
from tidegate.repositories.sqlalchemy_api_workflow_node_execution_repository import (
    DifyAPISQLAlchemyWorkflowNodeExecutionRepository,
)
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.repositories.policies import PolicyTable

C = TypeVar("C")


@gated(WORKFLOW_RUN_POLICIES, sharded=True)
@public
class WorkflowRuns(DifyAPISQLAlchemyWorkflowRunRepository):
    """The run repository behind a gate; plain until a gate makes it its own."""


@gated(NODE_EXECUTION_POLICIES, sharded=True)
@public
class NodeExecutions(DifyAPISQLAlchemyWorkflowNodeExecutionRepository):
    """The node execution repository behind a gate; plain until a gate makes it its own."""


def subclass(
    cls: type[C],
    policies: PolicyTable,
    adopt: Callable[[C, sessionmaker[Session], tuple[Any, ...]], C],
    *,
    sharded: bool,
) -> type[C]:
    """Make a subclass of *cls* whose objects are a gate's as soon as they are made.

    Args:
        cls: takes a ``session_maker`` first, or by that name.
        policies: one row for each public method.
        adopt: makes an object the gate's, given its session maker and what else its constructor was given.
        sharded: whether the gate has several shards.

    Raises:
        PolicyError: *policies* and *cls* do not agree.
    """

    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, *args, **kwargs)
        session_maker = kwargs["session_maker"] if "session_maker" in kwargs else args[0]
        others = [value for value in (*args, *sorted(kwargs.items())) if value is not session_maker]
        adopt(self, session_maker, tuple(other for other in others if other != ("session_maker", session_maker)))

    members = {name: getattr(cls, name) for name in ("__doc__", "__module__", "__qualname__")}
    members |= {WRAPPED: cls, "__init__": made}
    return cast("type[C]", gated(policies, sharded=sharded)(type(cls.__name__, (cls, Bindable), members)))
