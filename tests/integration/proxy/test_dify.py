"""Tidegate in programs of a host of Dify's shape, in three of its releases, and each way to install it there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
from real_servers.printed_numbers import show

from tidegate.proxy.dify import page_loading
from tidegate.proxy.dify.releases import MODULES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tidegate.proxy.embedded import Cluster

HOSTS: Final = Path(__file__).parents[2] / "hosts"
RELEASES: Final = ("v1_12", "v1_16", "newest")
LOGS: Final = RELEASES[:2]
"""Those whose log pages ask for each row."""
STARTUP: Final = Path(__file__).parents[3] / "src" / "tidegate" / "proxy" / "dify" / "startup"
PATHS: Final = {
    "API_WORKFLOW_RUN_REPOSITORY": "tidegate.proxy.dify.WorkflowRunRepository",
    "API_WORKFLOW_NODE_EXECUTION_REPOSITORY": "tidegate.proxy.dify.WorkflowNodeExecutionRepository",
}
INSTALL = "from tidegate.proxy.dify import install; install(); import runpy, sys; sys.argv = sys.argv[1:];"
INSTALL += " runpy.run_module('host_program', run_name='__main__')"

GEVENT = (
    "import sys; early = [name for name in sys.modules if name.partition('.')[0] in ('tidegate', 'sqlalchemy', 'ssl')]"
)
GEVENT += (
    "; assert not early, early; from gevent import monkey; monkey.patch_all(); import runpy; sys.argv = sys.argv[1:];"
)
GEVENT += " runpy.run_module('host_program', run_name='__main__')"
TWO_SHARDS: Final = "".join(f'[[shards]]\nname = "{name}"\nprimary = "sqlite://"\n' for name in ("a", "b"))


class Hosts:
    """Databases of releases of the host, filled once and copied."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._filled: set[str] = set()
        self._made = 0

    def __call__(self, release: str) -> Host:
        """A release of the host, on a database and a cache that are as it finds them at first."""
        template = f"host_{release}"
        if release not in self._filled:
            self._filled.add(release)
            self._administer(f"CREATE DATABASE {template} STRATEGY file_copy")
            self._on(template, release).run("fill", how="plain", cache=False)
        self._made += 1
        name = f"{template}_{self._made}"
        self._administer(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        self._cluster.cache.flush()
        return self._on(name, release)

    def _on(self, name: str, release: str) -> Host:
        folder = self._folder / name
        folder.mkdir()
        url = self._cluster.shards[0].primary.url.rsplit("/", 1)[0] + f"/{name}"
        return Host(release, url, self._cluster.cache.url, folder)

    def _administer(self, sql: str) -> None:
        self._cluster.shards[0].primary.execute(sql, database="postgres")

    def close(self) -> None:
        for name in self._folder.iterdir():
            self._administer(f"DROP DATABASE {name.name} WITH (FORCE)")


class Host:
    """A release of the host, on a database and a cache of its own."""

    def __init__(self, release: str, database_url: str, cache_url: str, folder: Path) -> None:
        self.folder = folder
        self._release = release
        self._variables = {
            "HOST_DATABASE_URL": database_url.replace("+psycopg", "+psycopg2"),
            "TIDEGATE_CACHE_URL": cache_url,
        }

    def run(self, *parts: str, how: str = "path", cache: bool = True, **more: str) -> tuple[dict[str, Any], str]:
        """Run parts of the host's program, and return what each has found, and what was logged.

        Args:
            parts: of the program.
            how: "path", "direct" and "gevent": the start-up folder in PYTHONPATH; "launcher"; "code"; "setting";
                "plain".
            cache: whether the environment names it.
            more: other variables.
        """
        python_path = [str(HOSTS / self._release), str(HOSTS / "common")]
        given = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        given |= self._variables | more
        if not cache:
            del given["TIDEGATE_CACHE_URL"]
        command = [sys.executable, "-m", "host_program", *parts]
        if how == "gevent":
            command = [sys.executable, "-c", GEVENT, "", *parts]
        if how in ("path", "direct", "gevent"):
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
                *parts,
            ]
        if how == "setting":
            given |= PATHS
        python_path[:0] = filter(None, [given.pop("PYTHONPATH_FIRST", None)])
        given["PYTHONPATH"] = os.pathsep.join(python_path)
        given.pop("PYTHONSAFEPATH", None)
        done = subprocess.run(command, env=given, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return (json.loads(done.stdout) if done.stdout else {}), done.stderr


@pytest.fixture(scope="module")
def host_of(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    made = Hosts(cluster, tmp_path_factory.mktemp("hosts"))
    yield made
    made.close()


class Found(NamedTuple):
    """What a release's program has found, with and without Tidegate."""

    release: str
    installed: dict[str, Any]
    log: str
    plain: dict[str, Any]

    @property
    def is_late(self) -> bool:
        return self.release != RELEASES[0]


@pytest.fixture(scope="module", params=RELEASES)
def found(request: pytest.FixtureRequest, host_of: Hosts) -> Found:
    release, host = request.param, host_of(request.param)
    has_logs = ["logs", "run_list"] if release in LOGS else []
    plain, _ = host.run("queries", *has_logs, how="plain")
    return Found(release, *host.run("compare", *has_logs, "patched", "inside", "write", "ties", "deep"), plain)


def test_every_answer_is_the_host_s_own(found: Found) -> None:
    compared = found.installed["compare"]
    assert compared["different"] == []
    assert compared["gated"]
    assert (compared["own"], compared["of the protocol as plain"]) == ([True, True], True)
    assert not {"ERROR", "CRITICAL"} & {line.partition(":")[0] for line in found.log.splitlines()}, found.log
    stats = compared["stats"]
    cached = {name for name, answered in stats.items() if answered["served"]}
    wanted = {
        "get_paginated_workflow_runs",
        "get_workflow_run_by_id",
        "get_workflow_run_by_id_without_tenant",
        "get_workflow_runs_count",
        "get_executions_by_workflow_run",
        "get_execution_by_id",
    }
    later = {"get_workflow_run_by_id_and_tenant_id", "get_execution_snapshots_by_workflow_run"}
    assert cached == (wanted | later if found.is_late else wanted)
    assert ("get_newest_of_everybody: no policy knows it" in found.log) == found.is_late


def test_whoever_writes_is_seen(found: Found) -> None:
    assert found.installed["write"] == {"watched": 7, "outside": 8, "gone": 1, "after": None}


def test_what_takes_the_place_of_a_method_of_the_host_s_class_counts(found: Found) -> None:
    patched = found.installed["patched"]
    assert patched["before"] == patched["after"] != patched["during"] == "another"


def test_a_repository_in_a_transaction_of_the_program_s_sees_it(found: Found) -> None:
    assert found.installed["inside"] == {"inside": 5, "outside": 0}


def test_pages_lose_no_row_of_one_moment(found: Found) -> None:
    assert found.installed["ties"] == {"seen": 10, "of them different": 10}


def test_a_page_below_a_cursor_stays_while_runs_of_other_days_come(found: Found) -> None:
    assert found.installed["deep"] == {"same": True, "hits": 5, "first is the new one": True}


@pytest.mark.parametrize("page", ["logs", "run_list"])
def test_a_page_loads_what_its_rows_ask_for_at_once(found: Found, page: str) -> None:
    if found.release not in LOGS:
        pytest.skip("it has repositories of its own for that")
    plain, installed = found.plain[page], found.installed[page]
    assert installed["pages"] == plain["pages"]
    show(f"statements of {page}", f"{installed['counts']} with Tidegate, {plain['counts']} without")
    assert plain["counts"][0] > 20
    assert max(installed["counts"]) <= 4, found.log
    assert min(installed["counts"]) <= {"logs": 1, "run_list": 2}[page]


@pytest.mark.parametrize("release", LOGS)
def test_a_page_of_logs_is_the_host_s_own_in_its_session(host_of: Hosts, release: str) -> None:
    host = host_of(release)
    plain, _ = host.run("log_answers", how="plain", HOST_ICONS="a")
    installed, log = host.run("log_answers", HOST_ICONS="a")
    assert installed == plain, log
    assert "WARNING" not in log
    if release != LOGS[-1]:
        return
    elsewhere, _ = host.run("log_answers", how="plain", HOST_ICONS="b")
    again, _ = host.run("log_answers", HOST_ICONS="b")
    assert again == elsewhere != plain


@pytest.mark.parametrize("release", LOGS)
def test_a_page_of_logs_shows_whatever_was_written(host_of: Hosts, release: str) -> None:
    written, log = host_of(release).run("log_writes")
    assert written["log_writes"]["seen"] == {
        "watched": 1,
        "pending": 2,
        "flushed": 2,
        "rolled back": 1,
        "changed": True,
        "outside": True,
        "status": True,
        "trigger": True,
        "account": "renamed",
        "deleted": True,
    }
    answered = written["log_writes"]["stats"]
    assert answered["detailed_log_page"]["served"] > 3, log
    assert answered["runs_of_logs"]["served"] > 3


def test_without_it_the_host_is_as_it_is(found: Found) -> None:
    assert found.plain["queries"] == {"counts": [1, 1, 1, 1, 1], "gated": False}


WAYS: Final = [("v1_12", "setting"), ("v1_16", "launcher"), ("newest", "code"), ("newest", "launcher")]


@pytest.mark.parametrize(("release", "how"), WAYS)
def test_each_way_to_install_it(host_of: Hosts, release: str, how: str) -> None:
    host = host_of(release)
    queries = host.run("queries", how=how)[0]["queries"]
    assert queries["gated"]
    assert queries["counts"][-2:] == [0, 0]
    if how in (
        "setting",
        "launcher",
    ):  # what one process stored answers another, which knows the same classes by their names
        assert host.run("queries", how=how)[0]["queries"]["counts"] == [0, 0, 0, 0, 0]


def test_classes_that_code_builds_itself_are_gated_on_request(host_of: Hosts) -> None:
    host = host_of("v1_16")
    built = host.run("direct", how="direct")[0]["direct"]
    assert built["gated"]
    assert built["own"][0] == "own"
    assert built["stats"]["get_workflow_run_by_id"]["served"] > 0
    plain = host.run("direct")[0]["direct"]
    assert not plain["gated"]
    assert plain["stats"] == {}


def test_nothing_is_imported_before_gevent_has_patched(host_of: Hosts) -> None:
    seen, log = host_of("v1_16").run("compare", "write", how="gevent")
    assert seen["compare"]["different"] == []
    assert seen["compare"]["stats"]["get_workflow_run_by_id"]["served"] > 0
    assert seen["write"] == {"watched": 7, "outside": 8, "gone": 1, "after": None}
    assert "Warning" not in log


def doctor(python_path: Sequence[Path], folder: Path) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    given["PYTHONPATH"] = os.pathsep.join(map(str, python_path))
    given["HOST_DATABASE_URL"] = "postgresql+psycopg2://nobody@127.0.0.1:1/none"
    command = [sys.executable, "-m", "tidegate", "doctor", "--dify"]
    return subprocess.run(command, env=given, cwd=folder, capture_output=True, text=True, check=False)


def test_doctor_says_what_becomes_of_each_method(tmp_path: Path) -> None:
    done = doctor([HOSTS / "common"], HOSTS / "v1_16")
    assert done.returncode == 0, done.stderr
    said = {words[0]: " ".join(words[1:]) for line in done.stdout.splitlines() if (words := line.split())}
    assert said["get_workflow_run_by_id"] == "cached, routed not with with_deleted"
    assert said["get_paginated_workflow_runs"] == "cached, routed"
    assert said["get_execution_snapshots_by_workflow_run"] == "cached, routed"
    assert said["get_newest_of_everybody"].startswith("passed on no policy knows it")
    assert said["delete_runs_by_ids"].startswith("passed on it writes")
    assert said["get_archived_run_ids"] == "passed on it runs in the caller's session"
    assert said["get_paginate_workflow_app_logs"] == (
        "cached not with created_by_account, created_by_end_user_session_id, keyword, status;"
        " not in a session that has done anything"
    )
    assert said["get_paginate_workflow_archive_logs"] == "passed on it runs in the caller's session"
    later = doctor([HOSTS / "common"], HOSTS / "newest")
    assert "get_paginated  passed on       its answers have names of accounts" in later.stdout
    nowhere = doctor([], tmp_path)
    assert (nowhere.returncode, "there is no Dify here" in nowhere.stderr) == (2, True), nowhere.stderr


def test_settings_may_be_in_the_env_file(host_of: Hosts, cluster: Cluster) -> None:
    host = host_of("v1_12")
    without, log = host.run("queries", cache=False)
    assert without["queries"]["counts"] == [1, 1, 1, 1, 1]
    assert "nothing is cached" in log
    (host.folder / ".env").write_text(
        f"SECRET_KEY=another's\nTIDEGATE_CACHE_URL={cluster.cache.url}\nTIDEGATE_DIFY_STATEMENTS=dify\n"
    )
    given, log = host.run("queries", "ties", cache=False)
    assert given["queries"]["counts"][-2:] == [0, 0]
    assert "answers are cached" in log
    assert given["ties"]["seen"] == 3  # the host's own cursor goes on below the moment


@pytest.mark.parametrize(
    ("config", "said"), [("cache = 3", "cache: Input should be"), (TWO_SHARDS, "2 [[shards]] (a, b)")]
)
def test_settings_that_cannot_work_are_said_and_the_host_runs(
    host_of: Hosts, tmp_path: Path, config: str, said: str
) -> None:
    (tmp_path / "tidegate.toml").write_text(config)
    given: dict[str, Any] = {"TIDEGATE_CONFIG": str(tmp_path / "tidegate.toml"), "TIDEGATE_DIFY_STATEMENTS": "ours"}
    counted, log = host_of("v1_12").run("queries", "logs", "run_list", **given)
    plain, _ = host_of("v1_12").run("logs", "run_list", how="plain")
    assert counted["queries"]["counts"] == [1, 1, 1, 1, 1]
    assert {part: counted[part] for part in plain} == plain  # the pages of its services are its own
    assert "Tidegate is off in this process" in log
    assert said in log
    assert "TIDEGATE_DIFY_STATEMENTS is 'ours': expected tidegate or dify" in log


def test_a_cache_that_does_not_answer_is_said(host_of: Hosts) -> None:
    log = host_of("v1_16").run("queries", TIDEGATE_CACHE_URL="redis://127.0.0.1:1/0")[1]
    assert "Tidegate is installed in this process" in log
    assert re.search(
        r"WARNING.*Tidegate is on, but not all is cached now: the cache \S*127.0.0.1:1\S* does not answer", log
    ), log.splitlines()[2:6]
    assert "answers are cached" not in log


def test_a_host_s_tests_that_empty_its_tables_see_them_empty(host_of: Hosts) -> None:
    found = host_of("v1_16").run("emptied")[0]["emptied"]
    assert found["after"] == [None] * 3
    assert found["tokens"] == [[number] * 3 for number in range(3)]
    assert [line for line in found["said"] if "is void, since anything may have changed" not in line] == []


def test_on_other_engines_the_host_s_repositories_run_as_they_are(host_of: Hosts) -> None:
    found, log = host_of("v1_16").run("other_engines")
    there = "a0000000-0000-4000-8000-000000000001"
    assert found["other_engines"] == {
        "found": {"sqlite": [None, None], "options": [there], "schemas": [there, there]},
        "pages": {"sqlite": [0, 0], "options": [3], "schemas": [3, 3]},
        "gates": 0,
        "left": [],
    }
    assert "Mock" not in log
    assert log.count("the database is sqlite") == 1
    assert log.count("schema_translate_map") == 1


@pytest.mark.alone
def test_a_repository_is_made_in_thirty_microseconds(host_of: Hosts) -> None:
    best = host_of("v1_16").run("cost")[0]["cost"]
    show("to make a repository", f"{best['gated']:.1f} us gated, {best['plain']:.1f} us plain")
    assert best["gated"] - best["plain"] < 30


@pytest.mark.alone
def test_a_warm_page_is_many_times_faster(host_of: Hosts) -> None:
    host = host_of("v1_16")
    plain, warm = (host.run("speed", how=how)[0]["speed"] for how in ("plain", "path"))
    for page in ("logs", "run_list"):
        best = {name: min(taken[page]) for name, taken in (("plain", plain), ("warm", warm))}
        ratio = best["plain"] / best["warm"]
        show(f"a page of {page}", f"{best['warm']:.2f} ms warm, {best['plain']:.2f} ms plain, {ratio:.1f} times")
        assert ratio > 5  # ten and more, where the machine has nothing else to do


def test_the_start_up_file_hooks_the_modules_that_are_known() -> None:
    text = (STARTUP / "sitecustomize.py").read_text()
    named = text[text.index("_MODULES = (") : text.index("def _imported")]
    assert set(re.findall(r'"([a-z_.]+)"', named)) == {*MODULES, *page_loading.MODULES}


def test_two_ways_to_install_it_at_once_are_one(host_of: Hosts, tmp_path: Path) -> None:
    host = host_of("v1_16")
    (tmp_path / "again").symlink_to(STARTUP)
    given: dict[str, Any] = PATHS | {"PYTHONPATH_FIRST": str(tmp_path / "again")}
    counted, log = host.run("queries", "logs", **given)
    assert counted["queries"]["gated"]
    assert max(counted["logs"]["counts"]) <= 4
    assert "Recursion" not in log
    assert "sitecustomize" not in log


def test_what_keeps_its_runs_elsewhere_is_left_alone(host_of: Hosts) -> None:
    path = "elsewhere.RunsElsewhere"
    plain, _ = host_of("v1_16").run("elsewhere", how="plain", API_WORKFLOW_RUN_REPOSITORY=path)
    seen, log = host_of("v1_16").run("elsewhere", API_WORKFLOW_RUN_REPOSITORY=path)
    assert seen == plain
    assert "Tidegate does not know elsewhere.RunsElsewhere" in log


def test_a_python_without_tidegate_runs_the_host_as_it_is(host_of: Hosts, tmp_path: Path) -> None:
    (tmp_path / "tidegate.py").write_text("raise ImportError('there is none')")
    counted, log = host_of("v1_16").run("queries", PYTHONPATH_FIRST=str(tmp_path))
    assert counted["queries"] == {"counts": [1, 1, 1, 1, 1], "gated": False}
    assert "Tidegate cannot be imported here" in log


def test_a_database_that_is_away_at_first_gets_its_gate_later(host_of: Hosts) -> None:
    seen, log = host_of("v1_16").run("away_at_first")
    assert seen["away_at_first"] == {"at first": 0, "later": 1}
    assert log.count("Tidegate is off in this process") == 1
    assert "Tidegate is on" in log
