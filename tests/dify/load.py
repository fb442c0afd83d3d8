"""Poll a real Dify under load while its Celery worker writes, plain and with Tidegate installed; see ``--help``."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent / "inside"))

from dify_rows import APPS, run_id
from real_dify.celery_writer import celery_writer
from real_dify.checkout import INSIDE, ROOT, STARTUP, Dify, DifyError, find_dify
from real_dify.polling import Commits, Seen, poll
from real_dify.servers import DifyServers
from real_dify.warming import warm

from tidegate.proxy.embedded.process import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

_DATABASE: Final = "dify_load"
_START_S: Final = 900.0
_RUNNING: Final = [run_id("flow", number) for number in range(30, 36)]
"""The runs that Dify's worker writes, and clients poll."""
_CONSOLE: Final = f"/console/api/apps/{APPS['flow']}"
_PATHS: Final = {
    "run": [f"{_CONSOLE}/workflow-runs/{run}" for run in _RUNNING],
    "nodes": [f"{_CONSOLE}/workflow-runs/{run_id('flow', number)}/node-executions" for number in range(18, 36)],
    "run list": [f"{_CONSOLE}/workflow-runs?limit=20&triggered_from={source}" for source in ("app-run", "debugging")],
    "log page": [f"{_CONSOLE}/workflow-app-logs?page={page}&limit=10" for page in (1, 2)],
}


def main(
    api: Annotated[Path | None, typer.Argument(help="The folder 'api' of a checkout of Dify, 1.11 or later.")] = None,
    python: Annotated[
        Path | None,
        typer.Option(envvar="DIFY_PYTHON", help="The Python of Dify's environment. Default: api/.venv/bin/python."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long clients poll, each time.")] = 60.0,
    rounds: Annotated[int, typer.Option(min=1, help="How often they poll each of the two, in turn.")] = 2,
    clients: Annotated[int, typer.Option(min=1, help="How many clients poll at once.")] = 50,
    workers: Annotated[int, typer.Option(min=1, help="How many gevent workers gunicorn has.")] = 4,
    window_ms: Annotated[float, typer.Option(help="How old an answer may be: the outbox window.")] = 1000.0,
) -> None:
    """Measure Dify under gunicorn with gevent workers: clients poll runs and logs, and Dify's Celery worker writes.

    Plain and with Tidegate and a cache, in turn, on the same servers in one run: plain first and then second, so that
    whatever the machine does beside hits both alike. The worker does Dify's own tasks, and knows nothing of Tidegate.
    What is answered with a counter that had been overtaken for longer than the outbox window is stale. The exit code
    is 1 if anything is, or if an answer is an error, and 2 if something is missing.

    Example: python tests/dify/load.py ../dify/api
    """
    try:
        if api is None:
            raise DifyError("name a Dify: python tests/dify/load.py path/to/dify/api")  # noqa: TRY301  # as others
        dify = find_dify(api, python)
        folder = ROOT / "build" / "dify" / f"load-{dify.version}"
        folder.mkdir(parents=True, exist_ok=True)
        with DifyServers() as servers:
            servers.fresh(_DATABASE)
            load = _Load(dify, servers, folder, workers)
            load.ask("fill")
            typer.echo(f"Dify {dify.version}: {clients} clients, {workers} workers, {rounds} times {seconds:.0f} s")
            found, ages = load.poll(clients, seconds, rounds)
    except DifyError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(_show(found, ages, seconds * rounds, window_ms))


class _Load:
    """Start the processes of a run.

    Args:
        dify: the checkout.
        servers: what they run on.
        folder: for logs.
        workers: of gunicorn.
    """

    def __init__(self, dify: Dify, servers: DifyServers, folder: Path, workers: int) -> None:
        self._dify = dify
        self._servers = servers
        self._folder = folder
        self._workers = workers

    def _environment(self, *, installed: bool) -> dict[str, str]:
        named = {"TIDEGATE_CACHE_URL": self._servers.cache_url} if installed else {}
        folders = (STARTUP, INSIDE) if installed else (INSIDE,)
        settings = self._servers.dify_settings(_DATABASE, self._folder)
        return self._dify.environment(*folders, **settings, **named)

    def ask(self, part: str) -> Any:
        """Run a part of the program that fills tables and knows the headers."""
        file, log = self._folder / f"{part}.json", self._folder / f"{part}.log"
        command = [str(self._dify.python), str(INSIDE / "dify_answers.py"), part, str(file)]
        with log.open("w") as out:
            environment = self._environment(installed=False)
            done = subprocess.run(command, cwd=self._dify.api, env=environment, stdout=out, stderr=out, check=False)
        if done.returncode:
            raise DifyError(f"{part}: ended with {done.returncode}; {log} says why")
        return json.loads(file.read_text()) if file.exists() else None

    def poll(self, clients: int, seconds: float, rounds: int) -> tuple[dict[str, Seen], dict[str, list[float]]]:
        """Have clients poll, plain and installed in turn, while Dify's worker writes.

        Returns:
            What they have seen, and how old it was, in milliseconds: plain and installed.
        """
        headers, commits = self.ask("headers")["console"], Commits()
        found = {"plain": Seen(), "installed": Seen()}
        plain = self._environment(installed=False)
        url = self._servers.url(_DATABASE)
        with celery_writer(self._dify, url, plain, _RUNNING, commits, self._folder):
            for number in range(rounds):
                for name in list(found)[:: 1 if number % 2 == 0 else -1]:
                    typer.echo(f"{name} ...")
                    with self.serving(name, installed=name == "installed") as (server, port):
                        warm(server, self._workers, port, chain.from_iterable(_PATHS.values()), headers)
                        found[name].add(poll(port, clients, seconds, _PATHS, headers, _RUNNING))
        ages = {name: [commits.age_ms(*read) for read in seen.reads] for name, seen in found.items()}
        return found, ages

    @contextmanager
    def serving(self, name: str, *, installed: bool) -> Iterator[tuple[int, int]]:
        """Run gunicorn, as Dify's image does, and give the id of its process and its port."""
        later = "socketio_app" in (self._dify.api / "app.py").read_text()
        worker = "geventwebsocket.gunicorn.workers.GeventWebSocketWorker" if later else "gevent"
        port, log = free_port(), self._folder / f"gunicorn-{name}.log"
        command = [str(self._dify.python), "-m", "gunicorn", *(["--no-control-socket"] if later else [])]
        command += ["--bind", f"127.0.0.1:{port}", "--workers", str(self._workers), "--worker-class", worker]
        command += ["--worker-connections", "100", "--timeout", "300", "app:socketio_app" if later else "app:app"]
        with log.open("w") as out:
            environment = self._environment(installed=installed)
            process = subprocess.Popen(command, cwd=self._dify.api, env=environment, stdout=out, stderr=out)
        try:
            _wait(process, port, log)
            yield process.pid, port
        finally:
            process.terminate()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise DifyError(f"gunicorn ended with {process.returncode}; {log} says why")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_S)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == http.client.OK:
                return
        except OSError:
            time.sleep(0.2)
        finally:
            connection.close()
    raise DifyError(f"gunicorn does not answer after {_START_S:.0f} s; {log} may say why")


def _show(found: dict[str, Seen], ages: dict[str, list[float]], seconds: float, window_ms: float) -> int:
    typer.echo(f"\n{'':12}{'asked':10}{'answers/s':>10}{'median ms':>11}{'p99 ms':>9}")
    for name, seen in found.items():
        every = [one for times in seen.ms.values() for one in times]
        for kind, times in (("all", every), *sorted(seen.ms.items())):
            ordered = sorted(times)
            median, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
            typer.echo(f"{name:12}{kind:10}{len(times) / seconds:>10.1f}{median:>11.1f}{p99:>9.1f}")
    wrong = 0
    for name, seen in found.items():
        stale = sum(age > window_ms for age in ages[name])
        oldest = max(ages[name], default=0.0)
        typer.echo(
            f"{name}: {len(seen.reads)} counters of runs that are written: {stale} stale, the oldest by "
            f"{oldest:.0f} ms; {sum(seen.failed.values())} errors {dict(seen.failed) or ''}".rstrip()
        )
        wrong += stale + sum(seen.failed.values())
    return 1 if wrong else 0


if __name__ == "__main__":
    typer.run(main)
