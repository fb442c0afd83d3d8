"""Tables of every shape that is tracked, and a repository over them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from tidegate import PolicyTable, Read, Tracked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TENANTS: Final = ("ann", "bob")
GROUPS: Final = ("g1", "g2")
IDS: Final = tuple("abcdefgh")

SCHEMA: Final = (
    "CREATE SCHEMA other",
    "CREATE TABLE plain (id text PRIMARY KEY, tenant_id text NOT NULL, grp text NOT NULL, value int NOT NULL)",
    "CREATE TABLE other.side (LIKE plain INCLUDING ALL)",
    "CREATE TABLE parted (LIKE plain) PARTITION BY RANGE (id)",
    "ALTER TABLE parted ADD PRIMARY KEY (id)",
    "CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (MINVALUE) TO ('d')",
    "CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM ('d') TO (MAXVALUE) PARTITION BY HASH (id)",
    "CREATE TABLE parted_high_0 PARTITION OF parted_high FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
    "CREATE TABLE parted_high_1 PARTITION OF parted_high FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    "CREATE TABLE heir (LIKE plain INCLUDING ALL)",
    "CREATE TABLE heir_child (more int, PRIMARY KEY (id)) INHERITS (heir)",
    "CREATE TABLE heir_grandchild (PRIMARY KEY (id)) INHERITS (heir_child)",
    (
        "CREATE TABLE kid (id text PRIMARY KEY, owner_id text REFERENCES plain ON DELETE CASCADE ON UPDATE CASCADE,"
        " value int NOT NULL)"
    ),
    (
        "CREATE TABLE loose (id text PRIMARY KEY, tenant_id text NOT NULL, owner_id text"
        " REFERENCES plain ON DELETE SET NULL ON UPDATE CASCADE, value int NOT NULL)"
    ),
    "CREATE VIEW plain_view AS SELECT id, tenant_id AS whose, grp, value FROM plain WHERE value >= 0",
    "CREATE VIEW instead_view AS SELECT id, tenant_id, grp, value FROM plain",
    "CREATE TABLE inbox (id text, tenant_id text, grp text, value int)",
    "CREATE RULE inbox_rule AS ON UPDATE TO inbox DO ALSO UPDATE plain SET value = value + 1 WHERE id = NEW.id",
    (
        "CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " UPDATE plain SET value = NEW.value WHERE id = OLD.id; RETURN NEW; END $$"
    ),
    "CREATE TRIGGER instead INSTEAD OF UPDATE ON instead_view FOR EACH ROW EXECUTE FUNCTION instead()",
    (
        "CREATE FUNCTION from_inbox() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO plain"
        " VALUES (NEW.id, NEW.tenant_id, NEW.grp, NEW.value) ON CONFLICT (id) DO UPDATE SET value = EXCLUDED.value;"
        " RETURN NULL; END $$"
    ),
    "CREATE TRIGGER from_inbox AFTER INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION from_inbox()",
    (
        "CREATE FUNCTION raise_value(which text) RETURNS int LANGUAGE sql AS"
        " $$ UPDATE plain SET value = value + 1 WHERE id = which RETURNING value $$"
    ),
    (
        "CREATE FUNCTION move_group(which text, there text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN"
        " UPDATE other.side SET grp = there WHERE id = which; UPDATE parted SET grp = there WHERE id = which; END $$"
    ),
    (
        "CREATE PROCEDURE drop_one(which text) LANGUAGE plpgsql AS $$ BEGIN DELETE FROM heir WHERE id = which;"
        " DELETE FROM kid WHERE id = which; END $$"
    ),
    (
        "CREATE PROCEDURE commit_each(which text) LANGUAGE plpgsql AS $$ BEGIN"
        " UPDATE plain SET value = value + 1 WHERE id = which; COMMIT;"
        " UPDATE parted SET value = value + 1 WHERE id = which; END $$"
    ),
)


class ShapesBase(DeclarativeBase):
    """Tables that are made by :data:`SCHEMA`: the mapper knows no partitions."""


class Plain(ShapesBase):
    __tablename__ = "plain"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    grp: Mapped[str]
    value: Mapped[int]


class Parted(ShapesBase):
    __tablename__ = "parted"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    grp: Mapped[str]
    value: Mapped[int]


class Heir(ShapesBase):
    __tablename__ = "heir"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    grp: Mapped[str]
    value: Mapped[int]


class Side(ShapesBase):
    __tablename__ = "side"
    __table_args__ = {"schema": "other"}  # noqa: RUF012  # as SQLAlchemy has it

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    grp: Mapped[str]
    value: Mapped[int]


class Kid(ShapesBase):
    __tablename__ = "kid"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[str | None]
    value: Mapped[int]


class Loose(ShapesBase):
    __tablename__ = "loose"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant_id: Mapped[str]
    owner_id: Mapped[str | None]
    value: Mapped[int]


GROUPED: Final[Mapping[str, Any]] = {"plain": Plain, "parted": Parted, "heir": Heir, "other.side": Side}
"""Tables whose rows have a tenant and a group, by name."""

TRACKED_SHAPES: Final = (
    *(Tracked(model, tags=(f"{name}:{{id}}", f"{name}s:{{grp}}")) for name, model in GROUPED.items()),
    Tracked(Kid, tenant=None, tags=("kid:{id}", "kids:{owner_id}"), parent=("owner_id", Plain)),
    Tracked(Loose, tags=("loose:{id}", "looses:{owner_id}"), parent=("owner_id", Plain)),
)


class Shapes:
    """A repository over all of them. An answer is the rows, sorted, as JSON."""

    def __init__(self, session_maker: sessionmaker[Session]) -> None:
        self._maker = session_maker

    def _of(self, model: Any, *where: Any) -> str:
        with self._maker() as session:
            rows = session.execute(select(model.__table__).where(*where).order_by(model.id, model.value))
            return json.dumps([list(row) for row in rows])

    def plain_group(self, tenant_id: str, grp: str) -> str:
        return self._of(Plain, Plain.tenant_id == tenant_id, Plain.grp == grp)

    def plain_one(self, tenant_id: str, row_id: str) -> str:
        return self._of(Plain, Plain.tenant_id == tenant_id, Plain.id == row_id)

    def parted_group(self, tenant_id: str, grp: str) -> str:
        return self._of(Parted, Parted.tenant_id == tenant_id, Parted.grp == grp)

    def parted_one(self, tenant_id: str, row_id: str) -> str:
        return self._of(Parted, Parted.tenant_id == tenant_id, Parted.id == row_id)

    def heir_group(self, tenant_id: str, grp: str) -> str:
        return self._of(Heir, Heir.tenant_id == tenant_id, Heir.grp == grp)

    def heir_one(self, tenant_id: str, row_id: str) -> str:
        return self._of(Heir, Heir.tenant_id == tenant_id, Heir.id == row_id)

    def side_group(self, tenant_id: str, grp: str) -> str:
        return self._of(Side, Side.tenant_id == tenant_id, Side.grp == grp)

    def side_one(self, tenant_id: str, row_id: str) -> str:
        return self._of(Side, Side.tenant_id == tenant_id, Side.id == row_id)

    def kids_of(self, tenant_id: str, owner_id: str) -> str:
        return self._of(Kid, Kid.owner_id == owner_id, *self._owned(Kid, tenant_id))

    def kid_one(self, tenant_id: str, row_id: str) -> str:
        return self._of(Kid, Kid.id == row_id, *self._owned(Kid, tenant_id))

    def loose_of(self, tenant_id: str, owner_id: str) -> str:
        return self._of(Loose, Loose.tenant_id == tenant_id, Loose.owner_id == owner_id)

    def loose_one(self, tenant_id: str, row_id: str) -> str:
        return self._of(Loose, Loose.tenant_id == tenant_id, Loose.id == row_id)

    def _owned(self, model: Any, tenant_id: str) -> tuple[Any, ...]:
        return (model.owner_id.in_(select(Plain.id).where(Plain.tenant_id == tenant_id)),)


SHAPES_POLICIES: Final = PolicyTable(
    {
        **{f"{name.split('.')[-1]}_group": Read(guard=f"{name}s:{{grp}}") for name in GROUPED},
        **{f"{name.split('.')[-1]}_one": Read(guard=f"{name}:{{row_id}}") for name in GROUPED},
        "kids_of": Read(guard="kids:{owner_id}"),
        "kid_one": Read(guard="kid:{row_id}"),
        "loose_of": Read(guard="looses:{owner_id}"),
        "loose_one": Read(guard="loose:{row_id}"),
    }
)

Answers = dict[tuple[str, str, str], str]
"""By method, tenant and argument."""

STATE: Final = " UNION ALL ".join(
    [
        *(f"SELECT '{name}', id, tenant_id, grp, value FROM {name}" for name in GROUPED),
        "SELECT 'kid', kid.id, plain.tenant_id, owner_id, kid.value FROM kid JOIN plain ON plain.id = owner_id",
        "SELECT 'loose', id, tenant_id, owner_id, value FROM loose",
    ]
)
"""All rows that an answer can have, with the table that they are in."""


def answers_of(rows: Sequence[tuple[Any, ...]]) -> Answers:
    """What each call of :class:`Shapes` answers over the rows of :data:`STATE`."""
    found: dict[tuple[str, str, str], list[Sequence[Any]]] = {key: [] for key in ALL_CALLS}
    for name, row_id, tenant, group, value in rows:
        short = name.split(".")[-1]
        row = [row_id, tenant, group, value] if name != "kid" else [row_id, group, value]
        many = {"kid": "kids_of", "loose": "loose_of"}.get(name, f"{short}_group")
        for key in ((f"{short}_one", tenant, row_id), (many, tenant, group)):
            if key in found:
                found[key].append(row)
    return {key: json.dumps(sorted(some, key=lambda row: (row[0], row[-1]))) for key, some in found.items()}


ALL_CALLS: Final = tuple(
    (method, tenant, argument)
    for method in SHAPES_POLICIES
    for tenant in TENANTS
    for argument in (GROUPS if method.endswith("_group") else IDS)
)
