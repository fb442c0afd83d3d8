"""Which tags a change bumps in tables of every kind of model, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from real_servers.model_kinds import (
    TRACKED_KINDS,
    Audio,
    Book,
    Booking,
    Film,
    Item,
    KindsBase,
    Leaf,
    Node,
    Seat,
    Team,
    mention,
    team_label,
)
from sqlalchemy import Column, MetaData, String, Table, create_engine, event, join, select, text
from sqlalchemy.orm import DeclarativeBase, sessionmaker

import tidegate
from tidegate import PolicyTable, Tracked
from tidegate.errors import PolicyError
from tidegate.proxy.tracking.tracked_tables import Tables

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.fast
WHOLE: Final = "whole"


@pytest.fixture
def kinds(watched: Any) -> Iterator[Any]:
    if not watched.is_postgresql:
        event.listen(watched.engine, "connect", lambda driver, _: driver.execute("PRAGMA foreign_keys = ON"))
        watched.engine.dispose()
    watched.track(KindsBase, TRACKED_KINDS)
    watched.left()
    yield watched
    KindsBase.metadata.drop_all(watched.engine)


def tags(watched: Any, *statements: str) -> dict[str, Any]:
    """What a transaction of these statements bumps."""
    with watched.engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    found: dict[str, Any] = watched.take()
    assert not getattr(watched.recorder, "everything", "")
    return found


def test_an_association_table(kinds: Any) -> None:
    assert tags(kinds, "INSERT INTO team VALUES ('t', 'ann'), ('u', 'bob')") == {"ann": {"team:t"}, "bob": {"team:u"}}
    assert tags(kinds, "INSERT INTO team_label VALUES ('t', 'red')") == {"ann": {"team:t", "labelled:red"}}
    moved = tags(kinds, "UPDATE team_label SET team_id = 'u', label = 'blue'")
    assert moved == {"ann": {"team:t", "labelled:red"}, "bob": {"team:u", "labelled:blue"}}
    assert tags(kinds, "DELETE FROM team WHERE id = 'u'") == {"bob": {"team:u", "labelled:blue"}}  # by a cascade


def test_a_table_without_a_primary_key(kinds: Any) -> None:
    assert tags(kinds, "INSERT INTO mention VALUES ('ann', 'x'), ('ann', 'x')") == {"ann": {"mentions:x"}}
    assert tags(kinds, "UPDATE mention SET who = 'y'") == {"ann": {"mentions:x", "mentions:y"}}
    assert tags(kinds, "DELETE FROM mention") == {"ann": {"mentions:y"}}


def test_a_composite_key(kinds: Any) -> None:
    seat, other = {"seat:r:1", "seats:r"}, {"seat:r:2", "seats:r"}
    assert tags(kinds, "INSERT INTO seat VALUES ('r', 1, 'ann', 'w'), ('r', 2, 'ann', 'w')") == {"ann": seat | other}
    assert tags(kinds, "INSERT INTO booking VALUES ('k', 'r', 1, 'w', NULL)") == {"ann": {"booking:k"} | seat}
    assert tags(kinds, "UPDATE booking SET words = 'v'") == {"ann": {"booking:k"} | seat}
    assert tags(kinds, "UPDATE booking SET place = 2") == {"ann": {"booking:k"} | seat | other}
    assert tags(kinds, "DELETE FROM seat WHERE number = 2") == {"ann": {"booking:k"} | other}


INSERT_AUDIO: Final = (
    "INSERT INTO item VALUES ('a', 'ann', 'audio', 's', NULL)",
    "INSERT INTO book VALUES ('a', 'x', 'w')",
    "INSERT INTO audio VALUES ('a', 'v')",
)
AUDIO: Final = {"item:a", "book:a", "books:x", "on:s:x", "audio:a", "voiced:s:x:v"}


def test_joined_inheritance_with_all_parts_in_one_transaction(kinds: Any) -> None:
    assert tags(kinds, *INSERT_AUDIO) == {"ann": AUDIO}
    every = ("UPDATE item SET shelf = 't'", "UPDATE book SET author = 'y'", "UPDATE audio SET voice = 'u'")
    after = {"books:y", "on:t:y", "voiced:t:y:u"}
    between = {"on:s:y", "on:t:x", "voiced:t:x:v", "voiced:t:y:v", "voiced:s:y:v"}
    between |= {"voiced:s:x:u", "voiced:s:y:u", "voiced:t:x:u"}
    assert tags(kinds, *every) == {"ann": AUDIO | after | between}
    assert tags(kinds, "DELETE FROM item") == {"ann": {"item:a", "book:a", "audio:a"} | after}


def test_a_part_alone_of_which_no_tag_needs_another(kinds: Any) -> None:
    """What others of the row's parts are by now, nobody knows: a tag that names them voids the tenant's answers."""
    tags(kinds, *INSERT_AUDIO)
    for part in ("UPDATE item SET shelf = 't'", "UPDATE book SET words = 'v'", "UPDATE audio SET voice = 'u'"):
        assert tags(kinds, part) == {"ann": WHOLE}
    # Where no tag needs another part, each part bumps the tags of all classes of its row.
    only = [Tracked(Item, tags=("item:{id}",)), Tracked(Book, tags=("book:{book_id}",))]
    found = {(made.key[1], tuple(one.text for one in made.templates), made.spread) for made in Tables(only)}
    assert found == {("item", ("item:{id}", "book:{book_id}"), ()), ("book", ("book:{book_id}", "item:{id}"), ())}


def test_a_row_of_another_class_does_not_bump_what_needs_a_table_that_it_is_not_in(kinds: Any) -> None:
    film = "INSERT INTO item VALUES ('f', 'ann', 'film', 's', 'u')"
    every = {"item:f", "book:f", "audio:f", "films:u"}  # of whichever class it is, it is known by its id
    assert tags(kinds, film) == {"ann": every}
    assert tags(kinds, "UPDATE item SET shelf = 't'") == {"ann": every}
    assert tags(kinds, "DELETE FROM item") == {"ann": every}


def test_the_tenant_in_the_table_of_the_child(kinds: Any) -> None:
    both = ("INSERT INTO node VALUES ('l', 'leaf', 'p')", "INSERT INTO leaf VALUES ('l', 'ann')")
    assert tags(kinds, *both) == {"ann": {"leaf:l", "leaves:p"}}
    assert tags(kinds, "UPDATE node SET words = 'o'") == {"ann": {"leaf:l", "leaves:p", "leaves:o"}}
    assert tags(kinds, "UPDATE leaf SET tenant_id = 'bob'") == {"ann": WHOLE, "bob": WHOLE}
    assert tags(kinds, "DELETE FROM node") == {"bob": {"leaf:l", "leaves:o"}}


class Abstract(KindsBase):
    __abstract__ = True


class Joining(DeclarativeBase):
    pass


class TwoTables(Joining):
    __table__ = join(
        Table("one", Joining.metadata, Column("id", String, primary_key=True), Column("tenant_id", String)),
        Table("two", Joining.metadata, Column("two_id", String, primary_key=True)),
        text("id = two_id"),
    )


REFUSED: Final[tuple[tuple[Any, str], ...]] = (
    (
        [Tracked(Abstract)],
        "Abstract cannot be tracked: .* abstract class, or a mixin, track each class that has a table",
    ),
    ([Tracked(TwoTables)], "TwoTables cannot be tracked: it is mapped to no table.* Track each table"),
    ([Tracked(select(Seat).subquery())], "cannot be tracked: it is no table.* Track each table that it reads"),  # type: ignore[arg-type]
    ([Tracked(Node, tenant=None)], "Node is tracked, and has neither a tenant nor a parent: name a tenant column"),
    ([Tracked(Seat, parent=("room", Team))], "Team is the parent of a tracked model: it must be tracked too"),
    ([Tracked(Seat, parent=(("room", "number"), Seat))], "Seat is its own parent: track it by a tenant"),
    ([Tracked(Seat, tags=("seat:{rom}",))], "Seat has no column rom"),
    ([Tracked(team_label, tenant="team", tags=("l:{team_id}",))], "team_label has no column team_id"),
    (
        [Tracked(Seat), Tracked(Booking, tenant=None, parent=("room", Seat))],
        r"Seat has the primary key \(room, number\): write parent=\(\(.*, .*\), Seat\), with a column of Booking",
    ),
    (
        [Tracked(mention), Tracked(Booking, tenant=None, parent=("room", mention))],
        "mention has no primary key, so Booking cannot name a row of it as its parent",
    ),
    (
        [Tracked(Team), Tracked(Leaf, parent=("words", Team))],
        "Leaf is tracked by tenant_id, words, which lie in several tables: .* one of node, leaf",
    ),
)


@pytest.mark.parametrize(("rows", "said"), REFUSED)
def test_what_cannot_be_tracked_is_told_with_what_can(rows: list[Tracked], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        Tables(rows)


def test_models_of_one_table_have_one_set_of_triggers_if_they_agree() -> None:
    made = [
        (table.key[1], len(table.templates)) for table in Tables([Tracked(Item), Tracked(Film, tags=("f:{studio}",))])
    ]
    assert made == [("item", 1)]
    apart = Tables([Tracked(Item), Tracked(Film, tenant="studio", tags=("f:{shelf}",))])
    assert [(table.key[1], table.tenant) for table in apart] == [("item", "tenant_id"), ("item", "studio")]
    for later in (Tracked(Audio), Tracked(Book)):
        apart.add([later])
    assert {table.key[1] for table in apart} == {"item", "book", "audio"}


class Nothing:
    def __init__(self, session_maker: Any) -> None:
        self.session_maker = session_maker


@pytest.mark.parametrize("url", ["postgresql", "sqlite"])
@pytest.mark.parametrize("what", ["VIEW", "MATERIALIZED VIEW"])
def test_a_view_is_refused_by_a_gate(request: pytest.FixtureRequest, tmp_path: Any, url: str, what: str) -> None:
    if url == "sqlite" and what != "VIEW":
        pytest.skip("there are none")
    place = f"sqlite:///{tmp_path / 'views.db'}" if url == "sqlite" else request.getfixturevalue("database_url")
    engine = create_engine(place)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE base (id text, tenant_id text)"))
        connection.execute(text(f"CREATE {what} seen AS SELECT * FROM base"))
    seen = Table("seen", MetaData(), Column("id", String), Column("tenant_id", String))
    refused = pytest.raises(PolicyError, match=f"seen cannot be tracked: it is a {what.lower()}.* Track the tables")
    with tidegate.gate_on(engine, sessionmaker(engine), tidegate.Settings()) as gate, refused:
        gate.wrap(Nothing, PolicyTable({}), [Tracked(seen)])
    engine.dispose()
