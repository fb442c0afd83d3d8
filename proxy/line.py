"""A monitor's own connection to its server, outside of the pools."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from tidegate.routing.asking import VIEW, one_row, view_of
from tidegate.routing.forks import in_children
from tidegate.routing.lines import close_line, line_of, note_line, shut

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tidegate.routing.topology import View


class EngineLine:
    """A monitor's own connection; see :class:`tidegate.routing.monitor.Line`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._raw: Any = None
        self._info: dict[str, Any] = {}
        self._parents: list[Any] = []
        self._asking = threading.Lock()
        in_children(self._forked)

    def ask(self) -> View:
        """See ``Line``."""
        with self._asking:  # the first question may still be under way when the monitor is started
            raw = self._raw or self._connect()
            asked_s = time.monotonic()
            try:
                return view_of(one_row(raw, VIEW), asked_s)
            except BaseException:
                self._close()
                raise

    def cut(self) -> None:
        """See ``Line``."""
        if (line := line_of(self._info)) is not None:
            shut(line)

    def close(self) -> None:
        """See ``Line``."""
        with self._asking:
            self._close()

    def _close(self) -> None:
        raw, self._raw = self._raw, None
        close_line(self._info)
        if raw is not None:
            with contextlib.suppress(Exception):
                raw.close()

    def _connect(self) -> Any:
        pooled = self._engine.raw_connection()
        pooled.detach()  # so that in a child no pool gives it back: it is the parent's there
        raw: Any = pooled.dbapi_connection
        raw.autocommit = True  # one statement is one round trip
        note_line(raw, self._info)
        self._raw = raw
        return raw

    def _forked(self) -> None:
        # Kept, not closed: to close it would say goodbye to the server in the parent's name.
        self._parents.append((self._raw, self._info))
        self._raw, self._info, self._asking = None, {}, threading.Lock()
