"""``tidegate shards``: the shard map, what each shard has, and flipping slots; from the settings, without a gate."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer
from sqlalchemy.exc import SQLAlchemyError

from tidegate.error_text import error_text, first_line
from tidegate.errors import SettingsError, TidegateError
from tidegate.proxy.settings import ENV_FILE, Settings, variables
from tidegate.proxy.shard_admin.check import check as check_shards
from tidegate.proxy.shard_admin.citus import citus_ddl
from tidegate.proxy.shard_admin.databases import Databases
from tidegate.proxy.shard_admin.move_slots import SlotMoves
from tidegate.proxy.shard_admin.progress import progress
from tidegate.proxy.shard_admin.report import look, map_lines, shard_lines, slots_text
from tidegate.routing.sharding.slots import SLOTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.proxy.shard_admin.move_slots import Move
    from tidegate.routing.sharding.shard_map import ShardMap

_AT_ONCE: Final = 8
_INTERRUPTED: Final = 130
_STRETCH: Final = re.compile(r"\s*([0-9]{1,4})(?:-([0-9]{1,4}))?\s*").fullmatch

Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML file with a \\[\\[shards]] section for each shard \\[default: TIDEGATE_CONFIG].", show_default=False
    ),
]
RowsCopied = Annotated[
    bool,
    typer.Option(
        "--rows-copied",
        help="Confirm that the rows of these slots' tenants were copied to the new shard, and that no writer runs.",
    ),
]
DrainS = Annotated[
    float, typer.Option(min=0.1, help="How many seconds begun writes may take to end; new ones are refused meanwhile.")
]

shards_app = typer.Typer(invoke_without_command=True)


@shards_app.callback()
def shards(
    context: typer.Context,
    config: Config = None,
    top: Annotated[int, typer.Option(min=0, help="How many of the busiest tenants to show for each shard.")] = 5,
    hours: Annotated[float, typer.Option(min=0.01, help="Count the runs of the last so many hours.")] = 24,
) -> None:
    """Show the shard map, and of each shard its slots, its tables and its busiest tenants.

    Rows and tenants of tables of up to 16 MiB are counted. For larger ones, ~ marks a number from the statistics, and -
    means that the table was not analyzed yet. Sizes include indexes and TOAST. The busiest tenants are those with the
    most runs created in the last 24 hours (--hours), found by the index on created_at: the longer the time, the more is
    read.

    Exits with 1 if a shard does not answer. The other commands change what is shown here, or check it.

    Example: tidegate shards --config tidegate.toml --top 3 --hours 1
    """
    if context.invoked_subcommand is not None:
        context.obj = config
        return
    with _databases(config) as databases:
        known = databases.known()
        for line in map_lines(known, databases.names):
            typer.echo(line)
        names = list(dict.fromkeys((*known.shard_map.shards, *databases.names)))
        with progress("asking the shards") as report, ThreadPoolExecutor(_AT_ONCE) as pool:
            seen = list(pool.map(lambda name: look(databases, name, report, hours=hours, most=top), names))
        for one in seen:
            typer.echo("")
            for line in shard_lines(one, known.shard_map, hours):
                typer.echo(line)
        if not all(one.answers for one in seen):
            raise typer.Exit(1)


@shards_app.command()
def check(context: typer.Context, config: Config = None) -> None:
    """Check that every row is on the shard that owns its tenant, and that the shards own what the map says.

    In tables with a tenant, each distinct tenant is looked up in the map, by an index where one begins with the tenant.
    Rows without a tenant (pauses, their reasons) must be on the same shard as the row that they name. Nothing is
    changed, and gates go on meanwhile. Tables of repositories other than Tidegate's own are not checked.

    Exits with 0 if all agrees. Exits with 1, and prints a line for each problem, if something does not agree or could
    not be asked.

    Example: tidegate shards check --config tidegate.toml
    """
    with _databases(config or context.obj) as databases:
        with progress("checking") as report:
            result = check_shards(databases, report)
        for line in result.wrong:
            typer.echo(line)
        for line in result.advice:
            typer.echo(f"what to do: {line}")
        typer.echo(result.summary)
        if result.wrong:
            raise typer.Exit(1)


@shards_app.command()
def flip(
    context: typer.Context,
    slots: Annotated[str, typer.Option(help=f"Slots from 0 to {SLOTS - 1}, like 5-7,9.")],
    to: Annotated[str, typer.Option(help="The shard that gets them.")],
    config: Config = None,
    rows_copied: RowsCopied = False,
    drain_s: DrainS = 5.0,
) -> None:
    """Flip slots to another shard. This changes the owner of the slots, and moves no rows.

    It is refused while tenants of these slots have rows, on the old shard or on the new one. This is checked before it
    begins, and once more when no write is under way. If several shards own these slots, there is one flip for each of
    them. Slots that the new shard owns already are left alone, so it is safe to run this again. If it is interrupted,
    tidegate shards finish completes it.

    Example: tidegate shards flip --slots 1024-1535 --to s3
    """
    wanted = _slots(slots)
    with _databases(config or context.obj) as databases, progress("flipping") as report:
        moves = SlotMoves(databases, report, rows_copied=rows_copied, drain_s=drain_s)
        planned = moves.to(wanted, to)
        moves.verify_empty(planned)
        _carry_out(moves, planned, f"{to} owns these slots already")


@shards_app.command()
def finish(
    context: typer.Context, config: Config = None, rows_copied: RowsCopied = False, drain_s: DrainS = 5.0
) -> None:
    """Finish a flip that was interrupted, or whose process died; do nothing if there is none.

    Example: tidegate shards finish
    """
    with _databases(config or context.obj) as databases, progress("finishing") as report:
        flipped, shard_map = SlotMoves(databases, report, rows_copied=rows_copied, drain_s=drain_s).finish()
        if flipped is None:
            typer.echo(f"no flip is under way; the map is at epoch {shard_map.epoch}")
            return
        typer.echo(f"finished: slots {slots_text(flipped.slots)} from {flipped.from_shard} to {flipped.to_shard}")
        typer.echo(f"the map is at epoch {shard_map.epoch}")


@shards_app.command()
def add(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="The new shard's name; the settings must have a \\[\\[shards]] section for it.")
    ],
    config: Config = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show which slots would move, and change nothing.")
    ] = False,
    rows_copied: RowsCopied = False,
    drain_s: DrainS = 5.0,
) -> None:
    """Add a shard to the map, and flip its share of slots to it, in proportion from each of the others.

    First add a [[shards]] section for it to the settings of every gate. Then give its database the application's
    tables, and Tidegate's own (tidegate init --url). It is refused while tenants of the slots that would move have
    rows: moving rows is not built. If it is interrupted, run it again: it goes on where it was.

    Example: tidegate shards add s3 --dry-run
    """
    with _databases(config or context.obj) as databases, progress("adding") as report:
        moves = SlotMoves(databases, report, rows_copied=rows_copied, drain_s=drain_s)
        planned = moves.to_add(name)
        if dry_run:
            for move in planned:
                typer.echo(f"would move: {_moved(move)}")
            return
        moves.verify_empty(planned)
        moves.make_known(name)
        _carry_out(moves, planned, f"{name} has its share already")


@shards_app.command()
def repair(context: typer.Context, config: Config = None) -> None:
    """Publish what the shards own as the map, where a failover lost the catalogue's newest map; else do nothing.

    Every unit must have one owner, and every shard must answer. The map gets an epoch that no gate has had, so that all
    gates follow it. No shard gets or loses anything.

    Example: tidegate shards repair
    """
    with _databases(config or context.obj) as databases, progress("reading what the shards own") as report:
        made = SlotMoves(databases, report).repair()
        if made is None:
            typer.echo("the catalogue has lost nothing; nothing was changed")
            return
        typer.echo(f"published what the shards own as the map of epoch {made.epoch}; run: tidegate shards check")


@shards_app.command()
def ddl(
    citus: Annotated[bool, typer.Option("--citus", help="For Citus, the only extension that is supported.")] = False,
) -> None:
    """Print the statements that make an extension of PostgreSQL place the rows instead; needs no database.

    With Citus, a gate runs unsharded on its coordinator. docs/sharding.md says what of that was tried, and which
    methods cannot work there.

    Example: tidegate shards ddl --citus > citus.sql
    """
    if not citus:
        raise typer.BadParameter("name the extension: tidegate shards ddl --citus")
    for part in citus_ddl():
        typer.echo(part)


def _carry_out(moves: SlotMoves, planned: list[Move], nothing: str) -> None:
    if not planned:
        typer.echo(f"{nothing}; nothing was changed")
        return
    shard_map: ShardMap = moves.carry_out(planned, lambda move: typer.echo(f"moved: {_moved(move)}"))
    typer.echo(f"the map is at epoch {shard_map.epoch}")


def _moved(move: Move) -> str:
    return f"{len(move.slots)} slots from {move.from_shard} to {move.to_shard}: {slots_text(move.slots)}"


def _slots(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        matched = _STRETCH(part)
        if matched is None:
            raise typer.BadParameter(f"--slots {text!r}: {part.strip()!r} is no slot or range; expected 5-7,9 or alike")
        first, last = matched.groups()
        numbers = range(int(first), int(last or first) + 1)
        if not numbers or numbers[-1] >= SLOTS:
            raise typer.BadParameter(
                f"--slots {text!r}: {part.strip()!r} is not in rising order, or not from 0 to {SLOTS - 1}"
            )
        found += numbers
    return found


@contextmanager
def _databases(config: Path | None) -> Iterator[Databases]:
    """Give the shards' databases; print their errors as one line without passwords, and exit with status 2."""
    try:
        given = variables(ENV_FILE)
        if config is None and not (given.config or given.database_url):
            raise SettingsError("no settings: give --config a TOML file, or set TIDEGATE_CONFIG to the path of one")
        settings = Settings.from_environment(env_file=ENV_FILE) if config is None else Settings.from_toml(config)
        with Databases(settings) as databases:
            yield databases
    except (TidegateError, SQLAlchemyError) as error:
        _fail(first_line(error) if isinstance(error, SQLAlchemyError) else error_text(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted; to see whether a flip is still under way, run: tidegate shards", _INTERRUPTED)


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(status) from None
