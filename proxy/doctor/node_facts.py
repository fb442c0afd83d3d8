"""The questions to one server, whose answers tell what is wrong with it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError

from tidegate.error_text import first_line, remember_password
from tidegate.proxy.database.placement import STATE_NAME
from tidegate.routing.replicas.probe_sql import VIEW, one_row, row_of, view_of

if TYPE_CHECKING:
    from sqlalchemy import URL

    from tidegate.routing.replicas.topology import View

CATCHES_UP_S: Final = 2.0
"""How long a replica has to show what the primary had written when the primary was asked, in seconds."""
_POLL_S: Final = 0.05
_FACTS: Final = (
    "SELECT current_setting('timezone'),"
    " (SELECT setting::int FROM pg_settings WHERE name = 'wal_retrieve_retry_interval'),"
    " current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    " - coalesce(current_setting('reserved_connections', true)::int, 0),"
    " pg_has_role('pg_read_all_stats', 'USAGE'), current_user,"
    " (SELECT count(*) FROM pg_stat_wal_receiver),"
    " EXTRACT(EPOCH FROM now() - pg_last_xact_replay_timestamp()),"
    " CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_receive_lsn(), '0/0') ELSE pg_current_wal_flush_lsn() END"
    " - '0/0'::pg_lsn,"
    " current_setting('wal_block_size')::int"
)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a server says of itself.

    Args:
        view: what its monitor would see.
        timezone: the time zone of a connection that does not set one.
        retry_ms: ``wal_retrieve_retry_interval``, in milliseconds.
        connections: how many connections may be open, without those that are reserved.
        sees_receiver: whether this user may see the timeline that a standby receives.
        user: the user who asked.
        receives: whether a standby is connected to the server that it replicates from.
        shown_age_s: how old the newest commit is that a standby shows, in seconds; None: it shows none yet.
        safe_lsn: how far a primary's log is on its disk, or a standby has received it, in bytes. What a primary has
            written and not flushed may stay behind for up to 15 s.
        wal_page: the size of a page of the log, in bytes.
    """

    view: View
    timezone: str
    retry_ms: int
    connections: int
    sees_receiver: bool
    user: str
    receives: bool
    shown_age_s: float | None
    safe_lsn: int = 0
    wal_page: int = 8192


def facts_of(url: URL, reach_lsn: int | None = None) -> NodeFacts | str:
    """Ask a server.

    Args:
        url: the server's URL.
        reach_lsn: wait for at most :data:`CATCHES_UP_S` until the server has replayed up to this; None: do not wait.

    Returns:
        What it said; or, as a text without a password, why it did not answer.
    """
    remember_password(url.password)
    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 5})
    try:
        raw = engine.raw_connection()
        try:
            return _asked(raw.dbapi_connection, reach_lsn)
        finally:
            raw.close()
    except (SQLAlchemyError, engine.dialect.loaded_dbapi.Error) as error:
        return first_line(error)


def _asked(raw: Any, reach_lsn: int | None) -> NodeFacts:
    view = view_of(one_row(raw, VIEW, STATE_NAME), time.monotonic())
    until_s = time.monotonic() + CATCHES_UP_S
    while view.standby and view.position.lsn < (reach_lsn or 0) and time.monotonic() < until_s:
        time.sleep(_POLL_S)
        view = view_of(one_row(raw, VIEW, STATE_NAME), time.monotonic())
    timezone, retry_ms, connections, sees, user, receivers, age_s, safe, page = row_of(raw, _FACTS)
    shown_age_s = None if age_s is None else float(age_s)
    return NodeFacts(view, timezone, retry_ms, connections, sees, user, receivers > 0, shown_age_s, int(safe), page)


def behind(facts: NodeFacts, primary: NodeFacts) -> NodeFacts:
    """Return *facts*, with an age of 0 if the standby shows all that *primary* had written when that was asked."""
    caught_up = facts.view.position.lsn >= primary.safe_lsn or _waits_for_rest(facts, primary)
    return replace(facts, shown_age_s=0.0) if caught_up else facts


def _waits_for_rest(facts: NodeFacts, primary: NodeFacts) -> bool:
    # The log writer flushes whole pages, and a page may end within a record. No commit is in such a record (a commit
    # flushes up to its end), and a standby that has received the page can replay the record only with its rest.
    at_page_end = primary.safe_lsn % primary.wal_page == 0
    return at_page_end and facts.safe_lsn >= primary.safe_lsn and not facts.view.replay_paused
