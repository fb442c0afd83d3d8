"""What a gate tells of itself: counters in memory, ``logging``, and the program's own observer.

Calls come from the telemetry layer. What happens inside the cache and on the way to a server comes as events (see
:mod:`tidegate.cache.events` and :mod:`tidegate.routing.events`); counters and log see them before the program's own
observer does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from tidegate.cache.events import (
    Missed,
    NotFilled,
    ObserverFailed,
    ObserversMissed,
    Served,
    StoreFailed,
    TriggerFailed,
    Undecodable,
    Voided,
    ignore,
)
from tidegate.error_text import traceback_text
from tidegate.fork_hooks import reset_after_fork
from tidegate.interruptions import pass_interruption
from tidegate.routing.events import Banned, NotDiscovered, Passed, Promoted, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tidegate.cache import events as cache_events
    from tidegate.cache.request import Answer, AnsweredBy
    from tidegate.proxy.call import Call
    from tidegate.routing import events as routing_events

Event: TypeAlias = "cache_events.Event | routing_events.Event"
"""What a gate tells its observer: events of the cache, and of the way to a server."""


class Observer(Protocol):
    """Is told of every event; it must be quick. What it raises is logged, and passed on to nobody."""

    def __call__(self, event: Event, /) -> None:
        """Take note of *event*."""
        ...


_log: Final = logging.getLogger(__name__)
_NS_PER_S: Final = 1e9
LOG_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class MethodStats:
    """The calls of one method since the gate was made.

    Args:
        calls: how many have ended, with an answer or with an exception.
        errors: how many of these ended with an exception.
        seconds: how long all of them took together.
        answered: how many were answered "near", by the "store", by another thread's "flight", by a "node" because the
            cache had no fresh answer, or "plain" because they are none of the cache's business. A call that failed
            counts by who was asked last: "node" or "plain".
    """

    calls: int
    errors: int
    seconds: float
    answered: Mapping[AnsweredBy, int]

    @property
    def served(self) -> int:
        """Return how many the cache answered."""
        return sum(count for who, count in self.answered.items() if who in ("near", "store", "flight"))

    @property
    def missed(self) -> int:
        """Return how many the cache should have answered, and a node did."""
        return self.answered.get("node", 0)


@dataclass(frozen=True, slots=True)
class Stats:
    """What a gate has counted since it was made.

    Args:
        methods: calls, by "module.Class.method".
        nodes: calls by the server that answered them, where there are replicas.
        events: of the cache, by name and reason, but for its answers, which *methods* has.
    """

    methods: Mapping[str, MethodStats]
    events: Mapping[str, int]
    nodes: Mapping[str, int]


class _Method:
    __slots__ = ("answered", "errors", "ns")

    def __init__(self) -> None:
        self.errors = self.ns = 0
        self.answered: defaultdict[AnsweredBy, int] = defaultdict(int)


class Counters:
    """Count calls and events; many threads may do so at once."""

    def __init__(self) -> None:
        self._forked()
        reset_after_fork(self._forked)
        self._methods: defaultdict[str, _Method] = defaultdict(_Method)
        self._events: dict[tuple[type[Event], str], int] = {}
        self._nodes: dict[str, int] = {}

    def _forked(self) -> None:
        self._lock = threading.Lock()  # a new one: the parent's lock may have been held at the fork

    def add(self, call: Call, answer: Answer, ns: int) -> None:
        """Count a call that was answered, and took *ns* nanoseconds."""
        with self._lock:
            method = self._methods[call.method.qualified_name]
            method.ns += ns
            method.answered[answer.answered_by] += 1
            if answer.node:
                self._nodes[answer.node] = self._nodes.get(answer.node, 0) + 1

    def add_failed(self, call: Call, ns: int, asked: AnsweredBy) -> None:
        """Count a call that ended with an exception after *ns* nanoseconds, by who was asked last: no cache was it."""
        with self._lock:
            method = self._methods[call.method.qualified_name]
            method.ns += ns
            method.errors += 1
            method.answered[asked] += 1

    def __call__(self, event: Event) -> None:
        """Count one event; answers of the cache are counted with the calls they answer."""
        if type(event) is Served:
            return
        kind, events = _kind(event), self._events
        with self._lock:
            events[kind] = events.get(kind, 0) + 1

    def stats(self) -> Stats:
        """Return all counts as they are now."""
        with self._lock:
            methods = {
                name: MethodStats(sum(m.answered.values()), m.errors, m.ns / _NS_PER_S, dict(m.answered))
                for name, m in self._methods.items()
            }
            events = {_named(kind): count for kind, count in self._events.items()}
            return Stats(methods, events, dict(self._nodes))


class Log:
    """Log what somebody should look into: a cache that does not answer, entries that cannot be used.

    One line for each kind of trouble in *every_s* seconds, since a cache that is away fails each call; the next line
    says how many there were meanwhile.

    Args:
        logger: warnings go there, and what is merely not cached, as debugging.
        every_s: seconds.
        clock: seconds, monotonic.
    """

    def __init__(
        self, logger: logging.Logger, *, every_s: float = LOG_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._every_s = every_s
        self._clock = clock
        self._next_s: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()
        self._forked()
        reset_after_fork(self._forked)

    def _forked(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Log *event*, if it is to be."""
        level = _LEVELS.get(type(event))
        if level is None or not self._logger.isEnabledFor(level):
            return
        name = _named(_kind(event))
        with self._lock:
            now_s = self._clock()
            if now_s < self._next_s.get(name, now_s):
                self._unsaid[name] += 1
                return
            self._next_s[name] = now_s + self._every_s
            unsaid = self._unsaid.pop(name, 0)
        self._logger.log(level, "%s%s", event, f" (and {unsaid} more like it)" if unsaid else "")


class ObserverFailures:
    """Log what observers raise, each kind of error of each one once.

    Args:
        log: where lines go.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said: set[tuple[int, type[Exception]]] = set()

    def say(self, observer: object, error: Exception) -> None:
        """Write *error* to the log, if it is the first of its kind."""
        key = (id(observer), type(error))  # a program's observer need not be hashable
        if key not in self._said:
            self._said.add(key)
            self._log.error(
                "the observer %r failed; it is told of the next events\n%s", observer, traceback_text(error)
            )


def all_of(*observers: Observer) -> Observer:
    """Return one observer that tells all of these, in order; answers of the cache only those that use them.

    One that raises is logged the first time: a call, or a COMMIT, must not fail by it.
    """
    caring = tuple(observer for observer in observers if observer is not ignore)
    of_answers = tuple(observer for observer in caring if not isinstance(observer, Counters | Log))
    failures = ObserverFailures(_log)

    def told(event: Event, /) -> None:
        for observer in of_answers if event.__class__ is Served else caring:
            try:
                observer(event)
            except Exception as error:  # noqa: BLE001  # whatever a program's own observer raises
                pass_interruption(error)
                failures.say(observer, error)

    return told


_LEVELS: Final[Mapping[type[Event], int]] = {
    StoreFailed: logging.WARNING,
    Undecodable: logging.WARNING,
    NotFilled: logging.DEBUG,
    Banned: logging.WARNING,
    Promoted: logging.WARNING,
    Refused: logging.WARNING,
    NotDiscovered: logging.WARNING,
    Passed: logging.DEBUG,
    Voided: logging.WARNING,
    TriggerFailed: logging.WARNING,
    ObserversMissed: logging.WARNING,
}


_REASONS: Final[Mapping[type[Event], Callable[[Any], str]]] = {
    StoreFailed: attrgetter("where"),
    Missed: attrgetter("reason"),
    TriggerFailed: attrgetter("table"),
    ObserverFailed: attrgetter("error"),
}


def _kind(event: Event) -> tuple[type[Event], str]:
    reason = _REASONS.get(type(event))
    return type(event), "" if reason is None else reason(event)


def _named(kind: tuple[type[Event], str]) -> str:
    event, reason = kind
    return f"{event.__name__}: {reason}" if reason else event.__name__
