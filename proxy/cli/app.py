"""The command line: ``tidegate --help``."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from tidegate.cache.redis.url import shown_url
from tidegate.error_text import error_text, first_line, remember_password
from tidegate.errors import SettingsError, TidegateError
from tidegate.proxy.cli.cache import Config, explain, invalidate, switch
from tidegate.proxy.cli.plugins import add_commands
from tidegate.proxy.cli.shards import shards_app
from tidegate.proxy.database.identity import end_history
from tidegate.proxy.database.schema import ddl, drop_tables, make_tables
from tidegate.proxy.database.serving import replace_serving_cache
from tidegate.proxy.dify.cli import run
from tidegate.proxy.dify.report import report
from tidegate.proxy.doctor.facts import collect
from tidegate.proxy.doctor.nodes import examine
from tidegate.proxy.doctor.rules import all_is_well, findings
from tidegate.proxy.doctor.shards import examine_databases
from tidegate.proxy.embedded.cli import cluster_app
from tidegate.proxy.settings import ENV_FILE, Settings, ShardSettings, variables
from tidegate.proxy.shard_admin.databases import Databases
from tidegate.proxy.tracking.dropping import drop_triggers, old_triggers, prune_triggers
from tidegate.proxy.tracking.tracked_tables import Tables
from tidegate.proxy.tracking.triggers import LOCK_ATTEMPTS, make_triggers, missing_triggers, triggers_sql
from tidegate.repositories.indexes import INDEXES, Progress, create_indexes, drop_indexes
from tidegate.repositories.tracked import TRACKED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Engine

    from tidegate.proxy.doctor.finding import Finding

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Tidegate: see each command's --help.")
app.add_typer(cluster_app, name="cluster")
app.add_typer(shards_app, name="shards")
app.command()(invalidate)
app.command()(switch)
app.command()(explain)
app.command()(run)
add_commands(app)

T = TypeVar("T")
_console = Console()
Url = Annotated[
    str | None,
    typer.Option(
        help="SQLAlchemy URL of the primary \\[default: TIDEGATE_DATABASE_URL, also of .env].", show_default=False
    ),
]


@app.command()
def init(
    url: Url = None,
    config: Config = None,
    sql: Annotated[bool, typer.Option("--sql", help="Print the DDL and change nothing; needs no database.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Drop the tables, triggers and indexes that init made.")] = False,
    cache_url: Annotated[
        str | None,
        typer.Option(help="The cache that serves this database from now on; afterwards restart every gate with it."),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option(
            help="With --sql: the schema of the application's tables \\[default: public].", show_default=False
        ),
    ] = None,
    new_history: Annotated[
        bool,
        typer.Option("--new-history", help="This server is the primary, although the cache knows of a newer one."),
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Drop the triggers of older releases too, once none of their gates runs.")
    ] = False,
    untracked: Annotated[
        list[str] | None,
        typer.Option(
            help="With --prune: a table that no gate tracks any more, as doctor names it; may be given several times.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Create Tidegate's tables, triggers and indexes, while the database is in use.

    The triggers note what changes in the tables that the repositories read, whoever changes it. A table is locked
    for a moment while its triggers are made, for readers too; that lock is waited for 2 s at most, and tried again.

    Each index is created CONCURRENTLY, so no write waits. An index that was not built to the end is found and built
    again. What is there already is left as it is, so it is safe to run this again. With a TOML file, this is done for
    each of its shards; --url takes precedence over the file.

    Triggers of an older release stay beside those of this one, as its gates need them. Run --prune when the last gate
    of that release has ended, and not before: for half a minute nobody would note what such a gate's cached answers
    depend on. A repository of your own tracks tables that init does not know: these are left alone, unless --untracked
    names them.

    Example: tidegate init --url postgresql+psycopg://dify:secret@db/dify
    """
    _refuse_contradictions(sql=sql, undo=undo, schema=schema, to_change=bool(cache_url or new_history))
    if prune and (sql or undo):
        _refuse("--prune asks the database what is old: it goes with neither --sql nor --undo")
    if untracked and not prune:
        _refuse("--untracked says what to drop, and goes with --prune")
    if sql:
        for statement in _statements(schema or "public", undo=undo):
            typer.echo(statement + ";")
        return

    def change(engine: Engine, whose: str) -> None:
        if undo:
            _undo(engine, whose)
            return
        _init(engine, whose, cache_url=cache_url, new_history=new_history)
        if prune:
            _prune(engine, whose, untracked or ())

    _on_every_primary(_refused_in_one_line(lambda: _settings(url, None, config)), change)


def _refuse_contradictions(*, sql: bool, undo: bool, schema: str | None, to_change: bool) -> None:
    if schema and not sql:
        _refuse("--schema goes with --sql: without it, the database is asked where the tables are")
    if sql and to_change:
        _refuse("--sql changes nothing: it goes with neither --cache-url nor --new-history")
    if undo and to_change:
        _refuse("--undo drops everything: it goes with neither --cache-url nor --new-history")


def _prune(engine: Engine, whose: str, untracked: Sequence[str]) -> None:
    there = [old.on for old in old_triggers(engine, Tables(TRACKED))]
    gone = prune_triggers(engine, Tables(TRACKED), untracked)
    typer.echo(f"{whose}pruned: {', '.join(gone) or 'nothing, no trigger is old'}")
    for name in (name for name in untracked if name not in there):
        typer.echo(f"{whose}{name} has no old triggers; these tables had some: {', '.join(there) or 'none'}")


def _on_every_primary(settings: Settings, do: Callable[[Engine, str], None]) -> None:
    """Call *do* with each primary, and with what its lines begin with."""
    if len(settings.shards) > 1:
        with _databases(settings) as databases:
            for name in databases.names:
                do(databases.engine(name), f"{name}: ")
        return
    with _engine(settings.shards[0].primary if settings.shards else None) as engine:
        do(engine, "")


def _refuse(why: str) -> NoReturn:
    typer.echo(f"error: {why}", err=True)
    raise typer.Exit(2)


def _statements(schema: str, *, undo: bool) -> list[str]:
    triggers = triggers_sql(Tables(TRACKED), schema, undo=undo)
    indexes = [spec.drop_sql() if undo else spec.create_sql() for spec in INDEXES]
    return [*triggers, *ddl(undo=True, schema=schema), *indexes] if undo else [*ddl(schema=schema), *triggers, *indexes]


def _undo(engine: Engine, whose: str) -> None:
    triggers = drop_triggers(engine)  # first: while there are triggers, writers use the tables
    tables = _refused_in_one_line(partial(drop_tables, engine))
    gone = ", ".join(drop_indexes(engine) + tables + triggers)
    typer.echo(f"{whose}dropped: {gone or 'nothing was there'}")


def _init(engine: Engine, whose: str, *, cache_url: str | None, new_history: bool) -> None:
    made = make_tables(engine)
    triggered = make_triggers(engine, missing_triggers(engine, Tables(TRACKED)), attempts=LOCK_ATTEMPTS)
    made += [f"triggers of {name}" for name in triggered]
    if cache_url:
        replace_serving_cache(engine, shown_url(cache_url))
        typer.echo(f"{whose}served by {shown_url(cache_url)} from now on: restart every gate with it")
    if new_history:
        ended = end_history(engine)
        typer.echo(
            whose + ("its history has ended: a gate makes a new one" if ended else "it has no history to end yet")
        )
    with Bars(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=_console) as bars:
        created = _refused_in_one_line(partial(create_indexes, engine, _show(bars)))
    typer.echo(f"{whose}created: {', '.join(made + created) or 'nothing, all are there'}")


@app.command()
def doctor(
    url: Url = None,
    cache_url: Annotated[
        str | None,
        typer.Option(help="URL of the cache \\[default: TIDEGATE_CACHE_URL, also of .env].", show_default=False),
    ] = None,
    config: Config = None,
    processes: Annotated[int, typer.Option(min=1, help="How many processes will have a gate.")] = 1,
    dify: Annotated[
        bool,
        typer.Option("--dify", help="Say what becomes of each method of the Dify in this folder, and ask no server."),
    ] = False,
) -> None:
    """Check a database, its cache and its servers for what Tidegate needs; exit with 1 if something is wrong.

    A note is something that only costs performance. Nothing is changed. --url and --cache-url take precedence over a
    TOML file. With a TOML file, every server that it names is asked: whether it is what it should be, how far behind it
    is, and whether it takes as many connections as the pools of all processes may open.

    Example: tidegate doctor --config tidegate.toml --processes 8
    """
    if dify:
        typer.echo("\n".join(_refused_in_one_line(_of_dify)))
        return
    settings = _refused_in_one_line(lambda: _settings(url, cache_url, config))
    found, well = _examined_databases(settings)
    if config or (url is None and variables(ENV_FILE).config):
        for shard in settings.shards:
            with _console.status(f"asking the servers of {shard.name} ..."):
                examined = _refused_in_one_line(partial(examine, shard, settings, processes))
            typer.echo("\n".join(examined.budgets))
            found += examined.findings
    for finding in found:
        typer.echo(("" if finding.grave else "note: ") + finding.text())
    if any(finding.grave for finding in found):
        raise typer.Exit(1)
    typer.echo("\n".join(well))


def _of_dify() -> list[str]:
    try:
        return report()
    except ImportError as error:
        raise SettingsError(str(error)) from error


def _examined_databases(settings: Settings) -> tuple[list[Finding], list[str]]:
    """Return what is wrong with the databases and the cache, and the lines to print if nothing is gravely wrong."""
    if len(settings.shards) > 1:
        with _databases(settings) as databases, _console.status("") as status:
            return examine_databases(databases, lambda name: status.update(f"asking the database of {name} ..."))
    with _engine(settings.shards[0].primary if settings.shards else None) as engine:
        facts = collect(engine, settings.cache)
        found = findings(facts)
        return found, [] if any(finding.grave for finding in found) else all_is_well(facts)


def _settings(url: str | None, cache_url: str | None, config: Path | None) -> Settings:
    """Return the settings that a gate would be made of."""
    file = config or (None if url else variables(ENV_FILE).config)
    given = Settings.from_toml(Path(file)) if file else Settings()
    if url or not given.shards:
        primary = url or variables(ENV_FILE).database_url
        given = given.model_copy(update={"shards": (ShardSettings(name="s0", primary=primary),) if primary else ()})
    cache = cache_url or given.cache.url or (None if file else variables(ENV_FILE).cache_url)
    return given.model_copy(update={"cache": given.cache.model_copy(update={"url": cache})})


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
    """Give an engine; print its errors as one line without the password, and exit with status 2."""
    engine = _refused_in_one_line(lambda: _engine_for(url or variables(ENV_FILE).database_url))
    try:
        yield engine
    except (TidegateError, SQLAlchemyError) as error:
        typer.echo(f"error: {error_text(error)}", err=True)
        raise typer.Exit(2) from None
    finally:
        engine.dispose()


@contextmanager
def _databases(settings: Settings) -> Iterator[Databases]:
    """Give the databases of several shards; print their errors as one line without passwords, with exit status 2."""
    with _refused_in_one_line(lambda: Databases(settings)) as databases:
        try:
            yield databases
        except (TidegateError, SQLAlchemyError) as error:
            message = first_line(error) if isinstance(error, SQLAlchemyError) else error_text(error)
            typer.echo(f"error: {message}", err=True)
            raise typer.Exit(2) from None


def _refused_in_one_line(make: Callable[[], T]) -> T:
    try:
        return make()
    except SettingsError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _engine_for(given: str | None) -> Engine:
    if not given:
        raise SettingsError(
            "no database: give --url or set TIDEGATE_DATABASE_URL, in the environment or in .env, like postgresql+psycopg://host/dify"
        )
    try:
        url = make_url(given)
        remember_password(url.password)
        return create_engine(url)
    except (ArgumentError, ImportError, ValueError) as error:  # their messages may hold the URL, and so the password
        raise SettingsError(
            f"the database's URL cannot be used ({type(error).__name__}); expected postgresql+psycopg://user@host/dify"
        ) from None
