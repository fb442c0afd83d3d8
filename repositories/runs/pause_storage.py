"""Where the states of paused runs lie: an interface, a folder, and the memory of one process."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

from tidegate.errors import SettingsError
from tidegate.interruptions import pass_interruption

_KINDS = (
    "'memory', 'folder:/a/path', or the path of an object with save, load and delete, like 'package.module.storage'"
)


@runtime_checkable
class ObjectStorage(Protocol):
    """Store named objects. A name is a single path component that the repositories make up."""

    def save(self, key: str, data: bytes, /) -> None:
        """Keep *data* under *key*."""
        ...

    def load(self, key: str, /) -> bytes:
        """Return the bytes under *key*.

        Raises:
            FileNotFoundError: there are none. A storage of the host may raise another error.
        """
        ...

    def delete(self, key: str, /) -> None:
        """Forget *key*."""
        ...


class MemoryStorage:
    """Store objects in the memory of this process: for tests, and for a program of one process."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._objects

    def __len__(self) -> int:
        return len(self._objects)

    def save(self, key: str, data: bytes) -> None:
        """Keep *data* under *key*.

        Raises:
            ValueError: *key* is not a single path component.
        """
        self._objects[_checked(key)] = bytes(data)

    def load(self, key: str) -> bytes:
        """Return the bytes under *key*.

        Raises:
            FileNotFoundError: there are none.
        """
        try:
            return self._objects[key]
        except KeyError:
            raise FileNotFoundError(f"the memory storage has no object {key!r}") from None

    def delete(self, key: str) -> None:
        """Forget *key*. It does no harm if there is nothing."""
        self._objects.pop(key, None)


class FolderStorage:
    """Store objects as files of one folder, which is made when the first is saved.

    Args:
        folder: the folder; only this program should write to it.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)

    def save(self, key: str, data: bytes) -> None:
        """Keep *data* under *key*. When this returns, all of it is on the disk.

        Raises:
            ValueError: *key* is not a single path component.
        """
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
        """Return the bytes under *key*.

        Raises:
            FileNotFoundError: there are none.
            ValueError: *key* is not a single path component.
        """
        return (self._folder / _checked(key)).read_bytes()

    def delete(self, key: str) -> None:
        """Forget *key*. It does no harm if there is nothing.

        Raises:
            ValueError: *key* is not a single path component.
        """
        (self._folder / _checked(key)).unlink(missing_ok=True)


def storage_from(setting: str) -> ObjectStorage:
    """Return the storage that a setting names.

    Args:
        setting: "memory", "folder:" and a path, or the path of an object, with its module.

    Raises:
        SettingsError: the setting names none of these.
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
        pass_interruption(error)
        raise SettingsError(f"TIDEGATE_PAUSE_STORAGE={setting!r} is not {_KINDS}: {error}") from error
    if not isinstance(found, ObjectStorage):
        raise SettingsError(f"TIDEGATE_PAUSE_STORAGE={setting!r} names a {type(found).__name__}, not {_KINDS}")
    return found


def no_storage() -> SettingsError:
    """Return the error for a state that must be stored or removed while nobody has said where."""
    return SettingsError(f"TIDEGATE_PAUSE_STORAGE is not set, but runs are paused: it must be {_KINDS}")


def _checked(key: str) -> str:
    if not key or key.startswith(".") or "/" in key or "\\" in key or "\0" in key:
        raise ValueError(f"a storage key must be one path component that does not begin with a dot, not {key!r}")
    return key
