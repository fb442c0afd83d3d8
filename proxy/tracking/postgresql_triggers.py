"""The triggers of PostgreSQL that note what changes: statement triggers with transition tables, made of `Tracked`.

A statement trigger sees all rows of its statement at once, however it came to them: by a view, a cascade, an upsert, a
function or COPY. A subscription that applies changes fires row triggers only, so one that fires there, and nowhere else
(ENABLE REPLICA), stands beside each; that of TRUNCATE fires everywhere (ENABLE ALWAYS). A statement that names a
partition, or a table that inherits, does not fire the triggers of the table above it, so each has its own.

The note is a row of the outbox, written in the transaction that changes the row. So it is lost only with the change
itself. Its place (ctid) is kept in a setting that ends with the transaction and follows its savepoints: by it the one
who commits takes his own notes out again, without reading anybody else's.

A row may be deleted after its parent, most of all by a cascade. Its note brings along what the transaction has noted of
such parents: each note must be understood alone.

On one of several shards the statement triggers also check that this shard owns the tenants of all rows, old and new.
That is the one error that they raise. The row trigger does not: what is copied to a shard comes before it owns that.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from tidegate.proxy.database.note_functions import (
    CHECK_OWNERSHIP,
    FULL_SQL,
    KEEP_PLACE,
    NOTED,
    NOTES,
    NOTIFY,
    PLACED,
    SAFE,
    SEPARATOR,
    WATCHED,
    literal,
    qualified,
    quoted,
)
from tidegate.proxy.database.ownership_functions import is_shard_sql
from tidegate.proxy.tracking.notes import MOST_ROWS, MOST_TENANTS, MOST_TOGETHER, source_of
from tidegate.proxy.tracking.postgresql_row_sql import RowSql

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.proxy.tracking.tracked_table import TrackedTable

PREFIX: Final = "tidegate_note_"
_MOST_CONTEXT: Final = 1_000_000
"""How many characters of notes about parents a note brings along; with more of them everything counts as changed."""
_TOO_MANY: Final = f"(noted_rows + many > {MOST_TOGETHER} AND NOT lost)"
"""The SQL that tells whether the rows of a statement are too many together with those noted before. A row whose parent
is gone is noted all the same: of its tenant nothing else would tell."""
_MOST_SUMMARIES: Final = 100
"""How many summaries a transaction keeps, so as not to note them again."""
_OLD_AND_NEW: Final = {
    "insert": ("tidegate_new",),
    "update": ("tidegate_old", "tidegate_new"),
    "delete": ("tidegate_old",),
}


class TableTriggers:
    """Write the DDL of the triggers of one tracked table.

    Args:
        table: the table.
        own_schema: the schema of Tidegate's own tables; None: where the search path leads.
        on: the name of the table that has them, with its schema, quoted; None: the tracked table's own. A partition,
            and a table that inherits, have the triggers of the table above them.
        is_partition: whether it is a partition: PostgreSQL gives it each row trigger of the table above it.
    """

    def __init__(
        self, table: TrackedTable, own_schema: str | None, on: str | None = None, *, is_partition: bool = False
    ) -> None:
        self._table: Final = table
        self._is_partition: Final = is_partition
        self._own: Final = own_schema
        self._sql: Final = RowSql(table, own_schema)
        self.on: Final = on or qualified(table.table.schema or own_schema, table.table.name)
        self.fingerprint: Final = blake2b("\n".join(self._functions("?")).encode(), digest_size=6).hexdigest()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the triggers."""
        return tuple(f"{PREFIX}{self.fingerprint}_{what}" for what in (*_OLD_AND_NEW, "truncate", "replica"))

    @property
    def functions(self) -> tuple[str, ...]:
        """Return the names of the functions, with their schema, quoted."""
        return tuple(qualified(self._own, name) for name in self.names)

    def create_sql(self) -> list[str]:
        """Return the statements that make functions and triggers; they may be run again."""
        made = self._functions(self.fingerprint)
        # Who may execute one could make it a trigger of a table of his own, and so run what he likes as its owner.
        made.extend(f"REVOKE ALL ON FUNCTION {name}() FROM PUBLIC" for name in self.functions)
        for what, tables in _OLD_AND_NEW.items():
            naming = " ".join(f"{name[9:].upper()} TABLE AS {name}" for name in tables)
            made.extend(self._trigger(what, f"AFTER {what.upper()}", f"REFERENCING {naming} FOR EACH STATEMENT"))
        made.extend(self._trigger("truncate", "AFTER TRUNCATE", "FOR EACH STATEMENT"))
        if not self._is_partition:
            made.extend(self._trigger("replica", "AFTER INSERT OR UPDATE OR DELETE", "FOR EACH ROW"))
        truncate, replica = self.names[-2:]
        made.append(f"ALTER TABLE {self.on} ENABLE ALWAYS TRIGGER {quoted(truncate)}")
        made.append(f"ALTER TABLE {self.on} ENABLE REPLICA TRIGGER {quoted(replica)}")
        return made

    def drop_sql(self) -> list[str]:
        """Return the statements that drop them."""
        gone = [f"DROP TRIGGER IF EXISTS {quoted(name)} ON {self.on}" for name in self.names]
        return [*gone, *(f"DROP FUNCTION IF EXISTS {qualified(self._own, name)}()" for name in self.names)]

    def try_sql(self) -> str:
        """Return a query of no rows that fails if the triggers would: a column is gone, or has another type."""
        columns = ", ".join(self._sql.columns())
        return (
            f"SELECT {self._sql.as_json()}, {self._sql.tenant()}, {self._sql.lost()}"
            f" FROM (SELECT {columns} FROM {self.on} LIMIT 0) l0{self._sql.joins()}"
        )

    def _trigger(self, what: str, when: str, how: str) -> list[str]:
        name = f"{PREFIX}{self.fingerprint}_{what}"
        return [
            f"DROP TRIGGER IF EXISTS {quoted(name)} ON {self.on}",
            f"CREATE TRIGGER {quoted(name)} {when} ON {self.on} {how} EXECUTE FUNCTION {qualified(self._own, name)}()",
        ]

    def _functions(self, fingerprint: str) -> list[str]:
        made = [
            self._function(fingerprint, what, source_of(self._table, what), self._rows_of(tables))
            for what, tables in _OLD_AND_NEW.items()
        ]
        truncated = "found := '{\"all\": true}'; many := 1;"
        made.append(self._function(fingerprint, "truncate", source_of(self._table, "truncate"), truncated))
        made.append(self._function(fingerprint, "replica", source_of(self._table, "replica"), self._row()))
        return made

    def _function(self, fingerprint: str, what: str, source: str, find: str) -> str:
        name, outbox = qualified(self._own, f"{PREFIX}{fingerprint}_{what}"), qualified(self._own, "tidegate_outbox")
        state, check = qualified(self._own, "tidegate_state"), qualified(self._own, CHECK_OWNERSHIP)
        said = literal(source)
        if what == "replica":  # a row trigger is told what was done
            said = f"""replace({said}, '"did":"replica"', '"did":"' || lower(TG_OP) || '"')"""
        return f"""
CREATE OR REPLACE FUNCTION {name}() RETURNS trigger {SAFE} SET row_security = off SECURITY DEFINER AS $tidegate$
#variable_conflict use_column
DECLARE
  found text;
  many bigint;
  lost boolean := false;
  noted text := current_setting('{NOTES}', true);
  place tid;
  full_ones int;
  is_watched boolean;
  is_shard boolean;
  tenants text[];
  noted_rows int := 0;
  summaries text[] := string_to_array(current_setting('{NOTED}', true), {SEPARATOR});
  summary text;
  is_said boolean := false;
BEGIN
  BEGIN
    noted_rows := coalesce(nullif(summaries[1], ''), '0')::int;
    summaries := summaries[2:];
    {find}{self._context(outbox)}
    summary := summary || found;
    IF summary IS NOT NULL THEN
      -- Has the transaction said so? Anybody may write into a setting, so the note itself is looked at.
      SELECT split_part(one, {PLACED}, 2)::tid INTO place FROM unnest(summaries) one
        WHERE split_part(one, {PLACED}, 1) = summary LIMIT 1;
      is_said := EXISTS (SELECT FROM {outbox} WHERE ctid = place AND xact = pg_current_xact_id_if_assigned()::text
        AND source = {said} AND rows = found);
    END IF;
  EXCEPTION WHEN OTHERS THEN
    found := json_build_object('failed', SQLERRM)::text;
    many := 1;
  END;
  IF many = 0 THEN
    RETURN NULL;
  END IF;
  IF to_regclass({literal(outbox)}) IS NULL THEN
    RAISE WARNING 'Tidegate cannot note this change: its tables are gone; run "tidegate init"';
    RETURN NULL;
  END IF;
  IF tenants IS NOT NULL AND to_regprocedure({literal(check + "(text[])")}) IS NOT NULL THEN
    PERFORM {check}(tenants);
  END IF;
  -- Without a cache that serves this database, nobody would take the note out again, except who commits himself. An
  -- old snapshot does not tell: a cache may have come since.
  is_watched := current_setting('{WATCHED}', true) IS NOT DISTINCT FROM 'on';
  IF NOT is_watched AND current_setting('transaction_isolation') = 'read committed'
    AND to_regclass({literal(state)}) IS NOT NULL THEN
    IF NOT EXISTS (SELECT FROM {state} WHERE name = 'cache') THEN
      RETURN NULL;
    END IF;
  END IF;
  IF is_said THEN
    RETURN NULL;
  END IF;
  INSERT INTO {outbox} (source, rows) VALUES ({said}, found) RETURNING ctid INTO place;
  {KEEP_PLACE}
  IF summary IS NULL THEN
    noted_rows := noted_rows + many;
  ELSIF coalesce(cardinality(summaries), 0) < {_MOST_SUMMARIES} THEN
    summaries := summaries || concat(summary, {PLACED}, place);
  END IF;
  PERFORM set_config('{NOTED}', concat_ws({SEPARATOR}, noted_rows, array_to_string(summaries, {SEPARATOR})), true);
  IF NOT is_watched THEN
    {NOTIFY}
  END IF;
  RETURN NULL;
END $tidegate$""".strip()

    def _rows_of(self, tables: Sequence[str]) -> str:
        columns = ", ".join(self._sql.columns())
        most = MOST_ROWS * len(tables)
        rows = " UNION ALL ".join(
            f"(SELECT {columns}, {at} AS tidegate_side FROM {name} LIMIT {MOST_ROWS + 1})"
            for at, name in enumerate(tables)
        )
        every = " UNION ALL ".join(f"SELECT {columns} FROM {name}" for name in tables)
        is_shard = is_shard_sql(qualified(self._own, "tidegate_state"))
        return f"""SELECT json_agg({self._sql.as_json()}{self._old_first()})::text, count(*), {is_shard}
        {self._and_lost()}
      INTO found, many, is_shard{self._into_lost()}
      FROM ({rows}) l0{self._sql.joins()};
    IF is_shard THEN  -- a row whose parent is not there is nobody's
      SELECT array_agg(DISTINCT {self._sql.tenant()}) FILTER (WHERE {self._sql.tenant()} IS NOT NULL)
        INTO tenants
      FROM ({every}) l0{self._sql.joins()};
    END IF;
    IF many > {most} OR {_TOO_MANY} THEN
      {self._summary(every)}
    END IF;"""

    def _summary(self, rows: str) -> str:
        """Return what notes the tenants of *rows* instead of the rows."""
        return f"""SELECT CASE WHEN count(*) > {MOST_TENANTS} OR bool_or(is_lost) THEN '{{"all": true}}'
        ELSE json_build_object('whole', coalesce(json_agg(tenant) FILTER (WHERE tenant IS NOT NULL), '[]'))::text END,
        concat(TG_NAME, ' ', TG_OP, ' ')
        INTO found, summary
      FROM (SELECT DISTINCT {self._sql.tenant()} AS tenant, {self._sql.lost()} AS is_lost
        FROM ({rows}) l0{self._sql.joins()}
        ORDER BY tenant LIMIT {MOST_TENANTS + 1}) whose;
      lost := false;"""

    def _old_first(self) -> str:
        """Return the order of a note's rows: old versions first, as without a join they are in any case."""
        return "" if self._table.parent is None else " ORDER BY l0.tidegate_side"

    def _and_lost(self) -> str:
        return "" if self._table.parent is None else f", coalesce(bool_or({self._sql.lost()}), false)"

    def _into_lost(self) -> str:
        return "" if self._table.parent is None else ", lost"

    def _context(self, outbox: str) -> str:
        """Return what adds to a note what its rows alone do not tell: of parents that are gone, or old versions.

        Above READ COMMITTED each parent may be an old version.
        """
        if self._table.parent is None:
            return ""
        return f"""
    IF lost AND noted <> '' THEN
      SELECT CASE WHEN sum(length(rows)) > {_MOST_CONTEXT} THEN '{{"all": true}}'
        ELSE json_build_object('rows', found::json,
          'parents', json_agg(json_build_array(source, rows) ORDER BY id))::text END INTO found
      FROM (SELECT string_agg(current_setting('{NOTES}_' || part, true), ',') AS before
        FROM generate_series(1, {FULL_SQL}) part) full_ones
      JOIN {outbox} ON ctid = ANY (('{{' || concat_ws(',', before, noted) || '}}')::tid[])
      WHERE strpos(source, '"owns":true') > 0;
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' AND many > 0 THEN
      found := json_build_object('old', found::json)::text;
    END IF;"""

    def _row(self) -> str:
        sides = []
        for at, (record, unless) in enumerate((("OLD", "INSERT"), ("NEW", "DELETE"))):
            columns = ", ".join(f"{record}.{name} AS {name}" for name in self._sql.columns())
            sides.append(f"SELECT {columns}, {at} AS tidegate_side WHERE TG_OP <> '{unless}'")
        rows = " UNION ALL ".join(sides)
        return f"""SELECT json_agg({self._sql.as_json()}{self._old_first()})::text, count(*){self._and_lost()}
      INTO found, many{self._into_lost()}
      FROM ({rows}) l0{self._sql.joins()};
    IF {_TOO_MANY} THEN
      {self._summary(rows)}
    END IF;"""
