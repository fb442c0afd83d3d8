"""Rows from a table of columns: parse once what a body holds, and make instances of it for every caller.

The instances are made as SQLAlchemy's own loading makes them (``sqlalchemy.orm.loading``), without ``__init__``: a
state, the loaded values, the identity key. They are detached, since there is no session.
"""

from __future__ import annotations

from sys import getsizeof
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.orm.state import InstanceState

from tidegate.cache.codec.encode_rows import MOST_ROWS
from tidegate.cache.codec.layouts import TENANT, Layout, Layouts
from tidegate.cache.codec.values import NotThisAnswer, Undecodable, unpack
from tidegate.repositories.lazy import LazyPage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.orm import Session

_STATE = "_sa_instance_state"


class Related(NamedTuple):
    """What the rows have in one relationship.

    Args:
        key: the name of the relationship.
        uselist: whether a row has a list of related rows, or one at most.
        counts: how many of *rows* belong to each row, in order; -1 for none where there can be one only.
        rows: the related rows of all rows together; None if there are none.
    """

    key: str
    uselist: bool
    counts: Sequence[int]
    rows: Rows | None


class Rows(NamedTuple):
    """Some rows of one model, parsed. They are never changed, so threads may share them.

    Args:
        layout: how the rows stand in the body.
        values: the loaded columns of each row, to be copied.
        identities: the identity key of each row.
        references: for each column with blobs, the blob that holds the value of each row; None if the row holds it.
        related: the related rows that are loaded with these.
    """

    layout: Layout
    values: Sequence[dict[str, Any]]
    identities: Sequence[tuple[Any, ...]]
    references: Mapping[str, Sequence[str | None]]
    related: Sequence[Related]

    @property
    def has_blobs(self) -> bool:
        """Tell whether there can be any blobs."""
        return bool(self.references or self.related)

    def blobs(self) -> frozenset[str]:
        """Return the hashes of the blobs that are needed."""
        own = frozenset(name for column in self.references.values() for name in column if name is not None)
        return own.union(*(part.rows.blobs() for part in self.related if part.rows is not None))

    def held_bytes(self) -> int:
        """Return how much memory the rows take, in bytes: never less, since what some of them share counts for each."""
        size = sum(map(getsizeof, (self, self.values, self.identities, self.references, self.related)))
        for row, identity in zip(self.values, self.identities, strict=True):
            size += getsizeof(row) + sum(map(getsizeof, row.values())) + getsizeof(identity) + getsizeof(identity[1])
        for column in self.references.values():
            size += getsizeof(column) + sum(map(getsizeof, column))
        for part in self.related:
            size += getsizeof(part) + getsizeof(part.counts) + (0 if part.rows is None else part.rows.held_bytes())
        return size

    def resolved(self, texts: Mapping[str, str]) -> Rows:
        """Return the same rows with their blobs in place."""
        values = [row.copy() for row in self.values]
        for key, column in self.references.items():
            for row, name in zip(values, column, strict=True):
                if name is not None:
                    row[key] = texts[name]
        related = [
            part._replace(rows=None if part.rows is None else part.rows.resolved(texts)) for part in self.related
        ]
        return self._replace(values=values, references={}, related=related)

    def build(self, session_maker: Callable[[], Session], *, shared: bool = True) -> list[Any]:
        """Build new instances, detached; their lazy columns are read through *session_maker*.

        With *shared* False these rows can be built only once, since the new instances take over their values.
        """
        layout = self.layout
        cls, manager, known = layout.model.cls, layout.model.manager, layout.known
        new: Any = cls.__new__
        rows, states = [], []
        for template, identity in zip(self.values, self.identities):  # noqa: B905  # of one length since they were read
            row = new(cls)
            state = InstanceState(row, manager)
            values = template.copy() if shared else template
            values[_STATE] = state
            row.__dict__ = values
            knows = known.copy()
            knows["key"] = identity
            state.__dict__ = knows
            rows.append(row)
            states.append(state)
        if layout.lazy:
            ids = [identity[1][0] for identity in self.identities]
            LazyPage(session_maker, cls, layout.lazy).adopt_new(states, ids)
        for key in layout.json:
            for row in rows:
                row.__dict__[key] = None if row.__dict__[key] is None else unpack(row.__dict__[key])
        for part in self.related:
            _attach(rows, part, session_maker)
        return rows


def _attach(rows: list[Any], part: Related, session_maker: Callable[[], Session]) -> None:
    related = iter(part.rows.build(session_maker) if part.rows is not None else ())
    for row, count in zip(rows, part.counts, strict=True):
        mine = [next(related) for _ in range(count)]
        set_committed_value(row, part.key, mine if part.uselist else next(iter(mine), None))


def read(layouts: Layouts, table: Any, tenant: str, parent: Layout | None = None, relationship: str = "") -> Rows:
    """Parse a table as :meth:`Dehydration.table` makes it.

    Args:
        layouts: of the models that are known.
        table: the parsed msgpack.
        tenant: whose rows they must be.
        parent: of related rows, the layout of the rows to which they belong.
        relationship: of related rows, the name of the relationship in *parent*.

    Raises:
        Unreadable: the table is of another schema or tenant, or it is no such table. In the latter case any other error
            may be raised too.
    """
    text, count, constants, columns, tables = table
    layout = layouts.parse(text, parent, relationship)
    model = layout.model
    if type(count) is not int or not 0 < count <= (MOST_ROWS if layout.told_apart else 1):
        raise Undecodable(f"a table of {count!r} rows, where 1 to {MOST_ROWS if layout.told_apart else 1} are possible")
    values = _values(layout, count, constants, columns)
    if model.has_tenant and values[0].get(TENANT) != tenant:
        raise NotThisAnswer("the rows are of another tenant")
    related: list[Related] = []
    if tables or layout.relationships:
        related += [
            _read_related(layouts, layout, relationship, one, tenant, count)
            for relationship, one in zip(layout.relationships, tables, strict=True)
        ]
    return Rows(layout, values, model.identities(values), _references(layout, values) if layout.blobs else {}, related)


def _values(layout: Layout, count: int, constants: Any, columns: Any) -> list[dict[str, Any]]:
    base: dict[str, Any] = layout.blank.copy()  # of its full size, so that no copy has to grow
    for (key, convert), value in zip(layout.constant, constants, strict=True):
        base[key] = value if convert is None else convert((value,))[0]
    varying = []
    for (_, convert), wire in zip(layout.varying, columns, strict=True):
        if len(wire) != count:
            raise Undecodable(f"a column has {len(wire)} values, for {count} rows")
        varying.append(wire if convert is None else convert(wire))
    values = [base.copy() for _ in range(count)]
    _spread(values, [key for key, _ in layout.varying], varying)
    return values


def _spread(rows: list[dict[str, Any]], keys: Sequence[str], columns: Sequence[Sequence[Any]]) -> None:
    """Spread columns over rows, four at a time: one pass for each column would take half as long again."""
    whole = len(keys) - len(keys) % 4
    for i in range(0, whole, 4):
        one, two, three, four = keys[i : i + 4]
        for row, a, b, c, d in zip(rows, *columns[i : i + 4]):  # noqa: B905  # of one length, as the caller has checked
            row[one] = a
            row[two] = b
            row[three] = c
            row[four] = d
    for key, column in zip(keys[whole:], columns[whole:], strict=True):
        for row, value in zip(rows, column):  # noqa: B905  # see above
            row[key] = value


def _read_related(layouts: Layouts, layout: Layout, relationship: Any, one: Any, tenant: str, count: int) -> Related:
    counts, table = one
    if len(counts) != count:
        raise Undecodable(f"there are {len(counts)} counts of related rows, for {count} rows")
    uselist = bool(relationship.uselist)
    rows = None if table is None else read(layouts, table, tenant, layout, relationship.key)
    for number in counts:
        if type(number) is not int or not (0 <= number <= MOST_ROWS if uselist else number in (-1, 1)):
            raise Undecodable(f"a row cannot have {number!r} related rows in {relationship.key}")
    if sum(number for number in counts if number > 0) != (0 if rows is None else len(rows.values)):
        raise Undecodable("the number of related rows is not the sum of their counts")
    return Related(relationship.key, uselist, counts, rows)


def _references(layout: Layout, values: list[dict[str, Any]]) -> dict[str, list[str | None]]:
    """Take the hashes of blobs out of the values."""
    found: dict[str, list[str | None]] = {}
    for key in layout.blobs:
        hashes = [row[key].hex() if type(row[key]) is bytes else None for row in values]
        for row, name in zip(values, hashes, strict=True):
            if name is not None:
                row[key] = None
        found[key] = hashes
    return found
