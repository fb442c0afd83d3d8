"""What the factories of a host's releases with class paths have in common."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any


def made_by_setting(setting: str, otherwise: str, session_maker: Any) -> Any:
    """Make an object of the class that a setting names."""
    module, _, name = os.environ.get(setting, otherwise).rpartition(".")
    return getattr(import_module(module), name)(session_maker=session_maker)
