"""Pages of runs: one statement, whose cost does not depend on the size of the app.

A page over k trigger sources is a UNION ALL of k arms, each ordered and limited along an index on
(tenant, app, source[, status], created_at desc, id desc), merged by one more ORDER BY and LIMIT. ``IN`` or ``ANY``
instead of arms would sort every row of the app. The cursor's row is looked up inside the statement.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, and_, bindparam, case, select, tuple_, union_all
from sqlalchemy.orm import aliased, load_only

from tidegate.repositories.columns import StringUUID
from tidegate.repositories.enums import WorkflowRunTriggeredFrom
from tidegate.repositories.models import WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import InstrumentedAttribute

Row = TypeVar("Row")

LAZY_RUN_COLUMNS: Final = ("graph", "inputs", "outputs")
MAX_PAGE: Final = 10_000
"""The most rows a page may ask for."""

_LIGHT: Final[list[InstrumentedAttribute[Any]]] = [
    getattr(WorkflowRun, attribute.key)
    for attribute in WorkflowRun.__mapper__.column_attrs
    if attribute.key not in LAZY_RUN_COLUMNS
]
_KNOWN_SOURCES: Final = tuple(sorted(source.value for source in WorkflowRunTriggeredFrom))


class InfiniteScrollPagination(Generic[Row]):
    """One page.

    Args:
        data: the rows, newest first; callers may assign another list.
        limit: how many were asked for.
        has_more: whether another page follows.
    """

    def __init__(self, data: Sequence[Row], limit: int, has_more: bool) -> None:
        self.data = data
        self.limit = limit
        self.has_more = has_more


def page_parameters(
    tenant_id: str, app_id: str, sources: Sequence[str], status: str | None, last_id: str | None, rows: int
) -> dict[str, Any]:
    """The values for :func:`page_statement` with the same number of sources."""
    named = {f"source_{i}": source for i, source in enumerate(sources)}
    return named | {"tenant_id": tenant_id, "app_id": app_id, "status": status, "last_id": last_id, "row_count": rows}


@lru_cache(maxsize=64)
def page_statement(source_count: int, *, with_status: bool, with_cursor: bool) -> Select[WorkflowRun]:
    """The statement of a page; made once a shape, so that SQLAlchemy computes its cache key once.

    Args:
        source_count: how many trigger sources; 0 means every source there is, known to this release or not.
        with_status: whether one status is asked for.
        with_cursor: whether the page follows a row.

    Returns:
        A SELECT of light ``WorkflowRun`` rows, newest first, for the values of :func:`page_parameters`.
    """
    common = [WorkflowRun.tenant_id == bindparam("tenant_id"), WorkflowRun.app_id == bindparam("app_id")]
    if with_status:
        common.append(WorkflowRun.status == bindparam("status"))
    if with_cursor:
        common.append(tuple_(WorkflowRun.created_at, WorkflowRun.id) < _cursor(shared=source_count != 1))
    if source_count:
        arms = [WorkflowRun.triggered_from == bindparam(f"source_{i}") for i in range(source_count)]
    else:
        arms = [*(WorkflowRun.triggered_from == source for source in _KNOWN_SOURCES), *_unknown_sources()]
    if len(arms) == 1:
        statement = select(WorkflowRun).options(load_only(*_LIGHT, raiseload=False)).where(arms[0], *common)
        return _newest_first(statement, WorkflowRun, with_status=with_status)
    selects = [
        select(_newest_first(select(*_LIGHT).where(arm, *common), WorkflowRun, with_status=with_status).subquery())
        for arm in arms
    ]
    run = aliased(WorkflowRun, union_all(*selects).subquery("page"))
    light = [getattr(run, column.key) for column in _LIGHT]
    return _newest_first(select(run).options(load_only(*light, raiseload=False)), run, with_status=with_status)


def _newest_first(statement: Select[Any], run: type[WorkflowRun], *, with_status: bool) -> Select[Any]:
    # NULLS LAST changes nothing, as neither column can be NULL, but it is the order of Tidegate's indexes alone: for
    # an app with much of the table, PostgreSQL would else walk the index on (created_at, id) and discard other apps'
    # runs, without bound when the app has been quiet.
    # The one with the status is ordered NULLS FIRST by id, so that neither index of Tidegate's can serve for the other:
    # a generic plan that takes a rare status for a common one would walk the whole app by the index without it.
    by_id = run.id.desc().nulls_first() if with_status else run.id.desc().nulls_last()
    newest = (run.created_at.desc().nulls_last(), by_id)
    return statement.order_by(*newest).limit(bindparam("row_count"))


def _cursor(*, shared: bool) -> ColumnElement[Any]:
    """(created_at, id) of the cursor's row; a position, whatever source and status the row has by now.

    Looked up once, also for several arms that share it; where there is no such row, the comparison is with NULL and
    finds nothing.
    """
    run = aliased(WorkflowRun)
    # Found by its id alone, and by no other index however the planner may estimate: tenant and app are compared after.
    of_app = and_(run.tenant_id == bindparam("tenant_id"), run.app_id == bindparam("app_id"))
    position = case((of_app, run.created_at)).label("created_at")
    lookup = select(position).where(run.id == bindparam("last_id"))
    if shared:
        lookup = select(lookup.cte("cursor_run").c.created_at)
    return tuple_(lookup.scalar_subquery(), bindparam("last_id", type_=StringUUID()))


def _unknown_sources() -> list[ColumnElement[bool]]:
    """The gaps between the known sources: one short index probe each, and nothing to read unless a new one came up.

    Arms of their own, as a generic plan would read the whole app for all gaps in one OR. In the order of the
    enumeration's values, which every collation that compares letters first agrees on.
    """
    source = WorkflowRun.triggered_from
    between = [and_(source > low, source < high) for low, high in pairwise(_KNOWN_SOURCES)]
    return [source < _KNOWN_SOURCES[0], *between, source > _KNOWN_SOURCES[-1]]
