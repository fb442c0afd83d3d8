"""One primary with two replicas, and what befalls them: spikes of lag, a killed replica, a promotion."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tidegate.proxy.embedded.process import give_to_server

if TYPE_CHECKING:
    from tidegate.proxy.embedded import Cluster, PostgresNode

_USER: Final = "host=127.0.0.1 port={port} user=postgres application_name={name}"


class Fleet:
    """The nodes of a running cluster with one shard; changes who is the primary.

    Args:
        cluster: the servers.
    """

    def __init__(self, cluster: Cluster) -> None:
        shard = cluster.shards[0]
        self.nodes: list[PostgresNode] = [shard.primary, *shard.replicas]
        self.primary = shard.primary
        self._lag_s = 0.0

    @property
    def replicas(self) -> list[PostgresNode]:
        """All but the primary."""
        return [node for node in self.nodes if node is not self.primary]

    def lag(self, seconds: float) -> None:
        """Have all replicas be behind by so much, and those that there will be."""
        self._lag_s = seconds
        for replica in self.replicas:
            replica.delay(seconds)

    def spike(self, replicas: list[PostgresNode], seconds: float) -> None:
        """Have *replicas* fall behind by so many seconds, for as long."""
        for replica in replicas:
            replica.delay(seconds)
        time.sleep(seconds)  # the spike is what is tried
        for replica in replicas:
            replica.delay(self._lag_s)

    def promote(self) -> None:
        """Shut the primary down in good order, promote a replica, and have the others follow it, the old primary too.

        In good order, so that what was acknowledged is on the promoted one: replication is asynchronous here.
        """
        old, new = self.primary, self.replicas[0]
        old.stop()
        new.promote()
        self.primary = new
        for follower in self.replicas:
            new.execute("SELECT pg_create_physical_replication_slot(%s)", follower.name, database="postgres")
        for follower in self.replicas:
            if follower is not old:
                follower.execute(f"ALTER SYSTEM SET primary_conninfo = '{_source(new, follower)}'")
                follower.execute("SELECT pg_reload_conf()")
        self._rejoin(old, new)

    def _rejoin(self, old: PostgresNode, new: PostgresNode) -> None:
        lines = {
            "primary_conninfo": _source(new, old),
            "primary_slot_name": old.name,
            "recovery_min_apply_delay": f"{round(self._lag_s * 1000)}ms",
        }
        with (old._folder / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in lines.items())
        (old._folder / "standby.signal").touch()
        give_to_server(old._folder)
        old.start()


def _source(primary: PostgresNode, follower: PostgresNode) -> str:
    return _USER.format(port=primary.port, name=follower.name)
