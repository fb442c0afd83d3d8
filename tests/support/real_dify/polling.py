"""Clients that poll a Dify over HTTP, and what they have seen: how long it took, and how old an answer was."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TIMEOUT_S: Final = 120.0


class Commits:
    """What a writer has committed: for each run, the values of its counter and since when each is there."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = defaultdict(list)
        self._values: dict[str, list[int]] = defaultdict(list)

    def add(self, run: str, value: int, at: float) -> None:
        """Note that *value* was committed before the moment *at* of this machine's monotonic clock."""
        self._values[run].append(value)
        self._times[run].append(at)

    def age_ms(self, run: str, value: int, asked: float) -> float:
        """Return for how long there had been a newer value than *value* when it was asked for; 0: it was the newest."""
        values, times = self._values[run], self._times[run]
        next_one = bisect_right(values, value)
        return max(0.0, 1000 * (asked - times[next_one])) if next_one < len(times) else 0.0


@dataclass(slots=True)
class Seen:
    """What clients have seen together.

    Args:
        ms: how long each answer took, by what was asked.
        reads: of single runs: which, the counter that was answered, and when it was asked for.
        failed: answers that were none, with how many of each.
    """

    ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    reads: list[tuple[str, int, float]] = field(default_factory=list)
    failed: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))


def poll(
    port: int,
    clients: int,
    seconds: float,
    paths: Mapping[str, Sequence[str]],
    headers: Mapping[str, str],
) -> Seen:
    """Have clients ask, each as soon as it has its answer, and return what they have seen.

    Args:
        port: of the server, on this machine.
        clients: how many.
        seconds: for how long.
        paths: by what is asked, all as often as each other: one is drawn. Those of "run" end with the run's id.
        headers: of every request.
    """
    seen, until = Seen(), time.monotonic() + seconds
    threads = [
        threading.Thread(target=_client, args=(number, port, until, paths, headers, seen), daemon=True)
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def _client(
    number: int,
    port: int,
    until: float,
    paths: Mapping[str, Sequence[str]],
    headers: Mapping[str, str],
    seen: Seen,
) -> None:
    chance = random.Random(number)  # noqa: S311  # no secret: the same questions each time
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    kinds = list(paths)
    while (asked := time.monotonic()) < until:
        kind = chance.choice(kinds)
        path = chance.choice(paths[kind])
        try:
            connection.request("GET", path, headers=dict(headers))
            answer = connection.getresponse()
            body = answer.read()
        except OSError as error:
            seen.failed[type(error).__name__] += 1
            connection.close()
            continue
        seen.ms[kind].append(1000 * (time.monotonic() - asked))
        if answer.status != http.client.OK:
            seen.failed[f"{kind}: {answer.status}"] += 1
        elif kind == "run":
            seen.reads.append((path.rpartition("/")[2], json.loads(body)["total_tokens"], asked))
    connection.close()
