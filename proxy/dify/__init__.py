"""Tidegate in Dify: nothing of its code is changed, and nothing but speed and load changes.

Behind the gate stand subclasses of Dify's own repositories. There are four ways to have them, one of which will do:

- ``tidegate run -- gunicorn ...``, in the place of ``gunicorn ...``; so for celery and flask;
- the folder that ``tidegate run --path`` prints, in PYTHONPATH, where the command cannot be changed;
- one line of code, before a repository exists: ``from tidegate.proxy.dify import install; install()``;
- in releases whose settings name classes: ``API_WORKFLOW_RUN_REPOSITORY=tidegate.proxy.dify.WorkflowRunRepository``
  and ``API_WORKFLOW_NODE_EXECUTION_REPOSITORY=tidegate.proxy.dify.WorkflowNodeExecutionRepository``.

The settings are TIDEGATE_* variables, of the process or in Dify's ``.env``: see ``docs/dify.md``.
"""

from __future__ import annotations

from typing import Any, Final

from tidegate.proxy.dify.host_classes import gated_class
from tidegate.proxy.dify.install import install
from tidegate.proxy.dify.releases import NODE_EXECUTIONS, WORKFLOW_RUNS
from tidegate.proxy.dify.report import class_of

__all__ = ["install"]

_CLASSES: Final = {"WorkflowRunRepository": WORKFLOW_RUNS, "WorkflowNodeExecutionRepository": NODE_EXECUTIONS}


def __getattr__(name: str) -> type[Any]:
    """Return a gated class of the Dify that is installed here, for its settings to name."""
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    install()  # what is imported already is done at once
    return gated_class(class_of(_CLASSES[name]))
