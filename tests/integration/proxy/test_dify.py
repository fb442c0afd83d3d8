"""Tidegate in programs of a host of Dify's shape, in three of its releases, and each way to install it there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from real_servers.printed_numbers import show

from tidegate.proxy.dify.releases import MODULES

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTS: Final = Path(__file__).parents[2] / "hosts"
RELEASES: Final = ("v1_12", "v1_16", "newest")
STARTUP: Final = Path(__file__).parents[3] / "src" / "tidegate" / "proxy" / "dify" / "startup"
PATHS: Final = {
    "API_WORKFLOW_RUN_REPOSITORY": "tidegate.proxy.dify.WorkflowRunRepository",
    "API_WORKFLOW_NODE_EXECUTION_REPOSITORY": "tidegate.proxy.dify.WorkflowNodeExecutionRepository",
}
INSTALL = "from tidegate.proxy.dify import install; install(); import runpy, sys; sys.argv = sys.argv[1:];"
INSTALL += " runpy.run_module('host_program', run_name='__main__')"

TWO_SHARDS: Final = "".join(f'[[shards]]\nname = "{name}"\nprimary = "sqlite://"\n' for name in ("a", "b"))


class Host:
    """A release of the host, on a database and a cache of its own."""

    def __init__(self, release: str, database_url: str, cache_url: str, folder: Path) -> None:
        self._folder = folder
        self._release = release
        self._variables = {
            "HOST_DATABASE_URL": database_url.replace("+psycopg", "+psycopg2"),
            "TIDEGATE_CACHE_URL": cache_url,
        }
        self.run("fill", how="plain", cache=False)

    def run(self, part: str, how: str = "path", *, cache: bool = True, **more: str) -> Any:
        """Run a part of the host's program, and return what it prints and what it logs.

        Args:
            part: of the program.
            how: "path" and "direct": the start-up folder in PYTHONPATH; "launcher"; "code"; "setting"; "plain".
            cache: whether the environment names it.
            more: other variables.
        """
        python_path = [str(HOSTS / self._release), str(HOSTS / "common")]
        given = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        given |= self._variables | more
        if not cache:
            del given["TIDEGATE_CACHE_URL"]
        command = [sys.executable, "-m", "host_program", part]
        if how in ("path", "direct"):
            python_path.insert(0, str(STARTUP))
        if how == "direct":
            given["TIDEGATE_DIRECT"] = "1"
        if how == "launcher":
            command = [sys.executable, "-m", "tidegate", "run", "--", *command]
        if how == "code":
            command = [
                sys.executable,
                "-c",
                INSTALL,
                "",
                part,
            ]
        if how == "setting":
            given |= PATHS
        given["PYTHONPATH"] = os.pathsep.join(python_path)
        given.pop("PYTHONSAFEPATH", None)
        done = subprocess.run(command, env=given, cwd=self._folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return (json.loads(done.stdout) if done.stdout else None), done.stderr


@pytest.fixture
def host_of(database_url: str, valkey_url: str, tmp_path: Path) -> Callable[[str], Host]:
    return lambda release: Host(release, database_url, valkey_url, tmp_path)


@pytest.mark.parametrize("release", RELEASES)
def test_every_answer_is_the_host_s_own(host_of: Callable[[str], Host], release: str) -> None:
    found, log = host_of(release).run("compare")
    assert found["different"] == []
    assert found["gated"]
    assert "ERROR" not in log, log
    cached = {name for name, answered in found["stats"].items() if answered.get("store", 0) + answered.get("near", 0)}
    wanted = {
        "get_paginated_workflow_runs",
        "get_workflow_run_by_id",
        "get_workflow_run_by_id_without_tenant",
        "get_workflow_runs_count",
        "get_executions_by_workflow_run",
        "get_execution_by_id",
    }
    later = {"get_workflow_run_by_id_and_tenant_id", "get_execution_snapshots_by_workflow_run"}
    assert cached == wanted | (set() if release == "v1_12" else later)
    assert "INFO:tidegate.proxy.dify" in log
    assert ("get_newest_of_everybody: no policy knows it" in log) == (release != "v1_12")


WAYS: Final = [
    *((release, how) for release in RELEASES for how in ("launcher", "code", "path")),
    *((release, "setting") for release in RELEASES[:2]),
]


@pytest.mark.parametrize(("release", "how"), WAYS)
def test_each_way_to_install_it(host_of: Callable[[str], Host], release: str, how: str) -> None:
    host = host_of(release)
    assert host.run("queries", "plain")[0] == {"counts": [1, 1, 1, 1, 1], "gated": False}
    found, _ = host.run("queries", how)
    assert found["gated"]
    assert found["counts"][-2:] == [0, 0]


@pytest.mark.parametrize("release", RELEASES)
def test_whoever_writes_is_seen(host_of: Callable[[str], Host], release: str) -> None:
    found, _ = host_of(release).run("write")
    assert found == {"watched": 7, "outside": 8, "gone": 1, "after": None}


def test_what_takes_the_place_of_a_method_of_the_host_s_class_counts(host_of: Callable[[str], Host]) -> None:
    found, _ = host_of("v1_16").run("patched")
    assert found["before"] == found["after"] != found["during"] == "another"


def test_a_repository_in_a_transaction_of_the_program_s_sees_it(host_of: Callable[[str], Host]) -> None:
    assert host_of("v1_16").run("inside")[0] == {"inside": 5, "outside": 0}


def test_classes_that_code_builds_itself_are_gated_on_request(host_of: Callable[[str], Host]) -> None:
    host = host_of("v1_16")
    found, _ = host.run("direct", "direct")
    assert found["gated"]
    assert found["own"][0] == "own"
    assert found["stats"]["get_workflow_run_by_id"].get("store", 0) > 0
    plain, _ = host.run("direct")
    assert not plain["gated"]
    assert plain["stats"] == {}


def test_settings_may_be_in_the_env_file(host_of: Callable[[str], Host], valkey_url: str, tmp_path: Path) -> None:
    host = host_of("v1_12")
    found, log = host.run("queries", cache=False)
    assert found["counts"] == [1, 1, 1, 1, 1]
    assert "nothing is cached" in log
    (tmp_path / ".env").write_text(f"SECRET_KEY=another's\nTIDEGATE_CACHE_URL={valkey_url}\n")
    found, log = host.run("queries", cache=False)
    assert found["counts"][-2:] == [0, 0]
    assert "answers are cached" in log


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("cache = 3", "cache: Input should be"),
        (
            "".join(f'[[shards]]\nname = "{name}"\nprimary = "sqlite://"\n' for name in ("a", "b")),
            "2 [[shards]] (a, b)",
        ),
    ],
)
def test_settings_that_cannot_work_are_said_and_the_host_runs(
    host_of: Callable[[str], Host], tmp_path: Path, config: str, said: str
) -> None:
    (tmp_path / "tidegate.toml").write_text(config)
    found, log = host_of("v1_12").run("queries", TIDEGATE_CONFIG=str(tmp_path / "tidegate.toml"))
    assert found["counts"] == [1, 1, 1, 1, 1]
    assert "Tidegate is off in this process" in log
    assert said in log


@pytest.mark.alone
def test_a_repository_is_made_in_thirty_microseconds(host_of: Callable[[str], Host]) -> None:
    best, _ = host_of("v1_16").run("cost")
    show("to make a repository", f"{best['gated']:.1f} us gated, {best['plain']:.1f} us plain")
    assert best["gated"] - best["plain"] < 30


def test_the_start_up_file_hooks_the_modules_that_are_known() -> None:
    text = (STARTUP / "sitecustomize.py").read_text()
    assert text[text.index("_MODULES = (") : text.index("for _module")].count('"') == 2 * len(MODULES)
    assert all(f'"{module}"' in text for module in MODULES)
