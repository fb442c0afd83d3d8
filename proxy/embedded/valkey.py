"""One Valkey server, without persistence; several that are one cluster."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

import redis

from tidegate.proxy.embedded.process import ServerProcess, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SLOTS: Final = 16384


class ValkeyNode:
    """A handle on the cache server; every method returns when the change has taken effect.

    Args:
        folder: its working folder.
        program: the server's.
        options: to add to the command line.
    """

    def __init__(self, folder: Path, program: Path, options: Sequence[str] = ()) -> None:
        self.port = free_port()
        self._folder = folder
        self._program = program
        self._options = options
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
        self._server.start(
            [str(self._program), *network, *memory, "--dir", str(self._folder), *self._options], self._answers
        )

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


def _bus_port(node: ValkeyNode) -> int:
    with redis.Redis.from_url(node.url, socket_timeout=5.0) as client:
        return int(client.config_get("cluster-port")["cluster-port"]) or node.port + 10_000


def join(nodes: Sequence[ValkeyNode]) -> None:
    """Make one cluster of running servers, started with ``--cluster-enabled yes``; each gets its share of slots.

    Raises:
        EmbeddedServerError: they do not agree in time.
    """
    clients = [redis.Redis.from_url(node.url, socket_timeout=5.0) for node in nodes]
    share = -(-_SLOTS // len(nodes))
    for i, client in enumerate(clients):
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", i * share, min((i + 1) * share, _SLOTS) - 1)
    for node in nodes[1:]:
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, _bus_port(node))

    def agree() -> bool:
        infos = [client.cluster("INFO") for client in clients]
        return all(i["cluster_state"] == "ok" and i["cluster_known_nodes"] == str(len(nodes)) for i in infos)

    wait_for(agree, f"{len(nodes)} Valkeys agree to be a cluster")
    for client in clients:
        client.close()
