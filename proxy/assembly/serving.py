"""Use the cache server that serves the databases, and no other one, whatever is found under its URL.

Each database names its cache server. A gate that finds that very server uses it. A gate that finds another one uses
none: what it told that server, the gates at the right one would not hear; so its writes go to the outbox.

A cache that was started anew without its data has nothing to be known by. It is found where the right one was; but
that is also true of another host's "localhost". One that was started from the right one's file, or took over from it,
has its id; but so has a clone, while the right one goes on. So they make a claim in the database, and serve only if
nobody who uses the right server objects for some seconds. Every gate looks four times a second, and objects.

Each shard is looked at by a thread of its own, so one that hangs holds up no other. All shards decide together: what
one of them refuses serves none.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from tidegate.cache.store import CacheServer, StoreUnavailable
from tidegate.fork_hooks import reset_after_fork
from tidegate.proxy.database.serving import Serving, record_claim, record_serving, remove_claim, served

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine

    from tidegate.cache.store import Store
    from tidegate.proxy.database.serving import Served

_log: Final = logging.getLogger(__name__)
CLAIM_S: Final = 3.0
"""How long a claim waits for an objection, in seconds: many times as long as a gate takes to look."""
_AGAIN_S: Final = 60.0
"""How long after an objection the claim may be made again, in seconds."""


class _Verdict(Enum):
    """What a database says of the server that was found."""

    USE = auto()
    """It is the right one."""
    TAKE = auto()
    """The database names none yet: name it."""
    CLAIM = auto()
    """It may be what became of the right one."""
    REFUSE = auto()
    """It is another one."""


class _Judged(NamedTuple):
    verdict: _Verdict
    engine: Engine
    now: Served


class ServingCache:
    """Keep a store at the server that serves the databases of a gate.

    Args:
        store: the store that the settings name.
        url: where it is, without the password.
        engines: returns the engines of the databases that have been joined.
        clock: a monotonic clock, in seconds.
    """

    # Where a simulation has facts of its own in place of databases.
    _served = staticmethod(served)
    _record_serving = staticmethod(record_serving)
    _record_claim = staticmethod(record_claim)
    _remove_claim = staticmethod(remove_claim)

    def __init__(
        self,
        store: Store,
        url: str,
        engines: Callable[[], Sequence[Engine]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store: Final = store
        self._url: Final = url
        self._engines: Final = engines
        self._clock: Final = clock
        self._claimed: tuple[Serving, float] | None = None
        self._not_before_s = -math.inf
        self._told = ""
        self._forked()
        reset_after_fork(self._forked)

    def _forked(self) -> None:
        self._settling = threading.Lock()

    def begin(self) -> bool:
        """Find out whether the store may be used; False: it never may, until somebody changes over to it."""
        named = [(engine, self._served(engine)) for engine in self._engines()]
        try:
            return self._settle(named)
        except StoreUnavailable as error:
            # Whoever answers later is compared with the server that the database names.
            by = named[0][1].by
            other = next((now.by for _, now in named if now.by is not None and now.by.url != self._url), None)
            if other is not None:
                return self._refuse(other)
            known = CacheServer(by.id, by.life) if by is not None and by.id else None
            self._store.expect(known, f"the cache does not answer: {error}")
            return True

    def look(self, engine: Engine) -> None:
        """Look whether this is still the right server of one database, and object to claims; called regularly.

        Raises:
            StoreUnavailable: the cache does not answer.
        """
        now, used = self._served(engine), self._store.expected
        if used is None or now.by is None or (now.by.id, now.by.life) != (used.id, used.life):
            self._settle_all()
        elif now.claim is not None and _is_known(self._store.server(), now.by):
            _log.warning("another cache server claims to serve this database: %s; it must not", now.claim.url)
            self._remove_claim(engine, now.claim)

    def _settle_all(self) -> None:
        """Have all databases decide. One thread does that; another shard's must not wait for a shard that hangs."""
        if not self._settling.acquire(blocking=False):
            return
        try:
            named = []
            for engine in self._engines():
                try:
                    named.append((engine, self._served(engine)))
                except SQLAlchemyError:  # it is away, and looks for itself when it is back
                    continue
            self._settle(named)
        finally:
            self._settling.release()

    def _settle(self, named: Sequence[tuple[Engine, Served]]) -> bool:
        """Bring together what the databases name and what is found under the URL."""
        found = self._store.server()
        known = [now.by for _, now in named if now.by is not None and _is_known(found, now.by)]
        judged = [_Judged(self._verdict(found, now, known), engine, now) for engine, now in named]
        for one in judged:
            if one.now.by is not None and one.verdict is _Verdict.REFUSE:
                return self._refuse(one.now.by)
        if known:  # one that has lost its id gets it back
            found = found._replace(id=known[0].id)
        for one in judged:
            if one.now.by is not None and one.verdict is _Verdict.CLAIM:
                return self._claim(found, one.now.by, one, judged)
        return self._take(found, judged)

    def _verdict(self, found: CacheServer, now: Served, known: Sequence[Serving]) -> _Verdict:
        by = now.by
        if by is None or (not by.id and by.url == self._url):
            return _Verdict.TAKE
        if _is_known(found, by):
            return _Verdict.USE if by.id == known[0].id else _Verdict.REFUSE
        return _Verdict.CLAIM if by.url == self._url and self._may_claim(found, now, known) else _Verdict.REFUSE

    def _may_claim(self, found: CacheServer, now: Served, known: Sequence[Serving]) -> bool:
        """Tell whether the server may be what became of the right one; and not whether somebody else has that."""
        if self._clock() < self._not_before_s:
            return False
        ours = None if now.claim is None else now.claim.id
        begun = None if self._claimed is None else self._claimed[0].id
        # Where other shards name it already, this one was away when it was taken.
        return bool(known) or found.id is None or (found.id == (now.by and now.by.id)) or found.id in (ours, begun)

    def _claim(self, found: CacheServer, by: Serving, one: _Judged, judged: Sequence[_Judged]) -> bool:
        claim = one.now.claim
        if self._claimed is None and claim is None:
            self._record_claim(one.engine, Serving(self._url, found.id or os.urandom(8).hex(), found.life))
            claim = self._served(one.engine).claim
        if claim is None:  # somebody objected
            self._claimed, self._not_before_s = None, self._clock() + _AGAIN_S
            return self._refuse(by)
        if (claim.life, claim.url) != (found.life, self._url):
            self._store.expect(None, "another cache claims to serve this database")
            return True
        if self._store.name_server(claim.id) != claim.id:
            return self._refuse(by)
        if self._claimed is None or self._claimed[0] != claim:
            self._claimed = claim, self._clock()
            self._store.expect(None, "the cache was started anew, and is used again in some seconds")
            return True
        if self._clock() - self._claimed[1] < CLAIM_S:
            return True
        self._claimed = None
        return self._take(found._replace(id=claim.id), judged)

    def _take(self, found: CacheServer, judged: Sequence[_Judged]) -> bool:
        """Have the databases that do not name it yet name the server that was found, and use it."""
        taking = [one for one in judged if one.verdict is not _Verdict.USE]
        if not taking:
            return self._use(found)
        name = found.id or self._store.name_server(os.urandom(8).hex())
        for one in taking:
            self._record_serving(one.engine, Serving(self._url, name, found.life), one.now.by)
        for one in taking:
            recorded = self._served(one.engine).by
            if recorded is None:
                return True
            if (recorded.id, recorded.life) != (name, found.life):  # another gate was faster
                return self._refuse(recorded)
        return self._use(found._replace(id=name))

    def _use(self, found: CacheServer) -> bool:
        used = self._store.expected
        if used is None or (used.id, used.life) != (found.id, found.life):
            self._store.expect(found)
        self._told = ""
        return True

    def _refuse(self, by: Serving) -> bool:
        why = f"the cache {self._url} does not serve this database: the server that does was found at {by.url}"
        self._store.expect(None, why)
        if self._told != why:
            self._told = why
            _log.error(
                "%s. It is not used, and writes go to the outbox. To change over to it, run "
                "'tidegate init --cache-url %s' and restart every gate",
                why,
                self._url,
            )
        return False


def _is_known(found: CacheServer, by: Serving) -> bool:
    """Tell whether a database names the server that was found, though that may have lost its id since."""
    return bool(by.id) and by.life == found.life and (by.id == found.id or bool(by.life))
