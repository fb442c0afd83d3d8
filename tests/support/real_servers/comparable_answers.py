"""Answers as plain values that can be compared: types, order, what is loaded, and whether rows are detached."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect
from sqlalchemy.orm import DeclarativeBase

from tidegate.repositories.entities.workflow_pause import WorkflowPauseEntity
from tidegate.repositories.pagination import InfiniteScrollPagination

if TYPE_CHECKING:
    from collections.abc import Callable


def outcome(call: Callable[[], Any]) -> Any:
    """What *call* answers, or raises, as :func:`shown`."""
    try:
        answer = call()
    except Exception as error:  # noqa: BLE001  # that they raise the same is what is compared
        return "raised", type(error), str(error)
    return shown(answer)


def shown(value: Any) -> Any:
    """*value* as tuples that are equal if, and only if, a caller cannot tell the two apart."""
    if isinstance(value, DeclarativeBase):
        return _row(value)
    if isinstance(value, InfiniteScrollPagination):
        rest = (value.limit, value.has_more, value.span, type(value.data))
        return type(value), rest, tuple(map(shown, value.data))
    if isinstance(value, WorkflowPauseEntity):
        known = (value.id, value.workflow_execution_id, value.resumed_at, value.get_state())
        return type(value), known, tuple(map(shown, value.get_pause_reasons()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value), (frozenset if isinstance(value, (set, frozenset)) else tuple)(map(shown, value))
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return dict, tuple((shown(key), shown(item)) for key, item in value.items())
    return type(value), value.value if isinstance(value, Enum) else value


def _row(row: Any) -> Any:
    state = inspect(row)
    unloaded = frozenset(state.unloaded)
    loaded_relations = sorted(set(state.mapper.relationships.keys()) - unloaded)
    related = tuple((name, shown(getattr(row, name))) for name in loaded_relations)
    # The lazy columns last: a touch loads them, and says what they hold.
    columns = tuple((attribute.key, shown(getattr(row, attribute.key))) for attribute in state.mapper.column_attrs)
    about = (state.detached, state.persistent, state.transient, state.modified, unloaded, state.identity_key)
    return type(row), about, columns, related


def instances(value: Any) -> list[Any]:
    """Every mutable thing of an answer, rows and lists and mappings."""
    if isinstance(value, DeclarativeBase):
        loaded = set(inspect(value).mapper.relationships.keys()) - inspect(value).unloaded
        return [value, *(one for name in loaded for one in instances(getattr(value, name)))]
    if isinstance(value, InfiniteScrollPagination):
        return [value, *instances(value.data)]
    if isinstance(value, dict):
        return [value, *(one for item in value.values() for one in instances(item))]
    if isinstance(value, list):
        return [value, *(one for item in value for one in instances(item))]
    return []
