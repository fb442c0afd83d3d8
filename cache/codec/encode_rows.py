"""Rows as a table of columns, as a body holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.orm.collections import InstrumentedList

from tidegate.cache.codec.layouts import LAZY, LOADED, NOT_LOADED, NOT_SELECTED, TENANT, Layouts, Model
from tidegate.cache.codec.values import Uncacheable, blob_hash, is_large, is_same_throughout, kind_of, to_wire
from tidegate.repositories.lazy import lazy_keys, lazy_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import InstanceState

MOST_ROWS = 4096
"""The most rows of one model in one body. An answer with more is not cached.

The bound protects the reader: msgpack allocates room for an array as soon as it reads its header, and whoever writes a
body can nest headers.
"""


class Dehydration:
    """Turn the rows of one answer into tables for a body.

    Args:
        layouts: the layouts of the models that are known.
        tenant: whose rows they must be.
        blob_bytes: a text of more UTF-8 bytes than this becomes a blob.
    """

    def __init__(self, layouts: Layouts, tenant: str, blob_bytes: int) -> None:
        self._layouts = layouts
        self._tenant = tenant
        self._blob_bytes = blob_bytes
        self._seen: set[int] = set()
        self.blobs: dict[str, bytes] = {}

    def table(self, rows: Sequence[Any], *, related: bool = False) -> list[Any]:
        """Return rows of one model as [layout, count, values of constant columns, varying columns, related tables].

        Args:
            rows: the rows; at least one.
            related: whether the rows are those of a relationship.

        Raises:
            Uncacheable: the rows are not all alike, or not as a query leaves them, or they hold what cannot be stored.
        """
        model = self._layouts.by_class.get(type(rows[0]))
        if model is None or model.has_load_hooks:
            raise Uncacheable(f"{type(rows[0]).__qualname__} is not one of the models, or has load hooks")
        if len(rows) > MOST_ROWS:
            raise Uncacheable(f"the answer has {len(rows)} rows, more than {MOST_ROWS}")
        if set(map(type, rows)) != {model.cls}:
            raise Uncacheable("the rows are of more than one model, or None is among them")
        loaded = [vars(row) for row in rows]
        lazy = self._check(model, rows, loaded)
        present = loaded[0].keys()
        letters, constant, varying = "", [], []
        for i, key in enumerate(model.keys):
            if key not in present:
                letters += LAZY if key in lazy else NOT_SELECTED
                continue
            kind, wire, same = self._column(model, i, [values[key] for values in loaded])
            letters += kind if same else kind.upper()
            constant.append(wire[0]) if same else varying.append(wire)
        tables = [self._related(rows, rel.key) for rel in model.relationships if rel.key in present]
        letters += "".join(LOADED if rel.key in present else NOT_LOADED for rel in model.relationships)
        if related and (tables or lazy):
            raise Uncacheable("the related rows have relationships or lazy columns of their own")
        return [model.fingerprint + letters.encode("ascii"), len(rows), constant, varying, tables]

    def _check(self, model: Model, rows: Sequence[Any], loaded: Sequence[dict[str, Any]]) -> frozenset[str]:
        """Check *rows*, which have *loaded*, and return their lazy columns.

        A miss waits for this: it looks at each row once.
        """
        present, first = loaded[0].keys(), instance_state(rows[0])
        page, lazy = lazy_page(first), frozenset(lazy_keys(first))
        if not present <= model.attributes:
            raise Uncacheable(f"{model.cls.__qualname__} has attributes that are not mapped")
        if model.has_tenant and TENANT not in present:
            raise Uncacheable("the rows were loaded without their tenant")
        if model.has_tenant and [values.get(TENANT) for values in loaded].count(self._tenant) != len(rows):
            raise Uncacheable("a row is of another tenant")
        identities = model.identities(loaded)
        for row, values, identity in zip(rows, loaded, identities, strict=True):
            state: InstanceState[Any] = instance_state(row)
            # Rows of one page that have the same attributes also lack the same.
            alike = lazy_page(state) is page or frozenset(lazy_keys(state)) == lazy
            if not alike or values.keys() != present:
                raise Uncacheable("the rows do not all have the same columns loaded")
            _check_state(state, identity, lazy)
        if len(set(identities)) != len(rows):
            raise Uncacheable("two rows have the same primary key")
        self._check_unseen(rows)
        return lazy

    def _check_unseen(self, rows: Sequence[Any]) -> None:
        these = set(map(id, rows))
        if len(these) != len(rows) or not these.isdisjoint(self._seen):
            raise Uncacheable("a row is in the answer twice")
        self._seen |= these

    def _column(self, model: Model, i: int, values: list[Any]) -> tuple[str, list[Any], bool]:
        """Return a column's kind, what is stored of it, and whether one value is stored for all rows."""
        same = is_same_throughout(values)
        if same:
            del values[1:]
        kind = kind_of(values, model.enums[i], self._blob_bytes)
        wire = to_wire(kind, values)
        if kind == "b":
            wire = [self._blob(value) if is_large(value, self._blob_bytes) else value for value in wire]
        return kind, wire, same or (kind != "p" and is_same_throughout(wire))

    def _blob(self, value: str) -> bytes:
        content = value.encode()
        name = blob_hash(content)
        self.blobs[name.hex()] = content
        return name

    def _related(self, rows: Sequence[Any], key: str) -> list[Any]:
        """Return [counts, table] of one relationship.

        A count is how many related rows a row has, or -1 for none where there can be one only. The table is None if
        there are no related rows at all.
        """
        counts: list[int] = []
        flat: list[Any] = []
        for row in rows:
            value = vars(row)[key]
            if type(value) is InstrumentedList:
                counts.append(len(value))
                flat += value
            elif value is None or inspect(value, raiseerr=False) is not None:
                counts.append(-1 if value is None else 1)
                flat += [] if value is None else [value]
            else:
                raise Uncacheable(f"a relationship is a {type(value).__qualname__}, not a list or a single row")
        return [counts, self.table(flat, related=True) if flat else None]


def _check_state(state: InstanceState[Any], identity: tuple[Any, ...], lazy: frozenset[str]) -> None:
    # To find out whether a state is detached takes long. If it is of no session, that is already clear.
    attached = state.session_id is not None and not state.detached
    if attached or state.modified or state.expired_attributes or not state.callables.keys() <= lazy:
        raise Uncacheable(f"a {state.class_.__qualname__} is not detached and unchanged, as a query leaves it")
    if state.key != identity:
        raise Uncacheable(f"a {state.class_.__qualname__} has an identity that is not its primary key")
