"""Ask every end point of Dify's that reads the tables, plain and with Tidegate installed; see ``--help``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent / "inside"))

from dify_rows import APPS
from real_dify.checkout import INSIDE, ROOT, STARTUP, Dify, DifyError, find_dify
from real_dify.servers import DifyServers

_DATABASE: Final = "dify_answers"
_WORDS: Final = re.compile("workflow|/logs|statistic|node|human_input|snippet|pipeline|chat-conv|chat-mess")
_SHOWN: Final = 12
_AROUND: Final = 120
_OK: Final = 200
_MODES: Final = {"cache": (False, False), "direct": (False, True), "replica": (True, False)}
"""By their names: whether a replica is read from, and whether classes that code builds itself are gated."""
_LAST: Final = "replica"
"""The one in which rows are changed at the end."""
_TIES: Final = f"/console/api/apps/{APPS['ties']}/workflow-runs?"
"""Pages of runs of one moment: Dify's order leaves open which come first, and its cursor loses some of them."""


def main(
    api: Annotated[Path | None, typer.Argument(help="The folder 'api' of a checkout of Dify, 1.11 or later.")] = None,
    python: Annotated[
        Path | None,
        typer.Option(envvar="DIFY_PYTHON", help="The Python of Dify's environment. Default: api/.venv/bin/python."),
    ] = None,
    routes: Annotated[bool, typer.Option("--routes", help="Also list the end points that are not asked.")] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Also list what is asked, with the status of the answer.")
    ] = False,
    speed: Annotated[
        bool, typer.Option("--speed", help="Compare nothing: measure first pages plain, cold and warm.")
    ] = False,
    runs: Annotated[
        int, typer.Option(min=0, help="With --speed: how many runs with logs the app of the pages has, beside a few.")
    ] = 20_000,
) -> None:
    """Ask the console, the service API and web apps for all that is in the tables, and compare the bytes.

    A database is filled with generated rows. Dify answers plain; then with Tidegate and a cache, with classes gated
    that code builds itself, and with a replica, each cold and several times warm. At the end another program changes
    rows, and everything is asked again. What plain Dify answers in two ways is not compared, and counted. Runs that
    were made at the same moment may come in any order.

    The exit code is 1 if an answer differs, and 2 if something is missing.

    Example: python tests/dify/answers.py ../dify/api
    """
    try:
        if api is None:
            raise DifyError("name a Dify: python tests/dify/answers.py path/to/dify/api")  # noqa: TRY301  # as others
        dify = find_dify(api, python)
        folder = ROOT / "build" / "dify" / f"answers-{dify.version}"
        folder.mkdir(parents=True, exist_ok=True)
        with DifyServers() as servers:
            asking = Asking(dify, servers, folder)
            code = _measure(asking, runs) if speed else _compare(asking, routes=routes, show=show)
    except DifyError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(code)


class Asking:
    """Run processes of Dify's that ask.

    Args:
        dify: the checkout.
        servers: what they run on.
        folder: where their logs and answers go.
    """

    def __init__(self, dify: Dify, servers: DifyServers, folder: Path) -> None:
        self.dify = dify
        self._servers = servers
        self._folder = folder
        servers.fresh(_DATABASE)
        self._process("fill", "fill", None)

    def ask(self, mode: str | None, part: str = "ask", *given: str) -> Any:
        """Return what a process was answered, plain (None) or in a mode."""
        return self._process(part, f"{mode or 'plain'}-{part}", mode, *given)

    def empty_cache(self) -> None:
        """Forget all that is cached."""
        self._servers.empty_cache()

    def _process(self, part: str, name: str, mode: str | None, *given: str) -> Any:
        began = time.monotonic()
        file, log = (self._folder / f"{name}.{kind}" for kind in ("json", "log"))
        file.unlink(missing_ok=True)
        command = [str(self.dify.python), str(INSIDE / "dify_answers.py"), part, str(file), *given]
        with log.open("w") as written:
            done = subprocess.run(
                command, cwd=self.dify.api, env=self._environment(mode), stdout=written, stderr=written, check=False
            )
        if done.returncode:
            raise DifyError(f"{name}: ended with {done.returncode}; {log} says why")
        typer.echo(f"  {name}: {time.monotonic() - began:.0f} s")
        return json.loads(file.read_text()) if file.exists() else None

    def _environment(self, mode: str | None) -> dict[str, str]:
        replica, direct = _MODES[mode] if mode else (False, False)
        named = {}
        if mode:
            named["TIDEGATE_CACHE_URL"] = self._servers.cache_url
        if replica:
            named["TIDEGATE_REPLICAS"] = self._servers.url(_DATABASE, replica=True)
        if direct:
            named["TIDEGATE_DIRECT"] = "1"
        return self.dify.environment(
            *((STARTUP, INSIDE) if mode else (INSIDE,)), **self._servers.dify_settings(_DATABASE, self._folder), **named
        )


def _compare(asking: Asking, *, routes: bool, show: bool) -> int:
    typer.echo(f"Dify {asking.dify.version}: asking plain, then with Tidegate installed")
    told = asking.ask(None)
    first, *others = told["passes"]
    unstable = {asked for asked in first if any(other[asked] != first[asked] for other in others)}
    found: list[str] = []
    table: list[str] = []
    changed: Any = {}
    for mode in _MODES:
        asking.empty_cache()  # so that each mode's first pass is cold
        answers = asking.ask(mode, "live" if mode == _LAST else "ask")
        if not sum(answers["answered"].get(who, 0) for who in ("near", "store")):
            found.append(f"{mode}: the cache has answered nothing, so nothing of it was compared")
        differing = [_differences(first, one, unstable) for one in answers["passes"]]
        found += [f"{mode}, pass {n + 1}: {line}" for n, lines in enumerate(differing) for line in lines]
        table.append(_line(mode, len(first), differing, answers["answered"]))
        changed = answers.get("changed", changed)
    after = asking.ask(None, "again")["passes"][0]
    differing = [_differences(after, changed, unstable)]
    found += [f"after changes: {line}" for line in differing[0]]
    table.append(_line("changed", len(after), differing, {}))
    moved = sum(after[asked] != first[asked] for asked in after)
    if show:
        for asked, (status, body) in first.items():
            typer.echo(f"{status} {len(body):7,} {asked}")
    if routes:
        _not_asked(told["routes"], first)
    statuses = {
        status: sum(one[0] == status for one in first.values()) for status in sorted({s for s, _ in first.values()})
    }
    typer.echo(f"\n{len(first)} questions, answered plain: {statuses}; {moved} answers changed at the end")
    typer.echo(f"not compared, since plain Dify answers them in two ways: {len(unstable)}")
    for asked in sorted(unstable):
        typer.echo(f"  {asked}")
    typer.echo(f"\n{'mode':10}{'answers':>9}{'differ':>8}  answered by")
    for line in table:
        typer.echo(line)
    for line in found[:_SHOWN]:
        typer.echo(line)
    if len(found) > _SHOWN:
        typer.echo(f"and {len(found) - _SHOWN} more")
    return 1 if found else 0


def _measure(asking: Asking, runs: int) -> int:
    """Show how long first pages take: the best of many, since other programs may run beside."""
    typer.echo(f"Dify {asking.dify.version}, {runs:,} runs: measuring plain, then with Tidegate installed")
    asking.ask(None, "grow", str(runs))
    plain, installed = asking.ask(None, "speed"), asking.ask("cache", "speed")
    typer.echo(f"\n{'':26}{'plain ms':>9}{'cold ms':>9}{'warm ms':>9}{'cold':>7}{'warm':>7}  statements")
    for name, taken in installed.items():
        counts = ", ".join(f"{n:.0f}" for n in (plain[name]["statements"][0], *taken["statements"]))
        for what in ("page", "end point"):
            before, cold, warm = (
                min(one[f"{how} {what}"]) for one, how in ((plain[name], "warm"), (taken, "cold"), (taken, "warm"))
            )
            ratios = f"{before / cold:>6.1f}x{before / warm:>6.1f}x"
            line = f"{name + ', ' + what:26}{before:>9.2f}{cold:>9.2f}{warm:>9.2f}{ratios}"
            typer.echo(f"{line}  {counts if what == 'page' else ''}".rstrip())
    return 0


def _line(mode: str, asked: int, differing: list[list[str]], answered: dict[str, int]) -> str:
    who = ", ".join(f"{name}: {count:,}" for name, count in sorted(answered.items()))
    return f"{mode:10}{asked * len(differing):>9,}{sum(map(len, differing)):>8,}  {who}".rstrip()


def _differences(plain: dict[str, Any], other: dict[str, Any], unstable: set[str]) -> list[str]:
    """Return a line for each answer that differs, with what is around the first byte that does."""
    lines = []
    for asked, (status, body) in plain.items():
        status_other, body_other = other[asked]
        if _TIES in asked and status == status_other == _OK:
            body, body_other = _settled(body), _settled(body_other)  # noqa: PLW2901  # the same answer, in one order
        if asked in unstable or (status, body) == (status_other, body_other):
            continue
        pairs = enumerate(zip(body, body_other, strict=False))
        at = next((n for n, (one, two) in pairs if one != two), min(len(body), len(body_other)))
        begin = max(0, at - _AROUND // 2)
        lines.append(
            f"{asked}\n  plain     {status}: ...{body[begin : at + _AROUND]!r}"
            f"\n  installed {status_other}: ...{body_other[begin : at + _AROUND]!r}"
        )
    return lines


def _settled(body: str) -> str:
    """Return a page whose runs come in one order; only their times, where the page has not all of them."""
    page = json.loads(body)
    key = "created_at" if page["has_more"] else "id"
    rows = sorted(page["data"], key=lambda row: str(row[key]))
    return json.dumps({**page, "data": [row["created_at"] for row in rows] if page["has_more"] else rows})


def _not_asked(routes: list[str], asked: dict[str, Any]) -> None:
    """List the end points whose path has a word of the tables, and that were not asked."""
    paths = [one.partition(": ")[2].partition("?")[0] for one in asked]
    for route in routes:
        pattern = re.compile(re.sub(r"<[^>]+>", "[^/]+", route) + "$")
        if _WORDS.search(route) and not any(pattern.match(path) for path in paths):
            typer.echo(f"not asked: {route}")


if __name__ == "__main__":
    typer.run(main)
