"""What runs for a scatter ends on the server when the scatter does: nobody waits for it any more.

Its thread, its connection and its work on the server would else go on as long as the statement takes, and the next
scatters would find no thread of that shard's free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from tidegate.routing.sharding.scatter import time_left_s

if TYPE_CHECKING:
    from sqlalchemy import Connection

# A shorter time that the server, the user or the settings have set stays.
_SET: Final = text(
    """
    SELECT set_config('statement_timeout', CASE
        WHEN set_already > '0' AND set_already < :ms * interval '1 ms' THEN current_setting('statement_timeout')
        ELSE CAST(:ms AS text) END, true)
    FROM (SELECT CAST(current_setting('statement_timeout') AS interval) AS set_already) now
    """
)


def set_statement_deadline(connection: Connection) -> None:
    """Have each statement of the transaction that begins on *connection* take no longer than the scatter it is for.

    One round trip, and none outside of a scatter.
    """
    left_s = time_left_s()
    if left_s is not None:
        connection.execute(_SET, {"ms": max(1, int(left_s * 1000))})


def check_deadline() -> None:
    """Commit nothing for a scatter that has ended: its caller was told that this part failed. Costs next to nothing.

    Raises:
        TimeoutError: it has.
    """
    if time_left_s() == 0:
        raise TimeoutError("whoever asked for this does not wait any more; nothing was committed")
