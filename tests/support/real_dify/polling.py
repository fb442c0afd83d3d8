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
from typing import TYPE_CHECKING, Any, Final

from real_dify.celery_writer import nodes_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

_TIMEOUT_S: Final = 120.0


class Commits:
    """What a writer has committed: for each counter, its values and since when each is there."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = defaultdict(list)
        self._values: dict[str, list[int]] = defaultdict(list)

    def add(self, key: str, value: int, at: float) -> None:
        """Note that *value* was committed before the moment *at* of this machine's monotonic clock."""
        self._values[key].append(value)
        self._times[key].append(at)

    def age_ms(self, key: str, value: int, asked: float) -> float:
        """Return for how long there had been a newer value than *value* when it was asked for; 0: it was the newest."""
        values, times = self._values[key], self._times[key]
        next_one = bisect_right(values, value)
        return max(0.0, 1000 * (asked - times[next_one])) if next_one < len(times) else 0.0


@dataclass(slots=True)
class Seen:
    """What clients have seen together.

    Args:
        ms: how long each answer took, by what was asked.
        reads: of counters: which, the value that was answered, and when it was asked for.
        failed: answers that were none, with how many of each.
    """

    ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    reads: list[tuple[str, int, float]] = field(default_factory=list)
    failed: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, other: Seen) -> None:
        """Add what others have seen."""
        for kind, times in other.ms.items():
            self.ms[kind] += times
        for what, often in other.failed.items():
            self.failed[what] += often
        self.reads += other.reads


def poll(
    port: int,
    clients: int,
    seconds: float,
    paths: Mapping[str, Sequence[str]],
    headers: Mapping[str, str],
    written: Collection[str],
) -> Seen:
    """Have clients ask, each as soon as it has its answer, and return what they have seen.

    Args:
        port: of the server, on this machine.
        clients: how many.
        seconds: for how long.
        paths: by what is asked, all as often as each other: one is drawn.
        headers: of every request.
        written: the ids of runs whose counters are noted, wherever an answer has them.
    """
    seen, until = Seen(), time.monotonic() + seconds
    threads = [
        threading.Thread(target=_client, args=(number, port, until, paths, headers, written, seen), daemon=True)
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
    written: Collection[str],
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
        else:
            seen.reads += [(key, value, asked) for key, value in counters(path, json.loads(body), written)]
    connection.close()


def counters(path: str, answer: Any, written: Collection[str]) -> Iterator[tuple[str, int]]:
    """Yield the counters that an answer shows: of each run, wherever it is in it, and of a run's nodes.

    Args:
        path: what was asked for.
        answer: its JSON.
        written: the ids of runs.
    """
    run, _, asked = path.rpartition("/")
    run = run.rpartition("/")[2]
    if asked == "node-executions" and run in written:
        yield nodes_key(run), max((int(node["elapsed_time"]) for node in answer["data"]), default=0)
        return
    for found in _objects(answer):
        if found.get("id") in written and "total_tokens" in found:
            yield found["id"], found["total_tokens"]


def _objects(answer: Any) -> Iterator[dict[str, Any]]:
    if isinstance(answer, dict):
        yield answer
    for part in answer.values() if isinstance(answer, dict) else answer if isinstance(answer, list) else ():
        yield from _objects(part)
