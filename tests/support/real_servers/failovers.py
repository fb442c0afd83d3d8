"""One primary with replicas that are promoted again and again, with and without loss; what is left of a server rejoins.

What befalls the servers is told to other processes on a :class:`Stage`, and what these have done is counted there.
"""

from __future__ import annotations

import mmap
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidegate.proxy.embedded.process import give_to_server, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.proxy.embedded import Cluster, PostgresNode

COUNTED: Final = ("reads", "judged", "after", "hits", "stale", "lost", "writes", "failed")
"""What each process counts: reads; those of them that were judged, those judged also for what was lost, and those that
the cache answered; those that were older than they might be, and those that showed what was lost; commits; and calls
that failed."""
_BYTES: Final = 8
_TURN, _PRIMARY, _OVER, _DOUBT, _CALM, _HEAD = range(6)


class Stage:
    """Who is the primary, and what was counted, in memory that processes share.

    Args:
        path: a file; made by whoever comes first.
        players: how many processes count at a time; one may come in the place of another.
    """

    def __init__(self, path: str, players: int) -> None:
        self.path, self.players = path, players
        bytes_needed = _BYTES * (_HEAD + players * len(COUNTED))
        file = Path(path)
        if not file.exists():
            file.write_bytes(bytes(bytes_needed))
        with file.open("r+b") as opened:
            self._cells = memoryview(mmap.mmap(opened.fileno(), bytes_needed)).cast("Q")

    @property
    def turn(self) -> int:
        """Grows with each change of the primary; odd while it changes, or is away."""
        return self._cells[_TURN]

    @property
    def primary(self) -> int:
        """The number of the server that is the primary."""
        return self._cells[_PRIMARY]

    @property
    def doubt(self) -> bool:
        """Whether only a gate that knows of the last failover can be right.

        Either the server that was replaced still answers as a primary, or the new one has what that one had lost.
        """
        return bool(self._cells[_DOUBT])

    @doubt.setter
    def doubt(self, still: bool) -> None:
        self._cells[_DOUBT] = still

    @property
    def calm(self) -> bool:
        """Whether there was enough of everything since the last fault, and the next one has not come.

        The servers that rejoin meanwhile need the processors more.
        """
        return bool(self._cells[_CALM])

    @calm.setter
    def calm(self, now: bool) -> None:
        self._cells[_CALM] = now

    @property
    def over(self) -> bool:
        """Whether all are to end."""
        return bool(self._cells[_OVER])

    def end(self) -> None:
        """Have all end."""
        self._cells[_OVER] = 1

    def begins(self) -> None:
        """The primary goes away."""
        self.calm = False
        self._cells[_TURN] += 1

    def ends(self, primary: int) -> None:
        """There is a primary again."""
        self._cells[_PRIMARY] = primary
        self._cells[_TURN] += 1

    def count(self, player: int, what: str) -> None:
        """One more; a process counts in one thread at a time."""
        self._cells[_HEAD + player * len(COUNTED) + COUNTED.index(what)] += 1

    def counted(self, what: str) -> int:
        """Of all processes, those too that are no more."""
        return sum(self._cells[_HEAD + n * len(COUNTED) + COUNTED.index(what)] for n in range(self.players))


class Failovers:
    """The servers of a shard, and what befalls them.

    Args:
        cluster: the servers.
        stage: is told who the primary is.
        meanwhile: returns when enough was done by the processes that use the servers.
    """

    def __init__(self, cluster: Cluster, stage: Stage, meanwhile: Callable[[], None]) -> None:
        shard = cluster.shards[0]
        self.nodes: list[PostgresNode] = [shard.primary, *shard.replicas]
        self.primary = shard.primary
        self.promotions = 0
        self._stage = stage
        self._meanwhile = meanwhile

    @property
    def replicas(self) -> list[PostgresNode]:
        """All but the primary."""
        return [node for node in self.nodes if node is not self.primary]

    def promote_with_loss(self) -> None:
        """Promote a replica that had not got the last commits; the others, which may have them, are rewound."""
        self._lose()
        for node in self.replicas:
            self._rewind(node)

    def promote_beside(self) -> None:
        """Promote a replica while the old primary goes on for a while; then it is rewound, and comes back."""
        old, new = self.primary, self.replicas[0]
        self._stage.begins()
        self._stage.doubt = True
        self._promote(new)
        self._stage.ends(self.nodes.index(new))
        self._meanwhile()
        old.kill()
        self._stage.doubt = False
        for node in self.replicas:
            self._rewind(node)

    def promote_two(self) -> None:
        """Promote two replicas one after the other, to timelines of one number; the others are made anew."""
        self._lose()
        self._meanwhile()
        self._stage.begins()
        self._stage.doubt = True
        self.primary.kill()
        self._promote(next(node for node in self.replicas if node.running))
        self._stage.ends(self.nodes.index(self.primary))
        self._meanwhile()
        self._stage.doubt = False
        for node in self.replicas:
            self._make_anew(node)

    def crash(self) -> None:
        """Kill the primary, and start it again as it is; what was not yet on its disk is lost."""
        self._stage.begins()
        self.primary.kill()
        self.primary.launch()
        self._stage.ends(self.nodes.index(self.primary))

    def _lose(self) -> None:
        new = self.replicas[0]
        new.stop()
        self._meanwhile()
        self._stage.begins()
        self.primary.kill()
        new.launch()
        self._promote(new)
        self._stage.ends(self.nodes.index(new))

    def _promote(self, node: PostgresNode) -> None:
        node.promote()
        self.primary = node
        self.promotions += 1

    def _rewind(self, node: PostgresNode) -> None:
        """Have a server that has gone its own way follow the primary again: its own pages are replaced."""
        node.stop()
        own = {name: (node._folder / name).read_bytes() for name in ("tidegate.conf", "postgresql.auto.conf")}
        source = f"host=127.0.0.1 port={self.primary.port} user=postgres dbname=postgres"
        self._run("pg_rewind", node, "-D", str(node._folder), "--source-server", source, "--no-sync")
        self._follow(node, own)

    def _make_anew(self, node: PostgresNode) -> None:
        """Have a server begin again as a copy of the primary."""
        node.stop()
        own = {name: (node._folder / name).read_bytes() for name in ("tidegate.conf", "postgresql.auto.conf")}
        for path in node._folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        source = f"host=127.0.0.1 port={self.primary.port} user=postgres"
        self._run("pg_basebackup", node, "-D", str(node._folder), "-d", source, "-c", "fast", "--no-sync")
        self._follow(node, own)

    def _run(self, program: str, node: PostgresNode, *options: str) -> None:
        run([str(node._programs / program), *options], cwd=node._folder.parent)

    def _follow(self, node: PostgresNode, own: dict[str, bytes]) -> None:
        for name, content in own.items():
            (node._folder / name).write_bytes(content)
        with (node._folder / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.write(f"\nprimary_conninfo = 'host=127.0.0.1 port={self.primary.port} user=postgres'\n")
            file.write("primary_slot_name = ''\n")
        (node._folder / "standby.signal").touch()
        give_to_server(node._folder)
        node.start()
