"""Runs that change as in a real Dify: its Celery worker, without Tidegate, does the tasks that store them.

Each run has a counter, which grows: its ``total_tokens``, by one task, and the ``elapsed_time`` of one of its nodes, by
another. Now and then a node execution is added. The next value is sent once the last has been committed, so a counter
never goes back, however many tasks the worker does at once.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
import uuid
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final

import psycopg

from real_dify.checkout import INSIDE, DifyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from real_dify.checkout import Dify
    from real_dify.polling import Commits

_LOOK_S: Final = 0.02
"""How often is looked what has been committed, in seconds: so much younger an answer may seem than it is."""
_PAUSE_S: Final = 0.5
"""How long a run stays as it is, in seconds."""
_START_S: Final = 900.0
_VALUES_OF_A_NODE: Final = 20
_FIRST: Final = 1_000_000
_RUN_TASK: Final = "tasks.workflow_execution_tasks.save_workflow_execution_task"
_NODE_TASK: Final = "tasks.workflow_node_execution_tasks.save_workflow_node_execution_task"
_OWNERS: Final = """
SELECT id::text, tenant_id::text, app_id::text, workflow_id::text, created_by::text FROM workflow_runs
WHERE id = ANY(%s::uuid[])
"""
_TOKENS: Final = "SELECT id::text, total_tokens FROM workflow_runs WHERE id = ANY(%s::uuid[])"
_ELAPSED: Final = """
SELECT workflow_run_id::text, max(elapsed_time)::bigint FROM workflow_node_executions
WHERE workflow_run_id = ANY(%s::uuid[]) GROUP BY 1
"""


def nodes_key(run: str) -> str:
    """Return under which name the counter of a run's nodes is kept."""
    return f"nodes of {run}"


@contextmanager
def celery_writer(
    dify: Dify, url: str, environment: Mapping[str, str], runs: Sequence[str], commits: Commits, folder: Path
) -> Iterator[None]:
    """Start Dify's worker, prefork, and have it write as long as this context lasts.

    Args:
        dify: the checkout.
        url: of its database.
        environment: of Dify's processes, without Tidegate.
        runs: their ids.
        commits: is told what was committed.
        folder: for logs.

    Raises:
        DifyError: the worker has ended, or has not written anything.
    """
    worker = [str(dify.python), "-m", "celery", "-A", "celery_entrypoint.celery", "worker", "-P", "prefork", "-c", "2"]
    worker += ["-Q", "workflow_storage", "--loglevel", "INFO", "--max-tasks-per-child", "50"]
    sender = [str(dify.python), str(INSIDE / "dify_tasks.py"), environment["CELERY_BROKER_URL"]]
    log = folder / "celery.log"
    with log.open("w") as out:
        working = subprocess.Popen(worker, cwd=dify.api, env=environment, stdout=out, stderr=out)
        sending = subprocess.Popen(
            sender, cwd=dify.api, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=out, text=True
        )
    writing = _Writing(url, runs, commits, sending)
    try:
        writing.start()
        if not writing.has_written.wait(_START_S) or working.poll() is not None:
            raise DifyError(f"Dify's worker has written nothing in {_START_S:.0f} s; {log} may say why")
        yield
        if working.poll() is not None or not writing.thread.is_alive():
            raise DifyError(f"Dify's worker does not write any more; {log} may say why")
    finally:
        writing.end()
        for process in (sending, working):
            process.terminate()
            process.wait()


class _Writing:
    """Look what has been committed, and send the next tasks."""

    def __init__(self, url: str, runs: Sequence[str], commits: Commits, sending: subprocess.Popen[str]) -> None:
        self._url = url.replace("+psycopg", "")
        self._runs = list(runs)
        self._commits = commits
        self._sending = sending
        self._last: dict[str, int] = {}
        self._ended = threading.Event()
        self.has_written = threading.Event()
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.start = self.thread.start

    def end(self) -> None:
        self._ended.set()
        if self.thread.is_alive():
            self.thread.join()

    def _write(self) -> None:
        tasks: IO[str] | None = self._sending.stdin
        if tasks is None:
            return
        value, due = _FIRST, time.monotonic()
        with psycopg.connect(self._url, autocommit=True) as connection:
            found = connection.execute(_OWNERS, [self._runs]).fetchall()
            owners = {run: owner for run, *owner in found}
            while not self._ended.wait(_LOOK_S):
                self._look(connection)
                if time.monotonic() >= due and self._has_committed(value):
                    value, due = value + 1, time.monotonic() + _PAUSE_S
                    for run, owner in owners.items():
                        tasks.write(f"{json.dumps(_run_task(run, owner, value))}\n")
                        tasks.write(f"{json.dumps(_node_task(run, owner, value))}\n")
                    tasks.flush()

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        found = dict(connection.execute(_TOKENS, [self._runs]))
        found |= {nodes_key(run): value for run, value in connection.execute(_ELAPSED, [self._runs])}
        now = time.monotonic()  # after the answer: what it shows was committed before
        for key, value in found.items():
            if value > max(_FIRST, self._last.get(key, 0)):
                self._commits.add(key, value, now)
                self._last[key] = value

    def _has_committed(self, value: int) -> bool:
        if value == _FIRST:
            return True
        done = all(self._last.get(key) == value for run in self._runs for key in (run, nodes_key(run)))
        if done:
            self.has_written.set()
        return done


def _run_task(run: str, owner: Sequence[str], value: int) -> dict[str, Any]:
    execution = {
        "id_": run,
        "workflow_id": owner[2],
        "workflow_version": "1",
        "workflow_type": "workflow",
        "graph": {},
        "inputs": {},
        "outputs": {"value": value},
        "status": "running",
        "total_tokens": value,
        "started_at": "2026-01-01T00:00:00",
    }
    return _task(_RUN_TASK, execution, owner, "app-run")


def _node_task(run: str, owner: Sequence[str], value: int) -> dict[str, Any]:
    number = value // _VALUES_OF_A_NODE
    node = str(uuid.uuid5(uuid.UUID(run), f"node {number}"))
    execution = {
        "id": node,
        "node_execution_id": node,
        "workflow_id": owner[2],
        "workflow_execution_id": run,
        "index": number % 1_000,
        "node_id": "node-1",
        "node_type": "llm",
        "title": "Node",
        "status": "running",
        "elapsed_time": float(value),
        "created_at": "2026-01-01T00:00:00",
    }
    return _task(_NODE_TASK, execution, owner, "workflow-run")


def _task(task: str, execution: Mapping[str, Any], owner: Sequence[str], source: str) -> dict[str, Any]:
    tenant, app, _, creator = owner
    kwargs = {"execution_data": execution, "tenant_id": tenant, "app_id": app, "triggered_from": source}
    return {"task": task, "kwargs": kwargs | {"creator_user_id": creator, "creator_user_role": "account"}}
