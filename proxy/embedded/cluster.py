"""Shards, each a primary with its replicas, and a cache, in a temporary folder."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from tidegate.errors import EmbeddedServerError, SettingsError
from tidegate.proxy.embedded import cleanup
from tidegate.proxy.embedded.postgres import PostgresNode
from tidegate.proxy.embedded.process import give_to_server, temporary_folder
from tidegate.proxy.embedded.programs import Programs
from tidegate.proxy.embedded.valkey import ValkeyNode
from tidegate.proxy.settings import CacheSettings, ReplicaSettings, Settings, ShardSettings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import FrameType

_NODE_BYTES: Final = 150_000_000
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)
_MOST: Final = 16


@dataclass(frozen=True, slots=True)
class Shard:
    """One primary with its replicas."""

    primary: PostgresNode
    replicas: tuple[PostgresNode, ...]


class Cluster:
    """Run real servers on free loopback ports. Use it in a ``with`` block, or call :meth:`start` and :meth:`close`.

    The servers and their folder are removed at a normal end, an exception, SIGTERM, SIGHUP and SIGINT. After a SIGKILL
    of this process, the next start on the machine removes them. Only a main thread can take signals: if another thread
    started the cluster, SIGTERM and SIGHUP leave what SIGKILL leaves.

    Args:
        shards: how many primaries, from 1 to 16.
        replicas: how many replicas each primary has, from 0 to 16.
        cache: whether there is a Valkey server.
        postgres_settings: settings of PostgreSQL to add or replace.
        folder: where to make the temporary folder; None: where the system has such folders.

    Raises:
        SettingsError: a number is out of range.
        EmbeddedServerError: a program is missing, the disk is too full, or a server does not start.
    """

    def __init__(
        self,
        shards: int = 1,
        replicas: int = 0,
        cache: bool = True,
        *,
        postgres_settings: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        for name, value, least in (("shards", shards, 1), ("replicas", replicas, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST:
                raise SettingsError(f"{name} must be a whole number from {least} to {_MOST}, not {value!r}")
        self._shape = (shards, replicas)
        self._with_cache = cache
        self._postgres_settings = dict(postgres_settings or {})
        self._parent = folder or temporary_folder()
        self._own: cleanup.Owned | None = None
        self._owner_pid = 0
        self._handlers: dict[int, Any] = {}
        self._starting = False
        self._shards: tuple[Shard, ...] = ()
        self._cache: ValkeyNode | None = None

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Return the shards; none before :meth:`start`."""
        return self._shards

    @property
    def cache(self) -> ValkeyNode:
        """Return the cache server.

        Raises:
            EmbeddedServerError: this cluster was made without one, or has not been started.
        """
        if self._cache is None:
            raise EmbeddedServerError("no cache: the cluster was made with cache=False, or has not been started")
        return self._cache

    @property
    def ended(self) -> bool:
        """Tell whether the cluster does not run: it was not started yet, or was closed."""
        return self._own is None

    def start(self) -> Self:
        """Start every server. When this returns, all of them answer and the replicas stream.

        Raises:
            EmbeddedServerError: the cluster runs already, or a server does not start.
        """
        if self._own is not None:
            raise EmbeddedServerError("this cluster runs already; close() it first")
        cleanup.remove_orphans(self._parent)
        self._check_disk()
        self._own = cleanup.make(self._parent)
        self._owner_pid = os.getpid()
        # The servers' user must be able to enter the folder. Other users can enter it too, but not list it, and each
        # server's own folder is closed to them.
        self._own.path.chmod(0o711)
        atexit.register(self.close)
        self._take_signals()
        self._starting = True
        try:
            self._start_servers(self._own.path)
        except _SignalWhileStarting as signalled:
            self._starting = False
            self._on_signal(signalled.signum, None)
            raise EmbeddedServerError("ended by a signal while it started") from None
        except BaseException:
            self._starting = False
            self.close()
            raise
        self._starting = False
        return self

    def close(self) -> None:
        """End every server and remove the folder. It does nothing when it is repeated, or in a forked process."""
        if self._own is None or os.getpid() != self._owner_pid:
            return
        own, self._own = self._own, None
        for node in self._nodes():
            node.end()
        if self._cache is not None:
            self._cache.resume()
            self._cache.stop()
        own.remove()
        self._give_signals_back()
        atexit.unregister(self.close)

    def settings(self) -> Settings:
        """Return the settings for these servers, which another process can use; they can be pickled."""
        shards = tuple(
            ShardSettings(
                name=f"s{i}", primary=s.primary.url, replicas=tuple(ReplicaSettings(url=r.url) for r in s.replicas)
            )
            for i, s in enumerate(self._shards)
        )
        return Settings(shards=shards, cache=CacheSettings(url=self._cache.url if self._cache else None))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _nodes(self) -> list[PostgresNode]:
        return [node for shard in self._shards for node in (*shard.replicas, shard.primary)]

    def _start_servers(self, folder: Path) -> None:
        programs = Programs(folder)
        shards, replicas = self._shape
        self._shards = tuple(
            Shard(
                self._node(folder, f"s{i}_primary", programs.postgres_bin),
                tuple(self._node(folder, f"s{i}_replica{j}", programs.postgres_bin) for j in range(replicas)),
            )
            for i in range(shards)
        )
        pool = ThreadPoolExecutor(max_workers=4)
        try:
            started = pool.map(self._start_shard, self._shards)
            if self._with_cache:
                self._start_cache(folder, programs)
            list(started)
        finally:
            # After an interrupt, shards that are starting go on until they run, and are ended then. The others never
            # start.
            pool.shutdown(cancel_futures=True)

    def _node(self, folder: Path, name: str, programs: Path) -> PostgresNode:
        return PostgresNode(name, _own_folder(folder / name), programs)

    def _start_shard(self, shard: Shard) -> None:
        shard.primary.create(self._postgres_settings)
        for replica in shard.replicas:
            shard.primary.create_replica(replica, self._postgres_settings)
        shard.primary.launch()
        shard.primary.make_database()
        with ThreadPoolExecutor(max_workers=4) as pool:
            list(pool.map(PostgresNode.launch, shard.replicas))
            list(pool.map(PostgresNode.wait_database, shard.replicas))

    def _start_cache(self, folder: Path, programs: Programs) -> None:
        self._cache = ValkeyNode(_own_folder(folder / "valkey"), programs.valkey)
        self._cache.start()

    def _check_disk(self) -> None:
        shards, replicas = self._shape
        need = shards * (1 + replicas) * _NODE_BYTES
        free = shutil.disk_usage(self._parent).free
        if free < need:
            raise EmbeddedServerError(f"{self._parent} has {free:,} bytes free; these servers need {need:,}")

    def _take_signals(self) -> None:
        # SIGINT raises KeyboardInterrupt, which ends in close() like any exception.
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in _SIGNALS:
            before = signal.getsignal(signum)
            if before is not signal.SIG_IGN:
                self._handlers[signum] = before
                signal.signal(signum, self._on_signal)

    def _give_signals_back(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for signum in list(self._handlers):
            # A cluster that started later has its own handler in place of this one, and passes signals on to it. So
            # leave the handlers as they are until that cluster ends.
            if signal.getsignal(signum) == self._on_signal:
                signal.signal(signum, self._handler_before(self, signum))

    @staticmethod
    def _handler_before(cluster: Cluster, signum: int) -> Any:
        """Return the handler that was there before *cluster*, and before those clusters that have ended meanwhile."""
        before = cluster._handlers.pop(signum, signal.SIG_DFL)
        earlier = getattr(before, "__self__", None)
        if isinstance(earlier, Cluster) and earlier.ended:
            return Cluster._handler_before(earlier, signum)
        return before

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        if os.getpid() == self._owner_pid and self._starting:
            # Threads are starting servers. close() must come after them, or it would miss some servers.
            raise _SignalWhileStarting(signum)
        before = self._handlers.get(signum, signal.SIG_DFL)
        self.close()
        # The host program, or the shell that started it, must see this signal as if this handler did not exist.
        signal.signal(signum, before)
        os.kill(os.getpid(), signum)


class _SignalWhileStarting(BaseException):  # ends a start as KeyboardInterrupt does
    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def _own_folder(path: Path) -> Path:
    path.mkdir(mode=0o700)
    give_to_server(path)
    return path
