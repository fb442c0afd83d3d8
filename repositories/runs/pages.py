"""How a page of runs is read, for Tidegate's own model or another one of the same table.

An override of a host's method is three lines: its own model, its own answer::

    statements = page_statements(WorkflowRun)
    request = page_request(tenant_id, app_id, triggered_from, limit, last_id, status)
    return read_page(statements, session_maker, home, request, lambda rows, limit, more, _: Page(rows, limit, more))

What the model must have, :class:`~tidegate.repositories.runs.page_statements.PageStatements` says. The rows are
instances of it, without ``graph``, ``inputs`` and ``outputs``: the first touch of one reads it for the whole page. For
that it is made lazy (:func:`~tidegate.repositories.lazy.make_lazy`). A status or source that the types of the model do
not know finds what the database has of it. Only a row that is found and that the model cannot hold raises what loading
it raises.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

from sqlalchemy import inspect, select

from tidegate.repositories.base import checked_count, checked_text
from tidegate.repositories.lazy import LazyPage
from tidegate.repositories.page_indexes import PAGE_INDEX, STATUS_PAGE_INDEX, has_page_index
from tidegate.repositories.runs.page_statements import LAZY_RUN_COLUMNS, page_parameters
from tidegate.repositories.unprepared import unprepared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Select
    from sqlalchemy.orm import Session

    from tidegate.repositories.runs.page_statements import PageStatements

MAX_PAGE: Final = 10_000
"""The most rows a page may ask for."""
MAX_SOURCES: Final = 100

Answer = TypeVar("Answer")
Span: TypeAlias = "tuple[datetime, datetime]"
Make: TypeAlias = "Callable[[list[Any], int, bool, Span | None], Answer]"
"""Makes the answer of the rows, how many were asked for, whether another page follows, and the span.

The span is that of :class:`~tidegate.repositories.pagination.InfiniteScrollPagination`.
"""


class PageRequest(NamedTuple):
    """What a page is asked for, checked. :func:`page_request` makes it.

    Args:
        tenant_id: the tenant.
        app_id: the app.
        sources: the trigger sources, each once; none means every source.
        limit: the rows of a page.
        last_id: the last run of the page before; None or empty: the first page.
        status: only runs in this state; None or empty: in any.
    """

    tenant_id: str
    app_id: str
    sources: tuple[str, ...]
    limit: int
    last_id: str | None
    status: str | None


def page_request(
    tenant_id: str,
    app_id: str,
    triggered_from: str | Sequence[str],
    limit: int = 20,
    last_id: str | None = None,
    status: str | None = None,
) -> PageRequest:
    """Check the arguments of ``get_paginated_workflow_runs``, before anything is asked.

    Raises:
        ValueError: *limit* is not a whole number from 0 to 10,000, there are too many sources, or an argument is of
            another type.
    """
    checked_count("limit", limit, 0, MAX_PAGE)
    checked_text("status", status)
    return PageRequest(tenant_id, app_id, _sources(triggered_from), limit, last_id, _value(status) if status else None)


def read_page(
    statements: PageStatements,
    session_maker: Callable[[], Session],
    home: Callable[[], Session],
    request: PageRequest,
    make: Make[Answer],
) -> Answer:
    """Read one page of an app's runs, newest first by (created_at, id): in one query, or two without Tidegate's index.

    Args:
        statements: of the model whose instances the rows are to be.
        session_maker: opens the session in which the page is read.
        home: opens sessions where every row is, which is a primary: lazy columns are read there.
        request: what is asked for.
        make: makes the answer.

    Raises:
        ValueError: the app has no run *last_id*.
    """
    limit, last_id = request.limit, request.last_id
    with session_maker() as session:
        rows = _rows(session, statements, request)
    page = [row[0] for row in rows[:limit]]
    LazyPage(home, statements.model, LAZY_RUN_COLUMNS).adopt(page)
    has_more = len(rows) > limit
    span = (rows[0][1], rows[limit][0].created_at) if last_id and has_more else None
    return make(page, limit, has_more, span)


def _rows(session: Session, statements: PageStatements, request: PageRequest) -> Sequence[Any]:
    """Return the rows of the page and, if there is one, the first row of the page after."""
    tenant_id, app_id, sources, limit, last_id, status = request
    parameters = page_parameters(tenant_id, app_id, sources, status, last_id, limit + 1)
    shape = {"with_status": bool(status), "with_cursor": bool(last_id)}
    indexed = statements.page(len(sources), indexed=True, **shape)
    connection = _connection(session, statements.model, indexed)
    if has_page_index(connection, with_status=bool(status)):
        rows = session.execute(indexed, parameters).all()
        if last_id and not rows:
            _cursor_at(session, statements, parameters)
        return rows
    if last_id:
        parameters["cursor_at"] = _cursor_at(session, statements, parameters)
    with unprepared(connection):
        return session.execute(statements.page(len(sources), indexed=False, **shape), parameters).all()


def describe_page(model: type[Any], session_maker: Callable[[], Session], status: str | None) -> str:
    """Say by which index pages of *model* are read, in one sentence."""
    with session_maker() as session:
        found = has_page_index(_connection(session, model, select(model)), with_status=bool(status))
    name = STATUS_PAGE_INDEX if status else PAGE_INDEX
    if found:
        return f"pages are read by the index {name}, at the same cost at any depth"
    return f"pages are read by Dify's own indexes, since {name} is missing; tidegate init makes it"


def _cursor_at(session: Session, statements: PageStatements, parameters: Mapping[str, Any]) -> datetime:
    at: datetime | None = session.scalar(statements.cursor, parameters)
    if at is None:
        raise ValueError("Last workflow run not exists")
    return at


def _connection(session: Session, model: type[Any], statement: Select[Any]) -> Connection:
    """Return the connection on which *session* would execute *statement*."""
    return session.connection(bind_arguments={"mapper": inspect(model), "clause": statement})


def _sources(triggered_from: object) -> tuple[str, ...]:
    if isinstance(triggered_from, str):
        return (_value(triggered_from),)
    if triggered_from is not None and not isinstance(triggered_from, Iterable):
        raise ValueError(f"triggered_from must be one source or a list of them, not {triggered_from!r}")
    # A source that is named twice would make two arms, and its runs would come twice.
    sources = tuple(dict.fromkeys(map(_value, triggered_from or ())))
    if len(sources) > MAX_SOURCES:
        raise ValueError(f"triggered_from must name at most {MAX_SOURCES} sources, not {len(sources)}")
    return sources


def _value(text: object) -> str:
    """Return plain text: ``str`` of a member of an enumeration may be its name, and a driver may take that."""
    return str(text.value if isinstance(text, Enum) else text)
