"""Commands on a running cache: ``tidegate invalidate`` and ``tidegate switch``."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from tidegate.cache.store import StoreUnavailable
from tidegate.errors import TidegateError
from tidegate.proxy.build import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.proxy.gate import Gate

Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML file of the gate \\[default: TIDEGATE_CONFIG, or TIDEGATE_DATABASE_URL and TIDEGATE_CACHE_URL].",
        show_default=False,
    ),
]


def invalidate(
    tenant: Annotated[str, typer.Argument(help="The tenant's id.")],
    app: Annotated[str | None, typer.Option(help="Only answers about this app.")] = None,
    run: Annotated[str | None, typer.Option(help="Only answers about this run and its node executions.")] = None,
    config: Config = None,
) -> None:
    """Void what is cached of a tenant: after a change that no gate saw, like SQL by hand.

    Nothing is searched for and nothing is deleted: the tenant's marks are raised, and entries below them are stale.

    Example: tidegate invalidate 7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10 --app 1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20
    """
    with _gate(config) as gate:
        gate.invalidate(tenant, app_id=app, run_id=run)
    typer.echo("invalidated")


def switch(
    state: Annotated[str, typer.Argument(help="on or off.")],
    name: Annotated[str, typer.Argument(help="all, method:get_workflow_run_by_id, or tenant:<id>.")] = "all",
    config: Config = None,
) -> None:
    """Switch the cache off or on for every gate on this database, within about a second.

    What is off is read from the database; writes go on marking what they change, so nothing is stale afterwards.

    Example: tidegate switch off method:get_workflow_runs_count
    """
    if state not in ("on", "off"):
        raise typer.BadParameter(f"{state!r}: expected on or off")
    with _gate(config) as gate:
        gate.switch(name, off=state == "off")
    typer.echo(f"{name} is {state}")


@contextmanager
def _gate(config: Path | None) -> Iterator[Gate]:
    try:
        with connect(config) as gate:
            yield gate
    except (TidegateError, SQLAlchemyError, StoreUnavailable) as error:
        typer.echo(f"error: {getattr(error, 'orig', None) or error}", err=True)
        raise typer.Exit(2) from None
