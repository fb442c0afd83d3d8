"""What the database takes for the same tenant is the same tenant: types of which that cannot be said are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from sqlalchemy import CHAR, BigInteger, Enum, Float, Integer, Numeric, String, Text, Uuid, create_engine, select, text
from sqlalchemy.dialects.postgresql import CITEXT
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, sessionmaker

import tidegate
from tidegate.errors import SettingsError
from tidegate.repositories.columns import StringUUID
from tidegate.repositories.models import Base
from tidegate.repositories.policies import PolicyTable, Read, Tracked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

pytestmark = pytest.mark.fast


class Notes:
    """A repository of a program's own."""

    def __init__(self, session_maker: sessionmaker[Session]) -> None:
        self._maker = session_maker

    def of(self, tenant_id: Any) -> list[str]:
        with self._maker() as session:
            return list(session.scalars(text("SELECT words FROM notes WHERE tenant_id = :t"), {"t": tenant_id}))


POLICIES = PolicyTable({"of": Read(guard="notes")}, ids=frozenset())


def model(tenant: Any, kind: Any = Text) -> Any:
    own: Any = type("Own", (DeclarativeBase,), {})
    columns = {
        "__tablename__": "notes",
        "id": mapped_column(Integer, primary_key=True),
        "tenant_id": mapped_column(tenant),
        "kind": mapped_column(kind),
        "words": mapped_column(Text),
    }
    return type("Note", (own,), columns)


@pytest.fixture
def gate(database_url: str) -> Iterator[tidegate.Gate]:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    with tidegate.gate_on(engine, sessionmaker(engine), tidegate.Settings()) as made:
        yield made
    engine.dispose()


def wrap(gate: tidegate.Gate, note: Any) -> None:
    gate.wrap(Notes, POLICIES, [Tracked(note, tenant="tenant_id", tags=("notes", "notes:{kind}"))])


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


@pytest.mark.parametrize("kind", [CHAR(10), Numeric(), Float(), CITEXT()], ids=str)
@pytest.mark.parametrize("where", ["tenant_id", "kind"])
def test_a_model_with_a_type_of_equal_values_that_differ_is_refused(gate: tidegate.Gate, kind: Any, where: str) -> None:
    note = model(kind) if where == "tenant_id" else model(String(36), kind)
    with pytest.raises(SettingsError, match=rf"notes\.{where} is {str(kind).partition('(')[0]}.*must be uuid, text"):
        wrap(gate, note)


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("char(8)", r"character\(8\)"),
        ("numeric", "numeric"),
        ("numeric(12,2)", r"numeric\(12,2\)"),
        ("float8", "double precision"),
        ("jsonb", "jsonb"),
        ("padded", "padded"),
    ],
)
@pytest.mark.parametrize("where", ["tenant_id", "kind"])
def test_a_column_of_such_a_type_is_refused_whatever_the_model_says(
    gate: tidegate.Gate, kind: str, shown: str, where: str
) -> None:
    types = {"tenant_id": "text", "kind": "text"} | {where: kind}
    columns = ", ".join(f"{name} {made}" for name, made in types.items())
    execute(
        gate.engine,
        "CREATE DOMAIN padded AS char(8)",
        f"CREATE TABLE notes (id int PRIMARY KEY, {columns}, words text)",
    )
    with pytest.raises(SettingsError, match=rf"notes\.{where} is {shown}.*must be uuid, text"):
        wrap(gate, model(String(36)))


@pytest.mark.parametrize(
    "kind",
    [Text(), String(36), StringUUID(), Uuid(), Integer(), BigInteger(), Enum("a", "b", name="letters")],
    ids=lambda kind: type(kind).__name__,
)
def test_types_whose_values_are_equal_only_if_their_texts_are_stay(gate: tidegate.Gate, kind: Any) -> None:
    note = model(kind, kind)
    note.metadata.create_all(gate.engine)
    wrap(gate, note)
    with gate.engine.connect() as connection:
        assert connection.execute(select(note)).all() == []


def test_a_day_may_be_of_any_type_that_has_days(gate: tidegate.Gate) -> None:
    execute(gate.engine, "CREATE TABLE notes (id int PRIMARY KEY, tenant_id text, kind timestamptz, words text)")
    note = model(Text())
    gate.wrap(Notes, POLICIES, [Tracked(note, tenant="tenant_id", tags=("notes", "notes:{kind:day}"))])


def test_a_gate_on_dify_s_tables_refuses_a_tenant_of_such_a_type(database_url: str) -> None:
    engine = create_engine(database_url)
    Base.metadata.create_all(engine)
    execute(engine, "ALTER TABLE workflow_app_logs ALTER tenant_id TYPE char(40)")
    with pytest.raises(SettingsError, match=r"workflow_app_logs\.tenant_id is character\(40\)"):
        tidegate.gate_on(engine, sessionmaker(engine), tidegate.Settings())
    execute(engine, "ALTER TABLE workflow_app_logs ALTER tenant_id TYPE uuid USING trim(tenant_id)::uuid")
    with tidegate.gate_on(engine, sessionmaker(engine), tidegate.Settings()) as gate:
        assert gate.workflow_runs.get_workflow_run_by_id(str(uuid4()), str(uuid4()), str(uuid4())) is None
    engine.dispose()


def test_on_sqlite_a_model_is_what_is_looked_at() -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with tidegate.gate_on(engine, sessionmaker(engine), tidegate.Settings()) as gate:
        wrap(gate, model(CHAR(36)))
    other = create_engine("sqlite://")
    Base.metadata.create_all(other)
    with (
        tidegate.gate_on(other, sessionmaker(other), tidegate.Settings()) as gate,
        pytest.raises(SettingsError, match=r"notes\.tenant_id is NUMERIC"),
    ):
        wrap(gate, model(Numeric()))
    engine.dispose()
    other.dispose()
