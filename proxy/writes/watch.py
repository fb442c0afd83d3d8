"""Watching an engine: it collects which tags each transaction changes, and tells the commit protocol at the COMMIT.

The hooks are those of engine and connection, because everything passes there: what a session does, a bulk method, a
Core statement, and text. What a transaction has changed so far is kept with its DBAPI connection, and nowhere else.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, PoolProxiedConnection, event
from sqlalchemy.orm import FromStatement, sessionmaker

from tidegate.error_text import traceback_text
from tidegate.errors import CommitUnknown, PolicyError
from tidegate.interruptions import pass_interruption
from tidegate.proxy.database.deadlines import check_deadline
from tidegate.proxy.writes.commit_connection import CommittingConnection, has_failed, is_autocommit
from tidegate.proxy.writes.inserts import inserted, keys_came
from tidegate.proxy.writes.row_lookups import resolve
from tidegate.proxy.writes.sql_text import WrittenTables, tables_written, tables_written_besides
from tidegate.proxy.writes.tracked_tables import Tables
from tidegate.proxy.writes.transaction_changes import MOST_TAGS, TransactionChanges
from tidegate.proxy.writes.unattributed import UnattributedWrites
from tidegate.proxy.writes.updates import MOST_LOCKED, UpdateOrDelete

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Connection, ExceptionContext

    from tidegate.proxy.writes.commit_protocol import CommitProtocol
    from tidegate.proxy.writes.tracked_tables import TrackedTable
    from tidegate.repositories.policies import Tracked

_log: Final = logging.getLogger(__name__)
_COLLECTED: Final = "tidegate.collected"
_TICKET: Final = "tidegate.ticket"
_ENDED: Final = "tidegate.ended"
_TENTATIVE: Final = "tidegate.tentative"
_COMMITTING: Final = "tidegate.committing"
_SCANNED: Final = "_tidegate_written"


def attach(
    engine: Engine | sessionmaker[Any],
    tracked: Iterable[Tracked],
    protocol: CommitProtocol[Any],
    *,
    strict: bool = True,
    most_locked: int = MOST_LOCKED,
    most_tags: int = MOST_TAGS,
) -> Watch:
    """Watch *engine*, and all engines that ``execution_options`` made of it.

    Attaching again adds to what is tracked.

    Args:
        engine: an engine, or a ``sessionmaker`` that is bound to one.
        tracked: the models whose rows are in answers.
        protocol: is told of each transaction that changes such rows.
        strict: refuse writes whose tenant cannot be told.
        most_locked: how many rows of one bulk statement are collected one by one; with more, their whole tenants count
            as changed.
        most_tags: how many tags of one tenant one transaction collects; with more, the whole tenant counts as changed.

    Returns:
        The watch of the engine: the same one each time.

    Raises:
        PolicyError: *engine* is no engine, it is watched for another protocol, or *tracked* is not consistent.
    """
    root = _root(engine)
    # The watch is kept on the wrapper of do_commit. It lives as long as the dialect, which all engines share that
    # execution_options made of this one.
    watch = getattr(root.dialect.do_commit, "watch", None)
    if watch is None:
        watch = Watch(Tables(tracked), protocol, UnattributedWrites(strict=strict), most_locked, most_tags)
        watch.listen(root)
        return watch
    if watch.protocol is not protocol:
        raise PolicyError(f"{root!r} is already watched by another gate: use one gate for one engine")
    watch.tables.add(tracked)
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


class Watch:
    """Watch one engine, and tell the commit protocol what each transaction changes. :func:`attach` makes it.

    Args:
        tables: the tracked tables.
        protocol: is told of commits.
        unattributed: decides what becomes of writes that cannot be understood, and counts them.
        most_locked: as for :func:`attach`.
        most_tags: as for :func:`attach`.
    """

    def __init__(
        self,
        tables: Tables,
        protocol: CommitProtocol[Any],
        unattributed: UnattributedWrites,
        most_locked: int,
        most_tags: int,
    ) -> None:
        self.tables: Final = tables
        self.protocol: Final = protocol
        self.unattributed: Final = unattributed
        self._most_locked = most_locked
        self._most_tags = most_tags

    def listen(self, engine: Engine) -> None:
        """Register the hooks on *engine*, its pool and its dialect."""
        event.listen(engine, "before_execute", self._before_execute, retval=True)
        event.listen(engine, "after_execute", self._after_execute)
        event.listen(engine, "before_cursor_execute", self._before_cursor_execute)
        event.listen(engine, "commit", self._before_commit_or_rollback)
        event.listen(engine, "prepare_twophase", lambda connection, _xid: self._before_commit(connection))
        event.listen(engine, "commit_twophase", self._before_commit_twophase)
        event.listen(engine, "rollback", self._forget)
        event.listen(engine, "handle_error", _lost_in_commit)
        event.listen(engine, "rollback_twophase", lambda connection, _xid, _prepared: self._forget(connection))
        event.listen(engine, "checkin", lambda _raw, record: _forget_info(record.info))
        # A detached connection has no record any more, and does not come back to the pool.
        event.listen(engine, "reset", lambda _raw, record, _state: _forget_info(record.info if record else {}))
        event.listen(engine, "invalidate", lambda _raw, record, _error: _forget_info(record.info))
        dialect: Any = engine.dialect
        dialect.do_commit = self._then_after_commit(dialect.do_commit, lambda raw: raw)
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

    def collected(self, connection: Connection) -> TransactionChanges:
        """Return what the transaction of *connection* has changed so far.

        More may be added to it, for changes that no rule can see.
        """
        found: TransactionChanges | None = connection.info.get(_COLLECTED)
        if found is None:
            found = connection.info[_COLLECTED] = TransactionChanges(self._most_tags)
        return found

    def _before_execute(
        self, connection: Connection, statement: Any, multiparams: Any, params: Any, _options: Any
    ) -> tuple[Any, Any, Any]:
        dml = _dml_of(statement)
        if dml is not None:
            new = self._dml(connection, dml, multiparams or [params])
            if dml is statement:
                statement = new
            elif new is not dml:  # select(Model).from_statement(update(Model)...)
                statement = statement._clone()  # noqa: SLF001  # no public way to copy one
                statement.element = new
        return statement, multiparams, params

    def _dml(self, connection: Connection, statement: Any, parameters: Any) -> Any:
        table = self.tables.of(statement.table)
        if table is None:
            return statement
        self._refuse_autocommit(connection, table.table.name)
        if statement.is_insert:
            return statement
        changed = UpdateOrDelete(connection, table, statement, parameters, self.collected(connection))
        new = changed.collect(self.unattributed, self._most_locked)
        connection.info[_TENTATIVE] = (new, table, changed.tentative)
        return new

    def _after_execute(
        self, connection: Connection, statement: Any, _multiparams: Any, _params: Any, _options: Any, result: Any
    ) -> None:
        dml = _dml_of(statement)
        if dml is None:
            return
        if dml.is_insert:
            table = self.tables.of(dml.table)
            if table is not None:
                keys_came(result, table, self.collected(connection))
            return
        executed, table, keys = connection.info.pop(_TENTATIVE, (None, None, ()))
        # A statement with RETURNING is left out: SQLite counts its rows only as they are fetched.
        if executed is dml and keys and not result.returns_rows and result.rowcount == 0:
            self.collected(connection).forget(table, (table.pk_column,), keys)

    def _before_cursor_execute(
        self, connection: Connection, _cursor: Any, sql: str, parameters: Any, context: Any, _many: bool
    ) -> None:
        compiled = None if context is None else context.compiled
        if compiled is None:
            self._text(connection, tables_written(sql), parameters)
            return
        is_dml = context.isinsert or context.isupdate or context.isdelete
        if not is_dml or compiled.ctes:
            known = compiled.__dict__.get(_SCANNED)
            if known is None:
                known = compiled.__dict__[_SCANNED] = (
                    tables_written_besides(compiled) if is_dml else tables_written(compiled.string)
                )
            if known.tables or known.commits:
                self._text(connection, known, context.compiled_parameters)
        if context.isinsert:
            self._insert(connection, context)

    def _insert(self, connection: Connection, context: Any) -> None:
        if getattr(context, "_tidegate_seen", False):  # the next batch of the same INSERT
            return
        context._tidegate_seen = True  # noqa: SLF001  # ours
        statement = _dml_of(context.invoked_statement)
        table = self.tables.of(statement.table)
        if table is not None:
            inserted(connection, context, statement, table, self.collected(connection), self.unattributed)

    def _text(self, connection: Connection, found: WrittenTables, parameters: Any) -> None:
        if found.commits:
            if connection.info.get(_COLLECTED) is not None:
                self.unattributed("what this transaction has changed", "a COMMIT as text")
            connection.info[_ENDED] = True
        for verb, name in found.tables:
            table = self.tables.named(name) if name in self.tables.names else None
            if table is not None:
                self._refuse_autocommit(connection, name)
                self._text_on(connection, table, verb, parameters)

    def _text_on(self, connection: Connection, table: TrackedTable, verb: str, parameters: Any) -> None:
        given = parameters if isinstance(parameters, list) else [parameters]
        given = [row[key] for row in given if isinstance(row, dict) for key in row if key in table.tenant_names]
        named = [one for value in given for one in (value if isinstance(value, list | tuple | set) else [value])]
        if not named or None in named:  # NULL names nobody; some programs mean "every tenant" by it
            self.unattributed(table.table.name, f"{verb} as text")
            named.append(self.collected(connection).only)  # in a tenant's session, the write is that tenant's
        for tenant in named:
            self.collected(connection).whole(tenant)

    def _refuse_autocommit(self, connection: Connection, name: str) -> None:
        if is_autocommit(connection) or connection.info.get(_ENDED):
            raise PolicyError(
                f"{name} is tracked, and cannot be written on an AUTOCOMMIT connection or after a COMMIT as text: such "
                "a write commits at once, before the cache can be told of it; use a transaction"
            )

    def _before_commit_twophase(self, connection: Connection, _xid: Any, is_prepared: bool) -> None:
        if not is_prepared:
            self._before_commit(connection)

    def _before_commit_or_rollback(self, connection: Connection) -> None:
        try:
            self._before_commit(connection)
        except BaseException:
            # SQLAlchemy believes that a transaction has ended if its commit event raised. It may give the connection
            # back to the pool with the transaction still open, and the next user of the connection would commit these
            # rows. So roll back here.
            try:
                connection.dialect.do_rollback(connection.connection)
            except Exception as error:  # noqa: BLE001  # the connection is lost: then the server rolls back
                connection.invalidate()
                pass_interruption(error)
            raise

    def _before_commit(self, connection: Connection) -> None:
        check_deadline()
        connection.info.pop(_ENDED, None)
        collected: TransactionChanges | None = connection.info.get(_COLLECTED)
        if collected is None or has_failed(connection):
            return
        committing = CommittingConnection(connection, resolve(connection, collected))
        if changes := collected.changes():
            connection.info[_COMMITTING] = True
            ticket = self.protocol.before_commit(committing, changes)
            if ticket is not None:
                connection.info[_TICKET] = (committing, ticket)
        elif collected.only is not None and committing.has_written():
            self.protocol.verify_ownership(committing, collected.only)
        # Only now, and not before: a program may commit all the same after a prepare that raised.
        connection.info.pop(_COLLECTED, None)

    def _after_commit(self, raw: Any) -> None:
        if not isinstance(raw, PoolProxiedConnection) or not raw.is_valid:
            return
        raw.info.pop(_COMMITTING, None)
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


def _forget_info(info: Any) -> None:
    for name in (_COLLECTED, _TICKET, _ENDED, _TENTATIVE, _COMMITTING):
        info.pop(name, None)


def _lost_in_commit(context: ExceptionContext) -> None:
    """Raise ``CommitUnknown`` where a COMMIT of tracked rows got no answer: a retry might make the change twice."""
    connection = context.connection
    if context.statement is not None or connection is None or not context.is_disconnect:
        return
    info = connection.info
    if info.get(_COMMITTING):
        raise CommitUnknown(
            "the connection was lost during COMMIT: the transaction may have been committed, or may be in a moment; "
            "look whether its rows are there before you do it again"
        ) from context.original_exception


def _dml_of(statement: Any) -> Any:
    """Return the INSERT, UPDATE or DELETE that *statement* is, or selects the rows of; None for any other statement."""
    if not getattr(statement, "is_dml", False):
        return None
    return statement.element if isinstance(statement, FromStatement) else statement
