"""Dify's service that gives pages of logs: which of its calls are answered from the cache, and how.

A call is cached if all that it reads are rows of tracked tables that say whose they are. A filter by what a run has
joins runs by their ids alone, whoever's they are, and one by who created a log reads accounts or end users, which are
not tracked: such a call runs as it is. So does one whose session has done anything yet.
"""

from __future__ import annotations

import functools
import inspect
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy.orm import Session

from tidegate.cache.codec.answers import RowsAndData
from tidegate.error_text import first_line
from tidegate.interruptions import pass_interruption
from tidegate.proxy.dify.host_models import host_tracked, table_of
from tidegate.proxy.dify.log_pages import log_pages_on
from tidegate.proxy.dify.releases import LOG_PAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tidegate.proxy.dify.log_pages import LogPages

_log: Final = logging.getLogger(__name__)
_VIEW: Final = "LogView"
"""The name of the class that a page's items are of, in the module of the service."""
_METADATA: Final = "handle_trigger_metadata"
"""The service's method that makes of a trigger log's metadata what a page shows of them."""
_KNOWN: Final = ("session", "app_model", "created_at_before", "created_at_after", "page", "limit")
_DETAIL: Final = "detail"
_COUNTS: Final = ("page", "limit", "total", "has_more")
_ITEMS: Final = "data"
_TABLES: Final = {False: {"workflow_app_logs"}, True: {"workflow_app_logs", "workflow_trigger_logs"}}
"""The tables that a page is read from, plain and with details."""


class OtherShapeError(Exception):
    """The host's method has answered with something else than its releases so far do."""


class _Asked(NamedTuple):
    """A call, as far as it may be answered from the cache.

    Args:
        session: the caller's.
        app: the app, as the caller has it.
        page: what the gate is asked for.
        detail: whether with details.
    """

    session: Session
    app: Any
    page: dict[str, Any]
    detail: bool


class LogService:
    """Answer calls of the host's method that gives pages of logs.

    Args:
        module: the one that has the service.
        owner: the class of the service.
        method: the host's method, or what stands in its place.
    """

    def __init__(self, module: Any, owner: type[Any], method: Callable[..., Any]) -> None:
        self._owner: Any = owner
        self._method = method
        self._view: Any = getattr(module, _VIEW, None)
        self._signature = inspect.signature(method)
        self.lacking = lacking(self._signature) or ("" if isinstance(self._view, type) else f"it has no {_VIEW}")
        self.others = others(self._signature)

    def __call__(self, service: Any, *args: Any, **kwargs: Any) -> Any:
        """Give a page, from the cache where that may be."""
        reader = asked = None
        try:
            asked = self._asked(service, args, kwargs)
            reader = None if asked is None else log_pages_on(asked.session.bind, self._asking(asked.app))
        except Exception as error:  # noqa: BLE001  # the host's method works without it
            pass_interruption(error)
            _log.warning("a page of logs is not asked of the cache: %s", first_line(error))
        if asked is not None and reader is not None and (page := self._read(service, asked, reader)) is not None:
            return page
        return self._method(service, *args, **kwargs)

    def _asked(self, service: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Asked | None:
        """Return a call by the names of its arguments; None: it is not to be answered from the cache."""
        if self.lacking or type(service) is not self._owner or vars(service):
            return None
        bound = self._signature.bind(service, *args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        detail, session, app = given.get(_DETAIL, False), given["session"], given["app_model"]
        if any(given[name] != default for name, default in self.others.items()):
            return None
        if type(detail) is not bool or not _TABLES[detail] <= _tracked_tables() or not is_untouched(session):
            return None
        tenant, app_id, page, limit = app.tenant_id, app.id, given["page"], given["limit"]
        if [type(one) for one in (tenant, app_id, page, limit)] != [str, str, int, int]:
            return None
        within = {name: given[name] for name in ("created_at_before", "created_at_after", "page", "limit")}
        return _Asked(session, app, {"tenant_id": tenant, "app_id": app_id, **within}, detail)

    def _asking(self, app: Any) -> Callable[..., RowsAndData]:
        raw = _of_raw_metadata(self._owner)

        def ask(**asked: Any) -> RowsAndData:
            return taken_apart(self._method(raw, app_model=app, **asked), self._view)

        return ask

    def _read(self, service: Any, asked: _Asked, reader: LogPages) -> Any | None:
        """Return a page by the gate; None: the host's method is to be asked."""
        read = reader.detailed_log_page if asked.detail else reader.log_page
        try:
            found = read(**asked.page)
        except OtherShapeError as error:
            self.lacking = str(error)
            _log.warning("pages of logs run as they are: %s", self.lacking)
            return None
        try:
            return self._together(service, asked, found)
        except Exception as error:  # noqa: BLE001  # as above
            pass_interruption(error)
            _log.warning("a page of logs is not made of what was cached: %s", first_line(error))
            asked.session.expunge_all()  # it was untouched
            return None

    def _together(self, service: Any, asked: _Asked, found: RowsAndData) -> dict[str, Any]:
        """Make of what was read what the host's method would have made of it in the caller's session."""
        asked.session.add_all(found.rows)
        logs = [found.rows[number] for number in found.data["logs"]]
        if asked.detail:
            tenant = asked.page["tenant_id"]
            metadata = [getattr(service, _METADATA)(tenant, one) for one in found.data["metadata"]]
            views = [self._view(log, {"trigger_metadata": one}) for log, one in zip(logs, metadata, strict=True)]
        else:
            views = [self._view(log, None) for log in logs]
        return {**{name: found.data[name] for name in _COUNTS}, _ITEMS: views}


def cached_pages(module: Any, owner: type[Any], method: Callable[..., Any]) -> Callable[..., Any]:
    """Return what answers in the place of the host's method that gives pages of logs.

    Args:
        module: the one that has the service.
        owner: the class of the service.
        method: the host's method.
    """
    pages = LogService(module, owner, method)
    if pages.lacking:
        _log.info("%s.%s runs as it is: %s", owner.__name__, method.__name__, pages.lacking)

    @functools.wraps(method)
    def paginated(service: Any, *args: Any, **kwargs: Any) -> Any:
        return pages(service, *args, **kwargs)

    return paginated


def what_becomes_of(module: Any, owner: type[Any], name: str) -> tuple[str, str]:
    """Return what becomes of the calls of a service's method, and why: for people.

    Args:
        module: the one that has the service.
        owner: the class of the service.
        name: of the method.
    """
    if name != LOG_PAGES[1]:
        return "passed on", "it runs in the caller's session"
    pages = LogService(module, owner, getattr(owner, name))
    if pages.lacking:
        return "passed on", pages.lacking
    return "cached", f"not with {', '.join(sorted(pages.others))}; not in a session that has done anything"


def lacking(signature: inspect.Signature) -> str:
    """Return why no call of the host's method can be cached; "": some can."""
    if missing := sorted({*_KNOWN} - signature.parameters.keys()):
        return f"this release has no parameter {', '.join(missing)}"
    if required := [name for name, default in others(signature).items() if default is inspect.Parameter.empty]:
        return f"nothing is known of its parameter {', '.join(required)}"
    return ""


def others(signature: inspect.Signature) -> dict[str, Any]:
    """Return the defaults of the parameters with which a call is cached only while they have these."""
    named = list(signature.parameters.items())[1:]
    return {name: one.default for name, one in named if name not in (*_KNOWN, _DETAIL)}


def is_untouched(session: Any) -> bool:
    """Tell whether a session has begun nothing in a database, and holds nothing: it reads what anybody would.

    One that somebody listens to, or that chooses engines by itself, may read something else.
    """
    if not isinstance(session, Session) or type(session).get_bind is not Session.get_bind:
        return False
    if session.dispatch.do_orm_execute or session.new or len(session.identity_map):
        return False
    begun = session.get_transaction()
    # No public name says whether a transaction has a connection yet; where there is none of this name, it may have.
    return begun is None or not (session.in_nested_transaction() or getattr(begun, "_connections", True))


@functools.lru_cache(maxsize=1)
def _tracked_tables() -> frozenset[str]:
    return frozenset(table_of(row.model) for row in host_tracked())


@functools.lru_cache(maxsize=8)
def _of_raw_metadata(owner: type[Any]) -> Any:
    """Return a service that leaves metadata as they are stored: what it makes of them follows the host's settings."""

    def as_stored(_self: Any, _tenant_id: str, metadata: Any) -> Any:
        return metadata

    return type(owner.__name__, (owner,), {_METADATA: as_stored})()


def taken_apart(page: Any, view: Any) -> RowsAndData:
    """Return the rows of a page, each once, and the rest of it.

    Raises:
        OtherShapeError: it is no page as the releases so far make them.
    """
    items = page[_ITEMS] if type(page) is dict and [*page] == [*_COUNTS, _ITEMS] else None
    if type(items) is not list or any(type(one) is not view or [*vars(one)] != ["log", "details_"] for one in items):
        raise OtherShapeError("what the method gives is no page of this shape")
    rows = {id(one.log): one.log for one in items}
    numbers = {key: number for number, key in enumerate(rows)}
    details = [one.details_ for one in items]
    if any(one is not None and [*one] != ["trigger_metadata"] for one in details):
        raise OtherShapeError("the method gives other details than of triggers")
    data = {name: page[name] for name in _COUNTS} | {
        "logs": [numbers[id(one.log)] for one in items],
        "metadata": [None if one is None else one["trigger_metadata"] for one in details],
    }
    return RowsAndData([*rows.values()], data)
