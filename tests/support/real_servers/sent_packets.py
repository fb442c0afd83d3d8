"""What a thread sends to a cache server: a packet is a round trip, unless nobody waits for its answer."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

import redis

if TYPE_CHECKING:
    import pytest


def packets_sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The packets that this thread sends from now on; gates of other tests may be alive."""
    packets: list[bytes] = []
    plain: Any = redis.Connection.send_packed_command
    here = threading.get_ident()

    def send(self: Any, command: Any, check_health: bool = True) -> None:
        packet = b"".join(command)
        if threading.get_ident() == here and b"SETINFO" not in packet:
            packets.append(packet)
        plain(self, command, check_health)

    monkeypatch.setattr(redis.Connection, "send_packed_command", send)
    return packets


def commands_in(packet: bytes) -> int:
    """How many commands a packet holds."""
    return len(re.findall(rb"(?:\A|\r\n)\*\d+(?=\r\n)", packet))
