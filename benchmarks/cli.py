"""``tidegate bench`` and ``tidegate demo``; the command line finds them by the entry points ``tidegate.commands``."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Annotated, Final

import psycopg
import typer
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from tidegate.benchmarks.data.data_set import MOST_RUNS
from tidegate.error_text import error_text
from tidegate.errors import BenchmarkError, SettingsError, TidegateError
from tidegate.repositories.base import checked_count

DEMO_RUNS: Final = 10_000
DEMO_ROUNDS: Final = 20
BENCH_RUNS: Final = 100_000
BENCH_ROUNDS: Final = 60
_LEAST_ROUNDS: Final = 1
_MOST_ROUNDS: Final = 10_000

_LEAST_RUNS: Final = 1000  # with fewer, a scenario may find nothing to read
Runs = Annotated[int, typer.Option(help=f"How many runs to generate, from {_LEAST_RUNS:,} to {MOST_RUNS:,}.")]
Seed = Annotated[int, typer.Option(help="The same seed and --runs give the same rows, byte for byte.")]
Rounds = Annotated[
    int,
    typer.Option(
        help=f"How many rounds to measure, from {_LEAST_ROUNDS} to {_MOST_ROUNDS:,}. "
        "A round times each call up to 5 times."
    ),
]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the report to this file, as JSON.")]
Url = Annotated[
    str | None,
    typer.Option(
        help="An empty database on a test server of your own \\[default: a server is started, and removed at the end]. "
        "The benchmark makes two databases beside it, and drops them at the end; your user must have the right to.",
        show_default=False,
    ),
]
CacheUrl = Annotated[
    str | None,
    typer.Option(
        help="A Valkey or Redis for tests, used together with --url; the benchmark's entries stay there until they "
        "expire \\[default: with --url, the cache is not measured].",
        show_default=False,
    ),
]


def bench(
    runs: Runs = BENCH_RUNS,
    seed: Seed = 1,
    rounds: Rounds = BENCH_ROUNDS,
    json_path: Json = None,
    url: Url = None,
    cache_url: CacheUrl = None,
) -> None:
    """Measure the repositories, plain and behind the cache, against the statements of Dify 1.12, on the same rows.

    The rows are loaded into two databases: one with Dify's indexes only, for the baseline, and one with Tidegate's
    indexes beside them. The answers are compared, and then every scenario is timed with both by turns. The disk space
    that this needs is printed first.

    Example: tidegate bench --runs 100000 --seed 7 --json report.json
    """
    _run(runs, seed, rounds, json_path, url, cache_url)


def demo(seed: Seed = 1, json_path: Json = None) -> None:
    """Run the benchmark in small: 10,000 runs, in a minute or two, with nothing to set up.

    Example: tidegate demo
    """
    _run(DEMO_RUNS, seed, DEMO_ROUNDS, json_path)


def _run(
    runs: int,
    seed: int,
    rounds: int,
    json_path: Path | None,
    url: str | None = None,
    cache_url: str | None = None,
) -> None:
    # Import these here, so that other commands do not wait for them.
    from tidegate.benchmarks.cache.benchmark import BENCH, DEMO
    from tidegate.benchmarks.data.data_set import DataSet
    from tidegate.benchmarks.data.databases import server_url
    from tidegate.benchmarks.progress import Steps
    from tidegate.benchmarks.report import WIDTH, as_json, show
    from tidegate.benchmarks.routing.size import BENCH as ROUTING_BENCH
    from tidegate.benchmarks.routing.size import DEMO as ROUTING_DEMO
    from tidegate.benchmarks.run import run_benchmark
    from tidegate.benchmarks.sharding.size import BENCH as SHARDING_BENCH
    from tidegate.benchmarks.sharding.size import DEMO as SHARDING_DEMO

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    try:
        _check_drivers()
        checked_count("runs", runs, _LEAST_RUNS, MOST_RUNS)
        checked_count("--rounds", rounds, _LEAST_ROUNDS, _MOST_ROUNDS)
        _check_writable(json_path)
        server = server_url(url) if url else None
        data_set = DataSet(runs, seed)
        report = run_benchmark(
            data_set,
            rounds=rounds,
            server=server,
            steps=Steps(console),
            cache_url=cache_url,
            cache_size=BENCH if runs >= BENCH_RUNS else DEMO,
            routing_size=None if server else ROUTING_BENCH if runs >= BENCH_RUNS else ROUTING_DEMO,
            sharding_size=None if server else SHARDING_BENCH if runs >= BENCH_RUNS else SHARDING_DEMO,
        )
    except (TidegateError, SQLAlchemyError, psycopg.Error, ValueError) as error:
        typer.echo(f"error: {error_text(error)}", err=True)
        raise typer.Exit(2) from None
    show(report, Console(width=max(WIDTH, console.width)))  # a narrow terminal breaks lines, and no figure is lost
    if json_path:
        json_path.write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
        console.print(f"written: {json_path}", highlight=False)


def _check_drivers() -> None:
    missing = [name for name in ("psycopg2", "psutil") if importlib.util.find_spec(name) is None]
    if missing:
        raise BenchmarkError(f"{' and '.join(missing)} is missing; install: pip install 'tidegate[bench]'")


def _check_writable(path: Path | None) -> None:
    """Raise before the work, and not after it, if *path* cannot be written."""
    if path is None:
        return
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise SettingsError(
            f"--json {path} cannot be written: {error.strerror}; give a file in a folder that exists"
        ) from None
