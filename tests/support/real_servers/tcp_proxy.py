"""A TCP connection through a middleman, who can stop forwarding, or cut it at a moment that he knows."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Final, Self

_PACKET: Final = 1 << 16


class Proxy:
    """Forwards to a port of this machine; ends with its context.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self.server_port = port
        """Of the server that new connections go to."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._flowing = threading.Event()
        self._flowing.set()
        self._cut_after: tuple[bytes, bytes] | None = None
        self._hold_at: bytes | None = None
        self.cuts = 0
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """Forward nothing any more; connections stay open, and new ones are accepted."""
        self._flowing.clear()

    def hold_at(self, request: bytes) -> None:
        """Do so at the next packet that holds *request*."""
        self._hold_at = request

    def resume(self) -> None:
        """Forward again, first of all what has been held."""
        self._flowing.set()

    def cut(self) -> None:
        """End every connection; new ones are accepted."""
        self.resume()
        sockets, self._sockets = self._sockets, []
        for one in sockets:
            _cut(one)

    def cut_after(self, request: bytes, once_sent: bytes) -> None:
        """Forward the next packet that holds *request*, keep the server's answer to it, and cut the connection.

        Only on a connection that has sent *once_sent* meanwhile: there are others that say the same.
        """
        self._cut_after = request, once_sent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        _cut(self._listener)
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.server_port))
                except OSError:  # nobody listens: as the client would have found
                    client.close()
                    continue
                self._sockets += [client, server]
                _Line(self, client, server).start()

    def takes_cut(self, packet: bytes, sent: bytes) -> bool:
        """Whether the connection is to be cut for this packet, the last of what it *sent*."""
        if self._cut_after is None or self._cut_after[0] not in packet or self._cut_after[1] not in sent:
            return False
        self._cut_after = None
        return True

    def wait(self, packet: bytes = b"") -> None:
        """Until packets may flow."""
        if self._hold_at is not None and self._hold_at in packet:
            self._hold_at = None
            self.hold()
        self._flowing.wait()


class _Line:
    """One connection, and whether its next answer is the last thing that comes from the server."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._ends = False
        self._sent = b""

    def start(self) -> None:
        for pump in (self._to_server, self._to_client):
            threading.Thread(target=pump, daemon=True).start()

    def _to_server(self) -> None:
        with contextlib.suppress(OSError):
            while packet := self._client.recv(_PACKET):
                self._proxy.wait(packet)
                self._sent = (self._sent + packet)[-_PACKET:]
                self._ends = self._ends or self._proxy.takes_cut(packet, self._sent)
                self._server.sendall(packet)
        self._cut()

    def _to_client(self) -> None:
        with contextlib.suppress(OSError):
            while packet := self._server.recv(_PACKET):
                if self._ends:
                    self._proxy.cuts += 1
                    break
                self._proxy.wait()
                self._client.sendall(packet)
        self._cut()

    def _cut(self) -> None:
        _cut(self._client)
        _cut(self._server)


def _cut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
