"""Watching an engine: at each COMMIT it takes the notes of what the transaction has changed, for the commit protocol.

The notes are written by triggers, so it is the database that says what changed, and not the statements. Whatever
commits beside these hooks (AUTOCOMMIT, the driver's own commit, a COMMIT as text) leaves its notes in the outbox.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, PoolProxiedConnection, event, insert, text
from sqlalchemy.orm import sessionmaker

from tidegate.error_text import traceback_text
from tidegate.errors import CommitUnknown, PolicyError, StaleShardMap
from tidegate.interruptions import pass_interruption
from tidegate.proxy.database.deadlines import check_deadline
from tidegate.proxy.database.note_functions import PUT, qualified
from tidegate.proxy.database.placement import OWN_SCHEMA, execute_own, schema_of
from tidegate.proxy.database.schema import OUTBOX
from tidegate.proxy.tracking.notes import MOST_TAGS, read_notes
from tidegate.proxy.writes.commit_connection import CommittingConnection, has_failed, is_autocommit, mark_watched
from tidegate.proxy.writes.one_tenant import (
    HELD,
    look_before,
    only_tenant,
    refusal_told_to,
    refuse_others,
    refused_by_shard,
    take_look,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, ExceptionContext

    from tidegate.proxy.tracking.notes import Note
    from tidegate.proxy.tracking.observers import Observers
    from tidegate.proxy.writes.commit_protocol import CommitProtocol

_log: Final = logging.getLogger(__name__)
_WROTE: Final = "tidegate.wrote"
_TAKEN: Final = "tidegate.taken"
_TICKET: Final = "tidegate.ticket"
_COMMITTING: Final = "tidegate.committing"
_OBSERVED: Final = "tidegate.observed"
_PLAIN: Final = ("SELECT", "SHOW", "SET", "SAVEPOINT", "RELEASE", "ROLLBACK", "BEGIN")
"""How statements begin that change no row, if nothing follows them and they call no function that does."""
_CALLED: Final = re.compile(r'([\w$]+|"|\*/|--[^\n]*)\s*\(')
"""Words before a bracket; or a comment, behind which there may be one."""
_HARMLESS: Final = frozenset(
    """
    select from where and or not on in any all some as by having limit offset values exists case when then else
    between is like ilike similar distinct filter over within using join lateral union intersect except array
    row cast extract char varchar numeric decimal float time timestamp timestamptz interval bit count sum avg
    min max bool_and bool_or array_agg string_agg json_agg jsonb_agg json_build_object jsonb_build_object
    json_build_array jsonb_build_array to_json to_jsonb json_extract json_each row_to_json coalesce nullif
    greatest least lower upper trim btrim ltrim rtrim length char_length substr substring position replace
    concat concat_ws left right lpad rpad split_part strpos to_char to_date to_timestamp date date_trunc
    date_part datetime strftime julianday age now abs round floor ceil ceiling power sqrt mod random row_number
    rank dense_rank ntile lag lead first_value last_value percentile_cont percentile_disc unnest
    generate_series regexp_replace regexp_match md5 ifnull total group_concat typeof cardinality array_length
    current_setting version pg_is_in_recovery
    """.split()  # noqa: SIM905  # as a list it would be two pages
)
"""Words before a bracket that are no function's name, and functions that change nothing. With any other word a commit
asks what has changed: that costs a round trip, where nothing has."""


def attach(
    engine: Engine | sessionmaker[Any],
    protocol: CommitProtocol[Any],
    *,
    left_note: Callable[[], None] | None = None,
    most_tags: int = MOST_TAGS,
    observers: Observers | None = None,
) -> Watch:
    """Watch *engine*, and all engines that ``execution_options`` made of it.

    Args:
        engine: an engine, or a ``sessionmaker`` that is bound to one.
        protocol: is told of each transaction that changes tracked rows.
        left_note: is called after each statement that may have left a note in the outbox, since it commits by itself.
        most_tags: how many tags of one tenant one transaction collects; with more, the whole tenant counts as changed.
        observers: are told of the rows that were changed; None: nobody ever observes.

    Returns:
        The watch of the engine: the same one each time.

    Raises:
        PolicyError: *engine* is no engine, or it is watched for another protocol.
    """
    root = _root(engine)
    # The watch is kept on the wrapper of do_commit. It lives as long as the dialect, which all engines share that
    # execution_options made of this one.
    watch = getattr(root.dialect.do_commit, "watch", None)
    if watch is None:
        watch = Watch(protocol, left_note, most_tags, observers)
        watch.listen(root)
        return watch
    if watch.protocol is not protocol:
        raise PolicyError(f"{root!r} is already watched by another gate: use one gate for one engine")
    return watch  # type: ignore[no-any-return]


def _root(engine: Any) -> Engine:
    if isinstance(engine, sessionmaker):
        engine = engine.kw.get("bind")
    engine = getattr(engine, "sync_engine", engine)
    while (proxied := getattr(engine, "_proxied", None)) is not None:
        engine = proxied
    if not isinstance(engine, Engine):
        raise PolicyError(f"only an engine, or a sessionmaker bound to one, can be watched, not {engine!r}")
    return engine


def note_by_hand(connection: Connection, note: Note) -> None:
    """Add *note* to those of the transaction of *connection*, which is watched."""
    if connection.dialect.name == "postgresql":
        put = f"SELECT {qualified(schema_of(connection), PUT)}(:source, :rows)"
        connection.execute(text(put), note._asdict())
    else:
        execute_own(connection, insert(OUTBOX), note._asdict())
    connection.info[_WROTE] = True


class Watch:
    """Watch one engine, and tell the commit protocol what each transaction changes. :func:`attach` makes it.

    Args:
        protocol: is told of commits.
        left_note: as for :func:`attach`.
        most_tags: as well.
        observers: as well.
    """

    def __init__(
        self,
        protocol: CommitProtocol[Any],
        left_note: Callable[[], None] | None,
        most_tags: int,
        observers: Observers | None,
    ) -> None:
        self.protocol: Final = protocol
        self._observers: Final = observers
        self._left_note = left_note
        self._most_tags = most_tags

    def listen(self, engine: Engine) -> None:
        """Register the hooks on *engine*, its pool and its dialect."""
        event.listen(engine, "checkout", partial(mark_watched, engine.dialect))
        event.listen(engine, "before_cursor_execute", _note_write)
        if self._left_note is not None:
            event.listen(engine, "after_cursor_execute", partial(_note_left, self._left_note))
        event.listen(engine, "commit", self._before_commit_or_rollback)
        event.listen(engine, "prepare_twophase", lambda connection, _xid: self._before_commit(connection))
        event.listen(engine, "commit_twophase", self._before_commit_twophase)
        event.listen(engine, "rollback", self._forget)
        event.listen(engine, "handle_error", refused_by_shard)
        event.listen(engine, "handle_error", _lost_in_commit)
        event.listen(engine, "rollback_twophase", lambda connection, _xid, _prepared: self._forget(connection))
        event.listen(engine, "checkin", lambda _raw, record: _forget_info(record.info))
        # A detached connection has no record any more, and does not come back to the pool.
        event.listen(engine, "reset", lambda _raw, record, _state: _forget_info(record.info if record else {}))
        event.listen(engine, "invalidate", lambda _raw, record, _error: _forget_info(record.info))
        dialect: Any = engine.dialect
        dialect.do_commit = self._then_after_commit(partial(_commit, dialect.do_commit), lambda raw: raw)
        dialect.do_commit_twophase = self._then_after_commit(
            dialect.do_commit_twophase, lambda connection: connection.connection
        )

    def _then_after_commit(self, commit: Callable[..., Any], raw_of: Callable[[Any], Any]) -> Callable[..., Any]:
        def committed(connection: Any, *args: Any, **kwargs: Any) -> Any:
            result = commit(connection, *args, **kwargs)  # if it raises, the outcome is not known: the intent stays
            self._after_commit(raw_of(connection))
            return result

        committed.watch = self  # type: ignore[attr-defined]
        return committed

    def _before_commit_twophase(self, connection: Connection, _xid: Any, is_prepared: bool) -> None:
        if not is_prepared:
            self._before_commit(connection)

    def _before_commit_or_rollback(self, connection: Connection) -> None:
        try:
            self._before_commit(connection)
        except BaseException as refusal:
            tell = refusal_told_to({} if connection.invalidated else connection.info)  # it was lost
            # SQLAlchemy believes that a transaction has ended if its commit event raised. It may give the connection
            # back to the pool with the transaction still open, and the next user of the connection would commit these
            # rows. So roll back here.
            try:
                connection.dialect.do_rollback(connection.connection)
                self._forget(connection)  # nothing of it is for the next transaction
            except Exception as error:  # noqa: BLE001  # the connection is lost: then the server rolls back
                connection.invalidate()
                pass_interruption(error)
            if isinstance(refusal, StaleShardMap):
                tell(refusal)
            raise

    def _before_commit(self, connection: Connection) -> None:
        check_deadline()
        info = connection.info
        if not info.get(_WROTE) or has_failed(connection) or is_autocommit(connection):
            return
        committing, only = CommittingConnection(connection), only_tenant(connection)
        # A program may commit all the same after a prepare that raised: what was taken then counts again.
        taken = info.setdefault(_TAKEN, [])
        look = take_look(connection)  # what has written is checked as its notes are taken
        taken += committing.take_notes(only)
        if not committing.has_written():
            look()
        found = read_notes(taken, self._most_tags)
        refuse_others(found.changes, only)
        if found.changes or found.everything:
            info[_COMMITTING] = True
            ticket = self.protocol.before_commit(committing, found.changes, found.everything)
            if ticket is not None:
                info[_TICKET] = (committing, ticket)
        elif only is not None and committing.has_written():
            self.protocol.verify_ownership(committing, only)
        if self._observers is not None and self._observers.active and taken:
            info[_OBSERVED] = self._observers.begin(taken)  # while it holds the locks of its rows
        info.pop(_WROTE, None)
        info.pop(_TAKEN, None)

    def _after_commit(self, raw: Any) -> None:
        if not isinstance(raw, PoolProxiedConnection) or not raw.is_valid:
            return
        raw.info.pop(_COMMITTING, None)
        if (observed := raw.info.pop(_OBSERVED, None)) is not None:
            observed.committed()
        committing, ticket = raw.info.pop(_TICKET, (None, None))
        if committing is None:
            return
        try:
            self.protocol.after_commit(committing, ticket)
        except Exception as error:  # noqa: BLE001  # the rows are committed: an error here would say that they are not
            pass_interruption(error)
            _log.error(  # with the traceback, but without passwords
                "a committed change could not be stamped: its intent stays open, and its readers resolve it\n%s",
                traceback_text(error),
            )

    def _forget(self, connection: Connection) -> None:
        if not connection.invalidated and not connection.closed:
            _forget_info(connection.info)


def _commit(commit: Callable[[Any], object], raw: Any) -> None:
    """Commit; where there will be a stamp, bring its position in the same round trip."""
    watched = isinstance(raw, PoolProxiedConnection) and raw.is_valid
    committing, _ = (raw.info.get(_TICKET) if watched else None) or (None, None)
    if committing is None:
        commit(raw)
    else:
        committing.commit(commit)


def _forget_info(info: Any) -> None:
    if (observed := info.pop(_OBSERVED, None)) is not None:
        observed.rolled_back()
    for name in (*HELD, _WROTE, _TAKEN, _TICKET, _COMMITTING):
        info.pop(name, None)


def _note_write(connection: Connection, _cursor: Any, sql: str, _parameters: Any, context: Any, _many: bool) -> None:
    # The gate's own transactions change no tracked rows.
    if OWN_SCHEMA in (connection.get_execution_options().get("schema_translate_map") or ()):
        return
    look_before(connection, context)
    if _WROTE not in connection.info and _may_write(sql):
        connection.info[_WROTE] = True


def _note_left(
    left_note: Callable[[], None], connection: Connection, _cursor: Any, _sql: str, _given: Any, _ctx: Any, _many: bool
) -> None:
    # The database wakes nobody for a watched connection, since its commits tell of themselves. This one told nobody.
    if _WROTE in connection.info and is_autocommit(connection):
        del connection.info[_WROTE]
        left_note()


@lru_cache(maxsize=1024)
def _may_write(sql: str) -> bool:
    if not sql.lstrip()[:9].upper().startswith(_PLAIN) or ";" in sql.rstrip("; \t\r\n"):
        return True
    return any(word.lower() not in _HARMLESS for word in _CALLED.findall(sql))


def _lost_in_commit(context: ExceptionContext) -> None:
    """Raise ``CommitUnknown`` where a COMMIT of tracked rows got no answer: a retry might make the change twice."""
    connection = context.connection
    if context.statement is not None or connection is None or not context.is_disconnect:
        return
    info = connection.info
    if info.get(_COMMITTING):
        if (observed := info.pop(_OBSERVED, None)) is not None:
            observed.lost()
        raise CommitUnknown(
            "the connection was lost during COMMIT: the transaction may have been committed, or may be in a moment; "
            "look whether its rows are there before you do it again"
        ) from context.original_exception
