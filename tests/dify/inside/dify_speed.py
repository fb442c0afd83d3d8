"""Measure first pages of Dify's: what the repository gives, the service's call with all that its rows show, and the end
point.

Cold, what is cached of the app is void before each: it is read, and stored.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from dify_rows import APPS, BEGIN, TENANT, run_id
from sqlalchemy import event, text
from sqlalchemy.orm import sessionmaker

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

_TIMES: Final = 25
_SHOWN: Final = (
    "id", "version", "status", "triggered_from", "error", "elapsed_time", "total_tokens", "total_steps", "created_at",
    "finished_at", "exceptions_count",
)  # fmt: skip


_NEW_RUN: Final = "md5('run ' || n)::uuid"
_WORDS: Final = "(SELECT string_agg(md5(n || ' ' || word), ' ') FROM generate_series(1, 200) word)"
_GROWN: Final = {
    "workflow_runs": (
        "id",
        {"id": _NEW_RUN, "sequence_number": "n + 1000", "graph": f"json_build_object('w', {_WORDS})"},
    ),
    "workflow_app_logs": ("workflow_run_id", {"id": "md5('log ' || n)::uuid", "workflow_run_id": _NEW_RUN}),
}
"""By table: the column that names the run whose row is copied, and what a copy has of its own."""


def grow(connection: Connection, tables: Any, runs: int) -> None:
    """Give the app of the pages *runs* more runs with their logs, one each second, with graphs of 6 kB."""
    given = {"runs": runs, "run": run_id("flow", 1), "at": BEGIN + timedelta(days=1)}
    for table, (of, own) in _GROWN.items():
        values = {column.name: column.name for column in tables[table].columns}
        values |= {name: made for name, made in own.items() if name in values}
        values["created_at"] = "CAST(:at AS timestamp) + n * interval '1 second'"
        copied = f"SELECT {', '.join(values.values())} FROM {table}, generate_series(1, :runs) n WHERE {of} = :run"
        connection.execute(text(f"INSERT INTO {table} ({', '.join(values)}) {copied}"), given)


def speed(application: Any, doors: Any) -> dict[str, dict[str, list[float]]]:
    """Return milliseconds by page, and by how it was asked: "warm" and "cold", of the page and of its end point.

    Args:
        application: Dify's.
        doors: what asks end points.
    """
    measured: dict[str, dict[str, list[float]]] = {}
    for name, (app, path, page) in _pages().items():
        url = f"/console/api/apps/{APPS[app]}/{path}"

        def of_page(page: Callable[[Any], None] = page, app: str = app) -> None:
            with application.app_context():
                page(SimpleNamespace(id=APPS[app], tenant_id=TENANT))

        def of_url(url: str = url) -> None:
            doors.ask("console", url)

        found = measured[name] = {}
        for what, ask in (("page", of_page), ("end point", of_url)):
            for _ in range(5):
                ask()
            found[f"warm {what}"] = [_ms(ask) for _ in range(_TIMES)]
            found[f"cold {what}"] = [_ms(ask) for _ in range(_TIMES) if _voided(app)]
        found["statements"] = [_statements(application, of_page, app, cold=cold) for cold in (True, False)]
    return measured


def _pages() -> dict[str, tuple[str, str, Callable[[Any], None]]]:
    """Return by name an app, a path below it, and what asks the service and looks at all that its rows show."""
    run_service = import_module("services.workflow_run_service").WorkflowRunService
    log_service = import_module("services.workflow_app_service").WorkflowAppService
    database = import_module("extensions.ext_database").db
    source = import_module("models.enums").WorkflowRunTriggeredFrom.APP_RUN

    def logs(app: Any) -> None:
        with sessionmaker(database.engine, expire_on_commit=False).begin() as session:
            page = log_service().get_paginate_workflow_app_logs(session=session, app_model=app, detail=True)
            for item in page["data"]:
                _show(item.workflow_run)
                _show_creators(item)

    def rows(app: Any) -> None:
        for run in (
            run_service()
            ._workflow_run_repo.get_paginated_workflow_runs(  # as the service asks
                tenant_id=app.tenant_id, app_id=app.id, triggered_from=source, limit=20, last_id=None
            )
            .data
        ):
            _show(run)

    def runs(app: Any) -> None:
        for run in run_service().get_paginate_workflow_runs(app, {"limit": 20}, source).data:
            _show(run)
            _show_creators(run)

    def chats(app: Any) -> None:
        for run in run_service().get_paginate_advanced_chat_workflow_runs(app, {"limit": 20}, source).data:
            _show(run)
            _show_creators(run)

    query = "limit=20&triggered_from=app-run"
    return {
        "log page": ("flow", "workflow-app-logs?detail=true", logs),
        "repository": ("flow", f"workflow-runs?{query}", rows),
        "run list": ("flow", f"workflow-runs?{query}", runs),
        "chat run list": ("chat", f"advanced-chat/workflow-runs?{query}", chats),
    }


def _show(run: Any) -> None:
    for name in _SHOWN:
        getattr(run, name)


def _show_creators(row: Any) -> None:
    for name in ("created_by_account", "created_by_end_user"):
        creator = getattr(row, name)
        if creator is not None:
            _ = creator.id, getattr(creator, "name", None)


def _voided(app: str) -> bool:
    """Void what is cached of an app, where Tidegate is installed."""
    gates = sys.modules.get("tidegate.proxy.dify.gates")
    for gate in gates.gates() if gates is not None else ():
        gate.invalidate(TENANT, app_id=APPS[app])
    return True


def _ms(ask: Callable[[], None]) -> float:
    begun = time.perf_counter()
    ask()
    return (time.perf_counter() - begun) * 1000


def _statements(application: Any, ask: Callable[[], None], app: str, *, cold: bool) -> float:
    with application.app_context():
        engine = import_module("extensions.ext_database").db.engine
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if "tidegate" not in statement:
            sent.append(statement)

    if cold:
        _voided(app)
    event.listen(engine, "before_cursor_execute", note)
    ask()
    event.remove(engine, "before_cursor_execute", note)
    return len(sent)
