"""Which of Tidegate's indexes a database has: looked up once for each pool of connections, and again now and then."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from tidegate.repositories.indexes import states_on

if TYPE_CHECKING:
    from sqlalchemy import Connection, Pool

PAGE_INDEX: Final = "tidegate_runs_page_idx"
STATUS_PAGE_INDEX: Final = "tidegate_runs_status_page_idx"
MISSING_S: Final = 60.0
"""How long an index is taken for missing, in seconds: from then on it may have been made."""
THERE_S: Final = 600.0
"""How long all indexes are taken to be there, in seconds: ``tidegate init --undo`` may have dropped them."""


@dataclass(slots=True)
class _Known:
    valid: frozenset[str] = frozenset()
    until_s: float = 0.0


# By pool: an engine that differs in its execution options alone shares its pool, and is often made for one call.
_known: Final[WeakKeyDictionary[Pool, _Known]] = WeakKeyDictionary()


def has_page_index(connection: Connection, *, with_status: bool) -> bool:
    """Tell whether the index for pages is there and valid; one catalogue query, if it is due.

    Args:
        connection: to the node that the page is read from.
        with_status: whether the index for pages of one status is meant.
    """
    known = _known.setdefault(connection.engine.pool, _Known())
    now_s = time.monotonic()
    if now_s >= known.until_s:
        # Others go on with what is known while this call looks.
        known.until_s = now_s + MISSING_S
        try:
            states = states_on(connection)
        except BaseException:
            known.until_s = 0.0
            raise
        known.valid = frozenset(name for name, state in states.items() if state == "valid")
        known.until_s = now_s + (THERE_S if len(known.valid) == len(states) else MISSING_S)
    return (STATUS_PAGE_INDEX if with_status else PAGE_INDEX) in known.valid
