"""A plug-in of pytest for Dify's tests: servers that run already take the place of its containers.

Where they are is in DIFY_TEST_POSTGRES and DIFY_TEST_REDIS (host:port), and in DIFY_TEST_DATABASE, which is empty.
At the end, what Tidegate has done in this process is written to DIFY_TEST_TOLD. Sandbox and plug-in daemon are a closed
port, as they are for most who run these tests.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Self

_CLOSED: Final = "127.0.0.1:9"


class Container:
    """Any container: it has been started, and cannot be stopped."""

    username = "postgres"
    password = "none"  # noqa: S105  # it is asked for none
    address = _CLOSED

    def __init__(self, image: str = "", *_args: Any, **_kwargs: Any) -> None:
        self.image = image
        self.name = "in no container"
        self.env: dict[str, str] = {}
        self.dbname = os.environ["DIFY_TEST_DATABASE"]

    def with_network(self, _network: Any) -> Self:
        return self

    def with_exposed_ports(self, *_ports: int) -> Self:
        return self

    def with_env(self, _name: str, _value: str) -> Self:
        return self

    def waiting_for(self, _strategy: Any) -> Self:
        return self

    def start(self) -> Self:
        return self

    def stop(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def get_wrapped_container(self) -> Self:
        return self

    def get_container_host_ip(self) -> str:
        return self.address.partition(":")[0]

    def get_exposed_port(self, _port: int) -> int:
        return int(self.address.partition(":")[2])


class Postgres(Container):
    address = os.environ["DIFY_TEST_POSTGRES"]


class Redis(Container):
    address = os.environ["DIFY_TEST_REDIS"]


class Network:
    name = "none"

    def create(self) -> Self:
        return self

    def remove(self) -> None:
        pass


def wait_for_logs(*_args: Any, **_kwargs: Any) -> float:
    return 0.0


def _replace(module: str, name: str, value: object) -> None:
    setattr(import_module(f"testcontainers.{module}"), name, value)


_replace("core.container", "DockerContainer", Container)
_replace("core.network", "Network", Network)
_replace("core.waiting_utils", "wait_for_logs", wait_for_logs)
_replace("postgres", "PostgresContainer", Postgres)
_replace("redis", "RedisContainer", Redis)


class _Errors(logging.Handler):
    """What Tidegate says that does not work."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        self.said[line] = self.said.get(line, 0) + 1


_errors = _Errors()
logging.getLogger("tidegate").addHandler(_errors)


_CLASSES: Final = {
    "repositories.sqlalchemy_api_workflow_run_repository": "DifyAPISQLAlchemyWorkflowRunRepository",
    "repositories.workflow.run_repository": "DifyAPISQLAlchemyWorkflowRunRepository",
}


def _class(module: str) -> object:
    """Return what code finds that builds the class itself; Dify's may not be there."""
    return getattr(sys.modules.get(module), _CLASSES[module], _Errors)


def pytest_unconfigure() -> None:
    """Write what the gates of this process have counted."""
    counted: dict[str, int] = {}
    gated = [name for name in _CLASSES if "_tidegate_wrapped" in vars(_class(name))]
    module = sys.modules.get("tidegate.proxy.dify.gates")
    for gate in module.gates() if module is not None else ():
        stats = gate.stats()
        for method in stats.methods.values():
            for who, count in method.answered.items():
                counted[who] = counted.get(who, 0) + count
        for node, count in stats.nodes.items():
            counted[f"node {node}"] = counted.get(f"node {node}", 0) + count
    Path(os.environ["DIFY_TEST_TOLD"]).write_text(
        json.dumps({"answered": counted, "errors": _errors.said, "classes": gated})
    )
