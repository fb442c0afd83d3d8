"""A program that changes runs as a worker of Dify's does, and knows nothing of Tidegate.

``python -m real_dify.writer URL APP RUN...``: in turn, each run's counter grows and a node execution is added to it, in
one transaction. After each commit it prints the run, the counter and the monotonic time. It ends with its input.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from typing import Final

import psycopg

_PAUSE_S: Final = 0.5
_RUN: Final = "UPDATE workflow_runs SET total_tokens = %s, total_steps = total_steps + 1 WHERE id = %s"
_NODE: Final = """
INSERT INTO workflow_node_executions (id, tenant_id, app_id, workflow_id, triggered_from, workflow_run_id, index,
    node_execution_id, node_id, node_type, title, inputs, outputs, status, elapsed_time, created_by_role, created_by,
    created_at, finished_at)
SELECT %s, tenant_id, app_id, workflow_id, 'workflow-run', id, total_steps, %s, 'node-1', 'llm', 'Node', '{}', '{}',
    'succeeded', 0.5, created_by_role, created_by, now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC'
FROM workflow_runs WHERE id = %s
"""


def main(url: str, *runs: str) -> None:
    """Write until the input ends."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    value = 1_000_000
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        while not ended.wait(_PAUSE_S):
            for run in runs:
                value += 1
                key = str(uuid.uuid4())
                with connection.transaction():
                    connection.execute(_RUN, (value, run))
                    connection.execute(_NODE, (key, key, run))
                sys.stdout.write(f"{run} {value} {time.monotonic()}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
