"""Which statements find whose an id is, by what is tracked; and what says that nobody can tell."""

from __future__ import annotations

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tidegate.errors import PolicyError
from tidegate.proxy.shards.id_queries import TrackedIds
from tidegate.proxy.tracking.tracked_tables import Tables
from tidegate.repositories.models import WorkflowRun
from tidegate.repositories.policies import Tracked
from tidegate.repositories.tracked import TRACKED


class Own(DeclarativeBase):
    """The tables of a program's own."""


class Order(Own):
    __tablename__ = "orders"
    key: Mapped[str] = mapped_column(primary_key=True)
    customer: Mapped[str]


class Parcel(Own):
    __tablename__ = "parcels"
    key: Mapped[str] = mapped_column(primary_key=True)
    order: Mapped[str]
    customer: Mapped[str]


ORDERS = Tracked(Order, tenant="customer", tags=("order:{key}",), identifies=("key", "order"))
PARCELS = Tracked(Parcel, tenant="customer", names=(("order", "order"),))


def tables(tracked: TrackedIds, kind: str) -> list[list[str]]:
    """The tables that each of the statements reads."""
    return [
        sorted(
            {table.name for table in query(["x"]).get_final_froms()}
            if hasattr(query(["x"]), "get_final_froms")
            else {table.name for part in query(["x"]).selects for table in part.get_final_froms()}
        )
        for query in tracked.queries(kind).owners
    ]


def test_the_row_itself_is_looked_for_first_and_then_what_names_it() -> None:
    tracked = TrackedIds(TRACKED)
    assert tables(tracked, "run")[0] == ["workflow_runs"]
    assert {"workflow_archive_logs", "workflow_node_executions"} <= {*tables(tracked, "run")[1]}
    assert tables(tracked, "node") == [["workflow_node_executions"], ["workflow_node_execution_offload"]]
    assert tracked.queries("node").orphans is None
    assert "workflow_pauses" in str(tracked.queries("run").orphans(["x"]))  # type: ignore[misc]
    assert {"workflow_pauses", "workflow_pause_reasons"} <= {*str(tracked.queries("pause").orphans(["x"])).split()}  # type: ignore[misc]
    assert tracked.kinds_by_tag == {"run": "run", "node": "node"}


def test_what_a_program_wraps_is_found_too_and_a_kind_that_nobody_identifies_is_refused() -> None:
    tracked = TrackedIds(TRACKED)
    with pytest.raises(
        PolicyError, match=r"the kind 'order' is: .* identifies=\(column, 'order'\); known are node, pause"
    ):
        tracked.queries("order")
    tracked.add([ORDERS, PARCELS])
    assert tables(tracked, "order") == [["orders"], ["parcels"]]
    assert tracked.kinds_by_tag["order"] == "order"
    assert tracked.named("order", Order(key="k", customer="c")) == ("k", "c")
    assert tracked.named("order", "k") == ("k", None)


def test_dify_s_own_tables_may_be_wrapped_without_saying_whose_their_ids_are() -> None:
    known = Tables(TRACKED)
    (runs,) = [row for row in TRACKED if row.model is WorkflowRun]
    known.add([Tracked(WorkflowRun, tags=runs.tags)])
    with pytest.raises(PolicyError, match="tracked twice"):
        known.add([Tracked(WorkflowRun, tags=("run:{id}",))])


@pytest.mark.parametrize(
    "row",
    [
        Tracked(Order, tenant="customer", identifies=("kye", "order")),
        Tracked(Parcel, tenant="customer", names=(("odrer", "order"),)),
    ],
)
def test_a_column_that_is_not_there_is_named_at_once(row: Tracked) -> None:
    with pytest.raises(PolicyError, match=r"has no column (kye|odrer)"):
        Tables([row])
