"""Commands of parts that the command line may not import, found by their entry points, ``tidegate.commands``."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import typer

GROUP: Final = "tidegate.commands"


def add_commands(app: typer.Typer) -> None:
    """Add a command to *app* for each entry point: a function with typer's annotations, named like the entry point."""
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        app.command(name=point.name)(point.load())
