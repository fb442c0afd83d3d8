"""Install Tidegate in a program of Dify's, as soon as that imports its repositories; for PYTHONPATH.

Python runs this when it starts. It must import next to nothing: gevent has not patched anything yet.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

import wrapt

_HERE = str(Path(__file__).parent)
_HOOK = "imported_directly" if os.environ.get("TIDEGATE_DIRECT") else "imported"
_MODULES = (
    "repositories.sqlalchemy_api_workflow_run_repository",
    "repositories.factory",
    "repositories.workflow.run_repository",
    "extensions.application_services.workflow_storage",
    "repositories.sqlalchemy_api_workflow_node_execution_repository",
    "repositories.workflow.node_execution_repository",
)
for _module in _MODULES:
    wrapt.register_post_import_hook(f"tidegate.proxy.dify.install:{_HOOK}", _module)
wrapt.register_post_import_hook("tidegate.proxy.dify.log_page:imported", "services.workflow_app_service")

# Somebody else may have a file of this name; Python runs the first that it finds.
_spec = PathFinder.find_spec("sitecustomize", [place for place in sys.path if place != _HERE])
if _spec is not None and _spec.loader is not None:
    _spec.loader.exec_module(module_from_spec(_spec))
