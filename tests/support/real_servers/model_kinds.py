"""Models of every kind that can be tracked, a repository over them, and statements that change what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Column, ForeignKey, ForeignKeyConstraint, String, Table, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, selectin_polymorphic, sessionmaker

from tidegate import PolicyTable, Read, Tracked

if TYPE_CHECKING:
    from collections.abc import Mapping

TENANTS: Final = ("ann", "bob")


class KindsBase(DeclarativeBase):
    """The tables of this file."""


class Team(KindsBase):
    __tablename__ = "team"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]


team_label: Final = Table(
    "team_label",
    KindsBase.metadata,
    Column("team_id", ForeignKey("team.id", ondelete="CASCADE"), primary_key=True, key="team"),
    Column("label", String, primary_key=True),
)
"""An association table: no class, no tenant, and a column whose key is not its name."""

mention: Final = Table("mention", KindsBase.metadata, Column("tenant_id", String), Column("who", String))
"""A table without a primary key."""


class Seat(KindsBase):
    __tablename__ = "seat"

    room: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    words: Mapped[str]


class Booking(KindsBase):
    __tablename__ = "booking"
    __table_args__ = (ForeignKeyConstraint(["room", "place"], ["seat.room", "seat.number"], ondelete="CASCADE"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    room: Mapped[str | None]
    place: Mapped[int | None]
    words: Mapped[str]
    found: Mapped[str | None]  # like what the triggers call theirs


class Item(KindsBase):
    __tablename__ = "item"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    kind: Mapped[str]
    shelf: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "item"}  # noqa: RUF012  # as SQLAlchemy has it


class Book(Item):
    __tablename__ = "book"

    book_id: Mapped[str] = mapped_column(ForeignKey("item.id", ondelete="CASCADE"), primary_key=True)
    author: Mapped[str]
    words: Mapped[str]
    __mapper_args__ = {"polymorphic_identity": "book"}  # noqa: RUF012


class Audio(Book):
    __tablename__ = "audio"

    audio_id: Mapped[str] = mapped_column(ForeignKey("book.book_id", ondelete="CASCADE"), primary_key=True)
    voice: Mapped[str]
    __mapper_args__ = {"polymorphic_identity": "audio"}  # noqa: RUF012


class Film(Item):
    """Lies in the table of its base alone."""

    studio: Mapped[str | None]
    __mapper_args__ = {"polymorphic_identity": "film"}  # noqa: RUF012


class Node(KindsBase):
    __tablename__ = "node"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    words: Mapped[str]
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "node"}  # noqa: RUF012


class Leaf(Node):
    """Has its tenant in the table of the child."""

    __tablename__ = "leaf"

    id: Mapped[str] = mapped_column(ForeignKey("node.id", ondelete="CASCADE"), primary_key=True)
    tenant_id: Mapped[str]
    __mapper_args__ = {"polymorphic_identity": "leaf"}  # noqa: RUF012


TRACKED_KINDS: Final = (
    Tracked(Team, tags=("team:{id}",)),
    Tracked(team_label, tenant=None, tags=("labelled:{label}",), parent=("team", Team)),
    Tracked(mention, tags=("mentions:{who}",)),
    Tracked(Seat, tags=("seat:{room}:{number}", "seats:{room}")),
    Tracked(Booking, tenant=None, tags=("booking:{id}", "found:{found}"), parent=(("room", "place"), Seat)),
    Tracked(Item, tags=("item:{id}",)),
    Tracked(Book, tags=("book:{book_id}", "books:{author}", "on:{shelf}:{author}")),
    Tracked(Audio, tags=("audio:{id}", "voiced:{shelf}:{author}:{voice}")),
    Tracked(Film, tags=("films:{studio}",)),
    Tracked(Leaf, tags=("leaf:{id}", "leaves:{words}")),
)


class Kinds:
    """A repository over all of them."""

    def __init__(self, session_maker: sessionmaker[Session]) -> None:
        self._maker = session_maker

    def _rows(self, statement: Any) -> list[Any]:
        with self._maker() as session:
            return list(session.scalars(statement).all())

    def labels_of(self, tenant_id: str, team_id: str) -> list[str]:
        mine = select(Team.id).where(Team.tenant_id == tenant_id, Team.id == team_id)
        return self._rows(select(team_label.c.label).where(team_label.c.team.in_(mine)).order_by(team_label.c.label))

    def labelled(self, tenant_id: str, label: str) -> list[str]:
        teams = select(Team.id).join(team_label, team_label.c.team == Team.id).order_by(Team.id)
        return self._rows(teams.where(Team.tenant_id == tenant_id, team_label.c.label == label))

    def mentions_of(self, tenant_id: str, who: str) -> list[str]:
        return self._rows(select(mention.c.who).where(mention.c.tenant_id == tenant_id, mention.c.who == who))

    def seat(self, tenant_id: str, room: str, number: int) -> Seat | None:
        with self._maker() as session:
            found = session.get(Seat, (room, number))
            return found if found is not None and found.tenant_id == tenant_id else None

    def seats(self, tenant_id: str, room: str) -> list[Seat]:
        return self._rows(select(Seat).where(Seat.tenant_id == tenant_id, Seat.room == room).order_by(Seat.number))

    def bookings(self, tenant_id: str, room: str, number: int) -> list[Booking]:
        mine = select(Booking).join(Seat, (Seat.room == Booking.room) & (Seat.number == Booking.place))
        of_seat = mine.where(Seat.tenant_id == tenant_id, Seat.room == room, Seat.number == number)
        return self._rows(of_seat.order_by(Booking.id))

    def booking(self, tenant_id: str, booking_id: str) -> list[Booking]:
        mine = select(Booking).join(Seat, (Seat.room == Booking.room) & (Seat.number == Booking.place))
        return self._rows(mine.where(Seat.tenant_id == tenant_id, Booking.id == booking_id))

    def item(self, tenant_id: str, item_id: str) -> str | None:
        with self._maker() as session:
            found = session.scalars(select(Item).where(Item.tenant_id == tenant_id, Item.id == item_id)).one_or_none()
            return None if found is None else f"{found.kind} {found.shelf}"

    def items(self, tenant_id: str, item_id: str) -> list[Item]:
        """Rows of any class, without the columns that only this class has."""
        return self._rows(select(Item).where(Item.tenant_id == tenant_id, Item.id == item_id))

    def whole_items(self, tenant_id: str, item_id: str) -> list[Item]:
        """Rows of any class, with all of their columns."""
        whole = select(Item).options(selectin_polymorphic(Item, [Book, Audio, Film]))
        return self._rows(whole.where(Item.tenant_id == tenant_id, Item.id == item_id))

    def book(self, tenant_id: str, book_id: str) -> Book | None:
        with self._maker() as session:
            mine = select(Book).where(Book.tenant_id == tenant_id, Book.id == book_id)
            return session.scalars(mine).one_or_none()

    def books(self, tenant_id: str, author: str) -> list[str]:
        return self._rows(
            select(Book.words).where(Book.tenant_id == tenant_id, Book.author == author).order_by(Book.id)
        )

    def on_shelf(self, tenant_id: str, shelf: str, author: str) -> list[str]:
        mine = select(Book.words).where(Book.tenant_id == tenant_id, Book.shelf == shelf, Book.author == author)
        return self._rows(mine.order_by(Book.id))

    def audio(self, tenant_id: str, audio_id: str) -> list[Audio]:
        return self._rows(select(Audio).where(Audio.tenant_id == tenant_id, Audio.id == audio_id))

    def voiced(self, tenant_id: str, shelf: str, author: str, voice: str) -> list[Audio]:
        mine = select(Audio).where(Audio.tenant_id == tenant_id, Audio.shelf == shelf, Audio.author == author)
        return self._rows(mine.where(Audio.voice == voice).order_by(Audio.id))

    def films(self, tenant_id: str, studio: str) -> list[Film]:
        return self._rows(select(Film).where(Film.tenant_id == tenant_id, Film.studio == studio).order_by(Film.id))

    def leaf(self, tenant_id: str, leaf_id: str) -> list[Leaf]:
        return self._rows(select(Leaf).where(Leaf.tenant_id == tenant_id, Leaf.id == leaf_id))

    def leaves(self, tenant_id: str, words: str) -> list[Leaf]:
        return self._rows(select(Leaf).where(Leaf.tenant_id == tenant_id, Leaf.words == words).order_by(Leaf.id))


KINDS_POLICIES: Final = PolicyTable(
    {
        "labels_of": Read(guard="team:{team_id}"),
        "labelled": Read(guard="labelled:{label}"),
        "mentions_of": Read(guard="mentions:{who}"),
        "seat": Read(guard="seat:{room}:{number}"),
        "seats": Read(guard="seats:{room}"),
        "bookings": Read(guard="seat:{room}:{number}"),
        "booking": Read(guard="booking:{booking_id}"),
        "item": Read(guard="item:{item_id}"),
        "items": Read(guard="item:{item_id}"),
        "whole_items": Read(guard="item:{item_id}"),
        "book": Read(guard="book:{book_id}"),
        "books": Read(guard="books:{author}"),
        "on_shelf": Read(guard="on:{shelf}:{author}"),
        "audio": Read(guard="audio:{audio_id}"),
        "voiced": Read(guard="voiced:{shelf}:{author}:{voice}"),
        "films": Read(guard="films:{studio}"),
        "leaf": Read(guard="leaf:{leaf_id}"),
        "leaves": Read(guard="leaves:{words}"),
    }
)

ARGUMENTS: Final[Mapping[str, tuple[tuple[Any, ...], ...]]] = {
    "labels_of": (("t1",), ("t2",)),
    "labelled": (("red",), ("blue",)),
    "mentions_of": (("x",), ("y",)),
    "seat": (("r", 1), ("r", 2), ("q", 1)),
    "seats": (("r",), ("q",)),
    "bookings": (("r", 1), ("r", 2), ("q", 1)),
    "booking": (("k1",), ("k2",)),
    "item": (("b1",), ("f1",), ("a1",)),
    "items": (("b1",), ("f1",), ("a1",)),
    "whole_items": (("b1",), ("f1",), ("a1",)),
    "book": (("b1",),),
    "books": (("x",), ("y",)),
    "on_shelf": (("s1", "x"), ("s1", "y"), ("s2", "x"), ("s2", "y")),
    "audio": (("a1",),),
    "voiced": (("s1", "x", "v1"), ("s2", "x", "v1"), ("s2", "y", "v2"), ("s1", "y", "v1")),
    "films": (("u",), ("w",)),
    "leaf": (("l1",),),
    "leaves": (("p",), ("o",)),
}
"""What each method is called with, beside the tenant."""

_ITEMS: Final = ("item", "items", "whole_items")

METHODS: Final[Mapping[str, tuple[str, ...]]] = {
    "association": ("labels_of", "labelled"),
    "without a key": ("mentions_of",),
    "composite key": ("seat", "seats", "bookings", "booking"),
    "joined": (*_ITEMS, "book", "books", "on_shelf", "audio", "voiced"),
    "single table": (*_ITEMS, "films"),
    "tenant in the child": ("leaf", "leaves"),
}
"""By kind: the methods whose answers it changes."""

STEPS: Final[Mapping[str, tuple[str, ...]]] = {
    "association": (
        "INSERT INTO team VALUES ('t1', 'ann'), ('t2', 'bob')",
        "INSERT INTO team_label VALUES ('t1', 'red'), ('t1', 'blue'), ('t2', 'red')",
        "UPDATE team_label SET label = 'green' WHERE label = 'blue'",
        "UPDATE team_label SET team_id = 't2' WHERE label = 'green'",
        "DELETE FROM team_label WHERE label = 'green'",
        "UPDATE team SET tenant_id = 'ann' WHERE id = 't2'",
        "DELETE FROM team",
    ),
    "without a key": (
        "INSERT INTO mention VALUES ('ann', 'x'), ('ann', 'x'), ('bob', 'x')",
        "UPDATE mention SET who = 'y' WHERE tenant_id = 'bob'",
        "DELETE FROM mention WHERE who = 'x'",
    ),
    "composite key": (
        "INSERT INTO seat VALUES ('r', 1, 'ann', 'one'), ('r', 2, 'ann', 'two'), ('q', 1, 'bob', 'three')",
        "INSERT INTO booking VALUES ('k1', 'r', 1, 'mine', NULL), ('k2', 'q', 1, 'yours', NULL)",
        "UPDATE seat SET words = 'other' WHERE number = 1",
        "UPDATE booking SET words = 'other'",
        "UPDATE booking SET place = 2 WHERE id = 'k1'",
        "UPDATE booking SET place = NULL WHERE id = 'k2'",
        "UPDATE seat SET number = 7 WHERE room = 'q'",
        "UPDATE seat SET tenant_id = 'bob' WHERE number = 2",
        "DELETE FROM seat",
    ),
    "joined": (
        "INSERT INTO item VALUES ('b1', 'ann', 'book', 's1', NULL), ('a1', 'ann', 'audio', 's1', NULL)",
        "INSERT INTO book VALUES ('b1', 'x', 'words'), ('a1', 'x', 'words')",
        "INSERT INTO audio VALUES ('a1', 'v1')",
        "UPDATE book SET words = 'other'",
        "UPDATE item SET shelf = 's2'",
        "UPDATE book SET author = 'y'",
        "UPDATE audio SET voice = 'v2'",
        "UPDATE item SET tenant_id = 'bob'",
        "UPDATE item SET tenant_id = 'ann'",
        "DELETE FROM audio",
        "INSERT INTO audio VALUES ('a1', 'v2')",
        "DELETE FROM item",
    ),
    "single table": (
        "INSERT INTO item VALUES ('f1', 'ann', 'film', 's1', 'u')",
        "UPDATE item SET studio = 'w'",
        "UPDATE item SET shelf = 's2'",
        "UPDATE item SET kind = 'item'",
        "DELETE FROM item",
    ),
    "tenant in the child": (
        "INSERT INTO node VALUES ('l1', 'leaf', 'p')",
        "INSERT INTO leaf VALUES ('l1', 'ann')",
        "UPDATE node SET words = 'o'",
        "UPDATE leaf SET tenant_id = 'bob'",
        "UPDATE node SET words = 'p'",
        "DELETE FROM node",
    ),
}
"""By kind: statements that run one after the other; the last lets a cascade delete what is left."""
