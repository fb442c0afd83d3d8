"""The rows that Dify's end points are asked for: the same each time, made by the names of tables and columns.

A column that a release lacks is left out. One that must be there, and is not named here, gets the zero of its type.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

TODAY: Final = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
BEGIN: Final = TODAY - timedelta(days=3)
"""When the first row was made: counts of "the last seven days" have them all, whenever this runs."""
STATUSES: Final = ("succeeded", "failed", "stopped", "partial-succeeded", "running", "paused")
RUNS: Final = 40
NODES: Final = 3


def name_id(name: str) -> str:
    """Return the id of what has this name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"tidegate:{name}"))


TENANT, ACCOUNT, OTHER = (name_id(name) for name in ("tenant", "account", "another account"))
VISITORS: Final = {app: name_id(f"end user of {app}") for app in ("flow", "chat")}
APPS: Final = {name: name_id(f"app {name}") for name in ("flow", "chat", "ties", "pipeline", "snippet")}
"""Ids by the names of apps here; the last two are no apps, and their runs have their ids in app_id."""
FLOWS: Final = {name: name_id(f"workflow {name}") for name in APPS}
TOKENS: Final = {name: f"app-{name}-of-these-answers" for name in ("flow", "chat")}
CODES: Final = {name: f"site-{name}" for name in ("flow", "chat")}
_GRAPH: Final = json.dumps({
    "nodes": [{"id": f"node-{n}", "data": {"type": "llm", "title": f"Node {n}"}} for n in range(NODES)],
    "edges": [],
})  # fmt: skip


def run_id(app: str, number: int) -> str:
    """Return the id of a run."""
    return name_id(f"run {app} {number}")


def node_execution_id(app: str, run: int, number: int) -> str:
    """Return the id of a node execution."""
    return name_id(f"node execution {app} {run} {number}")


def form_token(number: int) -> str:
    """Return the token of a form that a paused run waits for."""
    return f"form-of-run-{number}"


class Rows:
    """Insert rows.

    Args:
        connection: in whose transaction.
        tables: Dify's, by their names.
    """

    def __init__(self, connection: sa.Connection, tables: Any) -> None:
        self._connection = connection
        self._tables = tables

    def add(self, table: str, **values: Any) -> None:
        """Insert a row, if this release has the table."""
        if table not in self._tables:
            return
        known = self._tables[table]
        row = {name: value for name, value in values.items() if name in known.c}
        for column in known.c:
            if column.name not in row and not column.nullable and column.server_default is None:
                row[column.name] = _zero(column)
        names = ", ".join(f'"{name}"' for name in row)
        marks = ", ".join(f":{name}" for name in row)
        self._connection.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), row)


def _zero(column: sa.Column[Any]) -> Any:
    kind = getattr(column.type, "impl", column.type)
    if column.name == "id" or "uuid" in type(column.type).__name__.lower():
        return str(uuid.uuid4())
    if isinstance(kind, sa.DateTime):
        return BEGIN
    if isinstance(kind, sa.JSON):
        return "{}"
    numbers = {sa.Boolean: False, sa.Integer: 0, sa.Numeric: 0, sa.Float: 0.0}
    return next((zero for of, zero in numbers.items() if isinstance(kind, of)), "")


def fill(connection: sa.Connection, tables: Any) -> None:
    """Insert all rows."""
    rows = Rows(connection, tables)
    _people(rows)
    _apps(rows)
    for number, app in enumerate(APPS):
        for run in range(RUNS if app in {"flow", "chat"} else 12):
            _run(rows, app, run, BEGIN + timedelta(hours=1, minutes=60 * number + 7 * run, microseconds=run * 1_013))


def change(connection: sa.Connection) -> None:
    """Change rows, and delete and insert some, as a program does that knows nothing of Tidegate."""
    execute = connection.execute
    both = {"apps": [APPS["flow"], APPS["chat"]], "at": BEGIN + timedelta(hours=2, minutes=30)}
    execute(
        sa.text(
            "UPDATE workflow_runs SET status = 'succeeded', total_tokens = total_tokens + 500, finished_at = :at "
            "WHERE status = 'running' AND app_id = ANY(CAST(:apps AS uuid[]))"
        ),
        both,
    )
    execute(
        sa.text("UPDATE workflow_node_executions SET title = title || ', later' WHERE index = 1 AND app_id = :app"),
        {"app": APPS["flow"]},
    )
    for table, column in (
        ("workflow_node_executions", "workflow_run_id"),
        ("workflow_app_logs", "workflow_run_id"),
        ("workflow_runs", "id"),
    ):
        execute(sa.text(f"DELETE FROM {table} WHERE {column} = :run"), {"run": run_id("flow", 7)})
    execute(
        sa.text("UPDATE workflow_pauses SET resumed_at = :at WHERE workflow_run_id = :run"),
        {"at": both["at"], "run": run_id("chat", 5)},
    )
    execute(sa.text("UPDATE messages SET answer = 'another answer' WHERE app_id = :app"), {"app": APPS["chat"]})
    execute(sa.text("UPDATE accounts SET name = 'Somebody Else' WHERE id = :id"), {"id": OTHER})


def _people(rows: Rows) -> None:
    rows.add("tenants", id=TENANT, name="A tenant", plan="basic", status="normal", created_at=BEGIN, updated_at=BEGIN)
    for name, account in (("Somebody", ACCOUNT), ("Another", OTHER)):
        rows.add(
            "accounts", id=account, name=name, email=f"{name.lower()}@example.com", interface_language="en-US",
            timezone="UTC", status="active", initialized_at=BEGIN, created_at=BEGIN, updated_at=BEGIN,
            last_active_at=TODAY + timedelta(days=1),
        )  # fmt: skip
        role = "owner" if account == ACCOUNT else "editor"
        rows.add("tenant_account_joins", id=name_id(f"join {name}"), tenant_id=TENANT, account_id=account, role=role,
                 current=True, created_at=BEGIN, updated_at=BEGIN)  # fmt: skip
    rows.add("dify_setups", version="1", setup_at=BEGIN)
    for app, visitor in VISITORS.items():
        rows.add("end_users", id=visitor, tenant_id=TENANT, app_id=APPS[app], type="service_api", is_anonymous=False,
                 session_id="visitor-1", external_user_id="visitor-1", created_at=BEGIN, updated_at=BEGIN)  # fmt: skip


def _apps(rows: Rows) -> None:
    for name, mode in (("flow", "workflow"), ("chat", "advanced-chat"), ("ties", "workflow")):
        rows.add(
            "apps", id=APPS[name], tenant_id=TENANT, name=f"App {name}", mode=mode, enable_site=True, enable_api=True,
            status="normal", workflow_id=FLOWS[name], created_by=ACCOUNT, created_at=BEGIN, updated_at=BEGIN,
        )  # fmt: skip
        if name in TOKENS:
            rows.add("api_tokens", id=name_id(f"token {name}"), app_id=APPS[name], tenant_id=TENANT, type="app",
                     token=TOKENS[name], created_at=BEGIN, last_used_at=TODAY + timedelta(days=1))  # fmt: skip
            rows.add("sites", id=name_id(f"site {name}"), app_id=APPS[name], title=name, code=CODES[name],
                     default_language="en-US", status="normal",
                     created_at=BEGIN, updated_at=BEGIN)  # fmt: skip
    for name, flow in FLOWS.items():
        kind = {"chat": "chat", "pipeline": "rag-pipeline"}.get(name, "workflow")
        for version in ("draft", "2026-01-01 00:00:00"):
            rows.add(
                "workflows", id=flow if version == "draft" else name_id(f"published {name}"), tenant_id=TENANT,
                app_id=APPS[name], type=kind, version=version, graph=_GRAPH, features="{}", created_by=ACCOUNT,
                created_at=BEGIN, updated_at=BEGIN, environment_variables="{}", conversation_variables="{}",
                rag_pipeline_variables="{}", marked_name="", marked_comment="",
                kind="snippet" if name == "snippet" else "standard",
            )  # fmt: skip
    rows.add("pipelines", id=APPS["pipeline"], tenant_id=TENANT, name="A pipeline", description="", is_public=False,
             is_published=True, workflow_id=FLOWS["pipeline"], created_by=ACCOUNT, created_at=BEGIN,
             updated_at=BEGIN)  # fmt: skip
    rows.add("datasets", id=name_id("dataset"), tenant_id=TENANT, name="A dataset", provider="vendor",
             permission="only_me", created_by=ACCOUNT, pipeline_id=APPS["pipeline"], runtime_mode="rag_pipeline",
             created_at=BEGIN, updated_at=BEGIN)  # fmt: skip
    rows.add("customized_snippets", id=APPS["snippet"], tenant_id=TENANT, name="A snippet", type="node",
             workflow_id=FLOWS["snippet"], is_published=True, created_by=ACCOUNT, created_at=BEGIN,
             updated_at=BEGIN)  # fmt: skip
    for number in range(3):
        of_visitor = {"from_source": "api", "from_end_user_id": VISITORS["chat"], "invoke_from": "service-api"}
        of_account = {"from_source": "console", "from_account_id": ACCOUNT, "invoke_from": "debugger"}
        rows.add("conversations", id=name_id(f"conversation {number}"), app_id=APPS["chat"], mode="advanced-chat",
                 name=f"Conversation {number}", status="normal", inputs="{}",
                 **(of_visitor if number == 1 else of_account), created_at=BEGIN + timedelta(minutes=number),
                 updated_at=BEGIN + timedelta(minutes=number), dialogue_count=3, is_deleted=False)  # fmt: skip


def _run(rows: Rows, app: str, number: int, at: datetime) -> None:
    status = STATUSES[number % len(STATUSES)]
    ended = None if status in {"running", "paused"} else at + timedelta(seconds=number % 9)
    # Three have one moment: Dify's order does not say which of them comes first.
    at = BEGIN if app == "ties" and number % 4 else at
    by_visitor = number % 3 == 2  # a third of them
    by = (
        {"created_by_role": "end_user", "created_by": VISITORS.get(app, VISITORS["flow"])}
        if by_visitor
        else _account(number)
    )
    source = "app-run" if number % 2 else "debugging"
    source = {"pipeline": "rag-pipeline-run", "snippet": "debugging"}.get(app, source)
    common = {"tenant_id": TENANT, "app_id": APPS[app], "workflow_id": FLOWS[app], **by, "created_at": at}
    text = json.dumps({"query": f"question {number} äöü 漢字 😀", "count": number, "list": [1, 2.5, None, True]})
    rows.add(
        "workflow_runs", id=run_id(app, number), **common, sequence_number=number,
        type="chat" if app == "chat" else "workflow",
        triggered_from=source, version="draft", graph=_GRAPH, inputs=text, outputs=text if ended else "{}",
        status=status, error="it failed" if status == "failed" else None, elapsed_time=number * 0.37,
        total_tokens=number * 11, total_steps=NODES, finished_at=ended, exceptions_count=number % 2,
    )  # fmt: skip
    for node in range(NODES):
        _node(rows, app, number, node, {**common, "created_at": at + timedelta(microseconds=node)}, text)
    if source == "app-run" and app in {"flow", "ties"}:
        rows.add("workflow_app_logs", id=name_id(f"log {app} {number}"), **common, workflow_run_id=run_id(app, number),
                 created_from="service-api" if by_visitor else "installed-app")  # fmt: skip
        if number % 5 == 0:
            _archived(rows, app, number, common, text)
    if app == "chat":
        _message(rows, number, at, text)
    if status == "paused" and app in {"flow", "chat"}:
        _pause(rows, app, number, at)


def _account(number: int) -> dict[str, str]:
    return {"created_by_role": "account", "created_by": ACCOUNT if number % 2 else OTHER}


def _node(rows: Rows, app: str, run: int, node: int, common: dict[str, Any], text: str) -> None:
    key = node_execution_id(app, run, node)
    rows.add(
        "workflow_node_executions", id=key, **common, triggered_from="workflow-run",
        workflow_run_id=run_id(app, run), index=node + 1, predecessor_node_id=f"node-{node - 1}" if node else None,
        node_execution_id=key, node_id=f"node-{node}", node_type="llm" if node else "start", title=f"Node {node}",
        inputs=text, process_data=text, outputs=text, status="failed" if node and run % 6 == 1 else "succeeded",
        error="it failed" if node and run % 6 == 1 else None, elapsed_time=0.25 * node,
        finished_at=common["created_at"],
        execution_metadata=json.dumps({"total_tokens": 3 * node, "total_price": "0.0001", "currency": "USD"}),
    )  # fmt: skip
    if node == 1 and run % 4 == 0:
        for kind in ("inputs", "process_data", "outputs"):
            file = name_id(f"file {app} {run} {kind}")
            rows.add("workflow_node_execution_offload", id=name_id(f"offload {app} {run} {kind}"), tenant_id=TENANT,
                     app_id=APPS[app], node_execution_id=key, type=kind, file_id=file, created_at=BEGIN)  # fmt: skip
            rows.add("upload_files", id=file, tenant_id=TENANT, storage_type="opendal", key=f"answers/{file}.json",
                     name=f"{kind}.json", size=len(text), extension="json", mime_type="application/json",
                     created_by_role="account", created_by=ACCOUNT, created_at=BEGIN, used=False, hash="",
                     source_url="")  # fmt: skip


def _archived(rows: Rows, app: str, number: int, common: dict[str, Any], text: str) -> None:
    rows.add(
        "workflow_archive_logs", id=name_id(f"archived {app} {number}"), **common,
        workflow_run_id=name_id(f"archived run {app} {number}"), log_id=name_id(f"archived log {app} {number}"),
        log_created_at=common["created_at"], log_created_from="service-api", run_version="draft",
        run_status="succeeded", run_triggered_from="app-run", run_error=None, run_elapsed_time=1.5,
        run_total_tokens=number, run_total_steps=NODES, run_created_at=common["created_at"],
        run_finished_at=common["created_at"], run_exceptions_count=0, trigger_metadata=text, archived_at=BEGIN,
    )  # fmt: skip


def _message(rows: Rows, number: int, at: datetime, text: str) -> None:
    rows.add(
        "messages", id=name_id(f"message {number}"), app_id=APPS["chat"], model_provider="", model_id="",
        conversation_id=name_id(f"conversation {number % 3}"), inputs="{}", query=f"question {number}", message="{}",
        message_tokens=3, message_unit_price=0, message_price_unit=0, answer=text, answer_tokens=4,
        answer_unit_price=0, answer_price_unit=0, provider_response_latency=0.5, total_price=0, currency="USD",
        status="normal", from_source="console", from_account_id=ACCOUNT, created_at=at, updated_at=at,
        agent_based=False, workflow_run_id=run_id("chat", number), app_mode="advanced-chat", invoke_from="debugger",
    )  # fmt: skip


def _pause(rows: Rows, app: str, number: int, at: datetime) -> None:
    pause, form = name_id(f"pause {app} {number}"), name_id(f"form {app} {number}")
    rows.add("workflow_pauses", id=pause, workflow_id=FLOWS[app], workflow_run_id=run_id(app, number), resumed_at=None,
             state_object_key=f"answers/state-{number}.json", created_at=at, updated_at=at)  # fmt: skip
    kind = "human_input_required" if number % 2 else "scheduled_pause"
    rows.add("workflow_pause_reasons", id=name_id(f"reason {app} {number}"), pause_id=pause, type_=kind,
             form_id=form if number % 2 else "", message="" if number % 2 else "later", node_id="node-1",
             created_at=at, updated_at=at)  # fmt: skip
    definition = {
        "form_content": "What?", "inputs": [], "user_actions": [{"id": "ok", "title": "OK"}],
        "rendered_content": "What?", "expiration_time": "2099-01-01T00:00:00", "node_id": "node-1",
        "node_title": "Node 1", "default_values": {}, "display_in_ui": True,
    }  # fmt: skip
    rows.add("human_input_forms", id=form, tenant_id=TENANT, app_id=APPS[app], workflow_run_id=run_id(app, number),
             form_kind="runtime", node_id="node-1", form_definition=json.dumps(definition), rendered_content="What?",
             status="waiting", expiration_time=datetime(2099, 1, 1), created_at=at, updated_at=at)  # noqa: DTZ001  # fmt: skip
    delivery = name_id(f"delivery {app} {number}")
    rows.add("human_input_form_deliveries", id=delivery, form_id=form, delivery_method_type="webapp",
             delivery_config_id=name_id("config"), channel_payload="{}", created_at=at, updated_at=at)  # fmt: skip
    for recipient in ("console", "backstage"):
        rows.add("human_input_form_recipients", id=name_id(f"{recipient} {app} {number}"), form_id=form,
                 delivery_id=delivery, recipient_type=recipient,
                 recipient_payload=json.dumps({"TYPE": recipient, "account_id": ACCOUNT}),
                 access_token=f"{recipient}-{app}-{form_token(number)}"[:32], created_at=at, updated_at=at)  # fmt: skip
