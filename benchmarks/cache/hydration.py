"""How much more than the bare minimum a cached page costs: ``python -m tidegate.benchmarks.cache.hydration``.

The floor decodes a page of 20 with msgpack, by columns and with no check at all, and makes 20 detached instances in the
leanest way that SQLAlchemy is known to accept. All candidates take turns in one process, so that a slow moment of the
machine slows all of them; the ratio is that of the medians.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgpack
from sqlalchemy import StaticPool, create_engine, inspect
from sqlalchemy.orm import sessionmaker
from sqlalchemy.orm.state import InstanceState

from tidegate.cache.codec.answers import AnswerCodec
from tidegate.repositories.enums import WorkflowRunTriggeredFrom
from tidegate.repositories.lazy import LazyPage
from tidegate.repositories.models import Base, WorkflowRun, new_id
from tidegate.repositories.runs.page_statements import LAZY_RUN_COLUMNS
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

ROUNDS: Final = 300
CALLS_A_ROUND: Final = 20
ROWS: Final = 20
_NOON: Final = datetime(2026, 3, 1, 12)  # noqa: DTZ001  # columns are naive UTC


class Page:
    """Make a page of runs, and get it in several ways.

    Args:
        session_maker: on a database with the tables; the page gets a tenant of its own.
    """

    def __init__(self, session_maker: sessionmaker[Session]) -> None:
        self.session_maker = session_maker
        self.sources = [WorkflowRunTriggeredFrom.APP_RUN]
        self.tenant, self.app, self.workflow, self.call = new_id(), new_id(), new_id(), b"a call's fingerprint"
        with session_maker.begin() as session:
            session.add_all([self._run(i) for i in range(ROWS + 1)])
        self.repository = DifyAPISQLAlchemyWorkflowRunRepository(session_maker)
        self.codec = AnswerCodec([WorkflowRun])
        page = self.plain()
        self.body = self.codec.encode(self.tenant, self.call, page).body
        self.decoded = self.codec.decode(self.tenant, self.call, self.body)
        self._bare = Bare(session_maker, page.data)

    def _run(self, i: int) -> WorkflowRun:
        started = _NOON + timedelta(seconds=37 * i, microseconds=12345 * i)
        return WorkflowRun(
            tenant_id=self.tenant,
            app_id=self.app,
            workflow_id=self.workflow,
            type="workflow",
            triggered_from="app-run",
            version="2026-03-01 12:00:00",
            graph="{}",
            inputs="{}",
            status="failed" if i % 7 == 0 else "succeeded",
            elapsed_time=i * 1.37,
            total_tokens=i * 211,
            total_steps=i % 5,
            created_by_role="end_user",
            created_by=new_id(),
            created_at=started,
            finished_at=started + timedelta(seconds=i * 1.37),
        )

    def plain(self) -> Any:
        """Return the page as SQLAlchemy loads it, with the time of its statement."""
        return self.repository.get_paginated_workflow_runs(self.tenant, self.app, self.sources)

    def hit(self) -> object:
        """Return the page as the cache makes it from bytes."""
        return self.codec.build(self.codec.decode(self.tenant, self.call, self.body), self.session_maker)

    def near(self) -> object:
        """Return the page as the near cache makes it from what is decoded already."""
        return self.codec.build(self.decoded, self.session_maker)

    def floor(self) -> object:
        """Decode with msgpack and make the instances, with no check at all."""
        return self._bare.build(self._bare.values())

    def floor_building(self) -> object:
        """Make the instances alone."""
        return self._bare.build(self._bare.ready)


class Bare:
    """Do the least that could be done: msgpack by columns, constant ones once, datetimes as text; and make instances.

    Args:
        session_maker: for the lazy columns.
        rows: the rows that are to be made again.
    """

    def __init__(self, session_maker: sessionmaker[Session], rows: list[WorkflowRun]) -> None:
        self._session_maker = session_maker
        keys = [attribute.key for attribute in inspect(WorkflowRun).column_attrs]
        columns = {key: [getattr(row, key) for row in rows] for key in keys if key not in LAZY_RUN_COLUMNS}
        constant = {key: column[0] for key, column in columns.items() if len(set(column)) == 1}
        self._keys = [key for key in columns if key not in constant]
        self._moments = [i for i, key in enumerate(self._keys) if key in {"created_at", "finished_at"}]
        varying = [columns[key] for key in self._keys]
        for i in self._moments:
            varying[i] = [value.isoformat() for value in varying[i]]
        self.packed = msgpack.packb([constant, varying])
        self._known = {key: vars(inspect(rows[0]))[key] for key in ("key", "load_options", "load_path")}
        self.ready = self.values()

    def values(self) -> list[dict[str, Any]]:
        """Return the values of the rows."""
        constant, columns = msgpack.unpackb(self.packed)
        for i in self._moments:
            columns[i] = list(map(datetime.fromisoformat, columns[i]))
        rows = [constant.copy() for _ in columns[0]]
        for key, column in zip(self._keys, columns):  # noqa: B905  # the floor checks nothing
            for row, value in zip(rows, column):  # noqa: B905
                row[key] = value
        return rows

    def build(self, rows: list[dict[str, Any]]) -> list[WorkflowRun]:
        """Return instances; *rows* may be used again."""
        manager, known, new = WorkflowRun.__mapper__.class_manager, self._known, WorkflowRun.__new__
        made, states, ids = [], [], []
        for values in rows:
            row = new(WorkflowRun)
            state: InstanceState[Any] = InstanceState(row, manager)
            mine = values.copy()
            mine["_sa_instance_state"] = state
            row.__dict__ = mine
            mine = known.copy()
            mine["key"] = (WorkflowRun, (values["id"],), None)
            state.__dict__ = mine
            made.append(row)
            states.append(state)
            ids.append(values["id"])
        LazyPage(self._session_maker, WorkflowRun, LAZY_RUN_COLUMNS).adopt_new(states, ids)
        return made


def measure(candidates: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median time of one call of each candidate in microseconds; they take turns in a random order.

    Garbage is collected between the rounds. Within a round it would slow the candidate after the one that made it.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    turns = list(candidates)
    gc.disable()
    try:
        for _ in range(rounds):
            random.shuffle(turns)
            for name in turns:
                times[name].append(_once(candidates[name]))
            gc.collect(0)
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in times.items()}


def _once(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(CALLS_A_ROUND):
        call()
    return (time.perf_counter() - start) / CALLS_A_ROUND * 1e6


def main() -> None:
    """Measure, and print the table."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    page = Page(sessionmaker(engine))
    candidates: dict[str, Callable[[], object]] = {
        "floor: decode and build": page.floor,
        "hit: decode and build": page.hit,
        "floor: build": page.floor_building,
        "near hit: build": page.near,
        "plain: SQLAlchemy, SQLite in memory": page.plain,
    }
    measure(candidates, rounds=20)
    print(f"{ROWS} light runs, {len(page.body)} bytes; medians of {ROUNDS} rounds of {CALLS_A_ROUND} calls")  # noqa: T201
    found = measure(candidates)
    floors = {"hit: decode and build": "floor: decode and build", "near hit: build": "floor: build"}
    for name, us in found.items():
        ratio = f"{us / found[floors[name]]:.2f} times its floor" if name in floors else ""
        print(f"{name:38s} {us:8.1f} us  {ratio}")  # noqa: T201  # the report
    hit, plain = found["hit: decode and build"], found["plain: SQLAlchemy, SQLite in memory"]
    print(f"a hit costs {hit / plain:.3f} of what SQLAlchemy costs")  # noqa: T201


if __name__ == "__main__":
    main()
