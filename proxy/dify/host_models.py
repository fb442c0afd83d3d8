"""Dify's mapped classes, found by their tables' names, in the place of those that Tidegate's policies name."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect

from tidegate.cache.codec.records import HostTypes
from tidegate.proxy.dify.releases import MODELS, PAGE, RECORDS
from tidegate.repositories.tracked import TRACKED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tidegate.repositories.policies import Tracked


@lru_cache(maxsize=1)
def host_tracked() -> tuple[Tracked, ...]:
    """Return what is tracked, with the host's own classes; a table or a column that this release lacks is left out.

    The triggers are those of ``tidegate init``: they go by the names of tables and columns, which are the same.

    Raises:
        ImportError: the host's models cannot be imported here.
    """
    found = host_models()
    return tuple(_tracked_rows(found))


def _tracked_rows(found: Mapping[str, type[Any]]) -> Iterator[Tracked]:
    for row in TRACKED:
        cls, above = found.get(table_of(row.model)), row.parent
        if cls is None:
            continue
        parent = None
        if above is not None:
            if table_of(above[1]) not in found:
                continue
            parent = (above[0], found[table_of(above[1])])
        yield replace(row, model=cls, parent=parent)


@lru_cache(maxsize=1)
def host_models() -> Mapping[str, type[Any]]:
    """Return the host's mapped classes by the names of their tables.

    Raises:
        ImportError: they cannot be imported here.
    """
    import_module("models")  # all of them, since the tables are spread over several modules
    module = import_module(MODELS)
    mapped: list[Any] = [inspect(value, raiseerr=False) for value in vars(module).values() if isinstance(value, type)]
    registries = {mapper.registry for mapper in mapped if mapper is not None and hasattr(mapper, "registry")}
    return {
        str(mapper.local_table.name): mapper.class_
        for registry in registries
        for mapper in registry.mappers
        if mapper.inherits is None and hasattr(mapper.local_table, "name")
    }


def table_of(model: Any) -> str:
    """Return the name of a mapped class's table."""
    name: str = inspect(model).local_table.name
    return name


@lru_cache(maxsize=1)
def host_types() -> HostTypes:
    """Return the host's classes, besides mapped ones, of which answers are made."""
    page = _named(*PAGE)
    records = {_named(module, name) for module, name in RECORDS} - {None}
    return HostTypes(page, tuple(record for record in records if record is not None))


def _named(module: str, name: str) -> type[Any] | None:
    try:
        found = getattr(sys.modules.get(module) or import_module(module), name, None)
    except ImportError:
        return None
    return found if isinstance(found, type) else None
