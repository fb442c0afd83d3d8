"""The functions of PostgreSQL by which a transaction takes its notes out of the outbox, and adds some.

The triggers that write notes are :mod:`tidegate.proxy.tracking.postgresql_triggers`'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from sqlalchemy.dialects import postgresql

if TYPE_CHECKING:
    from sqlalchemy import Dialect

CHANNEL: Final = "tidegate_outbox"
TAKE: Final = "tidegate_take_notes"
PUT: Final = "tidegate_put_note"
WATCHED: Final = "tidegate.watched"
"""A setting of connections that take their notes at COMMIT: nobody need be woken for these. Where a pooler leaves it to
others, their notes are found by the next poll."""
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
"""How many notes are taken out one by one."""
HELD: Final = "tidegate.held"
"""A setting that ends with the transaction and follows its savepoints, as locks do: the units of tenants that the
transaction keeps on this shard, and since when this shard owns each, as a JSON object."""
CHECK_OWNERSHIP: Final = "tidegate_check_ownership"
SAFE: Final = "LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp"
"""How functions of ours are declared: no search path leads them astray."""
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


def _places(setting: str, number: str = "''") -> str:
    return f"('{{' || nullif(current_setting('{setting}' || {number}, true), '') || '}}')::tid[]"


def put_sql(schema: str | None) -> str:
    """Return the statement that makes the function by which a transaction adds a note that no trigger writes."""
    outbox = qualified(schema, "tidegate_outbox")
    return f"""
CREATE OR REPLACE FUNCTION {qualified(schema, PUT)}(source text, rows text) RETURNS void {SAFE} AS $tidegate$
DECLARE
  noted text := current_setting('{NOTES}', true);
  place tid;
  full_ones int;
BEGIN
  INSERT INTO {outbox} (source, rows) VALUES (source, rows) RETURNING ctid INTO place;
  {KEEP_PLACE}
END $tidegate$""".strip()
