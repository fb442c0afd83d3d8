"""Asking a pooled connection whether it works, only where it was idle for a while, or its server has said something.

SQLAlchemy's ``pool_pre_ping`` asks at each checkout, which is a round trip for each transaction. A connection that was
in use a moment ago has shown that it works; HikariCP leaves the question out by the same rule
(``aliveBypassWindowMs``, 500 ms). If its server has ended it since, there is something to read: that is looked at
without a word to the server, as Go's MySQL driver does (``connCheck``).
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError

if TYPE_CHECKING:
    from sqlalchemy import Engine

IDLE_S: Final = 0.5
"""A connection that came back to the pool less than so many seconds ago, and has nothing to read, is not asked."""
_BACK: Final = "tidegate.back"


def ping_idle(engine: Engine) -> None:
    """Ask each connection that was idle for ``IDLE_S`` whether it works, before *engine*'s pool gives it out.

    If one does not, those that were connected before are not given out either, as with ``pool_pre_ping``.
    """
    dialect: Any = engine.dialect

    def came_back(_raw: Any, record: Any) -> None:
        record.info[_BACK] = time.monotonic()

    def ping(raw: Any, record: Any, _proxy: Any) -> None:
        back = record.info.pop(_BACK, None)  # None: it has just been connected
        if back is None or (time.monotonic() - back < IDLE_S and not _has_unread(raw, dialect.loaded_dbapi)):
            return
        if not dialect._do_ping_w_event(raw):  # noqa: SLF001  # what pool_pre_ping calls
            raise InvalidatePoolError

    event.listen(engine, "checkin", came_back)
    event.listen(engine, "checkout", ping, insert=True)  # before those that send statements


def _has_unread(raw: Any, driver: Any) -> bool:
    """Tell whether the server has sent something, or somebody has closed the connection; without waiting."""
    poll = select.poll()
    try:
        poll.register(raw.fileno(), select.POLLIN)
    except (driver.Error, OSError, ValueError):  # it is closed on this side: the ping will say so
        return True
    return bool(poll.poll(0))
