"""Pages of runs: one statement, whose cost does not depend on the size of the app where Tidegate's indexes are.

There a page over k trigger sources is a UNION ALL of k arms. Each arm is a stretch of one of Tidegate's indexes, walked
backwards and limited. One more ORDER BY and LIMIT merges them. With ``IN`` or ``ANY`` instead of arms, PostgreSQL would
sort every row of the app. The cursor's row is looked up inside the statement.

Without these indexes a page is what Dify asks for: equalities, and one order. Its plan must be made for the values of
each call, the cursor's time among them, which is read before: a large app is best read along Dify's index on
(created_at, id), a small one by its own runs and a sort, and its last pages along that index again.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from sqlalchemy import ColumnElement, Integer, Select, String, and_, bindparam, func, literal, select, tuple_, union_all
from sqlalchemy.orm import aliased, load_only

from tidegate.repositories.columns import StringUUID, UTCDateTime
from tidegate.repositories.enums import WorkflowRunTriggeredFrom
from tidegate.repositories.models import WorkflowRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import InstrumentedAttribute

Row = TypeVar("Row")
_Cursor: TypeAlias = "tuple[ColumnElement[datetime], ColumnElement[str]]"

LAZY_RUN_COLUMNS: Final = ("graph", "inputs", "outputs")
MAX_PAGE: Final = 10_000
"""The most rows a page may ask for."""

_LIGHT: Final[list[InstrumentedAttribute[Any]]] = [
    getattr(WorkflowRun, attribute.key)
    for attribute in WorkflowRun.__mapper__.column_attrs
    if attribute.key not in LAZY_RUN_COLUMNS
]
_TENANT: Final = bindparam("tenant_id", type_=StringUUID())
_APP: Final = bindparam("app_id", type_=StringUUID())
_STATUS: Final = bindparam("status", type_=String())
_LAST_ID: Final = bindparam("last_id", type_=StringUUID())
_CURSOR_AT: Final = bindparam("cursor_at", type_=UTCDateTime())
_ROW_COUNT: Final = bindparam("row_count", type_=Integer(), literal_execute=True)
"""Written into the statement: for a LIMIT that it does not know, PostgreSQL plans to read a tenth of all rows."""
_KNOWN_SOURCES: Final = tuple(sorted(source.value for source in WorkflowRunTriggeredFrom))


class InfiniteScrollPagination(Generic[Row]):
    """Hold one page.

    Args:
        data: the rows, newest first; callers may assign another list.
        limit: how many rows were asked for.
        has_more: whether another page follows.
        span: only of a page below a cursor that is not the last one: when the cursor's row, and the first row of the
            page after, were created. Changes of rows of other days do not change this page.
    """

    def __init__(
        self, data: Sequence[Row], limit: int, has_more: bool, span: tuple[datetime, datetime] | None = None
    ) -> None:
        self.data = data
        self.limit = limit
        self.has_more = has_more
        self.span = span


def page_parameters(
    tenant_id: str, app_id: str, sources: Sequence[str], status: str | None, last_id: str | None, rows: int
) -> dict[str, Any]:
    """Return the values for :func:`page_statement` with the same number of sources; ``cursor_at`` is not among them."""
    named = {f"source_{i}": source for i, source in enumerate(sources)}
    return named | {"tenant_id": tenant_id, "app_id": app_id, "status": status, "last_id": last_id, "row_count": rows}


def cursor_statement() -> Select[Any]:
    """Return the statement that reads when the run *last_id* of an app was created."""
    run = WorkflowRun
    return select(run.created_at).where(run.id == _LAST_ID, run.tenant_id == _TENANT, run.app_id == _APP)


@lru_cache(maxsize=128)
def page_statement(source_count: int, *, with_status: bool, with_cursor: bool, indexed: bool) -> Select[Any]:
    """Return the statement of a page. It is made once for each shape, so that SQLAlchemy computes its cache key once.

    Args:
        source_count: how many trigger sources; 0 means every source there is, known to this release or not.
        with_status: whether one status is asked for.
        with_cursor: whether the page follows a row.
        indexed: whether Tidegate's index for it is there. If not, the statement must be planned for its values: run it
            in :func:`~tidegate.repositories.unprepared.unprepared`, with the ``cursor_at`` of :func:`cursor_statement`.

    Returns:
        A SELECT of light ``WorkflowRun`` rows, newest first, for the values of :func:`page_parameters`. With a cursor
        it also selects the ``created_at`` of the cursor's row, the same in every row.
    """
    if not indexed:
        return _page_without_index(source_count, with_status=with_status, with_cursor=with_cursor)
    if source_count:
        sources = [bindparam(f"source_{i}", type_=String()) for i in range(source_count)]
    else:
        sources = [literal(source, String()) for source in _KNOWN_SOURCES]
    cursor = _cursor() if with_cursor else None
    extra = cursor[:1] if cursor else ()
    if len(sources) == 1:
        newest = _newest_of_source(select(WorkflowRun, *extra), sources[0], with_status=with_status, cursor=cursor)
        return newest.options(load_only(*_LIGHT, raiseload=False))
    arms = [_arm(source, with_status=with_status, cursor=cursor) for source in sources]
    if not source_count:
        arms += [_newest_of_gap(gap, with_status=with_status, cursor=cursor) for gap in _unknown_sources()]
    run = aliased(WorkflowRun, union_all(*arms).subquery("page"))
    light = [getattr(run, column.key) for column in _LIGHT]
    page = select(run, *extra).options(load_only(*light, raiseload=False))
    return page.order_by(run.created_at.desc(), run.id.desc()).limit(_ROW_COUNT)


def _page_without_index(source_count: int, *, with_status: bool, with_cursor: bool) -> Select[Any]:
    run = WorkflowRun
    sources = [bindparam(f"source_{i}", type_=String()) for i in range(source_count)]
    here: list[ColumnElement[bool]] = [run.tenant_id == _TENANT, run.app_id == _APP]
    if sources:
        here.append(run.triggered_from == sources[0] if source_count == 1 else run.triggered_from.in_(sources))
    if with_status:
        here.append(run.status == _STATUS)
    if with_cursor:
        here.append(tuple_(run.created_at, run.id) < tuple_(_CURSOR_AT, _LAST_ID))
    columns: tuple[Any, ...] = (run, _CURSOR_AT) if with_cursor else (run,)
    page = select(*columns).options(load_only(*_LIGHT, raiseload=False))
    return page.where(*here).order_by(run.created_at.desc(), run.id.desc()).limit(_ROW_COUNT)


def _newest_of_source(
    statement: Select[Any], source: ColumnElement[str], *, with_status: bool, cursor: _Cursor | None
) -> Select[Any]:
    """Select one stretch of one index, walked backwards from the cursor, or from the end, to the start of the source.

    It is written as two comparisons of rows under the whole order of the index, not as ``tenant_id = ... AND app_id =
    ...``. For equalities PostgreSQL expects few rows, as most apps have few. Then it seems cheap to sort what any other
    index finds, and for an app with many rows it reads them all. For the comparisons it expects many rows, so that no
    sort seems cheap.
    """
    run = WorkflowRun
    columns: list[InstrumentedAttribute[Any]] = [run.tenant_id, run.app_id, run.triggered_from]
    values: list[ColumnElement[Any]] = [_TENANT, _APP, source]
    if with_status:
        columns, values = [*columns, run.status], [*values, _STATUS]
    first = tuple_(*columns) >= tuple_(*values)
    if cursor:
        last = tuple_(*columns, run.created_at, run.id) < tuple_(*values, *cursor)
    else:
        last = tuple_(*columns) <= tuple_(*values)
    newest = (column.desc() for column in (*columns, run.created_at, run.id))
    return statement.where(first, last).order_by(*newest).limit(_ROW_COUNT)


def _arm(source: ColumnElement[str], *, with_status: bool, cursor: _Cursor | None) -> Select[Any]:
    # These equalities hold for every row already. They tell PostgreSQL that the rows are in order of (created_at, id),
    # so that it merges the arms and takes from each no more than it needs. They stand outside the LIMIT, so they choose
    # no index.
    found = _newest_of_source(select(*_LIGHT), source, with_status=with_status, cursor=cursor).subquery()
    same = [found.c.tenant_id == _TENANT, found.c.app_id == _APP, found.c.triggered_from == source]
    if with_status:
        same.append(found.c.status == _STATUS)
    arm = select(found).where(*same).order_by(found.c.created_at.desc(), found.c.id.desc())
    return select(arm.subquery())


def _newest_of_gap(gap: ColumnElement[bool], *, with_status: bool, cursor: _Cursor | None) -> Select[Any]:
    run = WorkflowRun
    here = [run.tenant_id == _TENANT, run.app_id == _APP, gap]
    if with_status:
        here.append(run.status == _STATUS)
    if cursor:
        here.append(tuple_(run.created_at, run.id) < tuple_(*cursor))
    # NULLS LAST changes no answer, as neither column can be NULL. But no index has that order: otherwise PostgreSQL
    # might walk the index on (created_at, id) through the runs of all apps.
    newest = (run.created_at.desc().nulls_last(), run.id.desc().nulls_last())
    return select(select(*_LIGHT).where(*here).order_by(*newest).limit(_ROW_COUNT).subquery())


def _cursor() -> _Cursor:
    """Return (created_at, id) of the cursor's row. It is a position, whatever source and status the row has by now.

    It is looked up once for all arms. If there is no such row, nothing is older. The lookup is by the primary key
    first, and only then by tenant and app: if it were by all three at once, PostgreSQL might take a page index for an
    app of many runs, and read every entry of the app in it to find the id.
    """
    run = aliased(WorkflowRun)
    row = select(run.tenant_id, run.app_id, run.created_at).where(run.id == _LAST_ID)
    cursor = row.cte("cursor_run").prefix_with("MATERIALIZED", dialect="postgresql")
    created_at = select(cursor.c.created_at).where(cursor.c.tenant_id == _TENANT, cursor.c.app_id == _APP)
    return func.coalesce(created_at.scalar_subquery(), literal(datetime.min, UTCDateTime())), _LAST_ID  # noqa: DTZ901  # naive


def _unknown_sources() -> list[ColumnElement[bool]]:
    """Return the gaps between the known sources: each costs a short index probe, and finds rows only of a new source.

    They are arms of their own: for all gaps in one OR, a generic plan would read the whole app. They are in the order
    of the enumeration's values, on which all collations agree that compare letters first.
    """
    source = WorkflowRun.triggered_from
    between = [and_(source > low, source < high) for low, high in pairwise(_KNOWN_SOURCES)]
    return [source < _KNOWN_SOURCES[0], *between, source > _KNOWN_SOURCES[-1]]
