"""How often the triggers of tables are looked for that are not there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tidegate.proxy.tracking import coverage
from tidegate.proxy.tracking.coverage import Coverage
from tidegate.proxy.tracking.tracked_tables import Tables

if TYPE_CHECKING:
    import pytest


def test_a_table_that_never_comes_is_looked_for_each_second_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now, looks = [0.0], list[float]()
    found: list[Any] = [SimpleNamespace(on=None, create=())]

    def missing(_engine: Any, _tables: Any) -> list[Any]:
        looks.append(now[0])
        return found

    monkeypatch.setattr(coverage, "missing_triggers", missing)
    monkeypatch.setattr(coverage, "make_triggers", lambda _engine, _missing: [])
    monkeypatch.setattr(coverage, "note_changed_families", lambda _engine, _tables: None)
    looked, engine = Coverage(Tables([]), lambda: now[0]), SimpleNamespace()

    def go_on(seconds: int) -> int:
        before = len(looks)
        for _ in range(seconds * 4):
            looked.look("s0", engine)  # type: ignore[arg-type]
            now[0] += 0.25
        return len(looks) - before

    assert go_on(60) == 60
    assert go_on(600) <= 22
    found.clear()  # it has come
    assert go_on(60) <= 3
    found.append(SimpleNamespace(on=None, create=()))  # another one is tracked, and is not there
    assert go_on(90) >= 55
