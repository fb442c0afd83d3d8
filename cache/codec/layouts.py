"""How the rows of a model stand in a body: which columns are there, in which kind, and which relationships are loaded.

A *layout* is the text that says so in a body: the fingerprint of the model (16 bytes), one letter for each column, one
letter for each relationship. It is parsed once, and all pages of a kind share it.

The letter of a column is a kind of ``values``, or ``-`` for not selected, or ``~`` for lazy. The letter of a
relationship is ``-`` for not loaded or ``+`` for loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Enum as SqlEnum
from sqlalchemy import inspect
from sqlalchemy.orm import selectinload
from sqlalchemy.orm.path_registry import PathRegistry

from tidegate.cache.codec.values import NotThisAnswer, Undecodable, from_wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.orm import Mapper
    from sqlalchemy.orm.relationships import RelationshipProperty

TENANT: Final = "tenant_id"
FINGERPRINT_BYTES: Final = 16
NOT_SELECTED, LAZY, LOADED, NOT_LOADED = "-", "~", "+", "-"

_KINDS: Final = frozenset("pbtdnuej")
_MOST_LAYOUTS: Final = 256
_FORMAT: Final = "1"


class Model:
    """Hold what the codec needs to know of one mapped class, so that it looks at the class once.

    Args:
        cls: the class; its tenant is the column ``tenant_id``, if it has one.
    """

    def __init__(self, cls: type[Any]) -> None:
        mapper: Mapper[Any] = inspect(cls)
        self.cls = cls
        self.mapper = mapper
        self.manager = mapper.class_manager
        self.identity_class: type[Any] = mapper._identity_class  # noqa: SLF001  # what the identity map's keys hold
        columns = list(mapper.column_attrs)
        self.keys = tuple(column.key for column in columns)
        self.enums: tuple[type[Enum] | None, ...] = tuple(_enum_of(column.columns[0].type) for column in columns)
        self.relationships: tuple[RelationshipProperty[Any], ...] = tuple(mapper.relationships)
        self.primary_key = tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key)
        self.has_tenant = TENANT in self.keys
        self.attributes = frozenset(self.keys) | {rel.key for rel in self.relationships} | {self.manager.STATE_ATTR}
        self.fingerprint = self._fingerprint()

    @property
    def has_load_hooks(self) -> bool:
        """Tell whether the host runs something when a row is loaded.

        That would not run when a row is built from a body.
        """
        return bool(self.manager.dispatch.load)

    def identities(self, rows: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
        """Return the identity keys of rows by their columns, as SQLAlchemy makes them."""
        cls, keys = self.identity_class, self.primary_key
        if len(keys) == 1:
            (key,) = keys
            return [(cls, (row.get(key),), None) for row in rows]
        return [(cls, tuple([row.get(key) for key in keys]), None) for row in rows]

    def _fingerprint(self) -> bytes:
        said: list[object] = [_FORMAT, self.cls.__module__, self.cls.__qualname__, self.primary_key]
        for key, enum in zip(self.keys, self.enums, strict=True):
            column = self.mapper.column_attrs[key].columns[0]
            said.append((key, repr(column.type), getattr(column, "nullable", None)))
            said.append([(member.name, member.value) for member in enum or ()])
        said += [(rel.key, rel.mapper.class_.__qualname__, rel.uselist) for rel in self.relationships]
        return blake2b(repr(said).encode(), digest_size=FINGERPRINT_BYTES).digest()


def _enum_of(kind: Any) -> type[Enum] | None:
    """Return the enumeration whose members a column's type gives; None: it gives none, as far as it says.

    A type of the host's own may keep it under any name. If it gives other members after all, the rows are not cached.
    """
    known = [kind.enum_class] if isinstance(kind, SqlEnum) else vars(kind).values()
    return next((value for value in known if isinstance(value, type) and issubclass(value, Enum)), None)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How rows are read from a body.

    Args:
        model: the model of the rows.
        constant: (column, how to convert it) for each column that is stored once.
        varying: the same for each column that is stored for each row.
        blank: the attributes of a row without values, in the order of these two.
        blobs: the columns that refer to blobs.
        json: the columns that are unpacked anew for each row that is built.
        lazy: the columns that are read when they are first touched.
        relationships: the relationships that are loaded.
        told_apart: whether each row has a primary key of its own; otherwise there can be one row only.
        known: what the state of each row knows: its path, and SQLAlchemy's options, which ``refresh`` repeats.
    """

    model: Model
    constant: tuple[tuple[str, Any], ...]
    varying: tuple[tuple[str, Any], ...]
    blank: dict[str, None]
    blobs: frozenset[str]
    json: frozenset[str]
    lazy: tuple[str, ...]
    relationships: tuple[RelationshipProperty[Any], ...]
    told_apart: bool
    known: dict[str, Any]


class Layouts:
    """Parse layouts of some models, each once.

    Args:
        models: the mapped classes; those that they are related to are included.
    """

    def __init__(self, models: Sequence[type[Any]]) -> None:
        self.by_class: dict[type[Any], Model] = {}
        waiting = list(models)
        while waiting:
            cls = waiting.pop()
            if cls not in self.by_class:
                model = self.by_class[cls] = Model(cls)
                waiting += [rel.mapper.class_ for rel in model.relationships]
        self._by_fingerprint = {model.fingerprint: model for model in self.by_class.values()}
        self._parsed: dict[tuple[bytes, Layout | None, str], Layout] = {}

    def enums(self) -> set[type[Enum]]:
        """Return the enumerations whose members columns of the models give."""
        return {enum for model in self.by_class.values() for enum in model.enums if enum is not None}

    def parse(self, text: bytes, parent: Layout | None = None, relationship: str = "") -> Layout:
        """Return the layout that *text* says.

        Args:
            text: the layout as it stands in a body.
            parent: of related rows, the layout of the rows to which they belong.
            relationship: of related rows, the name of the relationship in *parent*.

        Raises:
            NotThisAnswer: the layout is of another schema.
            Undecodable: *text* is no layout.
        """
        found = self._parsed.get((text, parent, relationship))
        if found is None:
            model = self._by_fingerprint.get(text[:FINGERPRINT_BYTES])
            if model is None:
                raise NotThisAnswer("the rows are of another schema, or of a model that is not known here")
            letters = text[FINGERPRINT_BYTES:].decode("ascii", "replace")
            found = _parse(model, letters, parent, relationship)
            if len(self._parsed) >= _MOST_LAYOUTS:  # more than a program has: somebody invents layouts
                self._parsed.clear()
            self._parsed[text, parent, relationship] = found
        return found


def _parse(model: Model, letters: str, parent: Layout | None, relationship: str) -> Layout:
    here = len(model.keys)
    columns, loaded = letters[:here], letters[here:]
    if len(columns) != here or len(loaded) != len(model.relationships):
        raise Undecodable(f"a layout of {len(letters)} letters: {model.cls.__qualname__} needs one for each attribute")
    if not set(columns.lower()) <= _KINDS | {NOT_SELECTED, LAZY} or not set(loaded) <= {LOADED, NOT_LOADED}:
        raise Undecodable(f"a layout with unknown letters: {letters!r}")
    kinds = list(zip(model.keys, columns, model.enums, strict=True))
    relationships = tuple(r for r, sign in zip(model.relationships, loaded, strict=True) if sign == LOADED)
    lazy = tuple(key for key, letter, _ in kinds if letter == LAZY)
    if any(key == TENANT and not letter.islower() for key, letter, _ in kinds):
        raise Undecodable("the rows are of several tenants, or of none")
    if parent is not None and parent.model.mapper.relationships[relationship].mapper is not model.mapper:
        raise Undecodable("the related rows are of another model than the relationship's")
    if parent is not None and (relationships or lazy):
        raise Undecodable("the related rows have relationships or lazy columns of their own")
    constant = tuple((key, from_wire(letter, enum)) for key, letter, enum in kinds if letter.islower())
    varying = tuple((key, from_wire(letter.lower(), enum)) for key, letter, enum in kinds if letter.isupper())
    return Layout(
        model=model,
        constant=constant,
        varying=varying,
        blank=dict.fromkeys([model.manager.STATE_ATTR, *(key for key, _ in (*constant, *varying))]),
        blobs=frozenset(key for key, letter, _ in kinds if letter in "bB"),
        json=frozenset(key for key, letter, _ in kinds if letter in "jJ"),
        lazy=lazy,
        relationships=relationships,
        told_apart=any(letter.isupper() and key in model.primary_key for key, letter, _ in kinds),
        known=_known(model, relationships) if parent is None else _known_of_related(model, parent, relationship),
    )


def _known(model: Model, relationships: tuple[RelationshipProperty[Any], ...]) -> dict[str, Any]:
    """Return what the query that loaded the rows would have left, and :meth:`LazyPage.adopt` after it.

    ``refresh`` and expired attributes load by its options.
    """
    options = tuple(selectinload(getattr(model.cls, rel.key)) for rel in relationships)
    return {"key": None, "load_options": options, "load_path": PathRegistry.coerce((model.mapper,))}


def _known_of_related(model: Model, parent: Layout, relationship: str) -> dict[str, Any]:
    through = parent.model.mapper.relationships[relationship]
    path = PathRegistry.coerce((parent.model.mapper, through, model.mapper))
    return {"key": None, "load_options": parent.known["load_options"], "load_path": path}
