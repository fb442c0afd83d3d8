"""The members that Patroni names become nodes, and stop being nodes; the servers that the settings name stay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.proxy.nodes.addresses import Address
    from tidegate.proxy.nodes.shard_nodes import ShardNodes
    from tidegate.routing.replicas.patroni import Member


class PatroniMembers:
    """Add and remove nodes as Patroni's members come and go.

    Args:
        nodes: the nodes of the shard.
        like: the primary's address. All members have its user, password, database and options.
    """

    def __init__(self, nodes: ShardNodes, like: Address) -> None:
        self._nodes = nodes
        self._like = like
        self._added: set[str] = set()

    def __call__(self, members: Sequence[Member]) -> None:
        """Add a node for each new member, and remove the nodes whose members are gone. *members* are all of now."""
        named = {address.name: address for address in (address_of(member, self._like) for member in members)}
        for name in self._added - named.keys():
            if self._nodes.remove(name):
                self._added.discard(name)
        for name, address in named.items():
            if self._nodes.add(address):
                self._added.add(name)


def address_of(member: Member, like: Address) -> Address:
    """Return the address of *member*; everything but host and port is as in the primary's address *like*."""
    url = like.url.set(host=member.host, port=member.port).difference_update_query(["host", "port"])
    return replace(like, name=f"{member.host}:{member.port}", url=url, as_given=False)
