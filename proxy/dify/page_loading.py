"""Pages of logs and of runs: what their rows ask for one by one is read for all rows of the page at once.

Each row of such a page has properties that ask the database for its run, its message, or who created it: up to two
queries for each row. Here the first row that is asked loads it for all of them. What another release loads at once by
itself is not asked for, and costs nothing.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, inspect, select
from sqlalchemy.orm import aliased, sessionmaker
from sqlalchemy.orm.attributes import instance_state

from tidegate.error_text import first_line
from tidegate.interruptions import pass_interruption
from tidegate.proxy.dify.gates import gate_on_bind
from tidegate.proxy.dify.host_models import host_models
from tidegate.proxy.dify.log_pages import LogPages, log_pages_on
from tidegate.proxy.dify.log_service import cached_pages
from tidegate.proxy.dify.releases import LOG_PAGES, LOG_SERVICE, WORKFLOW_RUNS, repository_of
from tidegate.proxy.layers.fingerprint import WRAPPED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import BindParameter, Select

    Loader = Callable[[Sequence[Any]], dict[str, Any]]

_log: Final = logging.getLogger(__name__)
_METHODS: Final = {
    LOG_SERVICE: LOG_PAGES,
    "services.workflow_run_service": ("WorkflowRunService", "get_paginate_workflow_runs"),
}
MODULES: Final = tuple(_METHODS)
"""The modules whose pages are loaded so."""
_DATABASE: Final = "extensions.ext_database"
_CREATORS: Final = {"created_by_account": ("account", "accounts"), "created_by_end_user": ("end_user", "end_users")}
"""By the property that asks for it: the role of a creator, and its table."""
_GROUP: Final = "tidegate.page"
_INSTALLED: Final = "_tidegate_installed"


def imported(module: Any) -> None:
    """Do what is due after the module of a service was imported: have its pages load what their rows will ask for."""
    owner, name = _METHODS[module.__name__]
    service: Any = getattr(module, owner, None)
    method = vars(service).get(name) if service is not None else None
    if method is None:
        _log.info("%s has no %s.%s: its pages are loaded as they are", module.__name__, owner, name)
    elif not hasattr(method, _INSTALLED):
        asked = cached_pages(module, service, method) if module.__name__ == LOG_SERVICE else method
        setattr(service, name, _grouping(asked))


def _grouping(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def paginated(*args: Any, **kwargs: Any) -> Any:
        page = method(*args, **kwargs)
        try:
            if gate_on_bind(_database().engine) is None:  # it is off: the log says that the host runs as it is
                return page
            found = page["data"] if isinstance(page, dict) else page.data
            _group([getattr(item, "log", item) for item in found])
        except Exception as error:  # noqa: BLE001  # then each row asks for itself, as without it
            pass_interruption(error)
            _log.warning("the rows of a page are not loaded together: %s", first_line(error))
        return page

    paginated.__dict__[_INSTALLED] = True
    return paginated


class _Group:
    """Rows of one page, and what was loaded for all of them. In a pickle of a row it is None."""

    def __init__(self, rows: Iterable[Any]) -> None:
        # Weak references, as a state holds its own: with strong ones only the garbage collector could free a page.
        self._rows = [instance_state(row).obj for row in rows]
        self._loaded: dict[Loader, dict[str, Any] | None] = {}

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def loaded(self, name: str, load: Loader) -> dict[str, Any] | None:
        """Return what was loaded for a property, by key; None: it could not be."""
        if load not in self._loaded:
            self._loaded[load] = None
            try:
                self._loaded[load] = load([row for row in (find() for find in self._rows) if row is not None])
            except Exception as error:  # noqa: BLE001  # then each row asks for itself
                pass_interruption(error)
                _log.warning("%s of a page's rows could not be loaded together: %s", name, first_line(error))
        return self._loaded[load]


def _group(rows: Sequence[Any]) -> None:
    if not rows:
        return
    cls, group = type(rows[0]), _Group(rows)
    for name in _CREATORS:
        _install(cls, name, _creators, None)
    if hasattr(cls, "workflow_run_id"):
        _install(cls, "workflow_run", _runs, "workflow_run_id", asks_again=True)
    else:
        _install(cls, "message", _messages, "id")
    for row in rows:
        instance_state(row).info[_GROUP] = group


def _install(cls: type[Any], name: str, load: Loader, key: str | None, *, asks_again: bool = False) -> None:
    """Have a property of *cls* look first at what is loaded for the page of its row.

    Args:
        cls: the mapped class.
        name: the property's name; if there is none, nothing is done.
        load: loads it for some rows.
        key: the attribute of a row by which what was loaded is found. None: it is in the session that the property
            asks, which need not ask the database then.
        asks_again: whether a row for which nothing was found asks by itself.
    """
    asked = vars(cls).get(name)
    if not isinstance(asked, property) or asked.fget is None or hasattr(asked.fget, _INSTALLED):
        return
    ask: Callable[[Any], Any] = asked.fget

    @functools.wraps(ask)
    def value(row: Any) -> Any:
        state = instance_state(row)
        group: _Group | None = state.info.get(_GROUP) if "info" in state.__dict__ else None
        found = None if group is None else group.loaded(name, load)
        if found is None or key is None:
            return ask(row)
        one = found.get(str(getattr(row, key)))
        return ask(row) if one is None and asks_again else one

    value.__dict__[_INSTALLED] = True
    setattr(cls, name, property(value))


def _database() -> Any:
    return sys.modules[_DATABASE].db


def _creators(rows: Sequence[Any]) -> dict[str, Any]:
    """Load those who created *rows* into the session that will be asked for them; it forgets what nobody holds."""
    ids = {table: {row.created_by for row in rows if row.created_by_role == role} for role, table in _CREATORS.values()}
    classes = tuple((table, host_models()[table]) for table, some in ids.items() if some)
    database = _database()
    held: list[Any] = []
    with database.session.no_autoflush:  # as when the session is asked for one by its key
        for statement, tables in _reading(classes, database.engine.dialect.name):
            for row in database.session.execute(statement, {table: list(ids[table]) for table in tables}):
                held += row
    return {str(number): one for number, one in enumerate(held)}  # an id of one table may be one of the other's too


def _key_of(cls: Any) -> Any:
    return getattr(cls, inspect(cls).mapper.primary_key[0].key)


@functools.cache
def _reading(classes: tuple[tuple[str, type[Any]], ...], dialect: str) -> Sequence[tuple[Select[Any], tuple[str, ...]]]:
    """Return what reads rows of these tables by their ids: statements, and which tables each one reads.

    Where the database can, it is one statement for both. The ids of a table are a parameter of its name. To make the
    statements takes longer than to run them, so they are kept.
    """
    tables = tuple(table for table, _ in classes)
    wanted = [select(cls).where(_key_of(cls).in_(bindparam(table, expanding=True))) for table, cls in classes]
    if len(wanted) == len(_CREATORS) and dialect == "postgresql":
        first, second = (aliased(cls, one.subquery()) for one, (_, cls) in zip(wanted, classes, strict=True))
        keys = _key_of(first), _key_of(second)
        if type(keys[0].type) is type(keys[1].type):
            # Hardly any ids are alike: this sets the rows of both one after the other.
            return [(select(first, second).join_from(first, second, keys[0] == keys[1], full=True), tables)]
    return [(one, (table,)) for one, table in zip(wanted, tables, strict=True)]


def _messages(rows: Sequence[Any]) -> dict[str, Any]:
    """Load the messages of runs."""
    wanted = {"runs": [row.id for row in rows], "apps": list({row.app_id for row in rows})}
    found: dict[str, Any] = {}
    message: Any = host_models()["messages"]
    session = _database().session
    with session.no_autoflush:
        for one in session.scalars(_reading_messages(message), wanted):
            found.setdefault(str(one.workflow_run_id), one)
    return found


@functools.cache
def _reading_messages(message: Any) -> Select[Any]:
    """Return the statement that reads the messages of runs; see :func:`_reading` for why it is kept."""
    runs: BindParameter[Any] = bindparam("runs", expanding=True)
    apps: BindParameter[Any] = bindparam("apps", expanding=True)
    return select(message).where(message.workflow_run_id.in_(runs), message.app_id.in_(apps))


def _are_kept_in_the_table(maker: Any) -> bool:
    """Tell whether runs are asked of the database: the host's settings may name a repository of another store."""
    for place in WORKFLOW_RUNS.places:
        factory = sys.modules.get(place.factory)
        owner = factory and (getattr(factory, place.owner, None) if place.owner else factory)
        make = getattr(owner, place.function, None)
        if make is not None:
            cls = type(make(maker))
            return repository_of(vars(cls).get(WRAPPED, cls)) is WORKFLOW_RUNS
    return False


def _runs(rows: Sequence[Any]) -> dict[str, Any]:
    """Load the runs of an app's logs, from the cache where it has them; those of other apps ask for themselves."""
    engine = _database().engine
    pages = log_pages_on(engine) or LogPages(sessionmaker(engine, expire_on_commit=False))
    if not _are_kept_in_the_table(pages.session_maker):
        return {}
    first = rows[0]
    ids = {str(row.workflow_run_id) for row in rows if (row.tenant_id, row.app_id) == (first.tenant_id, first.app_id)}
    return {str(one.id): one for one in pages.runs_of_logs(first.tenant_id, first.app_id, sorted(ids))}
