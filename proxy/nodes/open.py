"""Opening the servers of a shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from tidegate.error_text import remember_password
from tidegate.errors import SettingsError
from tidegate.proxy.nodes.addresses import addresses
from tidegate.proxy.nodes.connecting import Connecting
from tidegate.proxy.nodes.engines import follow_primary
from tidegate.proxy.nodes.hosts import hosts
from tidegate.proxy.nodes.patroni_members import PatroniMembers
from tidegate.proxy.nodes.shard_nodes import ShardNodes
from tidegate.routing.events import NotDiscovered, Promoted
from tidegate.routing.replicas.patroni import Discovery

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tidegate.proxy.database.histories import Histories
    from tidegate.proxy.observe import Observer
    from tidegate.proxy.settings import Settings, ShardSettings
    from tidegate.routing.replicas.topology import Node


def nodes_of(
    engine: Engine, shard: ShardSettings | None, settings: Settings, observe: Observer, histories: Histories
) -> ShardNodes | None:
    """Return the servers of a shard, and bind its engine to whichever is the primary.

    Args:
        engine: the engine of the shard's primary.
        shard: the shard's settings; None: the program brought the engine, and there are no settings for servers.
        settings: all settings.
        observe: is told of promotions, and where Patroni does not answer.
        histories: knows the history of the shard's database; of a new primary's it knows nothing at first.

    Returns:
        The servers; None where there is one only.

    Raises:
        SettingsError: a URL cannot be used, or a shard with replicas is not PostgreSQL.
    """
    event.listen(engine, "do_connect", _note_password)
    if shard is None or (not shard.replicas and not shard.patroni and len(hosts(engine.url)) == 1):
        return None
    if engine.dialect.name != "postgresql":
        raise SettingsError(
            f"shards.{shard.name}.replicas: only replicas of PostgreSQL can be read from, not of {engine.dialect.name}"
        )

    def changed(before: Node, now: Node) -> None:
        histories.forget()
        observe(Promoted(now.name, before.name, nodes.topology.timeline))

    connecting = Connecting(engine)
    connecting.learn()
    known = addresses(shard, settings, connecting.hosts())
    nodes = ShardNodes(connecting, known, settings.routing, changed)
    try:
        if shard.patroni:
            every_s = settings.routing.discover_ms / 1000
            found, lost = PatroniMembers(nodes, known[0]), lambda why: observe(NotDiscovered(why))
            nodes.discover(Discovery(shard.patroni, found, lost, every_s=every_s))
        nodes.find_primary()
        follow_primary(connecting, nodes.topology, nodes.url_of, nodes.ensure_started)
    except BaseException:
        nodes.close()
        raise
    return nodes


def _note_password(_dialect: Any, _record: Any, _cargs: Any, cparams: dict[str, Any]) -> None:
    """Have no error shown with the password of an engine, wherever the engine has it from."""
    remember_password(cparams.get("password"))
