"""The questions to a database and its cache, whose answers tell what is wrong with them; they change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select, text

from tidegate.cache.redis.store import RedisStore
from tidegate.cache.store import StoreUnavailable
from tidegate.position import UNKNOWN, AskedFor
from tidegate.proxy.database.identity import cluster_id, cluster_namespace
from tidegate.proxy.database.placement import own, schema_of
from tidegate.proxy.database.schema import DATABASE, OUTBOX, STATE, fact, missing_tables
from tidegate.proxy.database.serving import served
from tidegate.proxy.tracking.dropping import old_triggers
from tidegate.proxy.tracking.failures import failing_triggers, last_failure
from tidegate.proxy.tracking.rights import needed_grants
from tidegate.proxy.tracking.tracked_tables import Tables
from tidegate.proxy.tracking.triggers import missing_triggers
from tidegate.repositories.indexes import index_states
from tidegate.repositories.tracked import TRACKED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Engine

    from tidegate.cache.redis.server_facts import ServerFacts
    from tidegate.cache.store import CacheServer
    from tidegate.proxy.database.serving import Serving
    from tidegate.proxy.settings import CacheSettings
    from tidegate.proxy.tracking.dropping import OldTriggers
    from tidegate.proxy.tracking.failures import Failure

PATIENCE_MS: Final = 2_000
"""How long to wait for a server of the cache, in milliseconds. It is longer than a gate waits, so that a slow server is
not taken for one that does not answer."""
_NO_NAMESPACE: Final = "0"
# Only transactions that have an id prolong a quarantine. The one with the lowest id does so for longest, in whatever
# database of the server it runs.
_OLDEST: Final = text(
    "SELECT x::text AS xid, pid, gid, state, program, owner, EXTRACT(EPOCH FROM clock_timestamp() - since) AS age_s"
    " FROM (SELECT backend_xid AS x, pid, '' AS gid, state, application_name AS program, usename::text AS owner,"
    " xact_start AS since FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
    " UNION ALL SELECT transaction, NULL, gid, 'prepared', '', owner::text, prepared FROM pg_prepared_xacts) running"
    " ORDER BY age(x) DESC LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Running:
    """A transaction that has an id.

    Args:
        xid: its id.
        age_s: how long ago it began, or was prepared, in seconds; None: it is another user's, and this user may not see
            it.
        pid: the number of its process; None: it is prepared, and has no process.
        gid: the name under which it was prepared.
        state: "active", "idle in transaction", ..., or "prepared".
        program: the name that its program gave (application_name).
        owner: the user.
    """

    xid: str
    age_s: float | None
    pid: int | None
    gid: str
    state: str
    program: str
    owner: str


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What the primary says about what Tidegate needs.

    Args:
        indexes: "valid", "invalid", "missing" or "foreign", by the index's name.
        missing_tables: the tables of Tidegate's own that are missing.
        untriggered: the tracked tables, as the database names them, that lack triggers.
        grants: what would let this user make the triggers that lack.
        old_triggers: triggers that this release would not make.
        failing: triggers that would fail now.
        last_failure: the trigger that has failed last; None: none has, or it is not known.
        closed_tables: the tables of Tidegate's own that this user may not read. The facts below are as if they were
            empty.
        serving: the cache server that serves this database; None: no gate has come with a cache yet.
        namespace: the name that this database has in the cache's keys; "": no gate has given it one yet.
        oldest: the transaction that would prolong a quarantine for longest; None: no transaction has an id.
        waiting: how many rows are in the outbox.
        waiting_s: how long the oldest of them has been there, in seconds.
        cluster: the id of the cluster of shards that it belongs to; None: none is known.
    """

    indexes: Mapping[str, str]
    missing_tables: tuple[str, ...]
    untriggered: tuple[str, ...] = ()
    grants: tuple[str, ...] = ()
    old_triggers: tuple[OldTriggers, ...] = ()
    failing: tuple[Failure, ...] = ()
    last_failure: Failure | None = None
    closed_tables: tuple[str, ...] = ()
    serving: Serving | None = None
    oldest: Running | None = None
    waiting: int = 0
    waiting_s: float = 0.0
    cluster: str | None = None
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """What the cache that the settings name says.

    Args:
        name: its URL, without the password.
        most_ms: how long a gate waits for one answer, in milliseconds.
        servers: what its servers say.
        away: why it did not answer; empty: it did.
        refused: its error message, if it refused a question as a gate asks it; empty: it did not.
        server: which server it is; None: it did not say.
    """

    name: str
    most_ms: int
    servers: tuple[ServerFacts, ...] = ()
    away: str = ""
    refused: str = ""
    server: CacheServer | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the database and the cache say; *cache* is None where the settings name none."""

    database: DatabaseFacts
    cache: CacheFacts | None


def collect(engine: Engine, cache: CacheSettings) -> Facts:
    """Ask the primary of *engine*, and the cache that the settings name.

    Raises:
        SettingsError: the cache's URL cannot work.
        SQLAlchemyError: the database does not answer.
    """
    database = database_facts(engine)
    return Facts(database, cache_facts(cache, database.namespace))


def database_facts(engine: Engine) -> DatabaseFacts:
    """Ask the primary of *engine*.

    Raises:
        SQLAlchemyError: it does not answer.
    """
    missing = tuple(missing_tables(engine))
    closed = _closed(engine, [name for name in (STATE.name, OUTBOX.name) if name not in missing])
    waiting, waiting_s = (0, 0.0) if OUTBOX.name in missing + closed else _outbox(engine)
    is_open = STATE.name not in missing + closed
    cluster = cluster_id(engine, None) if is_open else None
    untriggered = () if missing else _untriggered(engine)
    return DatabaseFacts(
        indexes=index_states(engine),
        missing_tables=missing,
        untriggered=untriggered,
        grants=tuple(needed_grants(engine, untriggered)),
        old_triggers=tuple(old_triggers(engine, Tables(TRACKED))),
        failing=tuple(failing_triggers(engine, Tables(TRACKED))),
        last_failure=last_failure(engine) if is_open else None,
        closed_tables=closed,
        serving=served(engine).by if is_open else None,
        oldest=_oldest(engine),
        waiting=waiting,
        waiting_s=waiting_s,
        cluster=cluster,
        namespace=_namespace(engine, cluster) if is_open else "",
    )


def _untriggered(engine: Engine) -> tuple[str, ...]:
    return tuple(found.on for found in missing_triggers(engine, Tables(TRACKED)) if found.on)


def _namespace(engine: Engine, cluster: str | None) -> str:
    if cluster is not None:
        return cluster_namespace(cluster)
    return (fact(engine, DATABASE) or "").partition(" ")[0]


def _closed(engine: Engine, names: Sequence[str]) -> tuple[str, ...]:
    if engine.dialect.name != "postgresql":
        return ()
    schema = schema_of(engine)
    prefix = "" if schema is None else f"{engine.dialect.identifier_preparer.quote_identifier(schema)}."
    with engine.connect() as connection:
        return tuple(
            name for name in names if not connection.scalar(select(func.has_table_privilege(prefix + name, "SELECT")))
        )


def _oldest(engine: Engine) -> Running | None:
    if engine.dialect.name != "postgresql":
        return None
    with engine.connect() as connection:
        row = connection.execute(_OLDEST).one_or_none()
    if row is None:
        return None
    age_s = None if row.age_s is None else float(row.age_s)
    return Running(row.xid, age_s, row.pid, row.gid, row.state or "", row.program or "", row.owner or "")


def _outbox(engine: Engine) -> tuple[int, float]:
    # Gates write created_at in UTC, since their sessions are in UTC.
    utc = func.timezone("UTC", func.now()) if engine.dialect.name == "postgresql" else func.current_timestamp()
    with own(engine).connect() as connection:
        count, oldest, now = connection.execute(
            select(func.count(), func.min(OUTBOX.c.created_at), utc.label("now")).select_from(OUTBOX)
        ).one()
    return count, 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())


def cache_facts(settings: CacheSettings, namespace: str = "") -> CacheFacts | None:
    """Ask the cache that the settings name; return None if they name none.

    Args:
        settings: of the cache.
        namespace: the name that the databases have in its keys; "": none yet.

    Raises:
        SettingsError: the cache's URL cannot work.
    """
    return None if settings.url is None else _cache(settings, settings.url, namespace or _NO_NAMESPACE)


def _cache(settings: CacheSettings, url: str, namespace: str) -> CacheFacts:
    name, most_ms = settings.name or url, settings.read_timeout_ms
    try:
        store = RedisStore.from_url(url, namespace, connect_timeout_ms=PATIENCE_MS, read_timeout_ms=PATIENCE_MS)
        servers = store.servers()
    except StoreUnavailable as error:
        return CacheFacts(name, most_ms, away=str(error))
    try:
        store.lookup("", "-", "-", AskedFor(UNKNOWN))
        found = store.server()
    except StoreUnavailable as error:
        return CacheFacts(name, most_ms, servers, refused=str(error))
    finally:
        store.close()
    return CacheFacts(name, most_ms, servers, server=found)
