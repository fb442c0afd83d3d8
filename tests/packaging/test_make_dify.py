"""``make dify``: what it says when something is missing, and that it finds a pass that is lost, on a Dify of ours."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from real_dify.celery_writer import nodes_key
from real_dify.names import differences, kept_lists, methods_of, names_of
from real_dify.outcomes import lost, outcomes, passes
from real_dify.polling import Commits, counters

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).parents[2]
HOST_QUERIES: Final = ROOT / "tests" / "hosts" / "common" / "host_queries.py"
OURS_ALONE: Final = {"get_newest_of_everybody", "with_deleted="}
"""What the hosts have, and no Dify: a method and a parameter that no policy knows."""
CONTAINERS: Final = {
    "__init__": "",
    "redis": "RedisContainer = None",
    "postgres": "PostgresContainer = None",
    "core/__init__": "",
    "core/container": "DockerContainer = None",
    "core/network": "Network = None",
    "core/waiting_utils": "wait_for_logs = None",
}
TESTS: Final = """
import os
from testcontainers.postgres import PostgresContainer
from testcontainers.redis import RedisContainer

def test_of_a_server():  # of a WorkflowRun
    import psycopg2
    server = PostgresContainer("postgres:14")
    address = {"host": server.get_container_host_ip(), "port": server.get_exposed_port(5432)}
    user = {"user": server.username, "password": server.password, "dbname": server.dbname}
    connection = psycopg2.connect(**address, **user)
    with connection.cursor() as cursor:
        cursor.execute("COMMENT ON FUNCTION uuid_send IS 'the only one of its name'")
        cursor.execute('CREATE EXTENSION "uuid-ossp"')
        cursor.execute("SELECT uuid_generate_v4() <> uuid_nil()")
        assert cursor.fetchone() == (True,)
    connection.close()

def test_that_is_lost():
    assert "TIDEGATE_CACHE_URL" not in os.environ

def test_that_fails_plain():
    assert False
"""


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests" / "dify" / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", **more})


@pytest.fixture
def api(tmp_path: Path) -> Path:
    """A checkout of the shape that is looked for."""
    modules = {f"testcontainers/{name}": text for name, text in CONTAINERS.items()}
    for name, text in {"app_factory": "", "models/workflow": "", **modules}.items():
        file = (tmp_path / name).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "0.0.1"\n')
    tests = tmp_path / "tests" / "test_containers_integration_tests"
    tests.mkdir(parents=True)
    (tests / "test_some.py").write_text(TESTS)
    (tests / "test_others.py").write_text("def test_of_nothing_that_is_ours():\n    assert False\n")
    return tmp_path


def test_a_lost_pass_is_named_and_nothing_else_is(api: Path, tmp_path: Path) -> None:
    done = run(
        str(api), "--suite", "containers", "--mode", "cache", "--reports", str(tmp_path), DIFY_PYTHON=sys.executable
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 test files" in done.stdout
    table = {line.split()[1]: line.split()[2:] for line in done.stdout.splitlines() if line.startswith("containers ")}
    assert table == {"plain": ["3", "2", "0"], "cache": ["3", "1", "1"]}
    assert [line for line in done.stdout.splitlines() if line.startswith("lost:")] == [
        "lost: containers, cache: tests.test_containers_integration_tests.test_some::test_that_is_lost failed"
    ]


def _no_folder(api: Path) -> tuple[list[str], str]:
    return [str(api / "nowhere")], "there is no Dify in"


def _no_python(api: Path) -> tuple[list[str], str]:
    return [str(api)], "DIFY_PYTHON=path/to/python"


def _no_package(api: Path) -> tuple[list[str], str]:
    (api / "testcontainers").rename(api / "away")
    return [str(api), "--python", sys.executable], "has no testcontainers"


def _no_suite(api: Path) -> tuple[list[str], str]:
    return [str(api), "--suite", "everything"], "--suite everything: it is one of containers, unit"


@pytest.mark.parametrize("case", [_no_folder, _no_python, _no_package, _no_suite])
def test_what_is_missing_is_said(api: Path, case: Callable[[Path], tuple[list[str], str]]) -> None:
    arguments, said = case(api)
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_no_dify_at_all_is_said() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (2, "name a Dify: make dify DIFY=path/to/dify/api\n")


def test_what_became_of_a_test_is_the_worst_of_what_is_reported(tmp_path: Path) -> None:
    cases = {"good": "", "bad": "<failure/>", "broken": "<error/>", "left": "<skipped/>"}
    ends = '<testcase classname="c" name="good"><error/></testcase>'
    body = "".join(f'<testcase classname="c" name="{name}">{inside}</testcase>' for name, inside in cases.items())
    file = tmp_path / "report.xml"
    file.write_text(f"<testsuites><testsuite>{body}</testsuite></testsuites>")
    plain = outcomes(file)
    assert plain == {"c::good": "passed", "c::bad": "failed", "c::broken": "error", "c::left": "skipped"}
    assert passes(plain) == 1
    file.write_text(f"<testsuites><testsuite>{body}{ends}</testsuite></testsuites>")
    assert lost(plain, outcomes(file)) == {"c::good": "error"}
    assert lost(plain, {}) == {"c::good": "not run"}
    assert lost(plain, plain) == {}


def test_an_answer_is_as_old_as_what_had_overtaken_it() -> None:
    commits = Commits()
    for value, at in ((1, 10.0), (2, 20.0), (3, 30.0)):
        commits.add("run", value, at)
    ages = [commits.age_ms("run", *one) for one in ((3, 35.0), (1, 15.0), (1, 25.0), (2, 31.0), (0, 9.0))]
    assert ages == [0, 0, 5000, 1000, 0]
    assert commits.age_ms("another", 1, 50.0) == 0


def test_the_counter_of_a_run_is_found_wherever_an_answer_shows_it() -> None:
    written = {"r1", "r2"}
    run = {"id": "r1", "total_tokens": 7}
    logs = {
        "data": [{"id": "log", "workflow_run": run}, {"id": "log", "workflow_run": {"id": "r3", "total_tokens": 1}}]
    }
    assert [*counters("/workflow-runs/r1", run, written), *counters("/logs?page=1", logs, written)] == [("r1", 7)] * 2
    nodes = {"data": [{"id": "n1", "elapsed_time": 0.5}, {"id": "n2", "elapsed_time": 9.0}]}
    asked = "/workflow-runs/{}/node-executions"
    assert list(counters(asked.format("r2"), nodes, written)) == [(nodes_key("r2"), 9)]
    assert list(counters(asked.format("r2"), {"data": []}, written)) == [(nodes_key("r2"), 0)]
    assert list(counters(asked.format("r3"), nodes, written)) == []


def test_names_are_written_and_compared(tmp_path: Path) -> None:
    api = ROOT / "tests" / "hosts" / "v1_12"
    assert names_of(api)[0] == kept_lists()["1.12"][0]
    assert differences(["a", "b"], ["b", "c"]) == ["+ a", "- c"]
    own = tmp_path / "models"
    own.mkdir()
    (own / "workflow.py").touch()
    (tmp_path / "app_factory.py").touch()
    done = run(str(tmp_path), "--names", str(tmp_path / "names.txt"))
    assert done.returncode == 2
    assert "Tidegate does not know this Dify" in done.stderr


@pytest.mark.parametrize(("classes", "release"), [
    (("RunQueries", "NodeQueries"), "1.12"),
    (("RunQueries", "NodeQueries", "LaterRunQueries", "LaterNodeQueries"), "1.16"),
])  # fmt: skip
def test_the_hosts_of_the_suite_have_the_names_of_the_releases(classes: tuple[str, ...], release: str) -> None:
    kept = {line.partition("(")[0].rpartition(".")[2]: line for line in kept_lists()[release] if "(" in line}
    found = {  # a later release's class comes after the one that it extends
        line.partition("(")[0]: line
        for node in ast.parse(HOST_QUERIES.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name in classes
        for line in methods_of(node)
    }
    assert found
    for line in found.values():
        name, _, given = line.partition("(")
        if name in OURS_ALONE:
            continue
        wanted = kept[name].partition("(")[2].rstrip(")").split(", ")
        ours = [one for one in given.rstrip(")").split(", ") if one not in OURS_ALONE | {"*"}]
        assert ours == wanted, line
    host = ROOT / "tests" / "hosts" / f"v{release.replace('.', '_')}"
    of_logs = [line for line in names_of(host) if "paginate_workflow_app_logs" in line or "archive_logs(*" in line]
    assert len(of_logs) == 2
    assert set(of_logs) <= set(kept_lists()[release])
