"""Send the tasks by which Dify's Celery worker stores a run and its nodes: ``python dify_tasks.py BROKER``.

Each line of the input is a JSON object: ``task`` with its module, and what it is called with. Nothing of Dify is
imported: a task is sent by its name, as Dify sends it.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Final

_QUEUE: Final = "workflow_storage"


def main(broker: str) -> None:
    """Send until the input ends."""
    app = import_module("celery").Celery(broker=broker)
    for line in sys.stdin:
        asked = json.loads(line)
        app.send_task(asked["task"], kwargs=asked["kwargs"], queue=_QUEUE, ignore_result=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
