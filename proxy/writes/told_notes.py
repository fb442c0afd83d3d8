"""What triggers tell of the notes that they write, on a connection of psycopg.

The note of a statement comes back with the statement's own answer, as a NOTICE. So the commit protocol knows what to
open without asking, and the notes are taken out of the outbox in the message that commits: one round trip less. What
is heard is the most that a transaction may have changed: a savepoint may take a part of it back. A note that is not
heard is not taken out either: it is found in the outbox, as everybody else's are.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from psycopg.pq import DiagnosticField

from tidegate.cache.root_recovery import Transaction
from tidegate.proxy.database.history_record import here_of
from tidegate.proxy.database.note_functions import FEW, TOLD_STATE
from tidegate.proxy.tracking.notes import Note

if TYPE_CHECKING:
    from collections.abc import Callable

_STATE: Final = TOLD_STATE.encode()
_is_place: Final = re.compile(r"\(\d+,\d+\)").fullmatch


class Told(NamedTuple):
    """What the triggers have told of one transaction: which it is, its notes, and where they lie in the outbox."""

    transaction: Transaction
    notes: list[Note]
    places: list[str]
    ids: list[int]


class ToldNotes:
    """Hear of the notes of one connection; it stands before what hears the connection's other notices.

    Args:
        others: is called with all notices that are none of ours; None: nobody hears them.
    """

    def __init__(self, others: Callable[[Any], None] | None) -> None:
        self._others: Final = others
        self._heard: list[bytes | None] = []

    def __call__(self, notice: Any) -> None:
        """Keep what a trigger tells, or pass the notice on."""
        if notice.error_field(DiagnosticField.SQLSTATE) == _STATE:
            if len(self._heard) <= FEW:
                self._heard.append(notice.error_field(DiagnosticField.MESSAGE_DETAIL))
        elif self._others is not None:
            self._others(notice)

    def forget(self) -> None:
        """Forget what was heard: the transaction has ended."""
        self._heard.clear()

    def told(self, encoding: str) -> Told | None:
        """Return what was told since the transaction began; None if that is nothing, not all, too much, or unreadable.

        Args:
            encoding: the connection's, by Python's name.
        """
        if not 0 < len(self._heard) <= FEW or not all(self._heard):
            return None
        try:
            return _told([json.loads((text or b"").decode(encoding)) for text in self._heard])
        except (AttributeError, LookupError, TypeError, ValueError):
            return None  # whatever it was, it was not a trigger of ours that told it


def _told(heard: list[Any]) -> Told | None:
    xid, before, _, _, *here, _, _ = heard[-1]
    if not xid.isdecimal() or any(one[0] != xid or not _is_place(one[2]) for one in heard):
        return None  # of another transaction, which was ended behind our back
    if not {one[1] for one in heard}.issuperset(range(before)):  # one was not heard
        return None
    where = here_of(here)
    return Told(
        Transaction(xid, where.position, where.history),
        [Note(source, rows) for *_, source, rows in heard],
        [one[2] for one in heard],
        [int(one[3]) for one in heard],
    )
