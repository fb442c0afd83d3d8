"""A gate on three shards, and plain repositories on one database that holds all rows: what is done to both must agree.

Ids and times that a call makes are the same on both sides, so that all of what it answers and writes can be compared.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta, tzinfo
from itertools import chain
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from uuid import NAMESPACE_OID, UUID, uuid5

from sqlalchemy import create_engine, select
from sqlalchemy.orm import sessionmaker

from real_servers import gate_vs_plain_random
from real_servers.comparable_answers import outcome
from real_servers.gate_vs_plain_random import DAYS, Ids
from real_servers.sharded import tenant_on
from tidegate.proxy.layers.gated_repositories import NodeExecutions, WorkflowRuns
from tidegate.repositories import (
    DifyAPISQLAlchemyWorkflowNodeExecutionRepository,
    DifyAPISQLAlchemyWorkflowRunRepository,
    SQLAlchemyWorkflowExecutionRepository,
    SQLAlchemyWorkflowNodeExecutionRepository,
    columns,
    models,
)
from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.models import Base
from tidegate.repositories.runs.pause_storage import MemoryStorage

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import pytest
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from real_servers.sharded_gate import Across

TENANTS: Final = ("s0", "s1", "s2", "s0")
"""The shards of the tenants that a sequence is about."""


class OnShards(Ids):
    """What one sequence of calls is about, with a tenant on each shard, and two on one."""

    def __init__(self) -> None:
        super().__init__()
        self.tenants = []
        for shard in TENANTS:
            self.tenants.append(tenant_on(shard, frozenset(self.tenants)))

    def tenant(self, n: int) -> str:
        return self.tenants[n % len(TENANTS)]

    def like(self, n: int, m: int) -> int:
        """The number of something that the tenant of the n-th has too."""
        return n % len(TENANTS) + len(TENANTS) * (m % 2)


class Alike:
    """Makes ids and times: the same for both sides, and others in each step."""

    def __init__(self) -> None:
        self.step = 0
        self._made = 0

    def again(self) -> None:
        """What is made from now on in this step is what was made in it already."""
        self._made = 0

    def uuid4(self) -> UUID:
        self._made += 1
        return uuid5(NAMESPACE_OID, f"{self.step} {self._made}")

    def now(self, tz: tzinfo | None = None) -> datetime:
        # Among the times of runs, so that what is due by those is not all or nothing; in steps that share them: ties.
        return (DAYS[self.step // 2 % len(DAYS)] + timedelta(seconds=self.step % 3)).replace(tzinfo=tz)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(models, "uuid", SimpleNamespace(uuid4=self.uuid4))
        patch.setattr(gate_vs_plain_random, "uuid4", self.uuid4)
        patch.setattr(columns, "datetime", _clock(self.now))


class Side:
    """One of the two, as the helpers of :mod:`real_servers.gate_vs_plain_random` take a gate.

    Args:
        sessions: for the repositories.
        across: whose gate it is; None: plain.
    """

    def __init__(self, sessions: sessionmaker[Session], across: Across | None) -> None:
        self.sessions = sessions
        self.storage = MemoryStorage()
        self._across = across
        self.runs: DifyAPISQLAlchemyWorkflowRunRepository
        self.nodes: DifyAPISQLAlchemyWorkflowNodeExecutionRepository
        if across is None:
            self.runs = DifyAPISQLAlchemyWorkflowRunRepository(sessions, storage=self.storage)
            self.nodes = DifyAPISQLAlchemyWorkflowNodeExecutionRepository(sessions)
        else:
            self.runs = across.gate.adopt(WorkflowRuns(sessions, storage=self.storage), sessions)
            self.nodes = across.gate.adopt(NodeExecutions(sessions), sessions)

    def session(self, tenant: str) -> AbstractContextManager[Session]:
        return self.sessions() if self._across is None else self._across.gate.session(tenant)

    def method(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self.runs if hasattr(self.runs, name) else self.nodes, name)
        return found

    def workflow_executions(self, user: Any, app: str, source: Any) -> SQLAlchemyWorkflowExecutionRepository:
        if self._across is None:
            return SQLAlchemyWorkflowExecutionRepository(self.sessions, user, app, source)
        return self._across.gate.workflow_executions(user, app, source)

    def workflow_node_executions(self, user: Any, app: str, source: Any) -> SQLAlchemyWorkflowNodeExecutionRepository:
        if self._across is None:
            return SQLAlchemyWorkflowNodeExecutionRepository(self.sessions, user, app, source)
        return self._across.gate.workflow_node_executions(user, app, source)

    def invalidate(self, tenant: str, **named: Any) -> None:
        if self._across is not None:
            self._across.gate.invalidate(tenant, **named)


class Oracle:
    """Both sides.

    Args:
        across: the shards and their gate.
        database_url: of the one database, which is empty.
        patch: what makes their ids and times alike, and ends with the test.
    """

    def __init__(self, across: Across, database_url: str, patch: pytest.MonkeyPatch) -> None:
        self.across = across
        self.engine = create_engine(database_url)
        Base.metadata.create_all(self.engine)
        create_indexes(self.engine)
        self.alike = Alike()
        self.alike.install(patch)
        self.counted: Counter[str] = Counter()
        self.sequences = 0
        self.begin()

    def begin(self) -> None:
        """With no rows on either side."""
        self.across.empty()
        with self.engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(table.delete())
        self.plain = Side(sessionmaker(self.engine), None)
        self.gated = Side(self.across.gate.session_maker, self.across)

    def same(self, what: object, call: Callable[[Side], Any], *, times: int = 1) -> Any:
        """See that *call*, made on both sides, answers the same or raises the same.

        Args:
            what: shown where it does not.
            call: given a side.
            times: how often the gate is asked.

        Returns:
            Their outcome.
        """
        found = []
        for side in (self.plain, *[self.gated] * times):
            self.alike.again()
            found.append(_outcome(call, side))
        for answer in found[1:]:
            assert answer == found[0], f"{what}: {answer} by shards, {found[0]} by one database"
        return found[0]

    def forget(self) -> None:
        """Have the gate not know whose any id is."""
        in_session: Any = self.across.gate._parts.caller_sessions
        in_session._search._directory._known.clear()

    def same_rows(self) -> None:
        """See that all shards together hold what the one database holds, and each row once."""
        of_shards = zip(*map(_rows, self.across.engines.values()), strict=True)
        assert [sorted(chain.from_iterable(parts)) for parts in of_shards] == _rows(self.engine)
        assert self.gated.storage._objects == self.plain.storage._objects

    def close(self) -> None:
        self.engine.dispose()


def _outcome(call: Callable[[Side], Any], side: Side) -> Any:
    found = outcome(lambda: call(side))
    if found[0] == "raised":
        # What is refused as no id may be refused by the statement that locks the rows: that is the gate's own.
        return (*found[:2], found[2].partition("\n[SQL:")[0])
    return found


def _rows(engine: Engine) -> list[list[str]]:
    with engine.connect() as connection:
        tables = Base.metadata.sorted_tables
        return [sorted(str(tuple(row)) for row in connection.execute(select(table))) for table in tables]


def _clock(now: Callable[[tzinfo | None], datetime]) -> type[Any]:
    class Meta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, datetime)

    class Clock(datetime, metaclass=Meta):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return now(tz)

    return Clock
