"""Dify's own tests that touch the tables: found by words, run plain or with Tidegate installed."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from real_dify.checkout import INSIDE, STARTUP, DifyError
from real_dify.outcomes import outcomes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from real_dify.checkout import Dify
    from real_dify.servers import DifyServers

WORDS: Final = (
    "workflow_run",
    "WorkflowRun",
    "node_execution",
    "NodeExecution",
    "workflow_pause",
    "WorkflowPause",
    "pause_state",
    "app_log",
    "AppLog",
    "core.repositories",
    "repositories.factory",
)
"""A test file of Dify's that has one of these is run."""
SUITES: Final = {"containers": "tests/test_containers_integration_tests", "unit": "tests/unit_tests"}
"""Their names here, and their folders."""
_DATABASE: Final = "dify_own_tests"
_PERCENT: Final = re.compile(r"\[\s*(\d+)%\]\s*$")


@dataclass(frozen=True, slots=True)
class Mode:
    """How Dify's tests are run.

    Args:
        name: of the mode.
        installed: whether Tidegate is installed, with a cache.
        replica: whether reads may go to a replica.
        direct: whether classes that tests build themselves are gated, too.
        suites: which suites it is for.
    """

    name: str
    installed: bool = True
    replica: bool = False
    direct: bool = False
    suites: tuple[str, ...] = tuple(SUITES)


PLAIN: Final = Mode("plain", installed=False)
MODES: Final = (
    Mode("cache"),
    Mode("replica", replica=True, suites=("containers",)),  # unit tests have no PostgreSQL
    Mode("direct", direct=True),
)


@dataclass(frozen=True, slots=True)
class Run:
    """What a run of Dify's tests has shown.

    Args:
        outcomes: what became of each test.
        calls: what Tidegate says of itself at the end: who answered how many calls, its errors, and the classes that
            are gated where code builds them itself.
    """

    outcomes: Mapping[str, str]
    calls: Mapping[str, Any]


def test_files(dify: Dify, suite: str) -> list[str]:
    """Return the test files of a suite that have one of the words, relative to ``api``."""
    words = re.compile("|".join(map(re.escape, WORDS)))
    files = sorted((dify.api / SUITES[suite]).rglob("*.py"))
    tests = (file for file in files if file.name.startswith("test_") or file.name.endswith("_test.py"))
    return [str(file.relative_to(dify.api)) for file in tests if words.search(file.read_text(errors="replace"))]


def run_tests(
    dify: Dify,
    suite: str,
    mode: Mode,
    servers: DifyServers,
    reports: Path,
    selected: Sequence[str],
    progress: Callable[[int], None],
) -> Run:
    """Run a suite's tests in one process of Dify's Python.

    Args:
        dify: the checkout.
        suite: which one.
        mode: how.
        servers: what it runs on; a database is made anew for it.
        reports: the folder for the report and the log.
        selected: arguments for pytest beside the files.
        progress: told how many per cent are done.

    Raises:
        DifyError: pytest could not run them; names the log.
    """
    servers.fresh(_DATABASE)
    name = f"{suite}-{mode.name}"
    report, log, told = (reports / f"{name}.{kind}" for kind in ("xml", "log", "json"))
    report.unlink(missing_ok=True)
    told.unlink(missing_ok=True)
    folders = [INSIDE, *([STARTUP] if mode.installed else [])]
    environment = dify.environment(
        *reversed(folders),
        DIFY_TEST_POSTGRES=servers.postgres,
        DIFY_TEST_DATABASE=_DATABASE,
        DIFY_TEST_REDIS=servers.redis,
        DIFY_TEST_TOLD=str(told),
        OPENDAL_FS_ROOT=str(reports / "storage"),
        **_settings(mode, servers),
    )
    with log.open("w") as written:
        command = [*_pytest(dify), f"--junitxml={report}", *selected, *test_files(dify, suite)]
        process = subprocess.Popen(
            command, cwd=dify.api, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            written.write(line)
            if done := _PERCENT.search(line):
                progress(int(done.group(1)))
    if process.wait() not in {0, 1} or not report.exists():  # 1: tests have failed, which the report says
        raise DifyError(f"pytest ended with {process.returncode} before it had a result: {log} says why")
    calls = json.loads(told.read_text()) if told.exists() else {}
    if mode.direct and not calls.get("classes"):
        raise DifyError(f"no class was gated in {mode.name} mode, so nothing was shown: {log}")
    return Run(outcomes(report), calls)


def _settings(mode: Mode, servers: DifyServers) -> dict[str, str]:
    if not mode.installed:
        return {}
    named = {"TIDEGATE_CACHE_URL": servers.cache_url}
    if mode.replica:
        named["TIDEGATE_REPLICAS"] = servers.url(_DATABASE, replica=True)
    if mode.direct:
        named["TIDEGATE_DIRECT"] = "1"
    return named


def _pytest(dify: Dify) -> list[str]:
    command = [
        str(dify.python),
        "-m",
        "pytest",
        "-p",
        "dify_containers",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore",
    ]
    command += ["--no-cov"] if "pytest_cov" in dify.there else []
    return command + (["--timeout=600"] if "pytest_timeout" in dify.there else [])
