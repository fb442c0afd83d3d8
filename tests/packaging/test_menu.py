"""The menu of the package: what is public, under which name, and that no file's place shows."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest

import tidegate
from tidegate import errors
from tidegate.proxy import settings
from tidegate.proxy.call import Method

OFFERED = [getattr(tidegate, name) for name in tidegate.__all__ if name != "__version__"]


def test_the_menu_has_every_error_and_every_section_of_the_settings() -> None:
    raised = {name for name, item in vars(errors).items() if inspect.isclass(item) and issubclass(item, Exception)}
    sections = {name for name, item in vars(settings).items() if name.endswith("Settings") and name != "BaseSettings"}
    assert raised | sections <= {*tidegate.__all__}
    assert tidegate.__version__ == version("tidegate")
    assert tidegate.__all__ == sorted(tidegate.__all__, key=lambda name: (not name[:1].isupper(), name))


@pytest.mark.parametrize("item", OFFERED, ids=lambda item: item.__name__)
def test_what_is_offered_is_found_by_the_name_that_it_gives(item: Any) -> None:
    assert item.__module__ == "tidegate"
    assert getattr(tidegate, item.__qualname__) is item


def test_a_counter_is_named_by_the_menu() -> None:
    for cls in (tidegate.WorkflowRuns, tidegate.NodeExecutions):
        cells = [cell for _, method in inspect.getmembers(cls, inspect.isfunction) for cell in method.__closure__ or ()]
        named = [cell.cell_contents.qualified_name for cell in cells if isinstance(cell.cell_contents, Method)]
        assert named
        assert all(name.startswith(f"tidegate.{cls.__name__}.") for name in named)


def test_the_command_line_is_there_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "tidegate", "--help"], capture_output=True, text=True, check=True)
    assert "python -m tidegate" in done.stdout
    assert "doctor" in done.stdout
