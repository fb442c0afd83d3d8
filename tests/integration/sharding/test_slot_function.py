"""The slot of a tenant as PostgreSQL finds it: by the frozen rule, for ids in any spelling and for any other text."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, text

from tidegate.proxy.database.schema import make_tables
from tidegate.routing.sharding.slots import canonical_tenant, slot_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ID: Final = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
FROZEN: Final = {
    "00000000-0000-0000-0000-000000000000": 2058,
    ID: 4046,
    "ffffffff-ffff-ffff-ffff-ffffffffffff": 2793,
    "acme": 641,
}
SPELLED: Final = [
    ID,
    ID.upper(),
    ID.replace("-", ""),
    "{" + ID + "}",
    "A0EE-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
    "Acme",
    "ACME",
    "{acme}",
    "7",
    " acme",
    ID + " ",
    "{" + ID,
    ID[:-1] + "g",
    "'; --",
    "\\x41",
    "tenant:acme",
    "a\x01b\x022",
    "ünïcödé",
    "x" * 240,
]


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    engine = create_engine(database_url)
    make_tables(engine)
    with engine.begin() as made:
        made.execute(text("INSERT INTO tidegate_state VALUES ('shard', 's0'), ('cluster', 'c')"))
        made.execute(
            text("INSERT INTO tidegate_ownership SELECT 'slot:' || n, 1, true FROM generate_series(0, 4095) n")
        )
    engine.dispose()
    url = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as plain:
        yield plain


def held(connection: psycopg.Connection[Any], *tenants: str) -> list[str]:
    """The units that a transaction holds after a check."""
    with connection.transaction():
        connection.execute("SELECT tidegate_check_ownership(%s)", [list(tenants)])
        row = connection.execute("SELECT current_setting('tidegate.held')::json").fetchone()
    assert row is not None
    return sorted(row[0])


def test_frozen_slots(connection: psycopg.Connection[Any]) -> None:
    for tenant, slot in FROZEN.items():
        assert connection.execute("SELECT tidegate_slot(%s)", [tenant]).fetchone() == (slot,)


def test_any_text_has_the_slot_that_python_finds(connection: psycopg.Connection[Any]) -> None:
    chance = random.Random(7)  # noqa: S311  # repeatable
    letters = "abcXYZ019-_:{}' ü€😀\x01\x02"
    given = ["", *("".join(chance.choices(letters, k=chance.randrange(1, 300))) for _ in range(300))]
    given += ["a" * size for size in (127, 128, 129, 255, 256, 257)]
    given += [str(UUID(int=chance.getrandbits(128))) for _ in range(1_000)]
    found = connection.execute("SELECT tidegate_slot(t) FROM unnest(%s::text[]) t", [given]).fetchall()
    assert [slot for (slot,) in found] == [slot_of(one) for one in given]


def test_any_spelling_is_the_unit_that_a_gate_takes(connection: psycopg.Connection[Any]) -> None:
    for _ in range(2):  # found, and kept by the session
        for tenant in SPELLED:
            assert held(connection, tenant) == [f"slot:{slot_of(canonical_tenant(tenant))}"], tenant
    assert held(connection, *SPELLED) == sorted({f"slot:{slot_of(canonical_tenant(one))}" for one in SPELLED})


def test_a_session_keeps_the_slots_of_many_tenants_and_finds_them_right(connection: psycopg.Connection[Any]) -> None:
    chance = random.Random(8)  # noqa: S311  # repeatable
    many = [str(UUID(int=chance.getrandbits(128))) for _ in range(3_000)]
    connection.execute("SELECT tidegate_check_ownership(%s)", [many])
    connection.execute(
        "CREATE OR REPLACE FUNCTION tidegate_slot(tenant text) RETURNS int LANGUAGE sql AS 'SELECT 1 / 0'"
    )
    for one in many[:300]:
        assert held(connection, one) == [f"slot:{slot_of(one)}"]
    warned: list[str] = []
    connection.add_notice_handler(lambda notice: warned.append(notice.message_primary or ""))
    connection.execute("SELECT tidegate_check_ownership(%s)", [["new"]])
    assert "division by zero" in warned[0]  # what is not kept is found anew
