"""The function of PostgreSQL by which triggers check that this shard owns the tenants whose rows they saw.

It is :mod:`tidegate.proxy.database.ownership`'s check without a map, which nobody but a gate has. The rows of the
units are shared until the transaction ends, so whoever takes a unit away waits for it. The units are kept in a setting
of the transaction, with their epochs, which a gate compares with its map at COMMIT.

A unit that somebody is changing is not waited for, but counts as not owned. A transaction that has some units and waits
for more could deadlock with a flip of both; and a flip has closed its units by then, so it would be refused anyway.
"""

from __future__ import annotations

from typing import Final

from tidegate.proxy.database.note_functions import CHECK_OWNERSHIP, HELD, SAFE, literal, qualified
from tidegate.proxy.database.slot_function import SLOT

NOT_OWNED: Final = "TG001"
"""The SQLSTATE of what is refused."""
_CHECKED: Final = "tidegate.checked"
"""The tenants that were checked last in the transaction: most often those of the next statement."""
_MOST_CHECKED: Final = 8_000
_SLOTS: Final = "tidegate.slots_"
"""256 settings of the server session: slots that were found before, which costs half a millisecond each."""
_MOST_SLOTS: Final = 1_000
"""How many characters of slots a setting holds before it begins anew."""
_HINT: Final = (
    'Write on the shard that owns it: "tidegate shards" shows which one. To copy rows to a shard that is to own them,'
    " or to remove what was left where they were, SET session_replication_role = replica."
)


def is_shard_sql(state: str) -> str:
    """Return the condition that the database is one of several shards. A copy has no cluster until it is named anew.

    Args:
        state: the table of named facts, quoted.
    """
    both = (f"EXISTS (SELECT FROM {state} WHERE name = '{name}')" for name in ("shard", "cluster"))  # ours
    return " AND ".join(both)


def check_ownership_sql(schema: str | None) -> str:
    """Return the statement that makes the function.

    It takes the tenants as text, in any spelling. It raises :data:`NOT_OWNED`. If it cannot do its work, it warns: the
    writes of a gate are then checked at COMMIT.
    """
    ownership, closing = qualified(schema, "tidegate_ownership"), qualified(schema, "tidegate_closing")
    return f"""
CREATE OR REPLACE FUNCTION {qualified(schema, CHECK_OWNERSHIP)}(tenants text[]) RETURNS void {SAFE} AS $tidegate$
DECLARE
  spelled text;
  tenant text;
  slots text;
  place text;
  at int;
  named text;
  units text[] := '{{}}';
  whose text[] := '{{}}';
  held jsonb;
  found record;
BEGIN
  IF tenants::text IS NOT DISTINCT FROM current_setting('{_CHECKED}', true) THEN
    RETURN;
  END IF;
  BEGIN
    held := coalesce(nullif(current_setting('{HELD}', true), ''), '{{}}');
    FOREACH spelled IN ARRAY tenants LOOP
      tenant := lower(spelled COLLATE "C");
      IF tenant LIKE '{{%}}' THEN
        tenant := substr(tenant, 2, length(tenant) - 2);
      END IF;
      IF tenant ~ '^([0-9a-f]{{4}}-?){{7}}[0-9a-f]{{4}}$' THEN
        tenant := replace(tenant, '-', '')::uuid::text;
      ELSE
        tenant := spelled;
      END IF;
      named := 'tenant:' || tenant;
      IF NOT held ? named AND NOT EXISTS (SELECT FROM {ownership} WHERE unit = named) THEN
        {_slot(schema)}
      END IF;
      IF NOT held ? named THEN
        units := units || named;
        whose := whose || tenant;
      END IF;
    END LOOP;
    FOR found IN SELECT unit, since FROM {ownership} owner WHERE unit = ANY (units) AND owned AND NOT EXISTS (
        SELECT FROM {closing} c WHERE c.unit = owner.unit AND c.since > owner.since AND c.closed
      ) ORDER BY unit FOR SHARE OF owner SKIP LOCKED LOOP
      held := held || jsonb_build_object(found.unit, found.since);
    END LOOP;
    FOR i IN 1..cardinality(units) LOOP
      IF NOT held ? units[i] THEN
        {_refuse(schema)}
      END IF;
    END LOOP;
    PERFORM set_config('{HELD}', held::text, true),
      set_config('{_CHECKED}', CASE WHEN length(tenants::text) < {_MOST_CHECKED} THEN tenants::text END, true);
  EXCEPTION
    WHEN SQLSTATE '{NOT_OWNED}' THEN
      RAISE;
    WHEN serialization_failure THEN  -- the unit changed hands after the snapshot of this transaction
      {_refuse(schema, "coalesce(units[1], '')", "coalesce(whose[1], '')")}
    WHEN OTHERS THEN
      RAISE WARNING 'Tidegate cannot check whether this shard owns the rows that were written: %', SQLERRM;
  END;
END $tidegate$""".strip()  # noqa: S608  # names of our own, quoted


def _slot(schema: str | None) -> str:
    return f"""place := '{_SLOTS}' || (hashtext(tenant) & 255);
        slots := coalesce(current_setting(place, true), '');
        at := strpos(slots, concat(chr(1), tenant, chr(2)));
        IF at > 0 THEN
          named := 'slot:' || split_part(substr(slots, at + length(tenant) + 2), chr(1), 1);
        ELSE
          named := 'slot:' || {qualified(schema, SLOT)}(tenant);
          IF tenant !~ '[\x01\x02]' THEN
            slots := CASE WHEN length(slots) < {_MOST_SLOTS} THEN slots ELSE '' END;
            PERFORM set_config(place, concat(slots, chr(1), tenant, chr(2), substr(named, 6)), false);
          END IF;
        END IF;"""


def _refuse(schema: str | None, unit: str = "units[i]", tenant: str = "whose[i]") -> str:
    said = "the shard % does not own % (the tenant %), or is about to give it away: nothing was written"
    state = qualified(schema, "tidegate_state")
    shard = f"(SELECT value FROM {state} WHERE name = 'shard')"  # noqa: S608  # a name of our own, quoted
    coded = f"USING ERRCODE = '{NOT_OWNED}', HINT = {literal(_HINT)}"
    return f"RAISE EXCEPTION {literal(said)}, {shard}, {unit}, {tenant} {coded};"
