"""What runs for a scatter ends on the server when the scatter ends: nobody waits for it any more.

Otherwise its thread, its connection and its work on the server would go on for as long as the statement takes, and the
next scatters would find no free thread for that shard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from tidegate.routing.sharding.scatter import time_left_s

if TYPE_CHECKING:
    from sqlalchemy import Connection

# A shorter time-out stays, whether the server, the user or the settings have set it.
_SET: Final = text(
    """
    SELECT set_config('statement_timeout', CASE
        WHEN set_already > '0' AND set_already < :ms * interval '1 ms' THEN current_setting('statement_timeout')
        ELSE CAST(:ms AS text) END, true)
    FROM (SELECT CAST(current_setting('statement_timeout') AS interval) AS set_already) now
    """
)


def set_statement_deadline(connection: Connection) -> None:
    """Limit each statement of the transaction that begins on *connection* to the time that its scatter has left.

    This takes one round trip, and none outside of a scatter.
    """
    left_s = time_left_s()
    if left_s is not None:
        connection.execute(_SET, {"ms": max(1, int(left_s * 1000))})


def check_deadline() -> None:
    """Refuse to commit for a scatter that has ended, because its caller was told that this part failed.

    This asks no server, and costs almost nothing.

    Raises:
        TimeoutError: the scatter has ended.
    """
    if time_left_s() == 0:
        raise TimeoutError(
            "the call that this transaction belongs to has reached its time limit: nothing was committed"
        )
