"""What a gate has of its cache: the store that serves its databases, and the caching layer over it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.pool import SingletonThreadPool, StaticPool

from tidegate.cache.codec.answers import AnswerCodec
from tidegate.cache.near.lru import LruCache
from tidegate.cache.read_through import ReadThrough
from tidegate.cache.redis.store import RedisStore
from tidegate.cache.redis.url import shown_url
from tidegate.cache.store import StoreUnavailable
from tidegate.cache.switches import Switches
from tidegate.errors import CacheUnavailable, SettingsError
from tidegate.proxy.database.schema import namespace, serving_cache
from tidegate.proxy.layers.caching import Caching

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from tidegate.cache.near.push_versions import PushVersions
    from tidegate.cache.root_recovery import RootRecovery
    from tidegate.cache.store import Store
    from tidegate.proxy.call import Layer
    from tidegate.proxy.observe import Observer
    from tidegate.proxy.settings import CacheSettings, Settings

_log: Final = logging.getLogger(__name__)


class CacheAssembly:
    """What all repositories of a gate have in common of its caching.

    Args:
        settings: of the cache.
        store: None: there is none.
        recovery: brings its marks on.
        keep_alive: starts what has to run beside a gate that uses the cache.
        observe: told what happens.
        epoch: see :class:`~tidegate.cache.read_through.ReadThrough`.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store | None,
        recovery: RootRecovery | None,
        keep_alive: Callable[[], None],
        observe: Observer,
        *,
        epoch: Callable[[str], int] | None = None,
    ) -> None:
        self._settings = settings.cache
        self._store = store
        self._recovery = recovery
        self._keep_alive = keep_alive
        self._observe = observe
        self._epoch = epoch
        self._switches = Switches(settings.cache.off, store)
        self.pushes = _pushes(store, settings.cache)

    def over(self, below: Layer, models: tuple[type[Any], ...]) -> Layer:
        """The layers from the caching down, for rows of *models*; those *below* alone where there is no cache."""
        cache, store = self._settings, self._store
        if store is None or self._recovery is None:
            return below
        return Caching(
            read_through=ReadThrough(store, self._recovery, observe=self._observe, epoch=self._epoch),
            store=store,
            codec=AnswerCodec(models, blob_bytes=cache.blob_bytes),
            near=LruCache(cache.near_bytes, cache.near_entries) if cache.near else None,
            pushes=self.pushes,
            near_modes=cache.near_modes,
            blobs=LruCache(cache.near_bytes, cache.near_entries),
            switches=self._switches,
            below=below,
            keep_alive=self._keep_alive,
            observe=self._observe,
        )


def store_of(engine: Engine, settings: Settings) -> Store | None:
    """The cache that the settings name, if it is the one that serves this database."""
    name = None if settings.cache.url is None else shown_url(settings.cache.url)

    def ns() -> str:
        if isinstance(engine.pool, StaticPool | SingletonThreadPool):
            raise SettingsError("cache.url: an in-memory SQLite is one connection's, and cannot be cached; use a file")
        return namespace(engine)

    return serving_store(settings, serving_cache(engine, name), ns)


def serving_store(settings: Settings, serving: str | None, ns: Callable[[], str]) -> Store | None:
    """The cache that the settings name, if it is *serving* the databases.

    Args:
        settings: of the cache.
        serving: the name of the cache that does.
        ns: gives the name for the keys.

    Raises:
        CacheUnavailable: it is a cluster, and does not answer.
    """
    cache = settings.cache
    name = None if cache.url is None else shown_url(cache.url)
    if name is None or serving != name:
        # Writes go to the outbox then, where a gate with the serving cache finds them; so they make nobody stale.
        if name is not None:
            _log.warning(
                "the cache %s is not used: this database is served by %s; see tidegate init --cache-url", name, serving
            )
        return None
    try:
        return _redis(cache, ns())
    except StoreUnavailable as error:  # a cluster is asked for its map at once
        raise CacheUnavailable(f"the cache {name} does not answer: {error}") from error


def _pushes(store: Store | None, cache: CacheSettings) -> PushVersions | None:
    """What near answers in ``bounded`` mode rely on."""
    if not cache.near or not isinstance(store, RedisStore):
        return None
    pushes = store.pushes()
    if pushes is None and "bounded" in cache.near_modes.values():
        _log.warning("cache.near_modes: on a cluster 'bounded' is 'strict': near answers are checked at each use")
    return pushes


def _redis(cache: CacheSettings, ns: str) -> RedisStore:
    return RedisStore.from_url(
        cache.url or "",
        ns,
        connect_timeout_ms=cache.connect_timeout_ms,
        read_timeout_ms=cache.read_timeout_ms,
        most_bytes=cache.most_bytes,
    )
