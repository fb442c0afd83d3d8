"""Pages of runs: one statement, whose cost does not depend on the size of the app where Tidegate's indexes are.

There a page over k trigger sources is a UNION ALL of k arms. Each arm is a stretch of one of Tidegate's indexes, walked
backwards and limited. One more ORDER BY and LIMIT merges them. With ``IN`` or ``ANY`` instead of arms, PostgreSQL would
sort every row of the app. The cursor's row is looked up inside the statement.

Without these indexes a page is what Dify asks for: equalities, and one order. Its plan must be made for the values of
each call, the cursor's time among them, which is read before: a large app is best read along Dify's index on
(created_at, id), a small one by its own runs and a sort, and its last pages along that index again.

The statements are those of a model. What they compare with goes to the database as it is, whatever type the model's
column has: a type that knows some texts only would refuse the others, and the database answers them.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    String,
    and_,
    bindparam,
    func,
    inspect,
    literal,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.orm import Mapper, aliased, load_only

from tidegate.repositories.columns import StringUUID, UTCDateTime
from tidegate.repositories.enums import WorkflowRunTriggeredFrom

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import InstrumentedAttribute

_Cursor: TypeAlias = "tuple[ColumnElement[datetime], ColumnElement[str]]"

LAZY_RUN_COLUMNS: Final = ("graph", "inputs", "outputs")

_COMPARED: Final = ("id", "tenant_id", "app_id", "triggered_from", "status", "created_at")
_TENANT: Final = bindparam("tenant_id", type_=StringUUID())
_APP: Final = bindparam("app_id", type_=StringUUID())
_STATUS: Final = bindparam("status", type_=String())
_LAST_ID: Final = bindparam("last_id", type_=StringUUID())
_CURSOR_AT: Final = bindparam("cursor_at", type_=UTCDateTime())
_ROW_COUNT: Final = bindparam("row_count", type_=Integer(), literal_execute=True)
"""Written into the statement: for a LIMIT that it does not know, PostgreSQL plans to read a tenth of all rows."""
_KNOWN_SOURCES: Final = tuple(sorted(source.value for source in WorkflowRunTriggeredFrom))
_statements: Final[dict[type[Any], PageStatements]] = {}


def page_parameters(
    tenant_id: str, app_id: str, sources: Sequence[str], status: str | None, last_id: str | None, rows: int
) -> dict[str, Any]:
    """Return the values for :meth:`PageStatements.page` with as many sources; ``cursor_at`` is not among them."""
    named = {f"source_{i}": source for i, source in enumerate(sources)}
    return named | {"tenant_id": tenant_id, "app_id": app_id, "status": status, "last_id": last_id, "row_count": rows}


def page_statements(model: type[Any]) -> PageStatements:
    """Return the statements of a model. They are made once, so that SQLAlchemy computes their cache keys once.

    Raises:
        TypeError: *model* has not what :class:`PageStatements` needs; says what.
    """
    return _statements.get(model) or _statements.setdefault(model, PageStatements(model))


class PageStatements:
    """The statements by which pages of one model are read. :func:`page_statements` makes them.

    Args:
        model: a class that is mapped to the table of runs. The columns that are compared, and the lazy ones, are
            attributes of the same names; ``id`` alone is the primary key. Their types may be any that hold what the
            table holds, and there may be more columns.

    Raises:
        TypeError: *model* is no such class; says why.
    """

    def __init__(self, model: type[Any]) -> None:
        attributes = _checked_attributes(model)
        self.model = model
        self.cursor: Select[Any] = select(model.created_at).where(
            model.id == _LAST_ID, model.tenant_id == _TENANT, model.app_id == _APP
        )
        """Reads when the run *last_id* of an app was created."""
        self._light = [getattr(model, key) for key in attributes if key not in LAZY_RUN_COLUMNS]
        self._pages = lru_cache(maxsize=128)(self._page)

    def page(self, source_count: int, *, with_status: bool, with_cursor: bool, indexed: bool) -> Select[Any]:
        """Return the statement of a page. It is made once for each shape.

        Args:
            source_count: how many trigger sources; 0 means every source there is, known to this release or not.
            with_status: whether one status is asked for.
            with_cursor: whether the page follows a row.
            indexed: whether Tidegate's index for it is there. If not, the statement must be planned for its values: run
                it in :func:`~tidegate.repositories.unprepared.unprepared`, with the ``cursor_at`` that :attr:`cursor`
                finds.

        Returns:
            A SELECT of light rows of the model, newest first, for the values of :func:`page_parameters`. With a cursor
            it also selects the ``created_at`` of the cursor's row, the same in every row.
        """
        return self._pages(source_count, with_status, with_cursor, indexed)

    def _page(self, source_count: int, with_status: bool, with_cursor: bool, indexed: bool) -> Select[Any]:
        if not indexed:
            return self._without_index(source_count, with_status=with_status, with_cursor=with_cursor)
        if source_count:
            sources = [bindparam(f"source_{i}", type_=String()) for i in range(source_count)]
        else:
            sources = [literal(source, String()) for source in _KNOWN_SOURCES]
        cursor = self._cursor() if with_cursor else None
        extra = cursor[:1] if cursor else ()
        if len(sources) == 1:
            whole = select(self.model, *extra)
            newest = self._newest_of_source(whole, sources[0], with_status=with_status, cursor=cursor)
            return newest.options(load_only(*self._light, raiseload=False))
        arms = [self._arm(source, with_status=with_status, cursor=cursor) for source in sources]
        if not source_count:
            arms += [
                self._newest_of_gap(gap, with_status=with_status, cursor=cursor) for gap in self._unknown_sources()
            ]
        run = aliased(self.model, union_all(*arms).subquery("page"))
        light = [getattr(run, column.key) for column in self._light]
        page = select(run, *extra).options(load_only(*light, raiseload=False))
        return page.order_by(run.created_at.desc(), run.id.desc()).limit(_ROW_COUNT)

    def _without_index(self, source_count: int, *, with_status: bool, with_cursor: bool) -> Select[Any]:
        run = self.model
        sources = [bindparam(f"source_{i}", type_=String()) for i in range(source_count)]
        here: list[ColumnElement[bool]] = [run.tenant_id == _TENANT, run.app_id == _APP]
        if sources:
            here.append(run.triggered_from == sources[0] if source_count == 1 else run.triggered_from.in_(sources))
        if with_status:
            here.append(run.status == _STATUS)
        if with_cursor:
            here.append(tuple_(run.created_at, run.id) < tuple_(_CURSOR_AT, _LAST_ID))
        columns: tuple[Any, ...] = (run, _CURSOR_AT) if with_cursor else (run,)
        page = select(*columns).options(load_only(*self._light, raiseload=False))
        return page.where(*here).order_by(run.created_at.desc(), run.id.desc()).limit(_ROW_COUNT)

    def _newest_of_source(
        self, statement: Select[Any], source: ColumnElement[str], *, with_status: bool, cursor: _Cursor | None
    ) -> Select[Any]:
        """Select one stretch of one index, walked backwards from the cursor, or the end, to the start of the source.

        It is written as two comparisons of rows under the whole order of the index, not as ``tenant_id = ... AND app_id
        = ...``. For equalities PostgreSQL expects few rows, as most apps have few. Then it seems cheap to sort what any
        other index finds, and for an app with many rows it reads them all. For the comparisons it expects many rows, so
        that no sort seems cheap.
        """
        run = self.model
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

    def _arm(self, source: ColumnElement[str], *, with_status: bool, cursor: _Cursor | None) -> Select[Any]:
        # These equalities hold for every row already. They tell PostgreSQL that the rows are in order of (created_at,
        # id), so that it merges the arms and takes from each no more than it needs. They stand outside the LIMIT, so
        # they choose no index.
        found = self._newest_of_source(select(*self._light), source, with_status=with_status, cursor=cursor).subquery()
        same = [found.c.tenant_id == _TENANT, found.c.app_id == _APP, found.c.triggered_from == source]
        if with_status:
            same.append(found.c.status == _STATUS)
        arm = select(found).where(*same).order_by(found.c.created_at.desc(), found.c.id.desc())
        return select(arm.subquery())

    def _newest_of_gap(self, gap: ColumnElement[bool], *, with_status: bool, cursor: _Cursor | None) -> Select[Any]:
        run = self.model
        here = [run.tenant_id == _TENANT, run.app_id == _APP, gap]
        if with_status:
            here.append(run.status == _STATUS)
        if cursor:
            here.append(tuple_(run.created_at, run.id) < tuple_(*cursor))
        # NULLS LAST changes no answer, as neither column can be NULL. But no index has that order: otherwise PostgreSQL
        # might walk the index on (created_at, id) through the runs of all apps.
        newest = (run.created_at.desc().nulls_last(), run.id.desc().nulls_last())
        return select(select(*self._light).where(*here).order_by(*newest).limit(_ROW_COUNT).subquery())

    def _cursor(self) -> _Cursor:
        """Return (created_at, id) of the cursor's row. It is a position, whatever source and status the row has by now.

        It is looked up once for all arms. If there is no such row, nothing is older. The lookup is by the primary key
        first, and only then by tenant and app: if it were by all three at once, PostgreSQL might take a page index for
        an app of many runs, and read every entry of the app in it to find the id.
        """
        run = aliased(self.model)
        row = select(run.tenant_id, run.app_id, run.created_at).where(run.id == _LAST_ID)
        cursor = row.cte("cursor_run").prefix_with("MATERIALIZED", dialect="postgresql")
        created_at = select(cursor.c.created_at).where(cursor.c.tenant_id == _TENANT, cursor.c.app_id == _APP)
        return func.coalesce(created_at.scalar_subquery(), literal(datetime.min, UTCDateTime())), _LAST_ID  # noqa: DTZ901  # naive

    def _unknown_sources(self) -> list[ColumnElement[bool]]:
        """Return the gaps between the known sources: each costs a short probe, and finds rows only of a new source.

        They are arms of their own: for all gaps in one OR, a generic plan would read the whole app. They are in the
        order of the enumeration's values, on which all collations agree that compare letters first.
        """
        source = self.model.triggered_from
        between = [and_(source > _text(low), source < _text(high)) for low, high in pairwise(_KNOWN_SOURCES)]
        return [source < _text(_KNOWN_SOURCES[0]), *between, source > _text(_KNOWN_SOURCES[-1])]


def _text(source: str) -> ColumnElement[str]:
    return bindparam("triggered_from", source, String(), unique=True)


def _checked_attributes(model: type[Any]) -> list[str]:
    """Return the attributes of *model* that hold columns, without those that it leaves to be loaded later itself."""
    mapper = inspect(model, raiseerr=False)
    if not isinstance(mapper, Mapper):
        raise TypeError(f"pages are read of a mapped class, not of {model!r}")
    known = {attribute.key: attribute for attribute in mapper.column_attrs}
    missing = [key for key in (*_COMPARED, *LAZY_RUN_COLUMNS) if key not in known]
    if missing:
        raise TypeError(f"{model.__name__} has no columns {', '.join(missing)}, so that its pages cannot be read")
    if list(mapper.primary_key) != known["id"].columns:
        raise TypeError(f"the primary key of {model.__name__} is not id alone, so that its pages cannot be read")
    return [key for key, attribute in known.items() if key in _COMPARED or not attribute.deferred]
