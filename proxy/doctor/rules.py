"""What is wrong with a database and its cache, in plain words. All is pure: :mod:`tidegate.proxy.doctor.facts` asks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from tidegate.proxy.doctor.finding import Finding
from tidegate.proxy.tracking.coverage import cached_methods
from tidegate.proxy.tracking.rights import how_to_make
from tidegate.repositories.node_policies import NODE_EXECUTION_POLICIES
from tidegate.repositories.run_policies import WORKFLOW_RUN_POLICIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tidegate.cache.redis.server_facts import ServerFacts
    from tidegate.proxy.doctor.facts import CacheFacts, DatabaseFacts, Facts

LONG_S: Final = 60.0
"""How long a transaction may run before it is a finding, in seconds: a quarantine would last as long."""
APPLIED_S: Final = 5.0
"""How long a row may stay in the outbox before it is a finding, in seconds. A gate that reaches the cache is faster."""
_CACHED: Final = (
    *cached_methods("WorkflowRuns", WORKFLOW_RUN_POLICIES),
    *cached_methods("NodeExecutions", NODE_EXECUTION_POLICIES),
)
FAILED_S: Final = 3600.0
"""How long ago a trigger may have failed to be a finding, in seconds: it fails again at the next write, or is gone."""
_FAILS: Final = "each write to the table voids all that is cached of the database"
_WITHOUT_INDEX: Final = (
    "without it, pages are read by Dify's indexes, as Dify reads them, and cost more the more runs an app has"
)
_OLDEST_VERSION: Final = (6, 2)
_RIGHT_POLICY: Final = "volatile-ttl is right: it evicts answers first, because marks have a longer time to live"


def findings(facts: Facts) -> list[Finding]:
    """Return what is wrong with the database and the cache."""
    return database_findings(facts) + cache_findings(facts.cache)


def database_findings(facts: Facts) -> list[Finding]:
    """Return what is wrong with the database, and whether the cache is the one that serves it."""
    found = [finding for check in _OF_THE_DATABASE for finding in check(facts.database)]
    return found if facts.cache is None else [*found, *check_serving_cache(facts.cache, facts.database)]


def cache_findings(cache: CacheFacts | None) -> list[Finding]:
    """Return what is wrong with the cache itself, whatever database it serves."""
    return [] if cache is None else [finding for check in _OF_THE_CACHE for finding in check(cache)]


def all_is_well(facts: Facts) -> list[str]:
    """Return the lines to print if nothing is gravely wrong."""
    lines = ["all indexes, tables and triggers are there"]
    cache, serving = facts.cache, facts.database.serving
    if cache is not None:
        quickest_ms = min(server.answer_ms for server in cache.servers)
        serves = "serves this database" if serving else "will serve this database from the first gate on"
        lines.append(f"the cache {cache.name} answers in {quickest_ms:.1f} ms, and {serves}")
    elif serving is not None:
        lines.append(
            f"the cache {serving.url}, which serves this database, was not asked: give --cache-url or --config"
        )
    return lines


def check_indexes(database: DatabaseFacts) -> Iterator[Finding]:
    """Yield a finding for each index that is missing, was not built to the end, or is another one of its name."""
    for name, state in database.indexes.items():
        if state == "foreign":
            cure = f"{_WITHOUT_INDEX}; rename the other index, then run: tidegate init"
            yield Finding(f"index {name}", "is another index, which only has the name", cure)
        elif state != "valid":
            yield Finding(f"index {name}", f"is {state}", f"{_WITHOUT_INDEX}; run: tidegate init")


def check_tables(database: DatabaseFacts) -> Iterator[Finding]:
    """Yield a finding for each of Tidegate's own tables that is missing, or that this user may not read."""
    for name in database.missing_tables:
        yield Finding(f"table {name}", "is missing", "a gate makes it if its user may; or run: tidegate init")

    for name in database.closed_tables:
        cure = f"its rows were not checked; a gate's user must read and write it: GRANT ALL ON {name} TO that user"
        yield Finding(f"table {name}", "may not be read by this user", cure, grave=False)


def check_triggers(database: DatabaseFacts) -> Iterator[Finding]:
    """Yield a finding for each tracked table whose changes nobody notes."""
    for name in database.untriggered:
        cure = f"what depends on it is not cached; {how_to_make(database.grants)}"
        yield Finding(f"table {name}", "lacks the triggers that note changes", cure)
    if database.untriggered:
        yield Finding(", ".join(_CACHED), "are not cached", "tables that they depend on lack triggers; see above")


def check_failing_triggers(database: DatabaseFacts) -> Iterator[Finding]:
    """Yield a finding for each trigger that cannot do its work, and for the last one that could not, if that is new."""
    for failing in database.failing:
        wrong = f"is not as this release knows it ({failing.error})"
        yield Finding(
            f"table {failing.table}", wrong, f"{_FAILS}; use the release that knows it, and run: tidegate init"
        )
    last = database.last_failure
    if last is None or last.at is None or (datetime.now(UTC) - last.at).total_seconds() > FAILED_S:
        return
    wrong = f"failed at {last.at:%Y-%m-%d %H:%M:%S} UTC ({last.error})"
    cure = f"{_FAILS}; if the trigger is an older release's, and none of its gates runs, run: tidegate init --prune"
    yield Finding(f"a trigger of {last.table}", wrong, cure)


def check_old_triggers(database: DatabaseFacts) -> Iterator[Finding]:
    """Yield a finding for each table with triggers that this release would not make."""
    for old in database.old_triggers:
        if old.is_known:
            cure = (
                "its gates need them, and each change is noted once more; when none of these gates runs any more, run: "
                "tidegate init --prune"
            )
            yield Finding(f"table {old.on}", "has triggers of another release", cure, grave=False)
        else:
            cure = (
                "a repository of your own may need them; if no gate tracks it any more, run: tidegate init --prune "
                f"--untracked {old.on}"
            )
            yield Finding(f"table {old.on}", "has triggers, and this release does not track it", cure, grave=False)


def check_transactions(database: DatabaseFacts) -> Iterator[Finding]:
    """Yield a finding for the oldest transaction, if it is long: a quarantine lasts until it has ended."""
    oldest = database.oldest
    if oldest is None or oldest.age_s is None or oldest.age_s < LONG_S:
        return
    if oldest.pid is None:
        who, end = f"prepared as {oldest.gid!r}", "COMMIT PREPARED or ROLLBACK PREPARED ends it"
    else:
        named = f", {oldest.program}" if oldest.program else ""
        who = f"process {oldest.pid}{named}, {oldest.state}"
        end = f"SELECT pg_terminate_backend({oldest.pid}) ends it"
    wrong = f"has been running for {oldest.age_s:.0f} s ({who}, of {oldest.owner})"
    cure = f"a tenant whose marks are lost now is in quarantine, and not cached, until it has ended; {end}"
    yield Finding(f"transaction {oldest.xid}", wrong, cure, grave=False)


def check_outbox(database: DatabaseFacts) -> Iterator[Finding]:
    """Yield a finding if the outbox holds changes that the cache should have been told of by now."""
    if database.waiting and database.waiting_s >= APPLIED_S:
        rows = "1 change" if database.waiting == 1 else f"{database.waiting:,} changes"
        wrong = f"has {rows} that the cache was not told of, the oldest for {database.waiting_s:.0f} s"
        cure = (
            "answers from the cache may be older by this time; a gate applies them if its cache.url is "
            f"{database.serving.url if database.serving else 'the cache that serves this database'} and it can reach "
            "that cache"
        )
        yield Finding("the outbox", wrong, cure)


def check_serving_cache(cache: CacheFacts, database: DatabaseFacts) -> Iterator[Finding]:
    """Yield a finding if the cache that the settings name is not the one that serves this database."""
    serving = database.serving
    if serving is None or (serving.url == cache.name and cache.server is None):
        return
    found = cache.server
    is_same = found is not None and (found.id, found.life) == (serving.id, serving.life)
    is_taken = serving.url == cache.name and (not serving.id or (found is not None and found.id in (None, serving.id)))
    if not is_same and not is_taken:
        cure = (
            "a gate with these settings caches nothing, and its writes go to the outbox; set cache.url to the cache "
            "that serves the database, or run tidegate init with --cache-url and restart every gate"
        )
        yield Finding(f"the cache {cache.name}", f"does not serve this database: the one at {serving.url} does", cure)


def check_reachable(cache: CacheFacts) -> Iterator[Finding]:
    """Yield a finding if the cache cannot be reached, or refuses what a gate asks."""
    about = f"the cache {cache.name}"
    if cache.away:
        cure = "gates read from the database, and writes use the outbox; start the cache, or correct cache.url"
        yield Finding(about, f"cannot be reached ({cache.away})", cure)
    elif cache.refused and all(server.role == "master" and _is_new_enough(server) for server in cache.servers):
        cure = "nothing is cached; docs/redis.md lists the rights that the cache's user needs"
        yield Finding(about, f"refuses what a gate asks ({cache.refused})", cure)


def check_latency(cache: CacheFacts) -> Iterator[Finding]:
    """Yield a finding for each server that takes longer to answer than a gate waits."""
    for about, server in _named(cache):
        if server.answer_ms > cache.most_ms:
            wrong = f"takes {server.answer_ms:.0f} ms to answer, and a gate waits for {cache.most_ms} ms"
            cure = "nothing is cached; raise cache.read_timeout_ms, or run the cache nearer to the gates"
            yield Finding(about, wrong, cure)


def check_versions(cache: CacheFacts) -> Iterator[Finding]:
    """Yield a finding for each server that is too old."""
    for about, server in _named(cache):
        if not _is_new_enough(server):
            yield Finding(about, f"is {server.product} {server.version}", "Redis 6.2 or later, or Valkey, is needed")


def check_roles(cache: CacheFacts) -> Iterator[Finding]:
    """Yield a finding for each server that is a replica, since replicas take no marks."""
    for about, server in _named(cache):
        if server.role != "master":
            cure = (
                "no mark can be written there, so no gate uses it; set cache.url to its master, or to "
                "redis+sentinel://host/service"
            )
            yield Finding(about, "is a replica", cure)


def check_eviction(cache: CacheFacts) -> Iterator[Finding]:
    """Yield a finding for each server that drops marks when it is full, and keeps the answers that depend on them."""
    for about, server in _named(cache):
        policy = server.eviction
        if policy in ("", "noeviction", "volatile-ttl"):
            continue
        when = "when it is full" if server.most_bytes else "once maxmemory is set and reached"
        cure = f"no stale answer is served, but all cached answers of such a tenant are lost; {_RIGHT_POLICY}"
        if policy.startswith("allkeys-"):
            cure = f"it may also evict kill switches, and what they switched off is then on again; {cure}"
        yield Finding(about, f"may evict marks {when} (maxmemory-policy {policy})", cure, grave=False)


_OF_THE_DATABASE: Final[tuple[Callable[[DatabaseFacts], Iterable[Finding]], ...]] = (
    check_indexes,
    check_tables,
    check_triggers,
    check_failing_triggers,
    check_old_triggers,
    check_transactions,
    check_outbox,
)
_OF_THE_CACHE: Final[tuple[Callable[[CacheFacts], Iterable[Finding]], ...]] = (
    check_reachable,
    check_latency,
    check_versions,
    check_roles,
    check_eviction,
)


def _named(cache: CacheFacts) -> Iterator[tuple[str, ServerFacts]]:
    for server in cache.servers:
        yield (f"the cache's server {server.name}" if server.name else f"the cache {cache.name}"), server


def _is_new_enough(server: ServerFacts) -> bool:
    major, _, rest = server.version.partition(".")
    minor = rest.partition(".")[0]
    return not (major.isdecimal() and minor.isdecimal()) or (int(major), int(minor)) >= _OLDEST_VERSION
