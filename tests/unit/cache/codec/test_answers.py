"""The codec gives back exactly what went in, or says that it cannot; nothing in a body makes it do anything else."""

from __future__ import annotations

import gc
import re
import sys
import tracemalloc
import zlib
from datetime import UTC, date, datetime
from decimal import Decimal  # noqa: TC003  # SQLAlchemy evaluates it
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from uuid import UUID  # noqa: TC003  # the same
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    JSON,
    BigInteger,
    Date,
    DateTime,
    Float,
    ForeignKey,
    LargeBinary,
    Numeric,
    StaticPool,
    String,
    create_engine,
    event,
    inspect,
    select,
)
from sqlalchemy import Uuid as UuidType
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    defer,
    joinedload,
    mapped_column,
    reconstructor,
    relationship,
    selectinload,
    sessionmaker,
)
from sqlalchemy.orm.attributes import set_committed_value

from tidegate.cache.codec.answers import AnswerCodec, RowsAndData
from tidegate.cache.codec.values import NotThisAnswer, Uncacheable, Undecodable, Unreadable
from tidegate.repositories.columns import EnumText
from tidegate.repositories.pagination import InfiniteScrollPagination

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.fast

TENANT, OTHER, CALL = "tenant one", "tenant two", b"a call's fingerprint"


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Base(DeclarativeBase):
    pass


class Boat(Base):
    __tablename__ = "boats"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String)
    name: Mapped[str | None] = mapped_column(String)
    length: Mapped[float | None] = mapped_column(Float)
    launched: Mapped[datetime | None] = mapped_column(DateTime)
    built: Mapped[date | None] = mapped_column(Date)
    price: Mapped[Decimal | None] = mapped_column(Numeric)
    hull: Mapped[UUID | None] = mapped_column(UuidType)
    photo: Mapped[bytes | None] = mapped_column(LargeBinary)
    papers: Mapped[Any] = mapped_column(JSON)
    colour: Mapped[Colour | None] = mapped_column(EnumText(Colour))
    harbour_id: Mapped[int | None] = mapped_column(ForeignKey("harbours.id"))
    harbour: Mapped[Harbour | None] = relationship(back_populates="boats")
    home: Mapped[Harbour | None] = relationship(viewonly=True)
    crew: Mapped[set[Sailor]] = relationship()


class Harbour(Base):
    __tablename__ = "harbours"

    id: Mapped[int] = mapped_column(primary_key=True)
    boats: Mapped[list[Boat]] = relationship(back_populates="harbour")


class Sailor(Base):
    __tablename__ = "sailors"

    id: Mapped[int] = mapped_column(primary_key=True)
    boat_id: Mapped[int] = mapped_column(ForeignKey("boats.number"))


class Ghost(Base):
    __tablename__ = "ghosts"

    id: Mapped[int] = mapped_column(primary_key=True)

    @reconstructor
    def appear(self) -> None:
        self.seen = True


CODEC = AnswerCodec([Boat, Ghost], blob_bytes=40)


def no_session() -> Any:
    raise AssertionError("nothing is lazy here")


def round_trip(answer: object, codec: AnswerCodec = CODEC) -> Any:
    encoded = codec.encode(TENANT, CALL, answer)
    decoded = codec.decode(TENANT, CALL, encoded.body)
    assert decoded.blobs == encoded.blobs.keys()
    return codec.build(decoded, no_session, encoded.blobs)


def boat(**values: Any) -> Boat:
    """A boat as a query would return it: detached, unchanged."""
    found: Any = Boat.__mapper__.class_manager.new_instance()
    state = inspect(found)
    everything = dict.fromkeys(a.key for a in Boat.__mapper__.column_attrs) | {"number": 1, "tenant_id": TENANT}
    state.dict.update(everything | values)
    state.key = (Boat, (state.dict["number"],), None)
    assert isinstance(found, Boat)
    return found


def values_of(row: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(row).items() if key != "_sa_instance_state"}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
naive = st.datetimes().map(lambda moment: moment.replace(fold=0))
examples = settings(deadline=None)  # other processes share the machine
ints = st.integers(-(2**63), 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | ints | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
boats = st.fixed_dictionaries(
    {
        "name": st.none() | texts,
        "length": st.none() | st.floats() | st.just(-0.0),
        "launched": st.none() | naive | naive.map(lambda moment: moment.replace(tzinfo=UTC)),
        "built": st.none() | st.dates(),
        "price": st.none() | st.decimals(allow_nan=True),
        "hull": st.none() | st.uuids(),
        "photo": st.none() | st.binary(max_size=60),
        "papers": json_values,
        "colour": st.none() | st.sampled_from(Colour),
    }
)


def shown(value: object) -> str:
    """Tells 1 from 1.0 and True, 0.0 from -0.0, one NaN from a number, and a member from its value."""
    return repr(value)


@examples
@given(st.lists(boats, min_size=1, max_size=6))
def test_rows_of_every_kind_of_value_come_back_exactly(made: list[dict[str, Any]]) -> None:
    rows = [boat(number=i * (2**63 - 1) // 6, **values) for i, values in enumerate(made)]
    try:
        back = round_trip(rows)
    except Uncacheable as reason:
        assert "signalling" in str(reason)  # noqa: PT017  # the one reason these values can give
        return
    assert [type(row) for row in back] == [Boat] * len(rows)
    for row, original in zip(back, rows, strict=True):
        assert row is not original
        ours, theirs = values_of(row), values_of(original)
        assert {key: shown(value) for key, value in ours.items()} == {k: shown(v) for k, v in theirs.items()}
        assert inspect(row).key == inspect(original).key


@examples
@given(json_values | st.dictionaries(texts, st.integers(0, 2**63)) | st.lists(st.dictionaries(texts, st.floats())))
def test_plain_answers_come_back_exactly(answer: object) -> None:
    first, second = round_trip(answer), round_trip(answer)
    assert shown(first) == shown(answer)
    assert first is not second or not isinstance(first, list | dict)


def test_equal_values_of_other_types_are_not_one_constant() -> None:
    made: list[dict[str, Any]] = [
        {"papers": 1, "length": 0.0},
        {"papers": True, "length": -0.0},
        {"papers": 1.0, "length": 0.0},
    ]
    back = round_trip([boat(number=i, **values) for i, values in enumerate(made)])
    assert shown([row.papers for row in back]) == "[1, True, 1.0]"
    assert shown([row.length for row in back]) == "[0.0, -0.0, 0.0]"


def test_none_is_an_answer() -> None:
    assert round_trip(None) is None


@pytest.mark.parametrize("count", [0, 1, 3])
def test_rows_with_data_beside_them_come_back_exactly(count: int) -> None:
    rows = [boat(number=number, name="x" * 100) for number in range(count)]
    data = {"total": 7, "order": [0, 0, 2], "text": ["é", None]}
    first, second = round_trip(RowsAndData(rows, data)), round_trip(RowsAndData(rows, data))
    assert type(first) is RowsAndData
    assert [values_of(row) for row in first.rows] == [values_of(row) for row in rows]
    assert first.data == second.data == data
    assert first.data is not second.data


def test_rows_with_other_data_than_plain_beside_them_are_uncacheable() -> None:
    with pytest.raises(Uncacheable, match="beside the rows are not plain"):
        CODEC.encode(TENANT, CALL, RowsAndData([boat()], {"total": (1,)}))


@pytest.mark.parametrize("size", [39, 40, 41, 4000])
def test_texts_over_the_threshold_are_blobs(size: int) -> None:
    text = "é" * (size // 2) + "x" * (size % 2)
    encoded = CODEC.encode(TENANT, CALL, [boat(name=text), boat(number=2, name=text), boat(number=3, name=None)])
    assert list(encoded.blobs.values()) == ([text.encode()] if size > 40 else [])
    assert [row.name for row in round_trip([boat(name=text), boat(number=2, name="short")])] == [text, "short"]


def test_a_blob_that_is_missing_or_altered_is_undecodable() -> None:
    encoded = CODEC.encode(TENANT, CALL, boat(name="x" * 100))
    decoded = CODEC.decode(TENANT, CALL, encoded.body)
    (name,) = decoded.blobs
    for blobs in ({}, {name: b"x" * 99}, {name: b"\xff"}):
        with pytest.raises(Undecodable, match="blob"):
            CODEC.build(decoded, no_session, blobs)
    resolved = CODEC.resolve(decoded, encoded.blobs)
    assert resolved.blobs == frozenset()
    assert resolved.held_bytes() >= 100 + len(encoded.body)
    assert values_of(CODEC.build(resolved, no_session)) == values_of(boat(name="x" * 100))
    assert decoded.blobs == {name}, "what is decoded does not change"


@pytest.mark.parametrize(
    "answer",
    [
        {1, 2},
        (1, 2),
        {"when": datetime(2026, 1, 1)},  # noqa: DTZ001  # it would come back as something else
        {1: "a key that is no text"},
        Colour.RED,
        ["a", Colour.RED],
        2**64,
        "\ud800",
        bytearray(b"x"),
        object(),
        Boat,
        [boat(), None],
        [None, boat()],
        {"row": boat()},
        boat(tenant_id=OTHER),
        [boat(), boat(number=2, tenant_id=OTHER)],
        boat(name=Colour.RED),
        boat(name="\ud800"),
        boat(length=2**70),
        boat(photo=bytearray(b"x")),
        boat(papers={1: 2}),
        boat(papers=[(1, 2)]),
        boat(launched=datetime(2026, 1, 1, tzinfo=ZoneInfo("Asia/Shanghai"))),
        boat(launched=datetime(2026, 1, 1, fold=1)),  # noqa: DTZ001  # naive on purpose
        [boat(launched=date(2026, 1, 1)), boat(number=2, launched=datetime(2026, 1, 1))],  # noqa: DTZ001
        [boat(), boat()],
        Boat(number=1, tenant_id=TENANT),
        InfiniteScrollPagination([boat(tenant_id=OTHER)], 1, has_more=False),
        InfiniteScrollPagination((), 1, has_more=False),
        [InfiniteScrollPagination([], 1, has_more=False)],
    ],
    ids=lambda answer: re.sub(r" at 0x\w+", "", repr(answer)),  # an address differs from worker to worker
)
def test_what_would_not_come_back_exactly_is_uncacheable(answer: object) -> None:
    with pytest.raises(Uncacheable):
        CODEC.encode(TENANT, CALL, answer)


def test_too_deep_is_uncacheable() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(Uncacheable):
        CODEC.encode(TENANT, CALL, deep)


def test_rows_that_a_query_did_not_leave_so_are_uncacheable() -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    maker = sessionmaker(engine)
    with maker.begin() as session:
        session.add(Harbour(id=1, boats=[Boat(number=i, tenant_id=TENANT, papers=None) for i in (1, 2)]))
        session.add(Ghost(id=1))

    def loaded(statement: Any) -> list[Any]:
        with maker() as session:
            return list(session.scalars(statement))

    assert len(round_trip(loaded(select(Boat)))) == 2
    changed, (unmapped, _), twice = (loaded(select(Boat)) for _ in range(3))
    changed[0].name = "other"
    unmapped.remark = "mine"
    uncacheable: list[Any] = [
        changed,
        unmapped,
        [*twice, twice[0]],
        loaded(select(Boat).options(joinedload(Boat.harbour))),  # one harbour, shared by two boats
        loaded(select(Boat).options(selectinload(Boat.crew)).where(Boat.number == 1)),  # a set
        loaded(select(Boat).options(defer(Boat.name))),  # which raises when it is touched
        loaded(select(Ghost)),
        loaded(select(Boat).options(joinedload(Boat.harbour), joinedload(Boat.home)).where(Boat.number == 1)),
    ]
    for answer in uncacheable:
        with pytest.raises(Uncacheable):
            CODEC.encode(TENANT, CALL, answer)
    with maker() as session, pytest.raises(Uncacheable, match="detached"):
        CODEC.encode(TENANT, CALL, session.scalars(select(Boat)).all())
    one = loaded(select(Boat).options(joinedload(Boat.harbour)).where(Boat.number == 1))
    assert round_trip(one)[0].harbour.id == 1
    engine.dispose()


BODY = CODEC.encode(TENANT, CALL, [boat(number=i, name="é" * 30, papers={"a": [i]}) for i in range(4)])


def decode_and_build(body: bytes, tenant: str = TENANT, call: bytes = CALL, codec: AnswerCodec = CODEC) -> list[str]:
    built = codec.build(codec.decode(tenant, call, body), no_session, BODY.blobs)
    assert isinstance(built, list)
    return [shown(values_of(row)) for row in built]


def test_every_truncation_is_undecodable() -> None:
    for length in range(len(BODY.body)):
        with pytest.raises(Unreadable):
            decode_and_build(BODY.body[:length])


def test_every_flipped_bit_is_undecodable() -> None:
    for i in range(len(BODY.body) * 8):
        flipped = bytearray(BODY.body)
        flipped[i // 8] ^= 1 << i % 8
        with pytest.raises(Unreadable):
            decode_and_build(bytes(flipped))


@examples
@given(st.binary(max_size=300))
def test_any_bytes_are_undecodable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        decode_and_build(body)
    with pytest.raises(Unreadable):
        decode_and_build(sealed(body))


def sealed(payload: bytes) -> bytes:
    """*payload* as a writer who means harm would store it: with the right checksum."""
    return b"\x01" + zlib.crc32(payload).to_bytes(4, "big") + payload


@settings(examples, max_examples=2000)
@given(st.data())
def test_forged_bodies_raise_one_kind_of_error_or_are_the_tenants(data: st.DataObject) -> None:
    payload = bytearray(BODY.body[5:])
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = CODEC.decode(TENANT, CALL, sealed(bytes(payload)))
        built = CODEC.build(decoded, no_session, BODY.blobs)
    except Unreadable:
        return
    rows = built if isinstance(built, list | tuple) else [built]
    assert {row.tenant_id for row in rows if isinstance(row, Boat)} <= {TENANT}
    assert all(isinstance(row, Boat) for row in rows)


def test_the_answer_of_another_tenant_call_or_schema_is_refused() -> None:
    with pytest.raises(NotThisAnswer):
        decode_and_build(BODY.body, tenant=OTHER)
    with pytest.raises(NotThisAnswer):  # no rows in it that would say whose it is
        CODEC.decode(OTHER, CALL, CODEC.encode(TENANT, CALL, {"total": 3}).body)
    with pytest.raises(NotThisAnswer):
        decode_and_build(BODY.body, call=b"another")
    with pytest.raises(NotThisAnswer, match="schema"):
        decode_and_build(BODY.body, codec=AnswerCodec([Ghost]))


def test_rows_of_another_tenant_in_a_body_of_ours_are_refused() -> None:
    theirs = CODEC.encode(OTHER, CALL, [boat(tenant_id=OTHER), boat(number=2, tenant_id=OTHER)])
    payload: Any = msgpack.unpackb(theirs.body[5:])
    payload[0] = TENANT
    packed: Any = msgpack.packb(payload)
    with pytest.raises(NotThisAnswer, match="the rows are of another tenant"):
        CODEC.decode(TENANT, CALL, sealed(packed))
    layout = bytearray(payload[3][0])
    layout[16 + 1] = ord("P")  # the tenant once a row: one of ours first, one of theirs behind it
    payload[3][0] = bytes(layout)
    payload[3][2] = [value for value in payload[3][2] if value != OTHER]
    payload[3][3].insert(1, [TENANT, OTHER])
    packed = msgpack.packb(payload)
    with pytest.raises(Unreadable, match="several tenants"):
        CODEC.decode(TENANT, CALL, sealed(packed))


NAME = 2  # where the column stands in a layout


def forged(answer: object, change: Callable[[list[Any]], object]) -> bytes:
    """A body of ours in which *change* altered the table: [layout, count, constants, columns, related]."""
    payload: Any = msgpack.unpackb(CODEC.encode(TENANT, CALL, answer).body[5:])
    change(payload[3])
    packed: Any = msgpack.packb(payload)
    return sealed(packed)


def constant(table: list[Any], column: int, value: object) -> None:
    letters = table[0][16:].decode()
    table[2][sum(letter.islower() for letter in letters[:column])] = value


ONE, TWO = [boat()], [boat(name="a"), boat(number=2, name="b")]


@pytest.mark.parametrize(
    ("answer", "change"),
    [
        (TWO, lambda table: table[3][1].pop()),
        (TWO, lambda table: table[3].pop()),
        (TWO, lambda table: table[2].pop()),
        (TWO, lambda table: table[3][1].append("c")),
        (ONE, lambda table: table.__setitem__(1, 4000)),
        (ONE, lambda table: table.__setitem__(1, 0)),
        (ONE, lambda table: table.__setitem__(1, -1)),
        (ONE, lambda table: table.__setitem__(0, table[0][:-1])),
        (ONE, lambda table: table.__setitem__(0, table[0][:-1] + b"+")),
        (ONE, lambda table: table.__setitem__(0, table[0][:18] + b"Z" + table[0][19:])),
        (ONE, lambda table: constant(table, NAME, {"a": 1})),
    ],
)
def test_a_forged_table_is_undecodable(answer: object, change: Callable[[list[Any]], object]) -> None:
    with pytest.raises(Unreadable):
        CODEC.build(CODEC.decode(TENANT, CALL, forged(answer, change)), no_session)


def test_a_forged_list_is_nothing_that_callers_could_share() -> None:
    decoded = CODEC.decode(TENANT, CALL, forged(ONE, lambda table: constant(table, NAME, [1])))
    built: Any = CODEC.build(decoded, no_session)
    assert not isinstance(built[0].name, list)


@pytest.mark.parametrize("counts", [[2], [0], [-1], [4000], [1, 0], []])
def test_forged_counts_of_related_rows_are_undecodable(counts: list[int]) -> None:
    row = boat(harbour_id=1)
    harbour: Any = Harbour.__mapper__.class_manager.new_instance()
    inspect(harbour).dict["id"] = 1
    inspect(harbour).key = (Harbour, (1,), None)
    set_committed_value(row, "harbour", harbour)
    assert round_trip([row])[0].harbour.id == 1
    with pytest.raises(Unreadable):
        CODEC.decode(TENANT, CALL, forged([row], lambda table: table[4][0].__setitem__(0, counts)))


@pytest.mark.parametrize("columns", [("name", String(5)), ("extra", String())])
def test_another_type_or_column_is_another_schema(columns: tuple[str, Any]) -> None:
    class Before(DeclarativeBase):
        pass

    class After(DeclarativeBase):
        pass

    def model(base: Any, **more: Any) -> type[Any]:
        fields = {"__tablename__": "t", "__module__": "m", "__qualname__": "T", "name": mapped_column(String)}
        return type("T", (base,), fields | {"id": mapped_column(BigInteger, primary_key=True)} | more)

    old, same = AnswerCodec([model(Before)]), AnswerCodec([model(type("Same", (DeclarativeBase,), {}))])
    new = AnswerCodec([model(After, **{columns[0]: mapped_column(columns[1])})])
    fingerprints = [next(iter(c._layouts.by_class.values())).fingerprint for c in (old, same, new)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@pytest.mark.parametrize(
    "payload",
    [
        b"\x91" * 5000,
        b"\xdc\xff\xff" * 5000,
        b"\xdd\xff\xff\xff\xff" * 5000,
        b"\xdd\x00\x00\x10\x00" * 5000,
        b"\xdf\xff\xff\xff\xff" * 5000,
        b"\xdd\x00\x00\xf0\x00" * 1000 + bytes(400_000),
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\x7f\xff\xff\xff",
        b"\xc9\x7f\xff\xff\xff\x01",
        msgpack.packb([TENANT, CALL, 0, None, b"\xdd\x00\x00\xff\x00" * 13000]),
    ],
)
def test_a_small_body_cannot_take_much_memory(payload: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable):
            decode_and_build(sealed(payload))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


def test_what_is_decoded_is_never_shared_with_a_caller() -> None:
    answer = [boat(papers={"a": [1]}), boat(number=2, papers={"a": [1]})]
    decoded = CODEC.decode(TENANT, CALL, CODEC.encode(TENANT, CALL, answer).body)
    first: Any = CODEC.build(decoded, no_session)
    assert first[0].papers is not first[1].papers
    first[0].papers["a"].append(2)
    first[0].name = "spoilt"
    first.pop()
    second: Any = CODEC.build(decoded, no_session)
    assert [values_of(row) for row in second] == [values_of(row) for row in answer]


def test_a_model_with_load_events_is_uncacheable_and_only_while_it_has_them() -> None:
    def hook(*_: Any) -> None:
        """What a hydrated row would miss."""

    event.listen(Boat, "load", hook)
    try:
        with pytest.raises(Uncacheable):
            CODEC.encode(TENANT, CALL, boat())
    finally:
        event.remove(Boat, "load", hook)
    assert round_trip(boat()).number == 1


def calls_made(operation: Any) -> int:
    """Python functions called, not counting those written in C: what a slow machine does not change."""
    seen = []
    gc.disable()  # or rows of other tests are buried within ours
    sys.setprofile(lambda _frame, kind, _argument: seen.append(1) if kind == "call" else None)
    try:
        operation()
    finally:
        sys.setprofile(None)
        gc.enable()
    return len(seen)


def test_a_row_more_costs_one_call_to_build_and_none_to_decode() -> None:
    def costs(count: int) -> tuple[int, int]:
        body = CODEC.encode(TENANT, CALL, [boat(number=i, name=f"n{i}") for i in range(count)]).body
        decoded = CODEC.decode(TENANT, CALL, body)
        kept: list[object] = []  # what is dropped costs calls too
        return (
            calls_made(lambda: CODEC.decode(TENANT, CALL, body)),
            calls_made(lambda: kept.append(CODEC.build(decoded, no_session))),
        )

    few, many = costs(2), costs(102)
    assert many[0] == few[0] <= 40
    assert many[1] - few[1] == 100  # InstanceState.__init__
    assert few[1] <= 10
