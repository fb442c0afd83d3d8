"""The program of a host, in a process that has Tidegate installed, on a database of the test's."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

_HOSTS: Final = Path(__file__).parents[2] / "hosts"


def host_program(given: dict[str, Any]) -> Any:
    """Import the program, and return its module.

    Args:
        given: ``release`` of the host; ``variables`` of its environment; ``options`` for its engine.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.orm import sessionmaker

    from tidegate.proxy.dify import install

    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    os.environ.update(given["variables"])
    sys.path[:0] = [str(_HOSTS / given["release"]), str(_HOSTS / "common")]
    install()
    if given.get("options"):
        db = import_module("host_database").db
        db.engine = create_engine(os.environ["HOST_DATABASE_URL"], **given["options"])
        db.maker = sessionmaker(bind=db.engine, expire_on_commit=False)
    module = import_module("host_program")
    import_module("models.workflow")
    return module
