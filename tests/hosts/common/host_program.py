"""A program of a host: ``python -m host_program PART ...``; prints what each part has found, as JSON.

Its database is HOST_DATABASE_URL. A release is chosen by PYTHONPATH; whether Tidegate is installed, by how it is run.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import MagicMock

from host_database import db
from host_queries import RunRepository
from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import StaticPool

TENANT, APP, FLOW, USER = (f"{n}0000000-0000-4000-8000-000000000000" for n in (1, 2, 3, 4))
NOW: Final = datetime(2026, 3, 5, 12)  # noqa: DTZ001  # naive, as the tables have it
ENGINE: Final = db.engine
MAKER: Final = db.maker


def run_id(number: int) -> str:
    return f"a0000000-0000-4000-8000-{number:012}"


def account(number: int) -> str:
    return f"c0000000-0000-4000-8000-{number:012}"


def message(number: int) -> str:
    return f"d0000000-0000-4000-8000-{number:012}"


def node_id(number: int) -> str:
    return f"b0000000-0000-4000-8000-{number:012}"


def fill() -> None:
    """Make the tables, and rows in them."""
    from models import workflow

    workflow.Base.metadata.create_all(ENGINE)
    with MAKER() as session, session.begin():
        for number in range(30):
            at = NOW + timedelta(minutes=number)
            session.add(
                workflow.WorkflowRun(
                    id=run_id(number), tenant_id=TENANT, app_id=APP, workflow_id=FLOW, type="workflow",
                    triggered_from="app-run" if number % 3 else "debugging", version="1", graph="{}", inputs="{}",
                    status="succeeded" if number % 2 else "running", created_by_role="account",
                    created_by=account(number % 5),
                    created_at=at, finished_at=at if number % 2 else None,
                )
            )  # fmt: skip
        for number in range(3):
            session.add(
                workflow.WorkflowNodeExecutionModel(
                    id=node_id(number), tenant_id=TENANT, app_id=APP, workflow_id=FLOW, workflow_run_id=run_id(1),
                    triggered_from="workflow-run", index=number, node_id=f"node {number}", node_type="llm",
                    title="a node", status="succeeded", created_at=NOW, created_by_role="account", created_by=USER,
                )
            )  # fmt: skip
        session.add_all(workflow.Account(id=account(number), name=f"account {number}") for number in range(5))
        visitors = range(5)  # with the ids of accounts
        session.add_all(
            workflow.EndUser(id=account(number), tenant_id=TENANT, name=f"visitor {number}") for number in visitors
        )
        session.add_all(
            workflow.Message(id=message(number), app_id=APP, workflow_run_id=run_id(number), query=f"query {number}")
            for number in range(0, 30, 2)
        )
        for number in range(25):
            session.add(
                workflow.WorkflowAppLog(
                    tenant_id=TENANT, app_id=APP, workflow_id=FLOW, workflow_run_id=run_id(number),
                    created_from="web-app", created_by_role="account" if number % 4 else "end_user",
                    created_by=account(number % 5), created_at=NOW + timedelta(minutes=number),
                )
            )  # fmt: skip
        for number in (0, 3, 3, 12, 20):
            fired = {"tenant_id": TENANT, "app_id": APP, "workflow_run_id": run_id(number)}
            session.add(workflow.WorkflowTriggerLog(**fired, trigger_metadata=f"hook {number}"))
        session.add(
            workflow.WorkflowNodeExecutionOffload(
                tenant_id=TENANT, app_id=APP, node_execution_id=node_id(1), type="outputs", created_at=NOW
            )
        )


def repositories(maker: Any = MAKER) -> tuple[Any, Any]:
    """Give those of runs and node executions, as the host's services get them."""
    try:
        from repositories.factory import DifyAPIRepositoryFactory as Factory  # the host's
    except ImportError:
        from extensions.application_services import workflow_storage as Factory  # noqa: N812
    runs = Factory.create_api_workflow_run_repository(maker)
    return runs, Factory.create_api_workflow_node_execution_repository(maker)


def calls(runs: Any, nodes: Any) -> list[tuple[Any, str, dict[str, Any]]]:
    """Give calls of all kinds, as far as this release has them."""
    of_app = {"tenant_id": TENANT, "app_id": APP}
    made = [
        (runs, "get_paginated_workflow_runs", {**of_app, "triggered_from": "app-run", "limit": 5}),
        (runs, "get_paginated_workflow_runs", {**of_app, "triggered_from": ["app-run", "debugging"], "limit": 7}),
        (runs, "get_paginated_workflow_runs", {**of_app, "triggered_from": "app-run", "last_id": run_id(10)}),
        (runs, "get_paginated_workflow_runs", {**of_app, "triggered_from": "app-run", "status": "succeeded"}),
        (runs, "get_paginated_workflow_runs", {**of_app, "triggered_from": "app-run", "last_id": run_id(77)}),
        (runs, "get_workflow_run_by_id", {**of_app, "run_id": run_id(1)}),
        (runs, "get_workflow_run_by_id", {**of_app, "run_id": run_id(99)}),
        (runs, "get_workflow_run_by_id", {**of_app, "run_id": run_id(99), "with_deleted": True}),
        (runs, "get_workflow_run_by_id_without_tenant", {"run_id": run_id(2)}),
        (runs, "get_workflow_run_by_id_and_tenant_id", {"tenant_id": TENANT, "run_id": run_id(3)}),
        (runs, "get_workflow_runs_count", {**of_app, "triggered_from": "app-run"}),
        (runs, "get_runs_batch_by_time_range", {
            "start_from": None, "end_before": NOW + timedelta(minutes=4), "last_seen": None, "batch_size": 3,
        }),
        (runs, "get_newest_of_everybody", {}),
        (nodes, "get_executions_by_workflow_run", {**of_app, "workflow_run_id": run_id(1)}),
        (nodes, "get_execution_by_id", {"execution_id": node_id(1), "tenant_id": TENANT}),
        (nodes, "get_execution_by_id", {"execution_id": node_id(2)}),
        (nodes, "get_execution_snapshots_by_workflow_run", {
            **of_app, "workflow_id": FLOW, "triggered_from": "workflow-run", "workflow_run_id": run_id(1),
        }),
        (nodes, "get_by_run", {"session": None, "run_id": run_id(1)}),
    ]  # fmt: skip
    return [call for call in made if hasattr(call[0], call[1])]


def shown(value: Any) -> Any:
    """Show an answer as text, with the class of all that is in it."""
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, (list, tuple)):
        return [name, *map(shown, value)]
    if isinstance(value, dict):
        return [name, *((key, shown(one)) for key, one in sorted(value.items()))]
    state = inspect(value, raiseerr=False)
    if state is not None and hasattr(state, "mapper"):
        loaded = {key: shown(vars(value)[key]) for key in state.mapper.attrs.keys() if key in vars(value)}
        lazy = {c.key: shown(getattr(value, c.key)) for c in state.mapper.column_attrs}
        message = getattr(value, "message", None)
        return [name, sorted({**loaded, **lazy}.items()), message and message.query]
    if hasattr(value, "__dict__") and not isinstance(value, str):
        return [name, *((key, shown(one)) for key, one in sorted(vars(value).items()))]
    return [name, repr(value)]


def outcome(repository: Any, method: str, arguments: dict[str, Any]) -> Any:
    """Show what a call gives, or raises."""
    try:
        return shown(getattr(repository, method)(**arguments))
    except Exception as error:  # noqa: BLE001  # whatever it is, it must be the same
        return [type(error).__name__]


def plain_of(repository: Any) -> Any:
    """Give an object of the host's own class, which Tidegate knows nothing of."""
    cls = type(repository)
    return vars(cls).get("_tidegate_wrapped", cls)(MAKER)


def stats() -> dict[str, dict[str, int]]:
    """Give how often which method was answered by whom, and how often the cache "served" it, near or not."""
    from tidegate.proxy.dify.gates import gates

    counted: dict[str, dict[str, int]] = {}
    for gate in gates():
        for name, method in gate.stats().methods.items():
            answered = {str(who): count for who, count in method.answered.items()}
            counted[name.rpartition(".")[2]] = answered | {"served": method.served}
    return counted


def compare() -> dict[str, Any]:
    """Ask everything plain and gated, several times."""
    runs, nodes = repositories()
    different = []
    for _ in range(5):
        for repository, method, arguments in calls(runs, nodes):
            plain, gated = outcome(plain_of(repository), method, arguments), outcome(repository, method, arguments)
            if plain != gated:
                different.append([method, arguments, plain, gated])
    classes = [type(one).__qualname__ for one in (runs, nodes)]
    own = [isinstance(one, type(plain_of(one))) for one in (runs, nodes)]
    as_plain = isinstance(runs, RunRepository) == isinstance(plain_of(runs), RunRepository)
    return {
        "different": different,
        "stats": stats(),
        "classes": classes,
        "gated": hasattr(runs, "tidegate_binding"),
        "own": own,
        "of the protocol as plain": as_plain,
    }


def write() -> dict[str, Any]:
    """Write as the host's own code does, and as a program that knows nothing of Tidegate, and read after each."""
    from models.workflow import WorkflowRun

    runs, _ = repositories()
    asked = {"tenant_id": TENANT, "app_id": APP, "run_id": run_id(4)}
    for _ in range(4):
        runs.get_workflow_run_by_id(**asked)
    with MAKER() as session, session.begin():
        session.get(WorkflowRun, run_id(4)).total_tokens = 7
    watched = runs.get_workflow_run_by_id(**asked).total_tokens
    other = create_engine(ENGINE.url)
    with other.begin() as connection:
        connection.execute(text("UPDATE workflow_runs SET total_tokens = 8 WHERE id = :id"), {"id": run_id(4)})
    other.dispose()
    until = time.monotonic() + 60
    while (seen := runs.get_workflow_run_by_id(**asked).total_tokens) != 8 and time.monotonic() < until:
        time.sleep(0.01)
    gone = runs.delete_runs_by_ids([run_id(4)])
    return {"watched": watched, "outside": seen, "gone": gone, "after": runs.get_workflow_run_by_id(**asked)}


class _Told(logging.Handler):
    """What other threads than the program's own say."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.threadName != threading.main_thread().name:
            self.said.append(record.getMessage())


def emptied() -> dict[str, Any]:
    """Empty the tables by text, as a host's tests do between any two of them, and read what is new there."""
    from models.workflow import Base, WorkflowRun

    runs, _ = repositories()
    asked = {"tenant_id": TENANT, "app_id": APP, "run_id": run_id(1)}
    names = ", ".join(Base.metadata.tables)
    told = _Told()
    logging.getLogger().addHandler(told)
    tokens, after = [], []
    for number in range(3):
        with MAKER() as session, session.begin():
            session.execute(text(f"TRUNCATE TABLE {names} RESTART IDENTITY CASCADE"))
        after.append(runs.get_workflow_run_by_id(**asked))
        new_run(1, NOW + timedelta(minutes=number))
        with MAKER() as session, session.begin():
            session.get(WorkflowRun, run_id(1)).total_tokens = number
        tokens.append([runs.get_workflow_run_by_id(**asked).total_tokens for _ in range(3)])
        _settle()
    logging.getLogger().removeHandler(told)
    return {"after": after, "tokens": tokens, "said": told.said}


def _settle() -> None:
    """Wait until nobody has anything left to apply."""
    until = time.monotonic() + 60
    with ENGINE.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while connection.scalar(text("SELECT count(*) FROM tidegate_outbox")) and time.monotonic() < until:
            time.sleep(0.01)


def patched() -> dict[str, Any]:
    """Put something in the place of a method of the host's class, as tests and plug-ins do."""
    runs, _ = repositories()
    asked = {"tenant_id": TENANT, "app_id": APP, "run_id": run_id(1)}
    cls = vars(type(runs))["_tidegate_wrapped"]
    before = runs.get_workflow_run_by_id(**asked).id
    kept, cls.get_workflow_run_by_id = cls.get_workflow_run_by_id, lambda _self, **_given: "another"
    during = runs.get_workflow_run_by_id(**asked)
    cls.get_workflow_run_by_id = kept
    return {"before": before, "during": during, "after": runs.get_workflow_run_by_id(**asked).id}


def inside() -> dict[str, Any]:
    """Read in a transaction of the program's, which nobody else can see into."""
    runs, _ = repositories()
    asked = {"tenant_id": TENANT, "app_id": APP, "run_id": run_id(1)}
    for _ in range(4):
        runs.get_workflow_run_by_id(**asked)
    with ENGINE.connect() as connection:
        connection.execute(text("UPDATE workflow_runs SET total_tokens = 5 WHERE id = :id"), {"id": run_id(1)})
        own = type(runs)(sessionmaker(bind=connection))
        seen = own.get_workflow_run_by_id(**asked).total_tokens
        connection.rollback()
    return {"inside": seen, "outside": runs.get_workflow_run_by_id(**asked).total_tokens}


def direct() -> dict[str, Any]:
    """Build the class itself, by position and by keyword, and a subclass of it."""
    from repositories.sqlalchemy_api_workflow_run_repository import (  # the host's
        DifyAPISQLAlchemyWorkflowRunRepository as Runs,
    )

    class Own(Runs):
        def get_workflow_run_by_id(self, *args: Any, **kwargs: Any) -> Any:
            return "own", super().get_workflow_run_by_id(*args, **kwargs)

    asked = {"tenant_id": TENANT, "app_id": APP, "run_id": run_id(1)}
    for _ in range(4):
        Runs(MAKER).get_workflow_run_by_id(**asked)
    own = Own(session_maker=MAKER).get_workflow_run_by_id(**asked)
    return {"own": [own[0], own[1].id], "gated": "_tidegate_wrapped" in vars(Runs), "stats": stats()}


def cost() -> dict[str, Any]:
    """Measure what it takes to make a repository, gated and plain, in microseconds: the best of many."""
    runs, _ = repositories()
    gated, plain, best = type(runs), type(plain_of(runs)), {}
    for name, cls in (("gated", gated), ("plain", plain)) * 200:
        begun = time.perf_counter()
        for _ in range(20):
            cls(session_maker=MAKER)
        best[name] = min(best.get(name, 1e9), (time.perf_counter() - begun) / 20 * 1e6)
    return best


def queries() -> dict[str, Any]:
    """Count the statements of each of five calls."""
    runs, _ = repositories()
    counts = []
    for _ in range(5):
        sent: list[str] = []
        note_statements(sent)
        runs.get_workflow_run_by_id(TENANT, APP, run_id(1))
        counts.append(len([sql for sql in sent if "workflow_runs" in sql]))
    return {"counts": counts, "gated": "_tidegate_wrapped" in vars(type(runs))}


def of_log(log: Any) -> list[Any]:
    """Show a log with its run and who created it."""
    run = log.workflow_run
    creators = log.created_by_account, log.created_by_end_user
    return [log.id, run.id, run.status, *(creator and creator.name for creator in creators)]


def of_run(run: Any) -> list[Any]:
    """Show a run with its message and who created it."""
    return [run.id, run.message and run.message.query, run.created_by_account.name]


def note_statements(sent: list[str]) -> None:
    """Have statements of this thread noted; what a gate looks after now and then is not the caller's."""
    here = threading.get_ident()

    def note(*given: Any) -> None:
        if threading.get_ident() == here and "tidegate" not in given[2]:
            sent.append(given[2])

    event.listen(ENGINE, "before_cursor_execute", note)


def counted_pages(ask: Any, show: Any, rows_of: Any) -> dict[str, Any]:
    """Show four pages, each row with what it asks for, and count the statements of each page."""
    sent: list[str] = []
    note_statements(sent)
    counts, pages = [], []
    for _ in range(4):
        with MAKER() as session:
            sent.clear()
            page = ask(session)
            pages.append([show(row) for row in rows_of(page)])
            counts.append(len(sent))
            pages.append([getattr(rows_of(page)[0], "workflow_run", rows_of(page)[0]).graph])
        db.session.remove()
    return {"counts": counts, "pages": pages}


def logs() -> dict[str, Any]:
    """Show pages of logs."""
    return counted_pages(lambda session: log_page(session, detail=True), of_log, lambda page: page["data"])


def log_page(session: Any, **asked: Any) -> Any:
    """Ask the host's service for a page of logs."""
    from services.workflow_app_service import WorkflowAppService

    app = SimpleNamespace(tenant_id=TENANT, id=APP)
    return WorkflowAppService().get_paginate_workflow_app_logs(session=session, app_model=app, **asked)


LOG_PAGES: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"page": 2, "limit": 7},
    {"page": 9},
    {"detail": True},
    {"detail": True, "page": 2, "limit": 5},
    {"created_at_after": NOW + timedelta(minutes=5), "created_at_before": NOW + timedelta(minutes=9)},
    {"created_at_after": (NOW + timedelta(minutes=5)).replace(tzinfo=UTC)},
    {"status": "succeeded"},
    {"keyword": "2"},
    {"created_by_account": "account 1", "limit": 3},
)


def log_answers() -> list[Any]:
    """Ask for pages of logs of all kinds, several times, in sessions of all kinds, and show whose the rows are."""
    found = []
    for asked in LOG_PAGES:
        for make in (MAKER, sessionmaker(ENGINE), MAKER, lambda: Session(ENGINE, autoflush=False)):
            with make() as session:
                page = log_page(session, **asked)
                rows = [item.log for item in page["data"]]
                states = [(state.persistent, state.session is session) for state in map(inspect, rows)]
                once = len(set(map(id, rows)))
                session.commit()  # those that expire are read again
                seen = [[*of_log(item), item.details] for item in page["data"]]
            detached = [inspect(row).detached for row in rows]
            found.append([shown({**page, "data": rows}), states, once, seen, detached])
    return found


def speed() -> dict[str, list[float]]:
    """Measure pages of logs and of runs with all that their rows show, in milliseconds: each several times."""
    from services.workflow_run_service import WorkflowRunService

    runs = WorkflowRunService()

    def of_logs() -> None:
        with MAKER() as session:
            for item in log_page(session, detail=True)["data"]:
                of_log(item)

    def of_runs() -> None:
        for run in runs.get_paginate_workflow_runs(TENANT, APP, ["app-run", "debugging"]).data:
            of_run(run)

    taken: dict[str, list[float]] = {"logs": [], "run_list": []}
    for _ in range(30):
        for name, ask in (("logs", of_logs), ("run_list", of_runs)):
            begun = time.perf_counter()
            ask()
            db.session.remove()
            taken[name].append((time.perf_counter() - begun) * 1000)
    return taken


def log_writes() -> dict[str, Any]:
    """Write what pages of logs show, inside and outside, and see when they show it."""
    from models.workflow import Account, WorkflowAppLog

    def asked(session: Any = None) -> Any:
        with MAKER() as own:
            page = log_page(session or own, detail=True)
            return page["total"], [(*of_log(item), item.details) for item in page["data"]]

    def until(is_there: Any) -> bool:
        end = time.monotonic() + 60
        while not (there := is_there(*asked())) and time.monotonic() < end:
            time.sleep(0.01)
        return bool(there)

    def new() -> Any:
        return WorkflowAppLog(
            tenant_id=TENANT, app_id=APP, workflow_id=FLOW, workflow_run_id=run_id(29), created_from="web-app",
            created_by_role="account", created_by=account(1), created_at=NOW + timedelta(hours=1),
        )  # fmt: skip

    seen = {}
    for _ in range(4):
        before, _rows = asked()
    with MAKER() as session, session.begin():
        session.add(new())
    seen["watched"] = asked()[0] - before
    with MAKER() as session:
        session.add(new())
        seen["pending"] = asked(session)[0] - before
        session.rollback()
        session.add(new())
        session.flush()
        session.expunge_all()
        seen["flushed"] = asked(session)[0] - before
    seen["rolled back"] = asked()[0] - before
    with MAKER() as session:
        mine = session.get(Account, account(0))
        mine.name = "mine"
        seen["changed"] = {row[3] for row in asked(session)[1] if session.identity_map} != set()
    other = create_engine(ENGINE.url)

    def outside(sql: str, **given: Any) -> None:
        for _ in range(4):  # so that what there was before is in the cache
            asked()
        with other.begin() as connection:
            connection.execute(text(sql), given)

    columns = "id, tenant_id, app_id, workflow_id, workflow_run_id, created_from, created_by_role, created_by"
    outside(
        f"INSERT INTO workflow_app_logs ({columns}, created_at)"
        " SELECT gen_random_uuid(), tenant_id, app_id, workflow_id, id, 'cli', 'account', created_by, now()"
        " FROM workflow_runs WHERE id = :id",
        id=run_id(28),
    )
    seen["outside"] = until(lambda total, rows: total == before + 2 and rows[0][1] == run_id(28))
    outside("UPDATE workflow_runs SET status = 'failed' WHERE id = :id", id=run_id(28))
    seen["status"] = until(lambda _, rows: rows[0][2] == "failed")
    outside(
        "INSERT INTO workflow_trigger_logs (id, tenant_id, app_id, workflow_run_id, trigger_metadata)"
        " SELECT gen_random_uuid(), tenant_id, app_id, id, 'late' FROM workflow_runs WHERE id = :id",
        id=run_id(28),
    )
    seen["trigger"] = until(lambda _, rows: "late" in str(rows[0][-1]))
    outside("UPDATE accounts SET name = 'renamed' WHERE id = :id", id=account(28 % 5))
    seen["account"] = asked()[1][0][3]
    outside("DELETE FROM workflow_app_logs WHERE workflow_run_id = :id", id=run_id(28))
    seen["deleted"] = until(lambda total, rows: total == before + 1 and rows[0][1] != run_id(28))
    other.dispose()
    return {"seen": seen, "stats": stats()}


def run_list() -> dict[str, Any]:
    """Show pages of runs."""
    from services.workflow_run_service import WorkflowRunService

    repositories()
    service = WorkflowRunService()
    return counted_pages(
        lambda _: service.get_paginate_workflow_runs(TENANT, APP, ["app-run", "debugging"]),
        of_run,
        lambda page: page.data,
    )


def new_run(number: int, at: datetime) -> None:
    """Store one run more."""
    from models.workflow import WorkflowRun

    with MAKER() as session, session.begin():
        session.add(
            WorkflowRun(
                id=run_id(number), tenant_id=TENANT, app_id=APP, workflow_id=FLOW, type="workflow",
                triggered_from="app-run", version="1", graph="{}", inputs="{}", status="failed",
                created_by_role="account", created_by=USER, created_at=at,
            )
        )  # fmt: skip


def ties() -> dict[str, Any]:
    """Go through all pages of runs that were created in one moment."""
    runs, _ = repositories()
    for number in range(100, 110):
        new_run(number, NOW)
    asked = {"tenant_id": TENANT, "app_id": APP, "triggered_from": "app-run", "status": "failed", "limit": 3}
    page = runs.get_paginated_workflow_runs(**asked)
    seen = [run.id for run in page.data]
    while page.has_more:
        page = runs.get_paginated_workflow_runs(**asked, last_id=seen[-1])
        seen += [run.id for run in page.data]
    return {"seen": len(seen), "of them different": len(set(seen))}


def deep() -> dict[str, Any]:
    """Read a page below a cursor, while runs of another day come."""
    runs, _ = repositories()
    asked = {"tenant_id": TENANT, "app_id": APP, "triggered_from": "app-run", "limit": 3, "last_id": run_id(20)}
    for _ in range(4):
        page = runs.get_paginated_workflow_runs(**asked)
    before, ids = stats()["get_paginated_workflow_runs"], [run.id for run in page.data]
    same = True
    for number in range(200, 205):
        new_run(number, NOW + timedelta(days=number))
        same = same and [run.id for run in runs.get_paginated_workflow_runs(**asked).data] == ids
    new_run(300, NOW + timedelta(minutes=19, seconds=30))
    first = runs.get_paginated_workflow_runs(**asked).data[0].id
    after = stats()["get_paginated_workflow_runs"]
    hits = after["served"] - before["served"]
    return {"same": same, "hits": hits, "first is the new one": first == run_id(300)}


def other_engines() -> dict[str, Any]:
    """Read by engines on which there is no gate: another database, and engines with options of their own."""
    from models.workflow import Base

    from tidegate.proxy.dify.gates import gates

    lite = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(lite)
    schemas = {"schema_translate_map": {None: "public"}}
    engines = {
        "sqlite": [lite, lite],
        "options": [ENGINE.execution_options(max_row_buffer=5)],
        "schemas": [create_engine(ENGINE.url, execution_options=schemas), ENGINE.execution_options(**schemas)],
    }
    asked = {"tenant_id": TENANT, "app_id": APP, "run_id": run_id(1)}
    found, pages = {}, {}
    for name, some in engines.items():
        made = [repositories(sessionmaker(bind=one))[0] for one in some]
        answers = [runs.get_workflow_run_by_id(**asked) for runs in made]
        page = {"tenant_id": TENANT, "app_id": APP, "triggered_from": "app-run", "limit": 3}
        pages[name] = [len(runs.get_paginated_workflow_runs(**page).data) for runs in made]
        found[name] = [None if answer is None else answer.id for answer in answers]
    for stand_in in (MagicMock(spec=sessionmaker), sessionmaker(bind=MagicMock(spec=Engine))):
        repositories(stand_in)  # as a host's own tests make them
    left = [name for name in inspect(lite).get_table_names() if name.startswith("tidegate")]
    return {"found": found, "pages": pages, "gates": len(gates()), "left": left}


def elsewhere() -> dict[str, Any]:
    """Read what another store gets later than it was asked for first, and logs whose runs are there."""
    from elsewhere import STORE

    runs, _ = repositories()
    asked = {"tenant_id": TENANT, "app_id": APP, "run_id": run_id(900)}
    before = [runs.get_workflow_run_by_id(**asked) for _ in range(4)]
    STORE.update({run_id(900): "late", run_id(24): "elsewhere", run_id(23): "elsewhere"})
    with MAKER() as session, session.begin():
        session.execute(text("DELETE FROM workflow_runs WHERE id = :id"), {"id": run_id(23)})
    with MAKER() as session:
        page = log_page(session)
        of_logs = [str(row.workflow_run)[:9] for row in page["data"][:2]]
    return {"before": before, "after": runs.get_workflow_run_by_id(**asked), "of logs": of_logs}


def away_at_first() -> dict[str, Any]:
    """Make a repository while the database does not answer, and again when it does."""
    from tidegate.proxy.dify import gates

    gates._AGAIN_S = 0.0
    away = {"port": 1}

    def refuse(_dialect: Any, _record: Any, _given: Any, named: dict[str, Any]) -> None:
        named.update(away)

    event.listen(ENGINE, "do_connect", refuse)
    repositories()
    at_first = len(gates.gates())
    away.clear()
    repositories()
    return {"at first": at_first, "later": len(gates.gates())}


_EVERY: Final = (
    compare,
    write,
    patched,
    inside,
    direct,
    cost,
    queries,
    logs,
    log_answers,
    log_writes,
    speed,
    run_list,
    ties,
    deep,
    other_engines,
    elsewhere,
    away_at_first,
    emptied,
)
PARTS: Final = {part.__name__: part for part in _EVERY}

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    if sys.argv[1:] == ["fill"]:
        fill()
    else:
        print(json.dumps({name: PARTS[name]() for name in sys.argv[1:]}))  # noqa: T201
