"""What a gate is made of: shards, replicas and the cache; from a file, the environment, or code."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidegate.cache.redis.url import shown_url
from tidegate.errors import SettingsError
from tidegate.public import public
from tidegate.repositories.policies import NearMode  # noqa: TC001  # pydantic asks for it at run time
from tidegate.routing.sharding.shard_map import ShardMap, even_map, map_of_ranges


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


@public
class CacheSettings(_Section):
    """The cache. The URL may hold a password, so it is in no ``repr``.

    Args:
        url: ``redis://``, ``rediss://``, ``redis+sentinel://`` or ``redis+cluster://``; None: no cache.
        near: whether answers are also kept in the process, decoded; each is checked before it is used.
        near_modes: modes of the near cache by the method's name, instead of what their policies say; "all" for every
            cached method.
        near_bytes: of memory for what the process keeps, decoded answers and large values apart, each.
        near_entries: how many of them.
        when_away: what a write does when the cache cannot be told: ``"outbox"`` (availability) or ``"refuse"``
            (consistency: the write raises ``CacheUnavailable``).
        connect_timeout_ms: to connect to the cache.
        read_timeout_ms: for one answer of the cache.
        off: kill switches: "all", "method:get_workflow_run_by_id", "tenant:<id>".
        blob_bytes: values larger than this are stored once for all rows that share them.
        most_bytes: an answer larger than this is not cached.
        transaction_timeout_s: how long a transaction may take on a database that cannot tell how one ended (SQLite).
    """

    url: str | None = Field(default=None, repr=False)
    near: bool = True
    near_modes: dict[str, NearMode] = Field(default_factory=dict)
    near_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    near_entries: int = Field(default=100_000, ge=0)
    when_away: Literal["outbox", "refuse"] = "outbox"
    connect_timeout_ms: int = Field(default=50, ge=1, le=60_000)
    read_timeout_ms: int = Field(default=50, ge=1, le=60_000)
    off: tuple[str, ...] = ()
    blob_bytes: int = Field(default=4096, ge=256)
    most_bytes: int = Field(default=8 * 1024 * 1024, ge=1024)
    transaction_timeout_s: float = Field(default=60.0, ge=0)

    @property
    def name(self) -> str | None:
        """Return what the cache is called in messages and in the databases that it serves; None: there is none.

        Raises:
            SettingsError: the URL cannot work.
        """
        return None if self.url is None else shown_url(self.url)


@public
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


@public
class ReplicaSettings(_Section):
    """One replica; in a file, its URL alone will do.

    Args:
        url: SQLAlchemy's, which may hold a password and is in no ``repr``.
        weight: of reads, relative to the other replicas; 0: none.
        max_lag_s: seconds behind the primary past which it is not read from; None: as ``routing`` says.
        pool: connections of one process to it; None: as ``pool`` says.
    """

    url: str = Field(repr=False)
    weight: float = Field(default=1.0, ge=0)
    max_lag_s: float | None = Field(default=None, gt=0)
    pool: PoolSettings | None = None


def _as_replica(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


@public
class ShardSettings(_Section):
    """One primary with its replicas.

    Args:
        name: of the shard.
        primary: a SQLAlchemy URL, which may hold a password and is in no ``repr``. With several hosts
            (``postgresql+psycopg://user@/db?host=a:5432&host=b:5432``) the primary is found among them, and the others
            are replicas.
        replicas: the others, as URLs or with settings of their own. Whoever of all is no standby is the primary.
        patroni: URLs of Patroni's REST interface, like ``http://host:8008``: the servers it names come and go beside
            those that are named here.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")
    primary: str = Field(repr=False)
    replicas: tuple[Annotated[ReplicaSettings, BeforeValidator(_as_replica)], ...] = ()
    patroni: tuple[Annotated[str, Field(pattern=r"^https?://")], ...] = Field(default=(), repr=False)


@public
class RoutingSettings(_Section):
    """Reading from replicas.

    Args:
        max_lag_s: seconds behind the primary past which a replica is not read from.
        poll_ms: how often each server is asked where it is.
        wanted_poll_ms: the same while reads go to the primary because a replica has not replayed far enough.
        discover_ms: how often Patroni is asked which servers there are, where it is named.
        answer_ms: a server that takes longer to answer is taken for gone, and what waits for it is cut.
        silent_ms: how old what is known of a replica may be.
        ban_ms: how long a replica that failed is left alone at first; twice as long each time.
        most_ban_ms: at most.
        statement_timeout_ms: of reads on replicas; 0: none.
        lock_timeout_ms: the same for locks that its replay holds.
        primary_statement_timeout_ms: on the primary; 0: as the server says.
        primary_lock_timeout_ms: on the primary; 0: as the server says.
        primary_reads: how many reads of one process the primary answers at a time where there are replicas; 0: all of
            the pool's connections but one in five.
        primary_wait_ms: how long a read waits for its turn there before it is refused with ``Overloaded``.
    """

    max_lag_s: float = Field(default=10.0, gt=0)
    poll_ms: int = Field(default=250, ge=10, le=60_000)
    wanted_poll_ms: int = Field(default=20, ge=5, le=60_000)
    discover_ms: int = Field(default=5_000, ge=100, le=600_000)
    answer_ms: int = Field(default=1_000, ge=50, le=60_000)
    silent_ms: int = Field(default=1_500, ge=50, le=600_000)
    ban_ms: int = Field(default=500, ge=1)
    most_ban_ms: int = Field(default=30_000, ge=1)
    statement_timeout_ms: int = Field(default=300_000, ge=0)
    lock_timeout_ms: int = Field(default=5_000, ge=0)
    primary_statement_timeout_ms: int = Field(default=0, ge=0)
    primary_lock_timeout_ms: int = Field(default=0, ge=0)
    primary_reads: int = Field(default=0, ge=0)
    primary_wait_ms: int = Field(default=2_000, ge=0)


@public
class ShardingSettings(_Section):
    """Which shard has which tenants; see docs/sharding.md.

    Args:
        pins: shards by tenant, instead of where its slot is.
        ranges: by shard the slots that it has, as pairs of the first and the last; left out: an even split.
        catalogue: the shard whose database keeps the shard map, which every gate follows, and of which these settings
            are the beginning; None: these settings are the map, and the same in every gate.
        poll_s: how often the catalogue is asked without a notification, in seconds.
        flip_wait_s: how long a write waits while its tenant changes hands, before it raises ``StaleShardMap``; longer
            than a flip lets the writes before it take.
        scatter_s: how long a call that asks every shard may take.
    """

    pins: dict[str, str] = Field(default_factory=dict)
    ranges: dict[str, tuple[tuple[int, int], ...]] = Field(default_factory=dict)
    catalogue: str | None = None
    poll_s: float = Field(default=1.0, gt=0)
    flip_wait_s: float = Field(default=6.0, ge=0)
    scatter_s: float = Field(default=10.0, gt=0)


ENV_FILE: Final = ".env"
"""The file of variables that commands read in the folder where they run, as Dify does."""


@public
class Settings(_Section):
    """All of it; frozen, and can be pickled."""

    shards: tuple[ShardSettings, ...] = ()
    cache: CacheSettings = CacheSettings()
    routing: RoutingSettings = RoutingSettings()
    pool: PoolSettings = PoolSettings()
    sharding: ShardingSettings = ShardingSettings()

    def shard_map(self) -> ShardMap:
        """Return the shard map of these settings; of a catalogue it is the first one.

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
        """Read the settings of a TOML file.

        Raises:
            SettingsError: it cannot be read, is no TOML, or holds a setting that cannot work.
        """
        try:
            return cls._checked(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{path}: {error}") from error

    @classmethod
    def from_environment(cls, *, primary: str | None = None, env_file: str | None = None) -> Self:
        """Read the file that TIDEGATE_CONFIG names, else the other TIDEGATE_* variables.

        These are TIDEGATE_DATABASE_URL, TIDEGATE_REPLICAS (URLs, with commas between) and TIDEGATE_CACHE_URL.

        Args:
            primary: the URL of the engine that the program brings; None: the environment must name a database.
            env_file: the path of a file of variables; those of the process count more. None: there is none.

        Raises:
            SettingsError: no database is named, or what is set cannot work.
        """
        given = variables(env_file)
        if given.config:
            return cls.from_toml(Path(given.config))
        database, replicas = primary or given.database_url, (given.replicas or "").replace(",", " ").split()
        if database is None:
            raise SettingsError(
                "no settings: give connect() a TOML file or Settings, or set TIDEGATE_CONFIG to the path of one, or "
                "TIDEGATE_DATABASE_URL to a URL like postgresql+psycopg://host/dify (and TIDEGATE_CACHE_URL to one "
                "like redis://host:6379/0)"
            )
        shards = [{"name": "s0", "primary": database, "replicas": replicas}]
        return cls._checked({"shards": shards, "cache": {"url": given.cache_url}}, "environment")

    @classmethod
    def _checked(cls, values: dict[str, Any], where: str) -> Self:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
            raise SettingsError(f"{where}: {wrong}") from None


class Variables(BaseSettings):
    """The TIDEGATE_* variables."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", extra="ignore")

    config: str | None = None
    database_url: str | None = None
    cache_url: str | None = None
    replicas: str | None = None


def variables(env_file: str | None) -> Variables:
    """Read the TIDEGATE_* variables of the process, and of a file; those of the process count more.

    Args:
        env_file: the file's path; None: there is none.

    Raises:
        SettingsError: the file is there, and cannot be read.
    """
    settings: Any = Variables  # pydantic's own argument is not in the signature that type checkers see
    try:
        found: Variables = settings(_env_file=env_file)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{env_file} cannot be read: {error}") from error
    return found
