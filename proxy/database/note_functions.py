"""The functions of PostgreSQL by which a transaction takes its notes out of the outbox, and adds some.

The triggers that write notes are :mod:`tidegate.proxy.tracking.postgresql_triggers`'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from sqlalchemy.dialects import postgresql

from tidegate.proxy.database.history_sql import HERE

if TYPE_CHECKING:
    from sqlalchemy import Dialect

CHANNEL: Final = "tidegate_outbox"
TAKE: Final = "tidegate_take_notes"
PUT: Final = "tidegate_put_note"
WATCHED: Final = "tidegate.watched"
"""A setting of connections that take their notes at COMMIT: nobody need be woken for these. Where a pooler leaves it to
others, their notes are found by the next poll. One that hears notices has :data:`TELLS` there, any other one "on"."""
TELLS: Final = "told"
IS_WATCHED: Final = f"coalesce(current_setting('{WATCHED}', true), '') IN ('on', '{TELLS}')"
TOLD_STATE: Final = "TG001"
"""The SQLSTATE of the notices by which triggers tell of notes: the class TG is nobody's."""
TAKE_TOLD: Final = "tidegate_take_told_notes"
_LONGEST_TOLD: Final = 8_000
"""How many characters a note that is told has at most: who commits asks for longer ones."""
NOTES: Final = "tidegate.notes"
"""A setting that ends with the transaction and follows its savepoints: the places (ctid) of its notes."""
FULL: Final = "tidegate.notes_full"
"""A setting is copied whenever it grows. So places go on in another one, and this one says how many are full."""
FULL_SQL: Final = f"coalesce(nullif(current_setting('{FULL}', true), ''), '0')::int"
LONGEST: Final = 8_000
"""How many characters of places a setting holds before it is full."""
NOTED: Final = "tidegate.noted"
"""A setting that ends with the transaction and follows its savepoints: how many rows it has noted one by one, and the
summaries that it has noted instead, each with what it is about and the place of its note, with separators between."""
SEPARATOR: Final = r"E'\x1f'"
PLACED: Final = r"E'\x1e'"
"""No text of JSON has these characters."""
FEW: Final = 8
"""How many notes are taken out one by one, and told."""
HELD: Final = "tidegate.held"
"""A setting that ends with the transaction and follows its savepoints, as locks do: the units of tenants that the
transaction keeps on this shard, and since when this shard owns each, as a JSON object."""
CHECK_OWNERSHIP: Final = "tidegate_check_ownership"
SAFE: Final = "LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp"
"""How functions of ours are declared: no search path leads them astray."""
HEARD: Final = "SET client_min_messages = notice"
"""How functions that tell of notes are declared: no setting of the program keeps a notice from its own gate."""
KEEP_PLACE: Final = f"""IF length(noted) > {LONGEST} THEN
    full_ones := {FULL_SQL} + 1;
    PERFORM set_config('{NOTES}_' || full_ones, noted, true), set_config('{FULL}', full_ones::text, true);
    noted := '';
  END IF;
  PERFORM set_config('{NOTES}', concat(noted, CASE WHEN noted <> '' THEN ',' END, '"', place, '"'), true);"""
"""What keeps the place of a new note; with the variables noted, place and full_ones."""
NOTIFY: Final = (
    # A transaction that has notified cannot be prepared. Where that is possible at all, the poll must do.
    f"IF current_setting('max_prepared_transactions') = '0' THEN PERFORM pg_notify('{CHANNEL}', ''); END IF;"
)
_DIALECT: Final[Any] = postgresql.dialect()  # type: ignore[no-untyped-call]
quoted: Final = _DIALECT.identifier_preparer.quote

UNDEFINED_FUNCTION: Final = "42883"
without_functions: Final[WeakSet[Dialect]] = WeakSet()
"""The databases that turned out to lack the functions: what is noted there stays in the outbox."""


def qualified(schema: str | None, name: str) -> str:
    """Return a name with its schema, quoted where it must be."""
    return str(quoted(name)) if schema is None else f"{quoted(schema)}.{quoted(name)}"


def literal(text: str) -> str:
    """Return a text as SQL."""
    return "'" + text.replace("'", "''") + "'"


def take_sql(schema: str | None) -> str:
    """Return the statement that makes the function by which a transaction takes its own notes out of the outbox.

    It brings the record of the database's history too, and has none to bring where our tables are gone: no COMMIT of a
    program fails for that. It runs with the rights of who made it, so that none fails for want of a right. It takes
    notes of this transaction only, wherever the setting leads. If the transaction has written, and is one
    tenant's, it checks that this shard owns the tenant. And it
    brings what the transaction :data:`holds <HELD>`.
    """
    outbox, state = qualified(schema, "tidegate_outbox"), qualified(schema, "tidegate_state")
    return f"""
CREATE OR REPLACE FUNCTION {qualified(schema, TAKE)}(tenant text, OUT record text, OUT taken text, OUT held text)
{SAFE} SECURITY DEFINER AS $tidegate$
DECLARE
  places tid[] := {_places(NOTES)};
  place tid;
  note text;
BEGIN
  IF to_regclass({literal(state)}) IS NOT NULL THEN
    SELECT value INTO record FROM {state} WHERE name = 'history';
  END IF;
  IF tenant IS NOT NULL AND pg_current_xact_id_if_assigned() IS NOT NULL THEN
    PERFORM {qualified(schema, CHECK_OWNERSHIP)}(ARRAY[tenant]);
  END IF;
  held := nullif(current_setting('{HELD}', true), '');
  IF places IS NULL THEN
    RETURN;
  END IF;
  FOR part IN 1..{FULL_SQL} LOOP
    places := places || {_places(f"{NOTES}_", "part")};
  END LOOP;
  IF cardinality(places) <= {FEW} THEN  -- to gather them in one statement would take longer
    FOREACH place IN ARRAY places LOOP
      DELETE FROM {outbox} WHERE ctid = place AND xact = pg_current_xact_id_if_assigned()::text
        RETURNING json_build_array(source, rows)::text INTO note;
      taken := CASE WHEN note IS NULL THEN taken ELSE concat(taken || ',', note) END;
    END LOOP;
    taken := '[' || taken || ']';
  ELSE
    WITH mine AS (DELETE FROM {outbox} WHERE ctid = ANY (places)
      AND xact = pg_current_xact_id_if_assigned()::text RETURNING id, source, rows)
    SELECT json_agg(json_build_array(source, rows) ORDER BY id)::text INTO taken FROM mine;
  END IF;
  PERFORM set_config('{NOTES}', '', true), set_config('{FULL}', '', true), set_config('{NOTED}', '', true);
END $tidegate$""".strip()


def take_told_sql(schema: str | None) -> str:
    """Return the statement that makes the function by which a transaction takes those of its notes that it was told.

    A place alone would not do: what is rolled back to a savepoint may leave it to another note.
    """
    return f"""
CREATE OR REPLACE FUNCTION {qualified(schema, TAKE_TOLD)}(places tid[], ids bigint[]) RETURNS void
{SAFE} SECURITY DEFINER AS $tidegate$
BEGIN
  FOR one IN 1..cardinality(places) LOOP  -- all in one statement would take longer
    DELETE FROM {qualified(schema, "tidegate_outbox")} WHERE ctid = places[one] AND id = ids[one]
      AND xact = pg_current_xact_id_if_assigned()::text;
  END LOOP;
END $tidegate$""".strip()


def tell_sql(schema: str | None, source: str, rows: str) -> str:
    """Return what tells of a new note with that source and those rows, unless many were told.

    The variables place, note_id and noted are the note's, and those of the places before it. How many these are is told
    too: so who hears it knows whether he has heard all of them.
    """
    state, before = qualified(schema, "tidegate_state"), "coalesce(length(noted) - length(replace(noted, '(', '')), 0)"
    return f"""IF current_setting('{WATCHED}', true) = '{TELLS}' AND to_regclass({literal(state)}) IS NOT NULL
    AND {before} <= {FEW} THEN
    RAISE NOTICE USING ERRCODE = '{TOLD_STATE}', MESSAGE = 'Tidegate has noted this change',
      DETAIL = CASE WHEN length({rows}) > {_LONGEST_TOLD} THEN '' ELSE
        json_build_array(pg_current_xact_id()::text, {before}, place, note_id, {HERE.format(state=state)}, {source},
          {rows})::text
      END;
  END IF;"""


def _places(setting: str, number: str = "''") -> str:
    return f"('{{' || nullif(current_setting('{setting}' || {number}, true), '') || '}}')::tid[]"


def put_sql(schema: str | None) -> str:
    """Return the statement that makes the function by which a transaction adds a note that no trigger writes."""
    outbox = qualified(schema, "tidegate_outbox")
    return f"""
CREATE OR REPLACE FUNCTION {qualified(schema, PUT)}(source text, rows text) RETURNS void {SAFE} {HEARD} AS $tidegate$
DECLARE
  noted text := current_setting('{NOTES}', true);
  place tid;
  note_id bigint;
  full_ones int;
BEGIN
  INSERT INTO {outbox} (source, rows) VALUES (source, rows) RETURNING ctid, id INTO place, note_id;
  {KEEP_PLACE}
  {tell_sql(schema, "source", "rows")}
END $tidegate$""".strip()
