"""One Valkey server without persistence, and several that are one cluster."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

import redis

from tidegate.errors import EmbeddedServerError
from tidegate.proxy.embedded.process import ServerProcess, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SLOTS: Final = 16384
_TIMEOUT_S: Final = 30.0


class ValkeyNode:
    """Run one cache server; every method returns when its change has taken effect.

    Args:
        folder: the server's working folder.
        program: the server's program.
        options: options to add to its command line.
    """

    def __init__(self, folder: Path, program: Path, options: Sequence[str] = ()) -> None:
        self.port = free_port()
        self._folder = folder
        self._program = program
        self._options = options
        self._server = ServerProcess("valkey", folder)

    @property
    def url(self) -> str:
        """Return the server's ``redis://`` URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def running(self) -> bool:
        """Tell whether the server process runs."""
        return self._server.running

    def start(self) -> None:
        """Start the server, with no data."""
        network = ("--bind", "127.0.0.1", "--port", str(self.port))
        memory = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
        self._server.start(
            [str(self._program), *network, *memory, "--dir", str(self._folder), *self._options], self._answers
        )

    def stop(self) -> None:
        """Shut the server down in good order (SIGTERM)."""
        self._server.end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server (SIGKILL): all its data are gone."""
        self._server.end(signal.SIGKILL)

    def flush(self) -> None:
        """Delete all data of the server.

        Raises:
            EmbeddedServerError: it does not run, and whoever has its port now is another server.
        """
        with self._client() as client:
            if not self._is_own(client):
                raise EmbeddedServerError(f"port {self.port} is another server's: {self._folder} has none that runs")
            client.flushall()

    def pause(self) -> None:
        """Stop the process for a while (SIGSTOP): connections stay open, and nothing answers."""
        self._server.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process go on (SIGCONT) after :meth:`pause`."""
        self._server.signal(signal.SIGCONT)

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=_TIMEOUT_S)

    def _answers(self) -> bool:
        try:
            with self._client() as client:
                return self._is_own(client)
        except redis.RedisError:
            return False

    def _is_own(self, client: redis.Redis) -> bool:
        # A free port may be taken by another program before this server has it.
        return client.info("server").get("process_id") == self._server.pid


def _bus_port(node: ValkeyNode) -> int:
    with redis.Redis.from_url(node.url, socket_timeout=_TIMEOUT_S) as client:
        return int(client.config_get("cluster-port")["cluster-port"]) or node.port + 10_000


def join(nodes: Sequence[ValkeyNode]) -> None:
    """Make one cluster of running servers, started with ``--cluster-enabled yes``; each gets its share of slots.

    Raises:
        EmbeddedServerError: they do not agree in time.
    """
    clients = [redis.Redis.from_url(node.url, socket_timeout=_TIMEOUT_S) for node in nodes]
    share = -(-_SLOTS // len(nodes))
    for i, client in enumerate(clients):
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", i * share, min((i + 1) * share, _SLOTS) - 1)
    for node in nodes[1:]:
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, _bus_port(node))

    def agree() -> bool:
        infos = [client.cluster("INFO") for client in clients]
        return all(i["cluster_state"] == "ok" and i["cluster_known_nodes"] == str(len(nodes)) for i in infos)

    wait_for(agree, f"{len(nodes)} Valkey servers agree to be a cluster")
    for client in clients:
        client.close()
