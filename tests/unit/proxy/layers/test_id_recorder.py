"""What a commit tells of whose ids are whose, and what it does not."""

from __future__ import annotations

from cProfile import Profile
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tidegate.cache.request import Answer
from tidegate.cache.store import Change
from tidegate.position import History, Origin
from tidegate.proxy.call import Call, Method
from tidegate.proxy.explanation import uncached
from tidegate.proxy.layers.id_recorder import IdRecorder, commit_recorder
from tidegate.proxy.shards.id_queries import TrackedIds
from tidegate.proxy.writes.invalidation import change_of
from tidegate.repositories.models import WorkflowRun
from tidegate.repositories.policies import Read, Tracked
from tidegate.repositories.run_policies import WORKFLOW_RUN_POLICIES
from tidegate.repositories.tracked import TRACKED
from tidegate.routing.sharding.tenant_directory import IdDirectory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.proxy.explanation import Explanation

TENANT = "0000000a-0000-0000-0000-000000000003"
RUN, OTHER = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"


def test_rows_tell_of_themselves_and_not_of_what_they_name() -> None:
    directory = IdDirectory()
    tags = {f"run:{RUN}", f"node:{OTHER}", f"nodes:{OTHER}", "runs:app"}
    commit_recorder(directory, TrackedIds(TRACKED))([Change("a", frozenset(tags))])
    assert directory.tenants("run", [RUN, OTHER]) == {RUN: "a"}
    assert directory.tenants("node", [RUN, OTHER]) == {OTHER: "a"}


def test_an_invalidation_by_hand_tells_nothing() -> None:
    directory = IdDirectory()
    change = change_of("a", {"run_id": RUN}, WORKFLOW_RUN_POLICIES.invalidation)
    assert f"run:{RUN}" in change.tags
    commit_recorder(directory, TrackedIds(TRACKED))([change])
    assert len(directory) == 0


class Rows:
    """The layer below, which answers with *rows*."""

    def __init__(self, rows: Sequence[object]) -> None:
        self._rows = rows

    def __call__(self, _call: Call) -> Answer:
        return Answer(self._rows, Origin(0, History(1), ""))

    def explain(self, call: Call) -> Explanation:
        return uncached(call.shown())


def rows_of(*tenants: str) -> list[WorkflowRun]:
    return [WorkflowRun(id=str(uuid4()), tenant_id=tenant) for tenant in tenants]


def read(directory: IdDirectory, rows: list[WorkflowRun], tenant: str | None = TENANT) -> Answer:
    layer = IdRecorder(directory, TRACKED, Rows(rows))
    return layer(Call(object(), Method("read", "Runs.read", list), Read(), {}, tenant, None))


def test_the_rows_of_an_answer_are_recorded_and_those_of_another_tenant_are_not_to_be_stored() -> None:
    directory, rows = IdDirectory(), rows_of(TENANT, TENANT.upper(), OTHER)
    assert read(directory, rows[:2]).origin == Origin(0, History(1), "")
    assert directory.tenants("run", [row.id for row in rows]) == dict.fromkeys([row.id for row in rows[:2]], TENANT)
    assert read(directory, rows).origin is None
    assert directory.tenant("run", rows[2].id) == OTHER
    assert read(directory, rows, None).origin is not None, "a call of no tenant in particular"
    assert read(directory, []).value == []


def test_recording_a_row_costs_no_more_than_five_calls() -> None:
    directory = IdDirectory()

    def calls(count: int) -> int:
        rows = rows_of(*[TENANT] * count)
        read(directory, rows)
        return min(counted(rows) for _ in range(5))  # the collector of garbage may call something now and then

    def counted(rows: list[WorkflowRun]) -> int:
        profile = Profile()
        profile.runcall(read, directory, rows)
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(120) - calls(20) <= 5 * 100


class Own(DeclarativeBase):
    """The tables of a program's own."""


class Order(Own):
    __tablename__ = "orders"
    key: Mapped[UUID] = mapped_column(primary_key=True)
    customer: Mapped[UUID]


def test_ids_and_tenants_may_be_uuids_and_a_row_that_has_expired_is_passed_over() -> None:
    directory, order, expired = IdDirectory(), Order(key=uuid4(), customer=uuid4()), Order(key=uuid4())
    layer = IdRecorder(
        directory, [Tracked(Order, tenant="customer", identifies=("key", "order"))], Rows([order, expired])
    )
    answer = layer(Call(object(), Method("read", "Orders.read", list), Read(), {}, str(order.customer), None))
    assert directory.tenant("order", str(order.key)) == str(order.customer)
    assert len(directory) == 1
    assert answer.origin is None, "whose the other row is, nobody can say without asking"
