"""What Patroni names becomes nodes, and ceases to be; what the settings name stays."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tidegate.proxy.nodes.addresses import Address
    from tidegate.proxy.nodes.shard_nodes import ShardNodes
    from tidegate.routing.replicas.patroni import Member


class PatroniMembers:
    """Told the members; adds and removes nodes.

    Args:
        nodes: the shard's.
        like: the primary's address: user, password, database and options are the same for all.
    """

    def __init__(self, nodes: ShardNodes, like: Address) -> None:
        self._nodes = nodes
        self._like = like
        self._added: set[str] = set()

    def __call__(self, members: Sequence[Member]) -> None:
        """These are the members now."""
        named = {address.name: address for address in (address_of(member, self._like) for member in members)}
        for name in self._added - named.keys():
            if self._nodes.remove(name):
                self._added.discard(name)
        for name, address in named.items():
            if self._nodes.add(address):
                self._added.add(name)


def address_of(member: Member, like: Address) -> Address:
    """Where a *member* is; all else is as of the primary's address."""
    url = like.url.set(host=member.host, port=member.port).difference_update_query(["host", "port"])
    return replace(like, name=f"{member.host}:{member.port}", url=url)
