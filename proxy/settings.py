"""What a gate is made of: shards, replicas and the cache; from a file, the environment, or code."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidegate.errors import SettingsError
from tidegate.repositories.policies import NearMode  # noqa: TC001  # pydantic asks for it at run time
from tidegate.routing.shard_map import ShardMap, even_map, map_of_ranges


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class CacheSettings(_Section):
    """The cache. The URL may hold a password, so it is in no ``repr``.

    Args:
        url: ``redis://``, ``rediss://``, ``redis+sentinel://`` or ``redis+cluster://``; None: no cache.
        near: whether answers whose policy allows it are also kept in the process.
        near_modes: modes of the near cache by the method's name, instead of what their policies say; "all" for every
            cached method. Which answers of a method may be kept is its policy's to say all the same.
        near_bytes: of all that the process keeps, decoded answers and large values apart, each.
        near_entries: how many of them.
        when_away: what a write does when the cache cannot be told: ``"outbox"`` (availability) or ``"refuse"``
            (consistency: the write raises ``CacheUnavailable``).
        connect_timeout_ms: to connect to the cache.
        read_timeout_ms: for one answer of the cache.
        off: kill switches: "all", "method:get_workflow_run_by_id", "tenant:<id>".
        strict_sql: refuse writes as text whose tenant cannot be told.
        blob_bytes: values larger than this are stored once for all rows that share them.
        most_bytes: an answer larger than this is not cached.
        transaction_timeout_s: how long a transaction may take on a database that cannot tell how one ended (SQLite).
    """

    url: str | None = Field(default=None, repr=False)
    near: bool = False
    near_modes: dict[str, NearMode] = Field(default_factory=dict)
    near_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    near_entries: int = Field(default=100_000, ge=0)
    when_away: Literal["outbox", "refuse"] = "outbox"
    connect_timeout_ms: int = Field(default=50, ge=1, le=60_000)
    read_timeout_ms: int = Field(default=50, ge=1, le=60_000)
    off: tuple[str, ...] = ()
    strict_sql: bool = True
    blob_bytes: int = Field(default=4096, ge=256)
    most_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    transaction_timeout_s: float = Field(default=60.0, ge=0)


class ShardSettings(_Section):
    """One primary with its replicas, as SQLAlchemy URLs, which may hold passwords and are in no ``repr``."""

    name: str
    primary: str = Field(repr=False)
    replicas: tuple[str, ...] = Field(default=(), repr=False)


class PoolSettings(_Section):
    """Connections of one process to one node.

    Args:
        size: kept open.
        overflow: opened beyond that while needed.
        timeout_s: how long a call waits for one, in seconds.
    """

    size: int = Field(default=10, ge=1)
    overflow: int = Field(default=10, ge=0)
    timeout_s: float = Field(default=30.0, gt=0)


class ShardingSettings(_Section):
    """Which shard has which tenants; see docs/sharding.md.

    Args:
        pins: shards by tenant, instead of where its slot is.
        ranges: by shard the slots that it has, as pairs of the first and the last; left out: an even split.
        catalogue: the shard whose database keeps the shard map, which every gate follows, and of which these settings
            are the beginning; None: these settings are the map, and the same in every gate.
        poll_s: how often the catalogue is asked without a notification, in seconds.
    """

    pins: dict[str, str] = Field(default_factory=dict)
    ranges: dict[str, tuple[tuple[int, int], ...]] = Field(default_factory=dict)
    catalogue: str | None = None
    poll_s: float = Field(default=1.0, gt=0)


class Settings(_Section):
    """All of it; frozen, and can be pickled."""

    shards: tuple[ShardSettings, ...] = ()
    cache: CacheSettings = CacheSettings()
    pool: PoolSettings = PoolSettings()
    sharding: ShardingSettings = ShardingSettings()

    def shard_map(self) -> ShardMap:
        """The shard map of these settings: the first one, of a catalogue.

        Raises:
            SettingsError: it cannot work; the message names the shard, range or pin.
        """
        names, sharding = [shard.name for shard in self.shards], self.sharding
        if sharding.catalogue is not None and sharding.catalogue not in names:
            known = ", ".join(names)
            raise SettingsError(f"sharding.catalogue names the shard {sharding.catalogue!r}; known are {known}")
        if not sharding.ranges:
            return even_map(names, sharding.pins)
        return map_of_ranges(names, sharding.ranges, sharding.pins)

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read *path*.

        Raises:
            SettingsError: it cannot be read, is no TOML, or holds a setting that cannot work.
        """
        try:
            return cls._checked(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{path}: {error}") from error

    @classmethod
    def from_environment(cls, *, with_database: bool = True) -> Self:
        """The file that TIDEGATE_CONFIG names, else TIDEGATE_DATABASE_URL and TIDEGATE_CACHE_URL.

        Args:
            with_database: whether the environment must name a database; not where the program brings its engine.

        Raises:
            SettingsError: neither is set, or what is set cannot work.
        """
        given = _Environment()
        if given.config:
            return cls.from_toml(Path(given.config))
        if not with_database:
            return cls._checked({"cache": {"url": given.cache_url}}, "environment")
        if not given.database_url:
            raise SettingsError(
                "no settings: give connect() a TOML file or Settings, or set TIDEGATE_CONFIG to the path of one, or "
                "TIDEGATE_DATABASE_URL to a URL like postgresql+psycopg://host/dify (and TIDEGATE_CACHE_URL to one "
                "like redis://host:6379/0)"
            )
        shard = {"name": "s0", "primary": given.database_url}
        return cls._checked({"shards": [shard], "cache": {"url": given.cache_url}}, "environment")

    @classmethod
    def _checked(cls, values: dict[str, Any], where: str) -> Self:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
            raise SettingsError(f"{where}: {wrong}") from None


class _Environment(BaseSettings):
    """TIDEGATE_CONFIG, TIDEGATE_DATABASE_URL and TIDEGATE_CACHE_URL."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_")

    config: str | None = None
    database_url: str | None = None
    cache_url: str | None = None
