"""Pages of runs: one statement, whose cost does not depend on the size of the app.

A page over k trigger sources is a UNION ALL of k arms, each a stretch of one of Tidegate's indexes that is walked
backwards and limited, merged by one more ORDER BY and LIMIT. ``IN`` or ``ANY`` instead of arms would sort every row of
the app. The cursor's row is looked up inside the statement.
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
_ROW_COUNT: Final = bindparam("row_count", type_=Integer(), literal_execute=True)
"""Written into the statement: for a LIMIT it does not know, PostgreSQL plans to read a tenth of all rows."""
_KNOWN_SOURCES: Final = tuple(sorted(source.value for source in WorkflowRunTriggeredFrom))


class InfiniteScrollPagination(Generic[Row]):
    """One page.

    Args:
        data: the rows, newest first; callers may assign another list.
        limit: how many were asked for.
        has_more: whether another page follows.
        span: of a page below a cursor that is not the last: when the cursor's row, and the first row of the page
            after, were created; what happens to rows of other days does not change this page.
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
    """The values for :func:`page_statement` with the same number of sources."""
    named = {f"source_{i}": source for i, source in enumerate(sources)}
    return named | {"tenant_id": tenant_id, "app_id": app_id, "status": status, "last_id": last_id, "row_count": rows}


@lru_cache(maxsize=64)
def page_statement(source_count: int, *, with_status: bool, with_cursor: bool) -> Select[Any]:
    """The statement of a page; made once a shape, so that SQLAlchemy computes its cache key once.

    Args:
        source_count: how many trigger sources; 0 means every source there is, known to this release or not.
        with_status: whether one status is asked for.
        with_cursor: whether the page follows a row.

    Returns:
        A SELECT of light ``WorkflowRun`` rows, newest first, for the values of :func:`page_parameters`; with a cursor
        also of its row's ``created_at``, the same in every row.
    """
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


def _newest_of_source(
    statement: Select[Any], source: ColumnElement[str], *, with_status: bool, cursor: _Cursor | None
) -> Select[Any]:
    """One stretch of one index, walked backwards from the cursor, or from the end, to the start of the source.

    Written as two comparisons of rows under the index's whole order, not as ``tenant_id = ... AND app_id = ...``: of
    equalities PostgreSQL expects so few rows, where most apps have few, that sorting what any other index finds looks
    as cheap, and for the app that has many it reads them all. By the comparisons it expects many rows, so that no sort
    looks cheap. Where Tidegate's indexes have not been made, Dify's on the first three columns serves, with a sort.
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
    # The equalities, which hold for every row already, tell PostgreSQL that the rows are in order of (created_at, id),
    # so that it merges the arms and takes from each no more than it needs. Under the LIMIT they choose no index.
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
    # NULLS LAST changes nothing, as neither column can be NULL, but no index has that order: in that of (created_at,
    # id) PostgreSQL might look for runs of no app.
    newest = (run.created_at.desc().nulls_last(), run.id.desc().nulls_last())
    return select(select(*_LIGHT).where(*here).order_by(*newest).limit(_ROW_COUNT).subquery())


def _cursor() -> _Cursor:
    """(created_at, id) of the cursor's row; a position, whatever source and status the row has by now.

    Looked up once for all arms; where there is no such row, nothing is older. By the primary key first, and only then
    by tenant and app: asked for all three at once, PostgreSQL may take a page index for an app of many runs, in which
    it would read every entry of the app to find the id.
    """
    run = aliased(WorkflowRun)
    row = select(run.tenant_id, run.app_id, run.created_at).where(run.id == _LAST_ID)
    cursor = row.cte("cursor_run").prefix_with("MATERIALIZED", dialect="postgresql")
    created_at = select(cursor.c.created_at).where(cursor.c.tenant_id == _TENANT, cursor.c.app_id == _APP)
    return func.coalesce(created_at.scalar_subquery(), literal(datetime.min, UTCDateTime())), _LAST_ID  # noqa: DTZ901  # naive


def _unknown_sources() -> list[ColumnElement[bool]]:
    """The gaps between the known sources: one short index probe each, and nothing to read unless a new one came up.

    Arms of their own, as a generic plan would read the whole app for all gaps in one OR. In the order of the
    enumeration's values, which every collation that compares letters first agrees on.
    """
    source = WorkflowRun.triggered_from
    between = [and_(source > low, source < high) for low, high in pairwise(_KNOWN_SOURCES)]
    return [source < _KNOWN_SOURCES[0], *between, source > _KNOWN_SOURCES[-1]]
