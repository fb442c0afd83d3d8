"""Install Tidegate in a program of Dify's, as soon as that imports its repositories; for PYTHONPATH.

Python runs this when it starts. Nothing of Tidegate is imported before a module of Dify is that it hooks: by then
gevent has patched what it patches.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from os import environ
from os.path import dirname, realpath

from tidegate_import_hooks import after_import  # type: ignore[import-not-found]  # it lies beside this file

_MODULES = (
    "repositories.sqlalchemy_api_workflow_run_repository",
    "repositories.factory",
    "repositories.workflow.run_repository",
    "extensions.application_services.workflow_storage",
    "repositories.sqlalchemy_api_workflow_node_execution_repository",
    "repositories.workflow.node_execution_repository",
    "services.workflow_app_service",
    "services.workflow_run_service",
)


def _imported(module: object) -> None:
    try:
        import_module("tidegate.proxy.dify.install").imported(module, direct=bool(environ.get("TIDEGATE_DIRECT")))
    except Exception as error:  # noqa: BLE001  # Dify runs as it is: this Python may be another one than Tidegate's
        import_module("logging").getLogger("tidegate").error("Tidegate cannot be imported here: %r", error)


for _module in _MODULES:
    after_import(_module, _imported)

# Somebody else may have a file of this name; Python runs the first that it finds.
_here = realpath(dirname(__file__))  # noqa: PTH120  # pathlib is not imported yet
_spec = PathFinder.find_spec("sitecustomize", [place for place in sys.path if realpath(place) != _here])
if _spec is not None and _spec.loader is not None:
    _spec.loader.exec_module(module_from_spec(_spec))
