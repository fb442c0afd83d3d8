"""Where the states of paused runs lie: an interface, a folder, and the memory of one process."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

from tidegate.errors import SettingsError

_KINDS = (
    "'memory', 'folder:/a/path', or the path of an object with save, load and delete, like 'package.module.storage'"
)


@runtime_checkable
class ObjectStorage(Protocol):
    """Named objects; a name is a single path component that the repositories make up."""

    def save(self, key: str, data: bytes, /) -> None:
        """Keep *data* under *key*."""
        ...

    def load(self, key: str, /) -> bytes:
        """The bytes under *key*; raises ``FileNotFoundError`` (or what the storage raises) where there are none."""
        ...

    def delete(self, key: str, /) -> None:
        """Forget *key*."""
        ...


class MemoryStorage:
    """Objects in the memory of this process: for tests, and for a program of one process."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._objects

    def __len__(self) -> int:
        return len(self._objects)

    def save(self, key: str, data: bytes) -> None:
        """Keep *data* under *key*."""
        self._objects[_checked(key)] = bytes(data)

    def load(self, key: str) -> bytes:
        """The bytes under *key*.

        Raises:
            FileNotFoundError: there are none.
        """
        try:
            return self._objects[key]
        except KeyError:
            raise FileNotFoundError(f"no object {key!r} in memory storage") from None

    def delete(self, key: str) -> None:
        """Forget *key*; harmless where it is not there."""
        self._objects.pop(key, None)


class FolderStorage:
    """Objects as files of one folder, which is made when the first is saved.

    Args:
        folder: the folder; only this program should write to it.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)

    def save(self, key: str, data: bytes) -> None:
        """Keep *data* under *key*; on the disk, whole, when this returns."""
        target = self._folder / _checked(key)
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(name).unlink()
            raise

    def load(self, key: str) -> bytes:
        """The bytes under *key*.

        Raises:
            FileNotFoundError: there are none.
        """
        return (self._folder / _checked(key)).read_bytes()

    def delete(self, key: str) -> None:
        """Forget *key*; harmless where it is not there."""
        (self._folder / _checked(key)).unlink(missing_ok=True)


def storage_from(setting: str) -> ObjectStorage:
    """The storage that a setting names.

    Args:
        setting: "memory", "folder:" and a path, or the path of an object, with its module.

    Raises:
        SettingsError: it names none of these.
    """
    kind, _, rest = setting.partition(":")
    if setting == "memory":
        return MemoryStorage()
    if kind == "folder" and rest:
        return FolderStorage(rest)
    module, _, name = setting.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:
        raise SettingsError(f"TIDEGATE_PAUSE_STORAGE={setting!r} is not {_KINDS}: {error}") from error
    if not isinstance(found, ObjectStorage):
        raise SettingsError(f"TIDEGATE_PAUSE_STORAGE={setting!r} names a {type(found).__name__}, not {_KINDS}")
    return found


def no_storage() -> SettingsError:
    """The error for a state that is to be stored or removed, and nobody said where."""
    return SettingsError(f"TIDEGATE_PAUSE_STORAGE is not set, and runs are paused: it should be {_KINDS}")


def _checked(key: str) -> str:
    if not key or key.startswith(".") or "/" in key or "\\" in key or "\0" in key:
        raise ValueError(f"a storage key must be one path component that does not begin with a dot, not {key!r}")
    return key
