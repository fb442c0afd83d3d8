"""Rows as a table of columns: what a body holds of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.orm.collections import InstrumentedList

from tidegate.cache.layouts import LAZY, LOADED, NOT_LOADED, NOT_SELECTED, TENANT, Layouts, Model
from tidegate.cache.values import Uncacheable, blob_hash, is_large, kind_of, to_wire
from tidegate.repositories.lazy import lazy_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import InstanceState

MOST_ROWS = 4096
"""The most rows of one model in one body: msgpack sets aside room for an array when it meets its header, and headers
can be nested by whoever writes the body. An answer with more is not cached."""


class Dehydration:
    """The rows of one answer on their way into a body.

    Args:
        layouts: of the models that are known.
        tenant: whose rows they must be.
        blob_bytes: texts of more UTF-8 bytes than this become blobs.
    """

    def __init__(self, layouts: Layouts, tenant: str, blob_bytes: int) -> None:
        self._layouts = layouts
        self._tenant = tenant
        self._blob_bytes = blob_bytes
        self._seen: set[int] = set()
        self.blobs: dict[str, bytes] = {}

    def table(self, rows: Sequence[Any], *, related: bool = False) -> list[Any]:
        """[layout, how many, values of constant columns, varying columns, related tables] of rows of one model.

        Raises:
            Uncacheable: they are not all alike, or not as a query leaves them, or hold what cannot be stored.
        """
        model = self._layouts.by_class.get(type(rows[0]))
        if model is None or model.has_load_hooks:
            raise Uncacheable(f"{type(rows[0]).__qualname__} is no model that can be hydrated")
        if len(rows) > MOST_ROWS:
            raise Uncacheable(f"{len(rows)} rows are more than {MOST_ROWS}")
        lazy = self._check(model, rows)
        loaded = [vars(row) for row in rows]
        present = loaded[0].keys()
        letters, constant, varying = "", [], []
        for i, key in enumerate(model.keys):
            if key not in present:
                letters += LAZY if key in lazy else NOT_SELECTED
                continue
            kind, wire = self._column(model, i, [values[key] for values in loaded])
            same = _is_constant(wire)
            letters += kind if same else kind.upper()
            constant.append(wire[0]) if same else varying.append(wire)
        tables = [self._related(rows, rel.key) for rel in model.relationships if rel.key in present]
        letters += "".join(LOADED if rel.key in present else NOT_LOADED for rel in model.relationships)
        if related and (tables or lazy):
            raise Uncacheable("related rows with relationships or lazy columns of their own")
        return [model.fingerprint + letters.encode("ascii"), len(rows), constant, varying, tables]

    def _check(self, model: Model, rows: Sequence[Any]) -> frozenset[str]:
        present, lazy = vars(rows[0]).keys(), frozenset(lazy_keys(instance_state(rows[0])))
        if not present <= model.attributes:
            raise Uncacheable(f"{model.cls.__qualname__} has attributes that are not mapped")
        if model.has_tenant and TENANT not in present:
            raise Uncacheable("rows without their tenant")
        for row in rows:
            if type(row) is not model.cls:
                raise Uncacheable("rows of more than one model, or None among them")
            if vars(row).keys() != present or frozenset(lazy_keys(instance_state(row))) != lazy:
                raise Uncacheable("rows that are not all loaded alike")
            self._check_state(model, row, lazy)
        if len({instance_state(row).key for row in rows}) != len(rows):
            raise Uncacheable("two rows with the same primary key")
        return lazy

    def _check_state(self, model: Model, row: Any, lazy: frozenset[str]) -> None:
        state: InstanceState[Any] = instance_state(row)
        if not state.detached or state.modified or state.expired_attributes or not lazy >= state.callables.keys():
            raise Uncacheable(f"{model.cls.__qualname__} is not detached and unchanged, as a query leaves it")
        identity = tuple(vars(row).get(key) for key in model.primary_key)
        if state.key != (model.identity_class, identity, None):
            raise Uncacheable(f"{model.cls.__qualname__} with an identity that is not its primary key")
        if model.has_tenant and vars(row)[TENANT] != self._tenant:
            raise Uncacheable("a row of another tenant")
        if id(row) in self._seen:
            raise Uncacheable("a row that is in the answer twice")
        self._seen.add(id(row))

    def _column(self, model: Model, i: int, values: list[Any]) -> tuple[str, list[Any]]:
        kind = kind_of(values, model.enums[i], self._blob_bytes)
        wire = to_wire(kind, values)
        if kind == "b":
            wire = [self._blob(value) if is_large(value, self._blob_bytes) else value for value in wire]
        return kind, wire

    def _blob(self, value: str) -> bytes:
        content = value.encode()
        name = blob_hash(content)
        self.blobs[name.hex()] = content
        return name

    def _related(self, rows: Sequence[Any], key: str) -> list[Any]:
        """[how many each row has, or -1 for none where there can be one only, their table or None]."""
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
                raise Uncacheable(f"a relationship in a {type(value).__qualname__}: only lists and single rows")
        return [counts, self.table(flat, related=True) if flat else None]


def _is_constant(wire: list[Any]) -> bool:
    """Whether all are the same to the bit: 1, 1.0 and True are equal, and so are 0.0 and -0.0."""
    first = wire[0]
    if len(wire) == 1:
        return True
    return (
        wire.count(first) == len(wire) and len(set(map(type, wire))) == 1 and not (type(first) is float and not first)
    )
