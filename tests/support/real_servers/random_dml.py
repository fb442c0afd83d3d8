"""Random transactions of every statement form that PostgreSQL has, over the tables of `tracked_shapes`. By seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from real_servers.tracked_shapes import GROUPED, GROUPS, IDS, TENANTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BY_NAME: Final[dict[str, tuple[str, ...]]] = {
    "plain": ("plain",),
    "parted": ("parted", "parted_low", "parted_high", "parted_high_0", "parted_high_1"),
    "heir": ("heir", "heir_child", "heir_grandchild", "ONLY heir"),
    "other.side": ("other.side",),
}
"""The names by which the rows of a table can be written."""
_ROLLED_BACK_OF_10: Final = 4
_SAVEPOINT_OF_10: Final = 3


@dataclass(frozen=True)
class Transaction:
    """Statements that are sent one after the other. The first that fails ends the savepoint that it is in, or all.

    Args:
        seed: makes the same transaction again.
        parts: each is a savepoint of its own, or not; whether it is rolled back at its end; and its statements.
    """

    seed: int
    parts: tuple[tuple[bool, bool, tuple[str, ...]], ...]

    def shown(self) -> str:
        """Its statements, for whoever looks for a fault."""
        lines = [f"-- seed {self.seed}"]
        for is_savepoint, is_undone, statements in self.parts:
            lines += ["SAVEPOINT s", *statements, f"{'ROLLBACK TO' if is_undone else 'RELEASE'} s"][
                0 if is_savepoint else 1 : None if is_savepoint else -1
            ]
        return "\n".join(lines)


def transaction(seed: int, forms: Sequence[Callable[[random.Random], Sequence[str]]] = ()) -> Transaction:
    """The transaction of a seed, of *forms*; of all, if there are none."""
    chance = random.Random(seed)  # noqa: S311  # no secret
    parts = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        is_savepoint = chance.randrange(10) < _SAVEPOINT_OF_10
        statements = tuple(
            sql for _ in range(chance.choice((1, 1, 2))) for sql in chance.choice(tuple(forms) or FORMS)(chance)
        )
        parts.append((is_savepoint, is_savepoint and chance.randrange(10) < _ROLLED_BACK_OF_10, statements))
    return Transaction(seed, tuple(parts))


def _table(chance: random.Random) -> str:
    return chance.choice(tuple(GROUPED))


def _named(chance: random.Random) -> str:
    return chance.choice(BY_NAME[_table(chance)])


def _id(chance: random.Random) -> str:
    return f"'{chance.choice(IDS)}'"


def _tenant(chance: random.Random) -> str:
    return f"'{chance.choice(TENANTS)}'"


def _group(chance: random.Random) -> str:
    return f"'{chance.choice(GROUPS)}'"


def _value(chance: random.Random) -> str:
    return str(chance.randrange(100))


def _row(chance: random.Random) -> str:
    return f"({_id(chance)}, {_tenant(chance)}, {_group(chance)}, {_value(chance)})"


def _where(chance: random.Random) -> str:
    return chance.choice(
        (
            f"id = {_id(chance)}",
            f"id IN ({_id(chance)}, {_id(chance)})",
            f"tenant_id = {_tenant(chance)} AND grp = {_group(chance)}",
            f"value > {_value(chance)}",
            f"id > {_id(chance)}",
            "false",
        )
    )


def _set(chance: random.Random) -> str:
    return chance.choice(
        (
            "value = value + 1",
            "value = value",
            f"grp = {_group(chance)}",
            f"tenant_id = {_tenant(chance)}",
            f"id = {_id(chance)}",
            f"(tenant_id, grp, value) = ({_tenant(chance)}, {_group(chance)}, {_value(chance)})",
        )
    )


_COLUMNS: Final = "(id, tenant_id, grp, value)"


def _insert(chance: random.Random) -> list[str]:
    rows = ", ".join(_row(chance) for _ in range(chance.choice((1, 1, 2, 3))))
    return [f"INSERT INTO {_named(chance).removeprefix('ONLY ')} {_COLUMNS} VALUES {rows}"]


def _insert_new(chance: random.Random) -> list[str]:
    table = _table(chance)
    missing = f"SELECT x, {_tenant(chance)}, {_group(chance)}, {_value(chance)} FROM unnest(ARRAY[{_id(chance)}]) x"
    return [f"INSERT INTO {table} {_COLUMNS} {missing} WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE t.id = x)"]


def _update(chance: random.Random) -> list[str]:
    return [f"UPDATE {_named(chance)} SET {_set(chance)} WHERE {_where(chance)}"]


def _delete(chance: random.Random) -> list[str]:
    return [f"DELETE FROM {_named(chance)} WHERE {_where(chance)}"]


def _returning(chance: random.Random) -> list[str]:
    return [f"UPDATE {_named(chance)} SET {_set(chance)} WHERE {_where(chance)} RETURNING *"]


def _upsert(chance: random.Random) -> list[str]:
    name = chance.choice(("plain", "parted", "other.side", "heir", "heir_child"))
    do = chance.choice(
        (
            "NOTHING",
            "(id) DO NOTHING",
            "(id) DO UPDATE SET value = EXCLUDED.value",
            "(id) DO UPDATE SET tenant_id = EXCLUDED.tenant_id, grp = EXCLUDED.grp",
            f"(id) DO UPDATE SET {'' if name == 'parted' else f'id = {_id(chance)}, '}tenant_id = {_tenant(chance)}",
            f"(id) DO UPDATE SET value = EXCLUDED.value WHERE {name.split('.')[-1]}.value < 50",
        )
    )
    do = "DO NOTHING" if do == "NOTHING" else do
    return [f"INSERT INTO {name} AS {name.split('.')[-1]} {_COLUMNS} VALUES {_row(chance)} ON CONFLICT {do}"]


def _insert_select(chance: random.Random) -> list[str]:
    source, target = _table(chance), _table(chance)
    return [
        (
            f"INSERT INTO {target} {_COLUMNS} SELECT id, {chance.choice(('tenant_id', _tenant(chance)))}, grp, value"
            f" FROM {source} s WHERE {_where(chance)} AND NOT EXISTS (SELECT 1 FROM {target} t WHERE t.id = s.id)"
        )
    ]


def _update_from(chance: random.Random) -> list[str]:
    source, target = _table(chance), _named(chance)
    # A table that others inherit may have an id twice. Which one is joined would hang on where the rows lie.
    one = f"(SELECT DISTINCT ON (id) * FROM {source} ORDER BY id, tenant_id, grp, value) s"
    return [
        (
            f"UPDATE {target} AS t SET value = s.value, grp = s.grp FROM {one} WHERE s.id = t.id"
            f" AND s.tenant_id = {_tenant(chance)}"
        )
    ]


def _delete_using(chance: random.Random) -> list[str]:
    return [
        f"DELETE FROM {_named(chance)} AS t USING {_table(chance)} s WHERE s.id = t.id AND s.value > {_value(chance)}"
    ]


def _cte(chance: random.Random) -> list[str]:
    source, target = _table(chance), _table(chance)
    return [
        (
            f"WITH gone AS (DELETE FROM {source} WHERE {_where(chance)} RETURNING id, tenant_id, grp, value)"
            f" INSERT INTO {target} {_COLUMNS} SELECT * FROM gone ON CONFLICT DO NOTHING"
        ),
        (
            f"WITH up AS (UPDATE {source} SET {_set(chance)} WHERE id = {_id(chance)} RETURNING id)"
            f" SELECT count(*) FROM up"
        ),
    ][:: chance.choice((1, -1))][:1]


def _merge(chance: random.Random) -> list[str]:
    target = _table(chance)
    matched = chance.choice(("UPDATE SET value = s.value", "UPDATE SET tenant_id = s.tenant_id, grp = s.grp", "DELETE"))
    return [
        (
            f"MERGE INTO {target} t USING (VALUES {_row(chance)}) s (id, tenant_id, grp, value) ON t.id = s.id"
            f" WHEN MATCHED AND t.value > 80 THEN DELETE WHEN MATCHED THEN {matched}"
            f" WHEN NOT MATCHED THEN INSERT {_COLUMNS} VALUES (s.id, s.tenant_id, s.grp, s.value)"
        )
    ]


def _view(chance: random.Random) -> list[str]:
    return [
        chance.choice(
            (
                f"UPDATE plain_view SET value = value + 1 WHERE whose = {_tenant(chance)}",
                f"DELETE FROM plain_view WHERE id = {_id(chance)}",
                f"INSERT INTO plain_view VALUES {_row(chance)} ON CONFLICT (id) DO UPDATE SET whose = EXCLUDED.whose",
                f"UPDATE instead_view SET value = value + 1 WHERE id = {_id(chance)}",
            )
        )
    ]


def _owned(chance: random.Random) -> list[str]:
    a_kid = f"({_id(chance)}, (SELECT min(id) FROM plain WHERE id >= {_id(chance)}), {_value(chance)})"
    a_loose = f"({_id(chance)}, {_tenant(chance)}, (SELECT max(id) FROM plain WHERE id <= {_id(chance)}), 1)"
    return [
        chance.choice(
            (
                f"INSERT INTO kid VALUES {a_kid} ON CONFLICT (id) DO UPDATE SET owner_id = EXCLUDED.owner_id",
                f"INSERT INTO loose VALUES {a_loose} ON CONFLICT (id) DO UPDATE SET owner_id = EXCLUDED.owner_id",
                f"UPDATE kid SET value = value + 1 WHERE owner_id = {_id(chance)}",
                f"UPDATE loose SET tenant_id = {_tenant(chance)} WHERE id = {_id(chance)}",
                f"DELETE FROM kid WHERE id = {_id(chance)}",
                f"DELETE FROM loose WHERE owner_id = {_id(chance)}",
            )
        )
    ]


def _cascade(chance: random.Random) -> list[str]:
    return [
        chance.choice(
            (
                f"DELETE FROM plain WHERE id = {_id(chance)}",
                f"DELETE FROM plain WHERE id >= {_id(chance)}",
                f"UPDATE plain SET id = {_id(chance)} WHERE id = {_id(chance)}",
                f"UPDATE plain SET tenant_id = {_tenant(chance)} WHERE id = {_id(chance)}",
            )
        )
    ]


def _function(chance: random.Random) -> list[str]:
    return [
        chance.choice(
            (
                f"SELECT raise_value({_id(chance)})",
                f"SELECT move_group({_id(chance)}, {_group(chance)})",
                f"CALL drop_one({_id(chance)})",
                f"DO $$ BEGIN UPDATE {_named(chance)} SET {_set(chance)} WHERE {_where(chance)}; END $$",
                (
                    f"DO $$ BEGIN INSERT INTO plain VALUES {_row(chance)}; DELETE FROM kid WHERE id = {_id(chance)};"
                    " EXCEPTION WHEN unique_violation THEN UPDATE plain SET value = value + 1; END $$"
                ),
            )
        )
    ]


def _by_trigger_and_rule(chance: random.Random) -> list[str]:
    return [f"INSERT INTO inbox VALUES {_row(chance)}", f"UPDATE inbox SET value = value WHERE id = {_id(chance)}"]


def _copy(chance: random.Random) -> list[str]:
    table, row = _named(chance).removeprefix("ONLY "), ",".join(_row(chance)[1:-1].replace("'", "").split(", "))
    return [
        f"DELETE FROM {table} WHERE id = '{row[0]}'",
        f"COPY {table} {_COLUMNS} FROM PROGRAM 'echo {row}' (FORMAT csv)",
    ]


def _current_of(chance: random.Random) -> list[str]:
    name, change = chance.choice(("plain", "parted", "other.side", "heir_child")), _set(chance)
    done = chance.choice((f"UPDATE {name} SET {change}", f"DELETE FROM {name}"))
    return [
        # In an order: else the first row is another one, once autovacuum has had the plan changed.
        (
            f"DECLARE c CURSOR FOR SELECT * FROM {name} WHERE id >= {_id(chance)}"
            " ORDER BY id, tenant_id, grp, value FOR UPDATE"
        ),
        "FETCH 1 FROM c",
        f"{done} WHERE CURRENT OF c",
        "CLOSE c",
    ]


def _several(chance: random.Random) -> list[str]:
    return [f"SET LOCAL work_mem = '1MB'; {_update(chance)[0]}; {_delete(chance)[0]}"]


def _truncate(chance: random.Random) -> list[str]:
    if chance.randrange(12):
        return _update(chance)
    return [
        chance.choice(("TRUNCATE parted_low", "TRUNCATE heir_child", "TRUNCATE plain CASCADE", "TRUNCATE other.side"))
    ]


FORMS: Final = (
    _insert,
    _insert_new,
    _insert_new,
    _insert_new,
    _update,
    _update,
    _delete,
    _returning,
    _upsert,
    _upsert,
    _insert_select,
    _update_from,
    _delete_using,
    _cte,
    _merge,
    _view,
    _owned,
    _owned,
    _cascade,
    _function,
    _by_trigger_and_rule,
    _copy,
    _current_of,
    _several,
    _truncate,
)
