"""What is sent to a server, and what sends it. This module knows the form of the protocol, and no client library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tidegate.cache.redis.scripts import Script
    from tidegate.cache.store import StoreUnavailable

T = TypeVar("T")


class Command(NamedTuple):
    """A script with its keys and arguments; without a script, the keys of an MGET."""

    script: Script | None
    keys: Sequence[bytes]
    args: Sequence[bytes] = ()

    def parts(self, *, whole_text: bool = False) -> tuple[bytes, ...]:
        """Return the parts that are sent.

        With *whole_text* the script's text stands there, for a server that lacks the script.
        """
        if self.script is None:
            return (b"MGET", *self.keys)
        name, text = (b"EVAL", self.script.text) if whole_text else (b"EVALSHA", self.script.sha)
        return (name, text, b"%d" % len(self.keys), *self.keys, *self.args)


class Plain(NamedTuple):
    """Plain commands about one tenant, packed once for all calls.

    Args:
        key: one of their keys; a cluster is asked where that is.
        packet: the commands, one after the other.
        replies: how many commands these are, and so how many replies come.
    """

    key: bytes
    packet: bytes
    replies: int


def packet(command: Command) -> bytes:
    """Pack *command* as the protocol has it.

    Hits are many, so what is the same for all calls of a script is packed once.
    """
    script = command.script
    if script is None:
        return packed(command.parts())
    keys, args = command.keys, command.args
    own = b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in (b"%d" % len(keys), *keys, *args)])
    return b"*%d\r\n%b%b" % (len(keys) + len(args) + 3, script.head, own)


def packed(parts: tuple[bytes, ...]) -> bytes:
    """Pack *parts* as the protocol has it."""
    texts = [b"*%d" % len(parts)]
    for part in parts:
        texts += (b"$%d" % len(part), part)
    texts.append(b"")
    return b"\r\n".join(texts)


class Link(Protocol):
    """Send commands to a server, or to a cluster of servers."""

    def ask(self, commands: Sequence[Command], decode: Callable[[list[Any]], T]) -> T:
        """Send all commands, and return what *decode* makes of the replies, which are in the order of the commands.

        Raises:
            StoreUnavailable: the replies do not come, or they make no sense.
        """
        ...

    def ask_plain(self, plain: Plain, judge: Callable[..., T | None]) -> T | None:
        """Send plain commands, and return what *judge* makes of the replies.

        Args:
            plain: the commands.
            judge: is called with the replies; a refusal is one of them, as a value of some other type. It returns None
                where they decide nothing: the caller asks a script next, whose reply tells how the server is.

        Returns:
            What *judge* returns; None also while the server has failed: then the script is the probe.

        Raises:
            StoreUnavailable: the replies do not come, or they make no sense.
        """
        ...

    def post(self, commands: Sequence[Command], told: Callable[[list[Any] | StoreUnavailable], None]) -> None:
        """Send all commands, without waiting for the replies if that can be helped.

        Args:
            commands: they must be safe to lose: if the connection is lost, nobody sends them again.
            told: is given the replies, or why there are none, when they are read: at the latest by whoever uses the
                connection next. It must not raise.
        """
        ...

    def close(self) -> None:
        """Close the idle connections."""
        ...
