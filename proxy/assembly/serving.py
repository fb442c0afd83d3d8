"""Use the cache server that serves the databases, and no other one, whatever is found under its URL.

Each database names its cache server. A gate that finds that very server uses it. A gate that finds another one uses
none: what it told that server, the gates at the right one would not hear; so its writes go to the outbox.

A cache that was started anew without its data has nothing to be known by. It is found where the right one was; but
that is also true of another host's "localhost". So it makes a claim in the database, and serves only if nobody who
uses the right server objects for some seconds. Every gate looks four times a second, and objects.
"""

from __future__ import annotations

import logging
import math
import os
import time
from typing import TYPE_CHECKING, Final

from tidegate.cache.store import CacheServer, StoreUnavailable
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


class ServingCache:
    """Keep a store at the server that serves the databases of a gate.

    Args:
        store: the store that the settings name.
        url: where it is, without the password.
        engines: returns the engines of the databases that have been joined; the first decides.
        clock: a monotonic clock, in seconds.
    """

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

    def begin(self) -> bool:
        """Find out whether the store may be used; False: it never may, until somebody changes over to it."""
        now = served(self._engines()[0])
        try:
            return self._settle(now)
        except StoreUnavailable as error:
            # Whoever answers later is compared with the server that the database names.
            by = now.by
            if by is not None and by.url != self._url:
                return self._refuse(by)
            known = CacheServer(by.id, by.life) if by is not None and by.id else None
            self._store.expect(known, f"the cache does not answer: {error}")
            return True

    def look(self) -> None:
        """Look whether this is still the right server, and object to a claim of another one; called regularly.

        Raises:
            StoreUnavailable: the cache does not answer.
        """
        for engine in self._engines():
            now, used = served(engine), self._store.expected
            if used is None or now.by is None or now.by.id != used.id or now.by.life != used.life:
                self._settle(now)
            elif now.claim is not None and self._store.server().id == used.id:
                _log.warning("another cache server claims to serve this database: %s; it must not", now.claim.url)
                remove_claim(engine, now.claim)

    def _settle(self, now: Served) -> bool:
        """Bring together what the database names and what is found under the URL."""
        found, by = self._store.server(), now.by
        if by is None or (not by.id and by.url == self._url):
            return self._take(found, by)
        if by.id == found.id and by.life in (found.life, found.before):
            return self._take(found, by) if by.life != found.life else self._use(found)
        if by.id and by.life and by.life == found.life:  # it has lost its id, and gets it back
            return self._use(found._replace(id=by.id))
        if by.url == self._url and self._may_claim(found, now):
            return self._claim(found, by, now)
        return self._refuse(by)

    def _may_claim(self, found: CacheServer, now: Served) -> bool:
        """Tell whether the server may be what became of the right one; and not whether somebody else has that."""
        if self._clock() < self._not_before_s:
            return False
        ours = None if now.claim is None else now.claim.id
        begun = None if self._claimed is None else self._claimed[0].id
        return found.id is None or (found.id == (now.by and now.by.id)) or found.id in (ours, begun)

    def _claim(self, found: CacheServer, by: Serving, now: Served) -> bool:
        engine, claim = self._engines()[0], now.claim
        if self._claimed is None and claim is None:
            claim = Serving(self._url, found.id or os.urandom(8).hex(), found.life)
            record_claim(engine, claim)
            claim = served(engine).claim
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
        return self._take(found._replace(id=claim.id), by)

    def _take(self, found: CacheServer, by: Serving | None) -> bool:
        """Have the databases name the server that was found."""
        name = found.id or self._store.name_server(os.urandom(8).hex())
        wanted = Serving(self._url, name, found.life)
        for engine in self._engines():
            record_serving(engine, wanted, by)
        recorded = served(self._engines()[0]).by
        if recorded is None or (recorded.id, recorded.life) != (name, found.life):  # another gate was faster
            return True if recorded is None else self._refuse(recorded)
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
