"""Whether two answers to one call agree, column for column: a fast wrong answer is not measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect

from tidegate.errors import BenchmarkError
from tidegate.repositories.lazy import load
from tidegate.repositories.models import Base
from tidegate.repositories.pagination import InfiniteScrollPagination

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.benchmarks.contenders.contender import Contender, ScenarioCall
    from tidegate.benchmarks.scenarios import Scenario


def check_agreement(scenario: Scenario, contenders: Sequence[Contender]) -> None:
    """Let every contender answer every call of *scenario* once, and compare the answers.

    Raises:
        BenchmarkError: two answers differ, or an answer is empty; the message says where.
    """
    first, *others = contenders
    for call in scenario.calls:
        expected = first.run(call)
        for other in others:
            difference = _difference(expected, other.run(call))
            if difference:
                raise BenchmarkError(_message(scenario, call, f"{first.name} and {other.name} differ: {difference}"))
        if _empty(expected):
            raise BenchmarkError(_message(scenario, call, "there is nothing to read"))


def _message(scenario: Scenario, call: ScenarioCall, what: str) -> str:
    return f"scenario {scenario.name!r}, {call.method}{call.arguments}: {what}"


def _empty(answer: Any) -> bool:
    rows = answer.data if isinstance(answer, InfiniteScrollPagination) else answer
    return not (sum(rows.values()) if isinstance(rows, dict) else rows)


def _difference(a: Any, b: Any) -> str | None:
    if isinstance(a, InfiniteScrollPagination):
        return _page_difference(a, b)
    if isinstance(a, Base):
        return _row_difference(a, b)
    if isinstance(a, dict) or (a and isinstance(a[0], dict)):
        # The baseline returns one of the statistics in no order.
        return None if _sorted(a) == _sorted(b) else f"{a} against {b}"
    if len(a) != len(b):
        return f"{len(a)} rows against {len(b)}"
    pairs = zip(sorted(a, key=_id), sorted(b, key=_id), strict=True)
    return next((difference for one, other in pairs if (difference := _row_difference(one, other))), None)


def _sorted(value: Any) -> Any:
    return sorted(value, key=lambda row: row["date"]) if isinstance(value, list) else value


def _id(row: Any) -> str:
    return str(row.id)


def _page_difference(a: InfiniteScrollPagination[Any], b: InfiniteScrollPagination[Any]) -> str | None:
    if [row.created_at for row in a.data] != [row.created_at for row in b.data]:
        return f"times {[str(row.created_at) for row in a.data]} against {[str(row.created_at) for row in b.data]}"
    if a.has_more != b.has_more:
        return f"has_more {a.has_more} against {b.has_more}"
    # Of runs that were created at the same time, the baseline returns any. So at the end of a page it may have others.
    last = a.data[-1].created_at if a.data and a.has_more else None
    ones, others = ({row.id: row for row in page.data if row.created_at != last} for page in (a, b))
    if ones.keys() != others.keys():
        return f"runs {sorted(ones.keys() ^ others.keys())} are on one page only"
    load(a.data)
    return next((found for key, row in ones.items() if (found := _row_difference(row, others[key]))), None)


def _row_difference(a: Any, b: Any) -> str | None:
    if b is None:
        return f"{a.id} against None"
    for attribute in inspect(type(a)).column_attrs:
        if getattr(a, attribute.key) != getattr(b, attribute.key):
            return f"{attribute.key} of {a.id}: {getattr(a, attribute.key)!r} against {getattr(b, attribute.key)!r}"
    if "offload_data" in inspect(a).dict:
        ids = [sorted(offload.id for offload in row.offload_data) for row in (a, b)]
        return None if ids[0] == ids[1] else f"offloads of {a.id}: {ids[0]} against {ids[1]}"
    return None
