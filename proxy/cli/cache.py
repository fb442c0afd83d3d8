"""Commands on a running cache: ``tidegate invalidate``, ``tidegate switch`` and ``tidegate explain``."""

from __future__ import annotations

import inspect
import json
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from sqlalchemy.exc import SQLAlchemyError

from tidegate.cache.store import StoreUnavailable
from tidegate.error_text import error_text
from tidegate.errors import TidegateError
from tidegate.proxy.build import connect
from tidegate.proxy.layers.facade import POLICY
from tidegate.proxy.settings import ENV_FILE, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.proxy.gate import Gate

Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML file of the gate \\[default: TIDEGATE_CONFIG, or TIDEGATE_DATABASE_URL and TIDEGATE_CACHE_URL; "
        "also of .env].",
        show_default=False,
    ),
]


def invalidate(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    app: Annotated[str | None, typer.Option(help="Only answers about this app.")] = None,
    run: Annotated[str | None, typer.Option(help="Only answers about this run and its node executions.")] = None,
    config: Config = None,
) -> None:
    """Invalidate what is cached of a tenant: after a change that no trigger notes, like DDL.

    Nothing is searched for and nothing is deleted: the tenant's marks are raised, and entries below them are stale.

    Example: tidegate invalidate 7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10 --app 1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20
    """
    with _gate(config) as gate:
        gate.invalidate(tenant, app_id=app, run_id=run)
    typer.echo("invalidated")


def switch(
    state: Annotated[str, typer.Argument(help="on or off.")],
    name: Annotated[
        str, typer.Argument(help="all, method:NAME (like method:get_workflow_run_by_id), or tenant:ID.")
    ] = "all",
    config: Config = None,
) -> None:
    """Switch the cache off or on for every gate on this database, within about a second.

    What is off is read from the database. Writes go on marking what they change, so nothing is stale when it is on
    again.

    Example: tidegate switch off method:get_workflow_runs_count
    """
    if state not in ("on", "off"):
        raise typer.BadParameter(f"{state!r}: expected on or off")
    with _gate(config) as gate:
        gate.switch(name, off=state == "off")
    typer.echo(f"{name} is {state}")


def explain(
    method: Annotated[
        str, typer.Argument(help="A method, like get_workflow_run_by_id or node_executions.get_execution_by_id.")
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="Its arguments, in its order or as NAME=VALUE; lists as JSON, dates and times as 2025-01-31T00:00."
        ),
    ] = None,
    config: Config = None,
) -> None:
    """Say what would answer a call if it were made now, and why nothing before that would; change nothing.

    The answer is that of a process that has just begun: the near cache of another process cannot be seen from here.

    Example: tidegate explain get_workflow_run_by_id 7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10 APP-ID RUN-ID
    """
    with _gate(config) as gate:
        bound = _method(gate, method)
        args, kwargs = _given(bound, arguments or [])
        try:
            explanation = gate.explain(bound, *args, **kwargs)
        except TypeError as error:
            raise typer.BadParameter(f"{method}: {error}; it takes {inspect.signature(bound)}") from None
        typer.echo(str(explanation))


def _method(gate: Gate, name: str) -> Callable[..., object]:
    where, _, method = name.rpartition(".")
    repositories = {"workflow_runs": gate.workflow_runs, "node_executions": gate.node_executions}
    for repository in [repositories[where]] if where in repositories else [] if where else repositories.values():
        found = getattr(repository, method, None)
        if POLICY in getattr(found, "__dict__", {}):
            return cast("Callable[..., object]", found)
    raise typer.BadParameter(
        f"{name!r} is no method of workflow_runs or node_executions; expected a name like get_workflow_run_by_id"
    )


def _given(method: Callable[..., object], texts: list[str]) -> tuple[list[Any], dict[str, Any]]:
    parameters = inspect.signature(method).parameters
    kinds = {name: str(parameter.annotation) for name, parameter in parameters.items()}
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name in kinds:
            kwargs[name] = _value(kinds[name], value)
        else:
            args.append(_value([*kinds.values(), *[""] * len(texts)][len(args)], text))
    return args, kwargs


def _value(kind: str, text: str) -> Any:
    """Return *text* as a value of the parameter's type: a value of another type would make another call."""
    try:
        if text.startswith("[") or text == "null":
            return json.loads(text)
        if kind.startswith("datetime"):
            return datetime.fromisoformat(text)
        return int(text) if kind.startswith("int") else text
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}") from None


@contextmanager
def _gate(config: Path | None) -> Iterator[Gate]:
    try:
        with connect(config or Settings.from_environment(env_file=ENV_FILE)) as gate:
            yield gate
    except (TidegateError, SQLAlchemyError, StoreUnavailable) as error:
        typer.echo(f"error: {error_text(error)}", err=True)
        raise typer.Exit(2) from None
