"""What a gate sends on the driver's connection, which the events of SQLAlchemy do not show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tidegate.proxy.database.note_functions import TAKE
from tidegate.proxy.writes import commit_connection

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def note_taking(monkeypatch: pytest.MonkeyPatch, sent: Callable[[str], object]) -> None:
    """Have *sent* called with each statement that takes notes at a COMMIT."""
    row_of: Any = commit_connection._row_of

    def noted(raw: Any, sql: str, given: Any) -> Any:
        if TAKE in sql:
            sent(sql)
        return row_of(raw, sql, given)

    monkeypatch.setattr(commit_connection, "_row_of", noted)
