"""Where states lie: both forms behave alike, keys stay inside, and a wrong setting is named."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tidegate.errors import SettingsError
from tidegate.repositories.runs.pause_storage import FolderStorage, MemoryStorage, ObjectStorage, storage_from


@pytest.fixture(params=["memory", "folder"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStorage:
    return MemoryStorage() if request.param == "memory" else FolderStorage(tmp_path / "states")


def test_an_object_is_kept_replaced_and_forgotten(storage: ObjectStorage) -> None:
    storage.save("a.json", b"one")
    storage.save("a.json", b"two")
    assert storage.load("a.json") == b"two"
    storage.delete("a.json")
    storage.delete("a.json")
    with pytest.raises(FileNotFoundError, match=r"a\.json"):
        storage.load("a.json")


@pytest.mark.parametrize("key", ["", "../a", "/etc/passwd", ".hidden", "a/b", "a\\b", "a\0b"])
def test_a_key_that_could_leave_its_place_is_refused(storage: ObjectStorage, key: str) -> None:
    with pytest.raises(ValueError, match="one path component"):
        storage.save(key, b"")


def test_a_folder_s_files_are_whole_and_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "states"
    storage = FolderStorage(folder)
    storage.save("a", b"old")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def fail(_self: Path, _target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.save("a", b"new")
    assert storage.load("a") == b"old"
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_settings_name_a_storage_or_are_refused_with_what_would_do(tmp_path: Path) -> None:
    assert isinstance(storage_from("memory"), MemoryStorage)
    storage_from(f"folder:{tmp_path}/x").save("a", b"1")
    assert (tmp_path / "x" / "a").read_bytes() == b"1"
    for wrong in ("", "folder:", "no.such.thing", "os.path.join", "json"):
        with pytest.raises(SettingsError, match=r"TIDEGATE_PAUSE_STORAGE=.*'memory', 'folder:/a/path'"):
            storage_from(wrong)
