"""What the embedded servers remove: folders with their own mark, whose owner is gone, and nothing else."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import redis

from tidegate.errors import EmbeddedServerError
from tidegate.proxy.embedded import cleanup
from tidegate.proxy.embedded.postgres import PostgresNode
from tidegate.proxy.embedded.process import temporary_folder
from tidegate.proxy.embedded.valkey import ValkeyNode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tidegate.proxy.embedded import Cluster


A_DAY_S = 86_400


@pytest.fixture
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tide-test-", dir=temporary_folder()))
    yield folder
    shutil.rmtree(folder)


def aged(folder: Path) -> Path:
    then = time.time() - A_DAY_S
    os.utime(folder, (then, then))
    return folder


def orphan(place: Path) -> Path:
    """A folder as a killed owner leaves it: the lock on its mark ends with the owner."""
    owned = cleanup.make(place)
    (owned.path / "s0").mkdir()
    (owned.path / "s0" / "rows").write_text("x")
    os.close(owned.mark)
    return owned.path


def clone(place: Path) -> Path:
    folder = place / f"{cleanup.PREFIX}clone"
    (folder / ".git").mkdir(parents=True)
    (folder / "work.py").write_text("a day's work")
    return folder


def like_an_older_release(place: Path) -> Path:
    folder = clone(place)
    (folder / "owner.json").write_text(json.dumps({"pid": 1, "created": 0.0}))
    return folder


def with_anothers_mark(place: Path) -> Path:
    folder = place / f"{cleanup.PREFIX}mine"
    folder.mkdir()
    (folder / "owner.json").write_text("my own")
    return folder


def without_a_mark(place: Path) -> Path:
    folder = place / f"{cleanup.PREFIX}venv"
    (folder / "bin").mkdir(parents=True)
    return folder


def unmarked_and_hidden(place: Path) -> Path:
    folder = place / f".{cleanup.PREFIX}abcdefgh"
    (folder / "bin").mkdir(parents=True)
    return folder


def copied(place: Path) -> Path:
    found = orphan(place)
    copy = Path(shutil.copytree(found, place / "copy"))
    shutil.rmtree(found)
    copy.rename(found)  # even under the very name
    return found


def renamed(place: Path) -> Path:
    found = orphan(place)
    return found.rename(found.with_name(f"{cleanup.PREFIX}kept"))


def a_link(place: Path) -> Path:
    elsewhere = orphan(place).rename(place / "elsewhere")
    link = place / f"{cleanup.PREFIX}link"
    link.symlink_to(elsewhere)
    return link


def a_file(place: Path) -> Path:
    file = place / f"{cleanup.PREFIX}notes"
    file.write_text("x")
    return file


@pytest.mark.parametrize(
    "make",
    [
        clone,
        like_an_older_release,
        with_anothers_mark,
        without_a_mark,
        unmarked_and_hidden,
        copied,
        renamed,
        a_link,
        a_file,
    ],
)
def test_what_has_no_mark_of_its_own_stays_however_old(place: Path, make: Callable[[Path], Path]) -> None:
    folder = make(place)
    before = sorted(place.rglob("*"))
    if not folder.is_symlink():
        aged(folder)
    assert cleanup.remove_orphans(place) == []
    assert sorted(place.rglob("*")) == before


def test_a_folder_of_another_user_stays(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make another user's folder")
    folder = orphan(place)
    os.chown(folder, 65534, 65534)
    assert cleanup.remove_orphans(place) == []
    assert (folder / "s0" / "rows").exists()


def test_what_a_killed_owner_left_is_removed_at_once(place: Path) -> None:
    folders = [orphan(place), orphan(place)]
    assert sorted(cleanup.remove_orphans(place)) == sorted(folders)
    assert list(place.iterdir()) == []


def test_what_an_owner_left_that_was_killed_before_the_folder_had_its_name_is_removed(place: Path) -> None:
    found = orphan(place)
    hidden = found.rename(found.with_name(f".{found.name}"))
    assert cleanup.remove_orphans(place) == [hidden]


def test_a_folder_whose_owner_lives_stays_though_clocks_and_numbers_say_otherwise(place: Path) -> None:
    owned = cleanup.make(place)
    noted = json.loads((owned.path / "owner.json").read_text())
    (owned.path / "owner.json").write_text(json.dumps(noted | {"pid": 2**22 - 1}))
    assert cleanup.remove_orphans(place) == []
    owned.remove()
    assert list(place.iterdir()) == []


def test_the_mark_is_there_and_locked_before_the_folder_has_its_name(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[str], list[Path]]] = []
    rename = Path.rename

    def look_first(path: Path, target: Path) -> Path:
        if target.parent == place:
            seen.append((path.name[0], [entry.name for entry in path.iterdir()], cleanup.remove_orphans(place)))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", look_first)
    owned = cleanup.make(place)
    assert seen == [(".", ["owner.json"], [])]
    owned.remove()


def test_the_mark_is_what_is_removed_last(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = orphan(place)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cleanup.remove_orphans(place)
    assert (folder / "owner.json").exists()
    assert cleanup.remove_orphans(place) == [folder]


def test_a_process_that_works_elsewhere_is_not_ended_though_it_has_a_servers_number(place: Path) -> None:
    folder = orphan(place)
    stranger = psutil.Popen(["sleep", "60"], cwd="/")
    (folder / "valkey.process.json").write_text(json.dumps({"pid": stranger.pid}))
    try:
        assert cleanup.remove_orphans(place) == [folder]
        assert stranger.is_running()
        assert stranger.status() != psutil.STATUS_ZOMBIE
    finally:
        stranger.kill()
        stranger.wait()


def test_a_segment_of_another_program_stays(place: Path) -> None:
    library = ctypes.CDLL(None)
    segment = library.shmget(0, 4096, 0o1600)  # IPC_PRIVATE, IPC_CREAT and rw-------
    assert segment >= 0
    try:
        folder = orphan(place)
        data = [str(os.getpid()), "/data", "0", "5432", "", "localhost", f" 1234 {segment}", "ready"]
        (folder / "s0" / "postmaster.pid").write_text("\n".join(data))
        assert cleanup.remove_orphans(place) == [folder]
        library.shmat.restype = ctypes.c_void_p
        address = library.shmat(segment, None, 0)
        assert address not in (None, ctypes.c_void_p(-1).value)
        library.shmdt(ctypes.c_void_p(address))
    finally:
        library.shmctl(segment, 0, None)


def test_a_server_of_somebody_else_on_the_port_is_not_taken_for_ones_own(
    start_valkey: Callable[..., ValkeyNode], servers_folder: Path
) -> None:
    theirs = start_valkey()
    with redis.Redis.from_url(theirs.url) as client:
        client.set("precious", "1")
        home = servers_folder / "second" / "data"
        home.mkdir(parents=True)
        ours = ValkeyNode(home, theirs._program)
        ours.port = theirs.port
        with pytest.raises(EmbeddedServerError, match="ended while it started"):
            ours.start()
        with pytest.raises(EmbeddedServerError, match="another server's"):
            ours.flush()
        assert client.get("precious") == b"1"


def test_a_postgresql_of_somebody_else_on_the_port_is_not_taken_for_ones_own(cluster: Cluster, place: Path) -> None:
    theirs = cluster.shards[0].primary
    ours = PostgresNode("ours", place, place)
    ours.port = theirs.port
    assert theirs._answers()
    assert not ours._answers()
