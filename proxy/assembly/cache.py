"""Assemble what a gate has of its cache: the store that serves its databases, and the caching layer over it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from tidegate.cache.codec.answers import AnswerCodec
from tidegate.cache.lease_renewal import Renewals
from tidegate.cache.near.lru import LruCache
from tidegate.cache.read_through import ReadThrough
from tidegate.cache.redis.store import RedisStore
from tidegate.cache.request import Limits
from tidegate.cache.store import StoreUnavailable
from tidegate.cache.switches import Switches
from tidegate.errors import CacheUnavailable
from tidegate.proxy.assembly.serving import ServingCache
from tidegate.proxy.layers.caching import Caching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import Engine

    from tidegate.cache.codec.records import HostTypes
    from tidegate.cache.near.push_versions import PushVersions
    from tidegate.cache.root_recovery import RootRecovery
    from tidegate.cache.store import Store
    from tidegate.cache.untold import UntoldChanges
    from tidegate.proxy.call import Layer
    from tidegate.proxy.observe import Observer
    from tidegate.proxy.settings import CacheSettings, Settings
    from tidegate.proxy.shards.registry import Shards

_log: Final = logging.getLogger(__name__)


class CacheAssembly:
    """Make the caching layers of a gate, which have its store in common.

    Args:
        settings: of the cache.
        store: entries and marks; None: there is no cache.
        recovery: advances roots.
        shards: of the gate.
        untold: whose changes the cache was not told of.
        observe: told what happens.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store | None,
        recovery: RootRecovery | None,
        shards: Shards,
        untold: UntoldChanges,
        observe: Observer,
    ) -> None:
        self._settings = settings.cache
        self._store = store
        self._recovery = recovery
        self._shards = shards
        self._untold = untold
        self._observe = observe
        self._switches = Switches(settings.cache.off, store)
        self._limits = Limits()
        self._renewals = Renewals(self._limits)
        self.pushes = _pushes(store, settings.cache)

    def close(self) -> None:
        """End what runs beside the layers; the store stays open."""
        self._renewals.close()

    def caching(self, below: Layer, models: Iterable[type[Any]], types: HostTypes | None) -> Layer:
        """Return the caching layer over *below*, for rows of *models* and other *types* of answers.

        Where there is no cache, it is *below* itself.
        """
        cache, store = self._settings, self._store
        if store is None or self._recovery is None:
            return below
        return Caching(
            read_through=ReadThrough(
                store,
                self._recovery,
                self._shards.asked,
                renewals=self._renewals,
                limits=self._limits,
                observe=self._observe,
            ),
            store=store,
            codec=AnswerCodec(tuple(models), blob_bytes=cache.blob_bytes, types=types),
            near=LruCache(cache.near_bytes, cache.near_entries) if cache.near else None,
            pushes=self.pushes,
            near_modes=cache.near_modes,
            blobs=LruCache(cache.near_bytes, cache.near_entries),
            switches=self._switches,
            untold=self._untold,
            below=below,
            keep_alive=self._shards.keep_alive,
            observe=self._observe,
        )


def serving_store(
    settings: Settings, engines: Callable[[], Sequence[Engine]], namespace: Callable[[], str]
) -> tuple[Store | None, Callable[[Engine], None]]:
    """Open the cache that the settings name, if it is the one that serves the databases.

    Args:
        settings: of the cache.
        engines: gives the engines of the databases that have been joined.
        namespace: gives the name that its keys have.

    Returns:
        The store; None: it is none that may be used. And what looks whether it still is the right one of a database.

    Raises:
        CacheUnavailable: it is a cluster, and does not answer.
    """
    cache, name = settings.cache, settings.cache.name
    if name is None:
        return None, _nothing
    try:
        store = _redis(cache, namespace())
    except StoreUnavailable as error:  # a cluster is asked for its map at once
        raise CacheUnavailable(f"the cache {name} does not answer: {error}") from error
    serving = ServingCache(store, name, engines)
    if serving.begin():
        return store, serving.look
    # Writes go to the outbox then, where a gate with the serving cache finds them; so they make nobody stale.
    store.close()
    return None, _nothing


def _nothing(_engine: Engine) -> None:
    """Look at nothing: there is no cache."""


def _pushes(store: Store | None, cache: CacheSettings) -> PushVersions | None:
    """Return what near answers in ``bounded`` mode rely on."""
    if not cache.near or store is None:
        return None
    pushes = store.pushes()
    if pushes is None and "bounded" in cache.near_modes.values():
        _log.warning(
            "cache.near_modes: the cache %s has no pushes, so 'bounded' is 'strict': answers are checked at each use",
            store.name,
        )
    return pushes


def _redis(cache: CacheSettings, ns: str) -> RedisStore:
    return RedisStore.from_url(
        cache.url or "",
        ns,
        connect_timeout_ms=cache.connect_timeout_ms,
        read_timeout_ms=cache.read_timeout_ms,
        most_bytes=cache.most_bytes,
    )
