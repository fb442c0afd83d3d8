"""Promotions while processes read and write, and are killed: with lost commits, beside the old primary, two in a row.

No answer lacks what the primary showed before the read began, and none has what a failover has lost, once its gate
knows of that failover.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import pytest
from real_servers.deadlines import patient
from real_servers.failovers import COUNTED, Failovers, Stage
from real_servers.printed_numbers import show
from real_servers.replicated import make_notes
from real_servers.subprocesses import Child

from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CACHES: Final[tuple[dict[str, Any], ...]] = ({"near": False}, {}, {"when_away": "refuse"})
"""One process for each."""
CALLERS: Final = 3
_ENOUGH: Final = {"judged": 150, "after": 50, "hits": 50, "writes": 20}
"""What is done between one fault and the next, at least."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    # Rewinding needs the first two. With the third a crash loses commits that were acknowledged. A server that was away
    # through several failovers needs the log of all of them.
    given = {"wal_log_hints": "on", "full_page_writes": "on", "wal_writer_delay": "500ms", "wal_keep_size": "2GB"}
    with Cluster(replicas=2, postgres_settings=given) as running:
        make_notes(running)
        running.shards[0].primary.execute("CREATE INDEX ON notes (tenant_id)")
        yield running


class Play:
    """Processes that read and write, and are killed, on servers that are promoted.

    Args:
        cluster: the servers.
        path: where the stage is.
        stack: ends the processes.
        broken: which rule they lack.
    """

    def __init__(self, cluster: Cluster, path: str, stack: ExitStack, broken: str = "") -> None:
        self.stage = Stage(path, len(CACHES))
        self.failovers = Failovers(cluster, self.stage, self.go_on)
        self.happened: Counter[str] = Counter()
        self._cluster = cluster
        self._stack = stack
        self._broken = broken
        self._players = [self._begin(n) for n in range(len(CACHES))]
        for child in self._players:
            assert child.hear() == "ready"

    def _begin(self, player: int) -> Child:
        shard = self._cluster.shards[0]
        # Patient with the cache: a slow answer would send writes to the outbox.
        cache = {"url": self._cluster.cache.url, "connect_timeout_ms": 5_000, "read_timeout_ms": 5_000}
        servers = {"name": "s0", "primary": shard.primary.url, "replicas": [node.url for node in shard.replicas]}
        given = {
            "settings": {"shards": [servers], "cache": cache | CACHES[player]},
            "conninfos": [f"{n.url.replace('+psycopg', '')}?connect_timeout=2" for n in self.failovers.nodes],
            "stage": self.stage.path,
            "players": len(CACHES),
            "player": player,
            "callers": CALLERS,
            "broken": self._broken,
        }
        return self._stack.enter_context(Child("judged_process", given))

    def go_on(self) -> None:
        """Until there was enough of everything."""
        least = {what: self.stage.counted(what) + more for what, more in _ENOUGH.items()}

        def enough() -> bool:
            return all(self.stage.counted(what) >= much for what, much in least.items())

        self.stage.calm = False
        wait_for(enough, f"there is {least} of {self.counts()}", patient(60))
        self.stage.calm = True

    def kill_one(self) -> None:
        """SIGKILL, in the middle of whatever it does; another one comes in its place, and has a gate before it goes on.

        It must not be made while there is no primary: no gate can be.
        """
        player = self.happened["a process is killed"] % len(CACHES)
        self._players[player].kill()
        self.happened["a process is killed"] += 1
        self._players[player] = self._begin(player)
        assert self._players[player].hear() == "ready"

    def restart_cache(self) -> None:
        """Kill the cache: it comes back empty, as another life of its server."""
        self._cluster.cache.kill()
        self._cluster.cache.start()

    def lag(self) -> None:
        """Have a replica show nothing new for a while."""
        replica = self.failovers.replicas[-1]
        replica.pause_replay()
        self.go_on()
        replica.resume_replay()

    def play(self, *acts: str) -> None:
        """Have things happen, one after the other; a process is killed beside each."""
        happens = {
            "a lossy promotion": self.failovers.promote_with_loss,
            "a promotion beside": self.failovers.promote_beside,
            "two promotions": self.failovers.promote_two,
            "a crash": self.failovers.crash,
            "a flush": self._cluster.cache.flush,
            "a cache that is killed": self.restart_cache,
            "a replica that lags": self.lag,
        }
        for act in acts:
            self.kill_one()
            happens[act]()
            self.happened[act] += 1
            self.go_on()

    def counts(self) -> dict[str, int]:
        return {what: self.stage.counted(what) for what in COUNTED}

    def end(self) -> None:
        self.stage.end()
        for child in self._players:
            while child.hear() != "ended":
                pass

    def examples(self) -> str:
        path = self.stage.path + ".wrong"
        with open(path, "a+", encoding="utf-8") as file:  # noqa: PTH123
            file.seek(0)
            return file.read()[:4_000]


SHORT = ("a lossy promotion", "a flush", "a promotion beside")
LONG = (
    "a replica that lags",
    "a lossy promotion",
    "a flush",
    "two promotions",
    "a crash",
    "a promotion beside",
    "a cache that is killed",
    "a lossy promotion",
)


@pytest.mark.parametrize(
    ("acts", "rounds"),
    [
        pytest.param(SHORT, 1, id="ci"),
        pytest.param(LONG, 12, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)], id="soak"),
    ],
)
def test_no_answer_is_older_than_the_primary_nor_shows_what_a_failover_lost(
    acts: tuple[str, ...], rounds: int, cluster: Cluster, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        play = Play(cluster, str(tmp_path / "stage"), stack)
        play.go_on()
        for _ in range(rounds):
            play.play(*acts)
            show("so far", play.counts())
        play.end()
        show("done", play.counts())
        show("happened", play.happened)
        show("promotions", str(play.failovers.promotions))
        assert play.counts()["stale"] == 0, play.examples()
        assert play.counts()["lost"] == 0, play.examples()


@pytest.mark.parametrize(
    ("broken", "found"), [("no intent", "stale"), pytest.param("any root", "lost", marks=pytest.mark.soak)]
)
def test_processes_that_lack_a_rule_are_found_out(broken: str, found: str, cluster: Cluster, tmp_path: Path) -> None:
    # The same processes, and a protocol that lacks one rule: what they would say if the product lacked it.
    with ExitStack() as stack:
        play = Play(cluster, str(tmp_path / "stage"), stack, broken)
        for _ in range(5):
            play.play("a lossy promotion")
            if play.counts()[found]:
                break
        play.end()
        show("done", play.counts())
        assert play.counts()[found] > 0
