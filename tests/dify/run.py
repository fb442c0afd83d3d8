"""``make dify DIFY=path/to/dify/api``: Dify's own tests, plain and then with Tidegate installed; see ``--help``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from real_dify.checkout import ROOT, DifyError, checkout, find_dify, version_of
from real_dify.names import differences, kept_lists, names_of
from real_dify.outcomes import lost, outcomes, passes
from real_dify.own_tests import MODES, PLAIN, SUITES, Mode, Run, run_tests, test_files
from real_dify.servers import DifyServers

_BY_NAME: Final = {mode.name: mode for mode in MODES}
_SHOWN: Final = 20
_STEP: Final = 25


def main(
    api: Annotated[Path | None, typer.Argument(help="The folder 'api' of a checkout of Dify, 1.11 or later.")] = None,
    python: Annotated[
        Path | None,
        typer.Option(envvar="DIFY_PYTHON", help="The Python of Dify's environment. Default: api/.venv/bin/python."),
    ] = None,
    suite: Annotated[list[str] | None, typer.Option(help="containers or unit; may be repeated. Default: both.")] = None,
    mode: Annotated[
        list[str] | None, typer.Option(help="cache, replica or direct; may be repeated. Default: all three.")
    ] = None,
    select: Annotated[str, typer.Option("-k", help="Only tests of such names, as pytest's -k.")] = "",
    reports: Annotated[Path | None, typer.Option(help="Folder for reports and logs. Default: build/dify/.")] = None,
    reuse: Annotated[bool, typer.Option("--reuse", help="Take plain outcomes from an earlier run's reports.")] = False,
    names: Annotated[
        Path | None,
        typer.Option(help="Run nothing: write the names of this Dify's repositories there, and compare them."),
    ] = None,
) -> None:
    """Run those of Dify's own tests that touch the tables, plain and then with Tidegate installed.

    Nothing of Dify is changed. Its tests are those whose files have a word like WorkflowRun. Their containers are
    replaced by PostgreSQL and Valkey of Tidegate's own. Tidegate comes into its process by PYTHONPATH, as it would in
    production, with a cache; with a cache and a replica; and with classes gated that the tests build themselves.

    The end is a table. The exit code is 1 if a test that passes plain does not pass in every other mode, and 2 if
    something is missing. Dify's environment must have its development packages, and what Tidegate needs: uv pip install
    --python path/to/dify/api/.venv/bin/python path/to/tidegate

    Example: make dify DIFY=../dify/api
    """
    try:
        if api is None:
            raise DifyError("name a Dify: make dify DIFY=path/to/dify/api")  # noqa: TRY301  # said like the others
        if reuse and select:
            raise DifyError("--reuse compares whole runs: leave -k out, or run plain again")  # noqa: TRY301  # as above
        if names is not None:
            raise typer.Exit(_write_names(checkout(api), names))
        suites, modes = _chosen(suite, SUITES, "--suite"), _chosen(mode, _BY_NAME, "--mode")
        selected = ["-k", select] if select else []
        dify = find_dify(api, python)
        folder = (reports or ROOT / "build" / "dify" / dify.version).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _write_names(checkout(api), folder / "names.txt")
        except DifyError as error:  # its tests say more than its names
            typer.echo(f"the names of its repositories are not compared: {error}")
        found: dict[str, dict[str, Run]] = {}
        for name in suites:
            files = test_files(dify, name)
            typer.echo(f"Dify {dify.version}, {name}: {len(files)} test files touch the tables")
            found[name] = {}
            for one in (PLAIN, *(_BY_NAME[m] for m in modes if name in _BY_NAME[m].suites)):
                if one is PLAIN and reuse and (earlier := folder / f"{name}-{PLAIN.name}.xml").exists():
                    found[name][PLAIN.name] = Run(outcomes(earlier), {})
                    continue
                with DifyServers() as servers:
                    began, shown = time.monotonic(), _Progress(name, one)
                    found[name][one.name] = run_tests(dify, name, one, servers, folder, selected, shown)
                    shown.end(time.monotonic() - began)
    except DifyError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(_show(found, folder))


class _Progress:
    """Show how far a run is: a line that changes on a terminal, and a few lines elsewhere."""

    def __init__(self, suite: str, mode: Mode) -> None:
        self._what = f"  {suite}, {mode.name}"
        self._shown = 0
        typer.echo(f"{self._what}: starting", nl=not sys.stdout.isatty())

    def __call__(self, percent: int) -> None:
        if sys.stdout.isatty():
            typer.echo(f"\r{self._what}: {percent} %     ", nl=False)
        elif percent >= self._shown + _STEP:
            self._shown = percent
            typer.echo(f"{self._what}: {percent} %")

    def end(self, seconds: float) -> None:
        begin = "\r" if sys.stdout.isatty() else ""
        typer.echo(f"{begin}{self._what}: done in {seconds:.0f} s")


def _chosen(given: list[str] | None, known: dict[str, str] | dict[str, Mode], option: str) -> list[str]:
    unknown = [name for name in given or () if name not in known]
    if unknown:
        raise DifyError(f"{option} {unknown[0]}: it is one of {', '.join(known)}")
    return given or list(known)


def _show(found: dict[str, dict[str, Run]], folder: Path) -> int:
    """Print the table, and return the exit code."""
    typer.echo(f"\n{'suite':12}{'mode':10}{'tests':>7}{'passed':>8}{'lost':>6}  answered by")
    failed: list[str] = []
    for suite, runs in found.items():
        plain = runs[PLAIN.name].outcomes
        for mode, run in runs.items():
            gone = lost(plain, run.outcomes)
            answered = ", ".join(f"{who}: {n:,}" for who, n in sorted(run.calls.get("answered", {}).items()))
            counts = f"{len(run.outcomes):>7,}{passes(run.outcomes):>8,}{len(gone):>6,}"
            typer.echo(f"{suite:12}{mode:10}{counts}  {answered}".rstrip())
            failed += [f"{suite}, {mode}: {name} {became}" for name, became in gone.items()]
            for line, times in run.calls.get("errors", {}).items():
                typer.echo(f"{'':24}{times} times: {line}")
    for line in failed[:_SHOWN]:
        typer.echo(f"lost: {line}")
    if len(failed) > _SHOWN:
        typer.echo(f"lost: and {len(failed) - _SHOWN} more")
    typer.echo(f"reports and logs: {folder}")
    return 1 if failed else 0


def _write_names(api: Path, file: Path) -> int:
    """Write the names of a Dify, say how they differ from the kept list that is nearest, and return the exit code."""
    here = names_of(api)
    file.write_text("".join(f"{line}\n" for line in here))
    typer.echo(f"Dify {version_of(api)}: {len(here)} names in {file}")
    nearest = min(kept_lists().items(), key=lambda kept: len(differences(here, kept[1])), default=None)
    if nearest is None:
        typer.echo("no list is kept: tests/dify/names-RELEASE.txt")
        return 0
    differing = differences(here, nearest[1])
    typer.echo(f"as in names-{nearest[0]}.txt" if not differing else f"unlike names-{nearest[0]}.txt, the nearest:")
    for line in differing:
        typer.echo(f"  {line}")
    return 1 if differing else 0


if __name__ == "__main__":
    typer.run(main)
