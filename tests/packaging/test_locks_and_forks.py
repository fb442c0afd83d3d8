"""Whoever has a lock has a new one in a forked process: another thread may have held the old one at the fork."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("proxy", "cache", "routing", "repositories", "src/tidegate")
KINDS: Final = {"Lock", "RLock", "Condition", "Event", "Semaphore", "Latch"}
HOOKS: Final = {"reset_after_fork", "register_at_fork"}
FORGOTTEN: Final = {
    ("cache/lease_renewal.py", "_Held"): "who renews forgets what is held",
    ("cache/near/push_versions.py", "VersionsByTenant"): "its stream makes another one",
    ("cache/redis/breaker.py", "Breaker"): "the link makes another one",
    ("cache/redis/bulkhead.py", "Bulkhead"): "the link makes another one",
    ("cache/single_flight.py", "Latch"): "it is of one flight, and flights are forgotten",
    ("proxy/shards/coalesced.py", "_Asked"): "what was asked is forgotten",
    ("routing/threads/daemon_pool.py", "DaemonPool"): "who has the threads forgets them",
}
"""Whose lock is forgotten together with it."""
NEVER_FORKED: Final = {
    ("cache/memory_store.py", "MemoryStore"): "it is of one process",
    ("proxy/shard_admin/check_rows.py", "Found"): "a command",
    ("proxy/shard_admin/databases.py", "Databases"): "a command",
    ("proxy/shard_admin/progress.py", "progress"): "a command",
    ("repositories/indexes.py", "_reported"): "a command",
}


def owners_of_locks(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each class, or module, that makes a lock, and its text."""
    text = path.read_text(encoding="utf-8")
    for part in ast.parse(text).body:
        calls = [node for node in ast.walk(part) if isinstance(node, ast.Call)]
        made = [each for call in calls for each in (call.func, *(given.value for given in call.keywords))]
        if KINDS & {getattr(node, "attr", getattr(node, "id", "")) for node in made}:
            yield getattr(part, "name", "the module"), text if not isinstance(part, ast.ClassDef) else ast.unparse(part)


def test_each_owner_of_a_lock_is_told_of_a_fork() -> None:
    files = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    assert len(files) > 100
    untold = {
        (str(path.relative_to(ROOT)), owner)
        for path in files
        for owner, text in owners_of_locks(path)
        if not any(hook in text for hook in HOOKS)
    }
    assert untold == FORGOTTEN.keys() | NEVER_FORKED.keys()
