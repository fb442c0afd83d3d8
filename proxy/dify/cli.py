"""``tidegate run``: a program of Dify's with Tidegate installed in it, and in whatever it starts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated, Final

import typer

_STARTUP: Final = Path(__file__).parent / "startup"


def run(
    command: Annotated[list[str] | None, typer.Argument(help="The program and its arguments, after --.")] = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="Also where code builds Dify's classes itself, past its factories.")
    ] = False,
    path: Annotated[
        bool, typer.Option("--path", help="Print the folder that does the same in PYTHONPATH, and run nothing.")
    ] = False,
) -> None:
    """Run a program of Dify's with Tidegate in it, and in all processes that it starts.

    Nothing of Dify is changed, and nothing is imported before the program itself imports it. What Tidegate does there
    is set by TIDEGATE_CACHE_URL, TIDEGATE_REPLICAS and TIDEGATE_CONFIG, in the environment or in Dify's .env file. The
    program must be of the Python that Tidegate is installed for.

    Example: tidegate run -- gunicorn --worker-class gevent app:app
    """
    if path:
        typer.echo(str(_STARTUP))
        return
    if not command:
        typer.echo("nothing to run: tidegate run -- gunicorn ...; see tidegate run --help", err=True)
        raise typer.Exit(2)
    program = shutil.which(command[0])
    if program is None:
        typer.echo(f"{command[0]!r} is no program that can be found; the command comes after --", err=True)
        raise typer.Exit(127)
    before = os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(_STARTUP), before)))}
    if direct:
        environment["TIDEGATE_DIRECT"] = "1"
    os.execvpe(program, command, environment)  # noqa: S606  # the user's own command
