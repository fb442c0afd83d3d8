"""Dify's page of runs by Tidegate's statement, on Dify's own model: the same rows, exact with ties, at any depth.

A page carries no word of the days that it spans, since its class is Dify's. They are kept beside it until its tags have
been made of them.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from tidegate.repositories.run_policies import days, of_app
from tidegate.repositories.runs.page_statements import page_statements
from tidegate.repositories.runs.pages import page_request, read_page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

METHOD: Final = "get_paginated_workflow_runs"
_KNOWN: Final = ("tenant_id", "app_id", "triggered_from", "limit", "last_id", "status")
_spans: Final[WeakKeyDictionary[Any, tuple[datetime, datetime]]] = WeakKeyDictionary()


def own_page(cls: type[Any], run: type[Any], page: type[Any]) -> Callable[..., Any] | None:
    """Return what answers in the place of the method of *cls* that gives a page.

    Args:
        cls: the host's repository.
        run: the host's mapped class of runs.
        page: the host's class of a page.

    Returns:
        None: *cls* has no such method, or it lacks a parameter; or pages cannot be told apart.
    """
    plain = getattr(cls, METHOD, None)
    if plain is None or page.__hash__ is None:  # a page that cannot be a key could not keep its span beside it
        return None
    statements, signature = page_statements(run), inspect.signature(plain)
    if not set(_KNOWN) <= set(signature.parameters):
        return None
    unknown = {name: one.default for name, one in signature.parameters.items() if name not in ("self", *_KNOWN)}

    def made(rows: list[Any], limit: int, has_more: bool, span: tuple[datetime, datetime] | None) -> Any:
        found = page(data=rows, limit=limit, has_more=has_more)
        if span is not None:
            _spans[found] = span
        return found

    @functools.wraps(plain)
    def paginated(self: Any, *args: Any, **kwargs: Any) -> Any:
        sessions, binding = self._session_maker, self.tidegate_binding
        if binding is None:  # there is no gate: it may be another database
            return plain(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        given = bound.arguments
        if any(given[name] != default for name, default in unknown.items() if name in given):
            return plain(self, *args, **kwargs)
        try:
            asked = {name: given[name] for name in _KNOWN if name in given}
            request = page_request(**asked | {"triggered_from": given["triggered_from"] or ()})
        except ValueError:  # more than Tidegate's statement gives; the host's has its own bounds
            return plain(self, *args, **kwargs)
        return read_page(statements, sessions, binding.home, request, made)

    return paginated


def page_tags(arguments: Mapping[str, Any], page: Any) -> Sequence[str]:
    """Return the tags of a page: its days, where Tidegate's statement has read it below a cursor; else its app."""
    span = _spans.get(page)
    if span is None:
        return of_app(arguments, page)
    newest, oldest = span
    return days(arguments["app_id"], newest, oldest)
