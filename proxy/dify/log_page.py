"""The page of an app's logs: what its rows ask for one by one is read for all of them at once.

Each log of a page asks a repository for its run, and the session for the account or end user that created it: two
queries for each row, beside the two of the page itself. Here they are two for all rows. What they bring is of the time
at which the page is made, as the page is.
"""

from __future__ import annotations

import functools
import logging
import sys
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import inspect, select
from sqlalchemy.orm import load_only, sessionmaker

from tidegate.error_text import first_line
from tidegate.interruptions import pass_interruption
from tidegate.proxy.dify.host_models import host_models
from tidegate.repositories.lazy import LazyPage
from tidegate.repositories.runs.page_statements import LAZY_RUN_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_log: Final = logging.getLogger(__name__)
MODULE: Final = "services.workflow_app_service"
_SERVICE: Final = ("WorkflowAppService", "get_paginate_workflow_app_logs")
_DATABASE: Final = "extensions.ext_database"
_CREATORS: Final = {"account": "accounts", "end_user": "end_users"}
"""The tables of those who created a log, by their role."""
_RUN: Final = "_tidegate_run"
_CREATOR: Final = "_tidegate_creator"
_WRAPPED: Final = "_tidegate_at_once"


def imported(module: Any) -> None:
    """Do what is due after the module of the service was imported: have its page load what its rows will ask for."""
    service = getattr(module, _SERVICE[0], None)
    method = vars(service).get(_SERVICE[1]) if service is not None else None
    if method is None:
        _log.info("%s has no %s: log pages are loaded as they are", MODULE, ".".join(_SERVICE))
    elif not hasattr(method, _WRAPPED):
        setattr(service, _SERVICE[1], _at_once(method))


def _at_once(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def paginated(*args: Any, **kwargs: Any) -> Any:
        page = method(*args, **kwargs)
        try:
            _load([getattr(item, "log", item) for item in page["data"]])
        except Exception as error:  # noqa: BLE001  # then each row asks for itself, as without it
            pass_interruption(error)
            _log.warning("a log page was not loaded at once: %s", first_line(error))
        return page

    paginated.__dict__[_WRAPPED] = True
    return paginated


def _load(logs: Sequence[Any]) -> None:
    if not logs:
        return
    database, models = sys.modules[_DATABASE].db, host_models()
    _install(type(logs[0]))
    runs = _runs(models["workflow_runs"], {log.workflow_run_id for log in logs}, database.engine)
    for log in logs:
        vars(log)[_RUN] = runs.get(str(log.workflow_run_id))
    for role, table in _CREATORS.items():
        ids = {log.created_by for log in logs if log.created_by_role == role}
        cls = models.get(table)
        if ids and cls is not None:
            # In the session that will be asked for them. It forgets what nobody holds.
            held = database.session.scalars(select(cls).where(_key(cls).in_(ids))).all()
            for log in logs:
                vars(log)[f"{_CREATOR}_{role}"] = held


def _key(cls: type[Any]) -> Any:
    return getattr(cls, inspect(cls).primary_key[0].key)


def _runs(run: type[Any], ids: Iterable[str], engine: Any) -> dict[str, Any]:
    """Return the runs by their ids, without their large columns: these are read for all at once when one is touched."""
    maker = sessionmaker(engine, expire_on_commit=False)
    light = [getattr(run, one.key) for one in inspect(run).column_attrs if one.key not in LAZY_RUN_COLUMNS]
    with maker() as session:
        found = session.scalars(select(run).where(run.id.in_(list(ids))).options(load_only(*light))).all()
    LazyPage(maker, run, LAZY_RUN_COLUMNS).adopt(found)
    return {str(one.id): one for one in found}


def _install(cls: type[Any]) -> None:
    """Have the property of a log that asks for its run look first at what was loaded with the page."""
    asked = vars(cls).get("workflow_run")
    if not isinstance(asked, property) or asked.fget is None or hasattr(asked.fget, _WRAPPED):
        return
    ask: Callable[[Any], Any] = asked.fget

    @functools.wraps(ask)
    def workflow_run(log: Any) -> Any:
        loaded = vars(log)
        return loaded[_RUN] if _RUN in loaded else ask(log)

    workflow_run.__dict__[_WRAPPED] = True
    cls.workflow_run = property(workflow_run)
