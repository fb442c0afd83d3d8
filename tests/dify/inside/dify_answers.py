"""Ask Dify's end points, by the test client of its own application: ``python dify_answers.py PART FILE [RUNS]``.

The parts, each a process: ``fill`` makes tables and rows; ``ask`` writes what is answered to FILE, cold and several
times warm; ``live`` does so, too, then has rows changed by somebody who knows nothing of Tidegate, and asks again;
``again`` asks once; ``grow`` adds RUNS runs; ``speed`` measures first pages; ``headers`` writes the headers that Dify
takes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import sqlalchemy as sa
from dify_rows import (
    ACCOUNT,
    APPS,
    BEGIN,
    CODES,
    NODES,
    STATUSES,
    TOKENS,
    VISITORS,
    change,
    fill,
    form_token,
    name_id,
    run_id,
)
from dify_speed import grow, speed

if TYPE_CHECKING:
    from collections.abc import Iterator

_PASSES: Final = 3
_ALIVE: Final = b"event: ping"
_APIS: Final = ("/console/api/", "/v1/", "/api/")
_PATIENCE_S: Final = 120.0
_MISSING: Final = name_id("nothing")
_SOME: Final = (0, 1, 2, 3, 4, 5, 7, 8, 11, 16)
"""The numbers of runs that are asked for one by one: each status, offloaded and not."""
_STREAMED: Final = (1, 3, 5, 11)
"""The numbers of those whose events are asked for: what stands there is stored, and the stream ends."""
_LISTS: Final[tuple[dict[str, Any], ...]] = (
    {"limit": 100},
    {"limit": 7},
    {"limit": 7, "triggered_from": "app-run"},
    {"limit": 7, "triggered_from": "debugging", "status": "succeeded"},
    *({"limit": 20, "triggered_from": "app-run", "status": status} for status in STATUSES[:-1]),
    {"limit": 5, "last_id": run_id("flow", 20)},
    {"limit": 5, "last_id": run_id("chat", 20)},
    {"limit": 5, "triggered_from": "app-run", "last_id": run_id("flow", 21)},
    {"limit": 5, "last_id": _MISSING},
    {"limit": 0},
)
_LOGS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"page": 1, "limit": 5},
    {"page": 2, "limit": 5},
    {"page": 3, "limit": 5, "detail": "true"},
    {"page": 1, "limit": 100, "detail": "true"},
    {"status": "failed"},
    {"status": "succeeded", "keyword": "question"},
    {"keyword": "漢字"},
    {"keyword": "question 11"},
    {"keyword": "visitor-1"},
    {"created_at__after": f"{BEGIN.isoformat()}Z"},
    {"created_at__before": f"{BEGIN.isoformat()}Z"},
    {"created_by_end_user_session_id": "visitor-1"},
    {"created_by_account": "another@example.com"},
)
_COUNTS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"triggered_from": "app-run"},
    {"status": "failed"},
    {"triggered_from": "app-run", "status": "succeeded", "time_range": "7d"},
    {"time_range": "30m"},
)
_DAYS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"start": f"{BEGIN:%Y-%m-%d} 00:00", "end": f"{BEGIN:%Y-%m-%d} 23:59"},
    {"start": f"{BEGIN:%Y-%m-%d} 00:00"},
)


def application() -> Any:
    """Return Dify's application."""
    sys.path.insert(0, str(Path.cwd()))
    made = import_module("app_factory").create_app()
    return made[1] if isinstance(made, tuple) else made


def questions() -> Iterator[tuple[str, str]]:
    """Return what is asked: the door ("console", "service flow", ...) and the path with its query."""
    yield from _of_apps()
    yield from _of_runs()
    for kind in ("pipeline", "snippet"):
        path = f"/console/api/{'rag/pipelines' if kind == 'pipeline' else 'snippets'}/{APPS[kind]}"
        yield from (("console", f"{path}/workflow-runs?{urlencode(one)}") for one in ({}, {"limit": 3}))
        for number in (0, 1, 4):
            run = f"{path}/workflow-runs/{run_id(kind, number)}"
            yield from (("console", run), ("console", f"{run}/node-executions"))
        yield from (("console", f"{path}/workflows/draft/nodes/node-{n}/last-run") for n in range(NODES))
    yield "console", "/console/api/workflow-run-archives"
    for app in TOKENS:
        for number in (5, 11, 17):
            for recipient in ("console", "backstage"):
                token = f"{recipient}-{app}-{form_token(number)}"[:32]
                yield "console", f"/console/api/form/human_input/{token}"
                yield f"service {app}", f"/v1/form/human_input/{token}"
                yield f"web {app}", f"/api/form/human_input/{token}"


def _of_apps() -> Iterator[tuple[str, str]]:
    for app in ("flow", "chat", "ties"):
        path = f"/console/api/apps/{APPS[app]}"
        for query in _LISTS:
            yield "console", f"{path}/workflow-runs?{urlencode(query)}"
            if app == "chat":
                yield "console", f"{path}/advanced-chat/workflow-runs?{urlencode(query)}"
        for query in _COUNTS:
            yield "console", f"{path}/workflow-runs/count?{urlencode(query)}"
            if app == "chat":
                yield "console", f"{path}/advanced-chat/workflow-runs/count?{urlencode(query)}"
        for query in _LOGS if app != "chat" else _LOGS[:1]:
            yield "console", f"{path}/workflow-app-logs?{urlencode(query)}"
            yield "console", f"{path}/workflow-archived-logs?{urlencode(query)}"
        for what in ("daily-conversations", "daily-terminals", "token-costs", "average-app-interactions"):
            yield from (("console", f"{path}/workflow/statistics/{what}?{urlencode(query)}") for query in _DAYS)
        yield from (("console", f"{path}/workflows/draft/nodes/node-{n}/last-run") for n in range(NODES + 1))
    chat = f"/console/api/apps/{APPS['chat']}"
    yield "console", f"{chat}/chat-conversations"
    for number in range(3):
        conversation = name_id(f"conversation {number}")
        yield "console", f"{chat}/chat-conversations/{conversation}"
        yield "console", f"{chat}/chat-messages?{urlencode({'conversation_id': conversation, 'limit': 5})}"
        messages = urlencode({"conversation_id": conversation, "user": "visitor-1"})
        yield "service chat", f"/v1/messages?{messages}"
        yield "web chat", f"/api/messages?{urlencode({'conversation_id': conversation})}"
    yield from (("console", f"{chat}/messages/{name_id(f'message {n}')}") for n in range(4))
    for query in _LOGS:
        yield "service flow", f"/v1/workflows/logs?{urlencode(query)}"


def _of_runs() -> Iterator[tuple[str, str]]:
    for app in ("flow", "chat"):
        path = f"/console/api/apps/{APPS[app]}"
        streamed = {run_id(app, number) for number in _STREAMED}
        for run, status in (*((run_id(app, n), STATUSES[n % len(STATUSES)]) for n in _SOME), (_MISSING, "")):
            yield "console", f"{path}/workflow-runs/{run}"
            yield "console", f"{path}/workflow-runs/{run}/node-executions"
            yield "console", f"{path}/workflow-runs/{run}/export"
            yield "console", f"{path}/workflows/draft/runs/{run}/node-outputs"
            yield "console", f"{path}/workflows/published/runs/{run}/node-outputs"
            yield "console", f"{path}/workflows/draft/runs/{run}/node-outputs/node-1"
            yield "console", f"{path}/workflows/draft/runs/{run}/node-outputs/node-1/text/preview"
            yield "console", f"{path}/workflow-runs/{run}/agent-nodes/node-1/sandbox/files"
            yield "console", f"/console/api/workflow/{run}/pause-details"
            yield f"service {app}", f"/v1/workflows/run/{run}"
            if run not in streamed:
                continue
            if status != "paused":  # else a stream stays open that does not begin with what is stored
                yield "console", f"/console/api/workflow/{run}/events"
            state = urlencode({"include_state_snapshot": "true", "user": "visitor-1"})
            yield "console", f"/console/api/workflow/{run}/events?{state}"
            yield f"service {app}", f"/v1/workflow/{run}/events?{state}"
            yield f"web {app}", f"/api/workflow/{run}/events?{state}"
        yield "console", f"{path}/workflow-runs/no-uuid"
        yield f"service {app}", "/v1/workflows/run/no-uuid"


class Doors:
    """The ways in: headers that Dify takes for each."""

    def __init__(self, application: Any) -> None:
        self._client = application.test_client(use_cookies=False)
        token, csrf = import_module("libs.token"), import_module("constants").HEADER_NAME_CSRF_TOKEN
        with application.app_context():
            database = import_module("extensions.ext_database").db
            account = database.session.get(import_module("models").Account, ACCOUNT)
            passport = import_module("libs.passport").PassportService()
            service = import_module("services.account_service").AccountService
            signed, bearer = token.generate_csrf_token(ACCOUNT), service.get_account_jwt_token(account)
            named = token._real_cookie_name("csrf_token")  # Dify's tests call it, too
            console = {"Authorization": f"Bearer {bearer}", csrf: signed, "Cookie": f"{named}={signed}"}
            self.headers = {"console": console}
            for app, key in TOKENS.items():
                self.headers[f"service {app}"] = {"Authorization": f"Bearer {key}"}
                claims = {"iss": name_id(app), "sub": "Web API Passport", "app_id": APPS[app], "app_code": CODES[app],
                          "end_user_id": VISITORS[app]}  # fmt: skip
                self.headers[f"web {app}"] = {"X-App-Code": CODES[app], "X-App-Passport": passport.issue(claims)}

    def ask(self, door: str, path: str) -> list[Any]:
        """Return the status and the body; of a stream, what comes before the second sign of life."""
        with self._client.get(path, headers=self.headers[door], buffered=False) as answer:
            body = b""
            try:
                for chunk in answer.response:
                    body += chunk.encode() if isinstance(chunk, str) else chunk
                    if answer.is_streamed and body.count(_ALIVE) > 1:
                        break
            except Exception as error:  # noqa: BLE001  # a stream has been answered before it fails
                body += f"raised {type(error).__name__}".encode()
            return [answer.status_code, body.decode()]

    def ask_all(self) -> dict[str, list[Any]]:
        """Ask everything, and return the answers by what was asked."""
        return {f"{door}: {path}": self.ask(door, path) for door, path in questions()}


def changed(application: Any, doors: Doors) -> dict[str, list[Any]]:
    """Have rows changed from outside, wait until it is seen, and ask everything."""
    sentinel = ("console", f"/console/api/apps/{APPS['flow']}/workflow-runs/{run_id('flow', 7)}")
    before = doors.ask(*sentinel)
    with application.app_context():
        url = import_module("extensions.ext_database").db.engine.url
    other = sa.create_engine(url)
    with other.begin() as connection:
        change(connection)
    other.dispose()
    until = time.monotonic() + _PATIENCE_S
    while doors.ask(*sentinel) == before:
        if time.monotonic() > until:
            raise TimeoutError(f"a deleted run is still answered after {_PATIENCE_S:.0f} s: {before}")
        time.sleep(0.05)
    return doors.ask_all()


def _fill() -> None:
    database = import_module("extensions.ext_database").db
    with database.engine.begin() as connection:
        connection.execute(sa.text('CREATE EXTENSION IF NOT EXISTS "uuid-ossp"'))
        for name, arguments in (("uuidv7", ""), ("uuidv7_boundary", "timestamptz")):
            body = "AS 'SELECT gen_random_uuid()' LANGUAGE SQL"
            connection.execute(sa.text(f"CREATE FUNCTION {name}({arguments}) RETURNS uuid {body}"))
    database.create_all()
    with database.engine.begin() as connection:
        fill(connection, database.metadata.tables)
        files = connection.execute(sa.text("SELECT key FROM upload_files")).scalars().all()
    storage = import_module("extensions.ext_storage").storage
    for key in files:
        storage.save(key, json.dumps({"from": key, "text": "as long as it was"}).encode())


def _grow(runs: int) -> None:
    database = import_module("extensions.ext_database").db
    with database.engine.begin() as connection:
        grow(connection, database.metadata.tables, runs)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))


def main(part: str, file: str, runs: str = "0") -> None:
    """Do one part."""
    dify = application()
    if part in {"fill", "grow"}:
        with dify.app_context():
            _fill() if part == "fill" else _grow(int(runs))
        return
    doors = Doors(dify)
    if part == "headers":
        Path(file).write_text(json.dumps(doors.headers))
        os._exit(0)
    if part == "speed":
        Path(file).write_text(json.dumps(speed(dify, doors)))
        sys.stdout.flush()
        os._exit(0)
    told: dict[str, Any] = {"passes": [doors.ask_all() for _ in range(_PASSES if part != "again" else 1)]}
    if part == "live":
        told["changed"] = changed(dify, doors)
    rules = (rule for rule in dify.url_map.iter_rules() if "GET" in rule.methods)
    told["routes"] = sorted(rule.rule for rule in rules if rule.rule.startswith(_APIS))
    gates = sys.modules.get("tidegate.proxy.dify.gates")
    counted: dict[str, int] = {}
    for gate in gates.gates() if gates is not None else ():
        for method in gate.stats().methods.values():
            for who, count in method.answered.items():
                counted[who] = counted.get(who, 0) + count
    told["answered"] = counted
    Path(file).write_text(json.dumps(told))
    sys.stdout.flush()
    os._exit(0)  # threads of Dify's extensions would keep it waiting


if __name__ == "__main__":
    main(*sys.argv[1:4])
