"""The shards' primaries and their map, as the commands use them: from the settings alone, without a gate."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import DBAPIError

from tidegate.error_text import first_line
from tidegate.errors import NoNodeAvailable, SettingsError
from tidegate.proxy.database.identity import is_named
from tidegate.proxy.database.placement import schema_of
from tidegate.proxy.database.schema import STATE
from tidegate.proxy.nodes.addresses import addresses
from tidegate.proxy.shards.catalogue import Catalogue, Entry

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tidegate.proxy.settings import Settings, ShardSettings
    from tidegate.proxy.shards.catalogue import FlipPlan
    from tidegate.routing.sharding.shard_map import ShardMap

_CONNECT: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "application_name": "tidegate shards",
    "options": "-c timezone=UTC",
}
# Copies of one data folder have the same identifier, so the start time is asked too: no two servers start in the same
# microsecond. One server may have several databases, so the name is asked too.
_IDENTITY: Final = text(
    "SELECT s.system_identifier, pg_postmaster_start_time(), current_database() FROM pg_control_system() s"
)


@dataclass(frozen=True, slots=True)
class Known:
    """The map that gates use now.

    Args:
        shard_map: the map.
        where: where the map is from, in words to be shown.
        entry: what the catalogue holds; None: there is no catalogue, or it is empty, and the map is that of the
            settings.
    """

    shard_map: ShardMap
    where: str
    entry: Entry | None = None

    @property
    def flip(self) -> FlipPlan | None:
        """Return the flip that is under way; None if there is none."""
        return None if self.entry is None else self.entry.flip

    @property
    def last_epoch(self) -> int:
        """Return the last epoch that was given to any map or flip."""
        return self.shard_map.epoch if self.entry is None else self.entry.next_epoch - 1


@dataclass(slots=True)
class Databases:
    """Connect to the primary of each shard, wherever it is now; a context manager.

    Args:
        settings: the settings, which name the shards.

    Raises:
        SettingsError: the settings name no shard, or their sharding cannot work.
    """

    settings: Settings
    _engines: dict[str, Engine] = field(default_factory=dict, init=False)
    _finding: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        if not self.settings.shards:
            raise SettingsError(
                "shards: the settings name no shard; give --config a file with a [[shards]] section for each shard"
            )
        self.settings.shard_map()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._engines.values():
            engine.dispose()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all shards in the settings, in their order."""
        return tuple(shard.name for shard in self.settings.shards)

    def engine(self, name: str) -> Engine:
        """Return the engine of a shard's primary, which is looked for at the first call.

        Raises:
            SettingsError: the settings have no such shard, or have a URL that cannot be used.
            NoNodeAvailable: none of its servers answers as a primary; the message says what each of them does.
        """
        with self._finding:
            found = self._engines.get(name)
        if found is None:
            found = _primary(self._settings_of(name), self.settings)
            with self._finding:
                found = self._engines.setdefault(name, found)
        return found

    def own_engine(self, name: str) -> Engine:
        """Return the same as :meth:`engine`, after checking that no gate has recorded the database as another shard's.

        Raises:
            SettingsError: it is recorded as another shard's; or as for :meth:`engine`.
            NoNodeAvailable: as for :meth:`engine`.
        """
        engine = self.engine(name)
        if inspect(engine).has_table(STATE.name, schema_of(engine)):
            is_named(engine, name)
        return engine

    def catalogue(self) -> Catalogue | None:
        """Return the catalogue; None if the settings name none."""
        name = self.settings.sharding.catalogue
        return None if name is None else Catalogue(self.engine(name))

    def known(self) -> Known:
        """Return the map that gates use now: the catalogue's, or that of the settings."""
        name = self.settings.sharding.catalogue
        if name is None:
            return Known(self.settings.shard_map(), "the settings: sharding.catalogue is not set")
        entry = Catalogue(self.engine(name)).load()
        if entry is None:
            return Known(
                self.settings.shard_map(), f"the settings: the catalogue on {name} is empty until a gate starts"
            )
        return Known(entry.shard_map, f"the catalogue on {name}", entry)

    def identity(self, name: str) -> tuple[Any, ...]:
        """Return what no other database has in common with this one: identifier, start time and name."""
        with self.engine(name).connect() as connection:
            return tuple(connection.execute(_IDENTITY).one())

    def _settings_of(self, name: str) -> ShardSettings:
        for shard in self.settings.shards:
            if shard.name == name:
                return shard
        known = ", ".join(self.names)
        raise SettingsError(
            f"the settings have no database for the shard {name!r}, only for {known}: add a [[shards]] section for it"
        )


def _primary(shard: ShardSettings, settings: Settings) -> Engine:
    troubles = []
    for address in addresses(shard, settings):
        if address.url.get_backend_name() != "postgresql":
            raise SettingsError(f"shards.{shard.name}: sharding needs PostgreSQL, not {address.url.get_backend_name()}")
        engine = create_engine(address.url, pool_size=2, pool_pre_ping=True, connect_args=_CONNECT)
        try:
            with engine.connect() as connection:
                if not connection.scalar(text("SELECT pg_is_in_recovery()")):
                    return engine
            troubles.append(f"{address.name} is a standby")
        except DBAPIError as error:
            troubles.append(f"{address.name}: {first_line(error)}")
        engine.dispose()
    raise NoNodeAvailable(f"the shard {shard.name} has no primary that answers: {'; '.join(troubles)}")
