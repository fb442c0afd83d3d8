"""What a gate is made of: shards, replicas and the cache."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tidegate.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class CacheSettings(_Section):
    """The cache; *url* None means none. The URL may hold a password, so it is in no ``repr``."""

    url: str | None = Field(default=None, repr=False)
    near: bool = False


class ShardSettings(_Section):
    """One primary with its replicas, as SQLAlchemy URLs, which may hold passwords and are in no ``repr``."""

    name: str
    primary: str = Field(repr=False)
    replicas: tuple[str, ...] = Field(default=(), repr=False)


class Settings(_Section):
    """All of it; frozen, and can be pickled."""

    shards: tuple[ShardSettings, ...] = ()
    cache: CacheSettings = CacheSettings()

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read *path*.

        Raises:
            SettingsError: it cannot be read, is no TOML, or holds a setting that cannot work.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{path}: {error}") from error
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
            raise SettingsError(f"{path}: {wrong}") from None
