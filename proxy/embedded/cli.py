"""``tidegate cluster``: embedded servers for trying things out."""

from __future__ import annotations

import signal
from typing import Annotated, Final

import typer
from rich.console import Console

from tidegate.errors import TidegateError
from tidegate.proxy.embedded.cluster import Cluster

_INTERRUPTED: Final = 128 + signal.SIGINT

cluster_app = typer.Typer(
    no_args_is_help=True, help="Run PostgreSQL and Valkey of Tidegate's own, for trying things out."
)


@cluster_app.callback()
def cluster() -> None:
    """Run PostgreSQL and Valkey of Tidegate's own, for trying things out."""


@cluster_app.command()
def up(
    shards: Annotated[int, typer.Option(help="How many primaries to start, from 1 to 16.")] = 1,
    replicas: Annotated[int, typer.Option(help="How many replicas each primary has, from 0 to 16.")] = 0,
) -> None:
    """Run servers in the foreground until Ctrl-C, and print their URLs. Their data are removed afterwards.

    They listen on 127.0.0.1 and have no password: any user of this machine can connect while they run.
    """
    console = Console()
    try:
        with console.status("starting servers ..."):
            running = Cluster(shards, replicas).start()
    except TidegateError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("interrupted before all servers ran", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    try:
        _print_urls(running)
        signal.pause()
    except KeyboardInterrupt:
        typer.echo("ending ...")
    finally:
        running.close()


def _print_urls(running: Cluster) -> None:
    for i, shard in enumerate(running.shards):
        typer.echo(f"shard {i} primary    {shard.primary.url}")
        for j, replica in enumerate(shard.replicas):
            typer.echo(f"shard {i} replica {j}  {replica.url}")
    typer.echo(f"cache              {running.cache.url}")
    typer.echo("Ctrl-C ends them.")
