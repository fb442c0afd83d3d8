"""Whoever catches any exception lets pass what a signal handler has raised, wherever a program's thread comes."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Final

import tidegate

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(tidegate.__file__).parent
PASS: Final = frozenset({"pass_interruption", "pass_others"})
OTHERWISE: Final = {
    "cache/redis/push_stream.py": "a thread of its own",
    "proxy/database/notifications.py": "a thread of its own",
    "proxy/dify/startup/sitecustomize.py": "at an import, before a program works",
    "proxy/layers/routing.py": "what is no fault of the node is raised again",
    "proxy/tracking/observers.py": "a thread of its own",
    "proxy/writes/commit_connection.py": "raises again",
    "routing/replicas/monitor.py": "a thread of its own",
    "routing/replicas/probe_sql.py": "raises again what says no table is missing",
}


def catching_all(path: Path) -> Iterator[ast.ExceptHandler]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler) and isinstance(node.type, ast.Name) and node.type.id == "Exception":
            yield node


def lets_pass(handler: ast.ExceptHandler) -> bool:
    calls = [node.func for node in ast.walk(handler) if isinstance(node, ast.Call)]
    return any(isinstance(called, ast.Name) and called.id in PASS for called in calls)


def test_what_catches_everything_lets_interruptions_pass() -> None:
    found, seen = [], set()
    for part in ("cache", "proxy", "repositories", "routing"):
        for path in sorted((ROOT / part).resolve().rglob("*.py")):
            name = f"{part}/{path.relative_to((ROOT / part).resolve())}"
            for handler in catching_all(path):
                if name in OTHERWISE:
                    seen.add(name)
                elif not lets_pass(handler):
                    found.append(f"{name}:{handler.lineno}")
    assert found == [], "call pass_interruption there, or say in OTHERWISE why nobody's signal comes there"
    assert seen == OTHERWISE.keys(), "OTHERWISE names what is there no more"
