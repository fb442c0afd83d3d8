"""The command line: ``tidegate --help``."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tidegate.cache.redis_url import shown_url
from tidegate.errors import SettingsError, TidegateError
from tidegate.proxy.cache_cli import invalidate, switch
from tidegate.proxy.commands import add_commands
from tidegate.proxy.embedded.cli import cluster_app
from tidegate.proxy.shards_cli import shards_app
from tidegate.proxy.state import ddl, drop_tables, make_tables, missing_tables, replace_serving_cache
from tidegate.repositories.indexes import INDEXES, Progress, create_indexes, drop_indexes, index_states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Tidegate: see each command's --help.")
app.add_typer(cluster_app, name="cluster")
app.add_typer(shards_app, name="shards")
app.command()(invalidate)
app.command()(switch)
add_commands(app)

_console = Console()
Url = Annotated[
    str | None,
    typer.Option(help="SQLAlchemy URL of the primary \\[default: TIDEGATE_DATABASE_URL].", show_default=False),
]


@app.command()
def init(
    url: Url = None,
    sql: Annotated[bool, typer.Option("--sql", help="Print the DDL and change nothing; needs no database.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Drop what init made.")] = False,
    cache_url: Annotated[
        str | None,
        typer.Option(help="The cache that serves this database from now on; start every gate anew with it afterwards."),
    ] = None,
) -> None:
    """Create Tidegate's tables and indexes, while the database is in use.

    Each index is created CONCURRENTLY, so no write waits. One that was broken off is found and built again; what is
    there is left alone, so running this again is harmless.

    Example: tidegate init --url postgresql+psycopg://dify:secret@db/dify
    """
    if sql:
        for statement in (*ddl(undo=undo), *(spec.drop_sql() if undo else spec.create_sql() for spec in INDEXES)):
            typer.echo(statement + ";")
        return
    with _engine(url) as engine:
        if undo:
            typer.echo(f"dropped: {', '.join(drop_indexes(engine) + drop_tables(engine)) or 'nothing was there'}")
            return
        made = make_tables(engine)
        if cache_url:
            replace_serving_cache(engine, shown_url(cache_url))
        with Bars(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=_console) as bars:
            created = create_indexes(engine, _show(bars))
        typer.echo(f"created: {', '.join(made + created) or 'nothing, all are there'}")


@app.command()
def doctor(url: Url = None) -> None:
    """Check a database for what Tidegate needs; exits with 1 if something is missing."""
    with _engine(url) as engine:
        wrong = {name: state for name, state in index_states(engine).items() if state != "valid"}
        for name, state in wrong.items():
            typer.echo(f"index {name} is {state}: pages cost more the larger an app is; run: tidegate init")
        missing = missing_tables(engine)
        for name in missing:
            typer.echo(f"table {name} is missing: a gate makes it if it may; run: tidegate init")
        if wrong or missing:
            raise typer.Exit(1)
        typer.echo("all indexes and tables are there")


def _show(bars: Bars) -> Callable[[Progress], None]:
    tasks = {spec.name: bars.add_task(spec.name, total=None, visible=False) for spec in INDEXES}

    def show(now: Progress) -> None:
        bars.update(
            tasks[now.index],
            description=f"{now.index}: {now.phase}",
            completed=now.blocks_done,
            total=now.blocks_total or None,
            visible=True,
        )

    return show


@contextmanager
def _engine(url: str | None) -> Iterator[Engine]:
    """An engine, and its errors as one line without the password, and exit status 2."""
    given = url or os.environ.get("TIDEGATE_DATABASE_URL")
    try:
        engine = _engine_for(given)
    except SettingsError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    try:
        yield engine
    except (TidegateError, SQLAlchemyError) as error:
        cause = str(getattr(error, "orig", None) or error).strip()
        password = str(engine.url.password or "")
        typer.echo(f"error: {cause.replace(password, '***') if password else cause}", err=True)
        raise typer.Exit(2) from None
    finally:
        engine.dispose()


def _engine_for(given: str | None) -> Engine:
    if not given:
        raise SettingsError("no database: give --url or set TIDEGATE_DATABASE_URL, like postgresql+psycopg://host/dify")
    try:
        return create_engine(make_url(given))
    except (ArgumentError, ImportError, ValueError) as error:  # whose messages may hold the URL
        raise SettingsError(
            f"the database's URL cannot be used ({type(error).__name__}); expected postgresql+psycopg://user@host/dify"
        ) from None
