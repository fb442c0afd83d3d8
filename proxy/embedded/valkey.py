"""One Valkey server, without persistence."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import redis

from tidegate.proxy.embedded.process import ServerProcess, free_port

if TYPE_CHECKING:
    from pathlib import Path


class ValkeyNode:
    """A handle on the cache server; every method returns when the change has taken effect."""

    def __init__(self, folder: Path, program: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._program = program
        self._server = ServerProcess("valkey", folder)

    @property
    def url(self) -> str:
        """A ``redis://`` URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """Whether the server process runs."""
        return self._server.running

    def start(self) -> None:
        """Start it, empty."""
        network = ("--bind", "127.0.0.1", "--port", str(self.port))
        memory = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
        self._server.start([str(self._program), *network, *memory, "--dir", str(self._folder)], self._answers)

    def stop(self) -> None:
        """Shut down in good order."""
        self._server.end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: all it held is gone."""
        self._server.end(signal.SIGKILL)

    def flush(self) -> None:
        """Forget everything."""
        self._client().flushall()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, and nothing answers."""
        self._server.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._server.signal(signal.SIGCONT)

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=5.0)

    def _answers(self) -> bool:
        try:
            with self._client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
