"""What makes a model lazy leaves its class as it is, and what the class itself defines."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import uuid
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import Column, String, Table, create_engine, select
from sqlalchemy import inspect as sa_inspect
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    load_only,
    make_transient,
    mapped_column,
    registry,
    sessionmaker,
)

from tidegate.repositories.lazy import LazyPage, make_lazy

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

pytestmark = pytest.mark.fast

HEAVY: Final = ("body", "tail")


class Held:
    """What a copier of a class of its own makes: it is told from any other by its type."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = {key: value for key, value in values.items() if not key.startswith("_sa")}


class Reduces:
    def __reduce__(self) -> Any:
        return Held, (dict(vars(self)),)


class ReducesEx:
    def __reduce_ex__(self, protocol: Any) -> Any:
        return Held, (dict(vars(self)),)


class Copies:
    def __copy__(self) -> Held:
        return Held(vars(self))


class DeepCopies:
    def __deepcopy__(self, memo: dict[int, Any]) -> Held:
        return Held(vars(self))


class HasState:
    def __getstate__(self) -> dict[str, Any]:
        return {"values": {key: value for key, value in vars(self).items() if not key.startswith("_sa")}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.values = state["values"]


Copier = Reduces | ReducesEx | Copies | DeepCopies | HasState
BY: Final[list[tuple[type[Copier], Callable[[Any], Any]]]] = [
    (Reduces, copy.copy),
    (ReducesEx, copy.copy),
    (Copies, copy.copy),
    (DeepCopies, copy.deepcopy),
    (HasState, copy.copy),
    (Reduces, lambda row: row.__reduce__()[0](*row.__reduce__()[1])),
    (HasState, lambda row: type("State", (), row.__getstate__())),
]


def declared(*bases: type[Any]) -> type[Any]:
    class Base(DeclarativeBase):
        """The root of one model."""

    class Letter(*bases, Base):  # type: ignore[misc]  # bases of any number
        __tablename__ = "letter"
        id: Mapped[str] = mapped_column(primary_key=True)
        body: Mapped[str | None]
        tail: Mapped[str | None]

    return Letter


def a_dataclass() -> type[Any]:
    class Base(MappedAsDataclass, DeclarativeBase):
        """The root of one model."""

    class Letter(Base):
        __tablename__ = "letter"
        id: Mapped[str] = mapped_column(primary_key=True)
        body: Mapped[str | None] = mapped_column(default="x")
        tail: Mapped[str | None] = mapped_column(default=None)

    return Letter


def imperative() -> type[Any]:
    class Letter:
        def __init__(self, id: str, body: str | None = None, tail: str | None = None) -> None:  # noqa: A002  # its column
            self.id, self.body, self.tail = id, body, tail

    mapped = registry()
    columns = [Column("id", String, primary_key=True), Column("body", String), Column("tail", String)]
    mapped.map_imperatively(Letter, Table("letter", mapped.metadata, *columns))
    return Letter


def defined_in_itself(name: str, from_base: type[Copier]) -> type[Any]:
    model = declared()
    setattr(model, name, vars(from_base)[name])
    for helper in {"__setstate__"} & set(vars(from_base)):
        setattr(model, helper, vars(from_base)[helper])
    return model


def light_row(model: type[Any], row_id: Any = "one") -> Any:
    engine = create_engine("sqlite://")
    model.metadata.create_all(engine) if hasattr(model, "metadata") else model.__table__.metadata.create_all(engine)
    sessions: sessionmaker[Session] = sessionmaker(engine)
    with sessions.begin() as session:
        session.add(model(id=row_id, body="a body", tail="a tail"))
    with sessions() as session:
        row = session.scalars(select(model).options(load_only(model.id))).one()
    LazyPage(sessions, model, HEAVY).adopt([row])
    assert not set(HEAVY) & set(vars(row))
    return row


@pytest.mark.parametrize("make", [declared, a_dataclass, imperative])
def test_a_class_stays_as_it_was(make: Callable[[], type[Any]]) -> None:
    model = make()
    row = model(id="one", body="a body", tail=None)

    def seen() -> Any:
        fields = dataclasses.fields(model) if dataclasses.is_dataclass(model) else ()
        return inspect.signature(model), model.__init__, model.__new__, model.__mro__, fields, model.__hash__

    before, reduced = seen(), row.__reduce_ex__(4)
    attributes = dict(vars(model))
    make_lazy(model, HEAVY)
    assert seen() == before
    assert {key for key, value in vars(model).items() if attributes.get(key) is not value} == {"__reduce_ex__"}
    assert row.__reduce_ex__(4) == reduced
    assert isinstance(row, model)
    assert (model(id="two", body=None).tail, row.body) == (None, "a body")


@pytest.mark.parametrize("make", [declared, a_dataclass, imperative])
def test_a_second_call_does_nothing(make: Callable[[], type[Any]]) -> None:
    model = make()

    def installed() -> tuple[Any, ...]:
        sa_inspect(model).registry.configure()
        events = (model.body.impl.dispatch.init_scalar, model.tail.impl.dispatch.init_scalar)
        return dict(vars(model)), *map(len, events), len(model.__mapper__.dispatch.before_insert)

    make_lazy(model, HEAVY[:1])
    assert installed()[1:] == (1, 0, 1)
    first = installed()[0]
    make_lazy(model, HEAVY)
    make_lazy(model, HEAVY)
    make_lazy(model, HEAVY[1:])
    assert installed() == (first, 1, 1, 1)


@pytest.mark.parametrize("make", [declared, a_dataclass, imperative])
def test_rows_of_any_mapping_are_whole(make: Callable[[], type[Any]]) -> None:
    model = make()
    for duplicate in (copy.copy, copy.deepcopy):
        twin = duplicate(light_row(model))
        assert (vars(twin)["body"], vars(twin)["tail"]) == ("a body", "a tail")
    row = light_row(model)
    make_transient(row)
    assert (row.body, row.tail) == ("a body", "a tail")


@pytest.mark.parametrize("where", ["in a base", "in the class"])
@pytest.mark.parametrize(("base", "duplicate"), BY)
def test_what_a_class_defines_itself_is_used_and_sees_every_column(
    base: type[Copier], duplicate: Callable[[Any], Any], where: str
) -> None:
    name = next(name for name in vars(base) if name.startswith(("__reduce", "__copy", "__deepcopy", "__getstate")))
    model = declared(base) if where == "in a base" else defined_in_itself(name, base)
    twin = duplicate(light_row(model))
    assert twin.values == {"id": "one", "body": "a body", "tail": "a tail"}


def test_an_id_may_be_of_any_type() -> None:
    class Base(DeclarativeBase):
        """The root of one model."""

    class Letter(Base):
        __tablename__ = "letter"
        id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
        body: Mapped[str | None]
        tail: Mapped[str | None]

    row = light_row(Letter, uuid.uuid4())
    assert (row.body, row.tail) == ("a body", "a tail")
