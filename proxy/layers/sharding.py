"""The sharding layer: each call goes to the shard of its tenant, and after a flip to the one that has it then.

It stands below the caching: a hit asks no shard. What a root says of its tenant's shard is taken for what it is: a root
of the very ownership that the map names vouches for the shard, one of a later epoch tells that the map is old.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from tidegate.cache.request import ONLY_PRIMARY
from tidegate.errors import StaleShardMap, UnknownTenant
from tidegate.proxy.layers.explained import ShardExplained, nodes_explained
from tidegate.proxy.shards.registry import MOST_MOVES, ownership_checks
from tidegate.proxy.shards.retry import StaleMapRetry
from tidegate.proxy.shards.sessions import ShardMakers
from tidegate.repositories.policies import Read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.cache.request import ReadRequirement
    from tidegate.proxy.call import Call
    from tidegate.proxy.layers.explained import NodeLine
    from tidegate.proxy.shards.registry import Shards
    from tidegate.repositories.policies import Policy
    from tidegate.routing.sharding.shard_map import Ownership


class Sharding:
    """Runs calls on their tenants' shards.

    Args:
        shards: all of them.
        needs: which node will do for a read that the caching has not asked about.
        patience_s: how long a write waits for a flip to get by, in seconds.
    """

    def __init__(self, shards: Shards, needs: Callable[[Call], ReadRequirement], flip_wait_s: float) -> None:
        self._shards: Final = shards
        self._needs: Final = needs
        self._flip_wait_s: Final = flip_wait_s
        self._makers: Final = {name: ShardMakers(parts.engine) for name, parts in shards.parts.items()}

    def __call__(self, call: Call) -> object:
        """The answer of the shard that has the tenant.

        Raises:
            UnknownTenant: the call names none, and no layer above knows whose it is.
            StaleShardMap: the shard that the map names does not own the tenant, and there is no newer map to be had.
        """
        if call.shard is not None:
            parts = self._shards.at(call.shard)
            call.sessions = self._maker(call, call.shard, check=True)
            return parts.routing(call)
        if call.tenant is None:
            raise UnknownTenant(f"{call.name} names no tenant, and this gate has several shards")
        if isinstance(call.policy, Read):
            return self._read(call, call.tenant)
        call.again = partial(StaleMapRetry, self._shards, self._flip_wait_s)
        return self._shards.at(self._shards.ownership(call.tenant).shard).routing(call)

    def explain(self, call: Call) -> Sequence[NodeLine]:
        """Which shard has the tenant, and which of its nodes would answer; every shard, where nobody knows."""
        if call.tenant is None:
            why = "whose rows these are is not known before they are found"
            return [ShardExplained(name, answers=True, why=why) for name in self._shards.names()]
        unit, shard, since = self._shards.ownership(call.tenant)
        parts = self._shards.parts.get(shard)  # not joined for this: its database need not answer
        if parts is None:
            return [ShardExplained(shard, answers=False, why=f"{unit} is there, and these settings have no such shard")]
        root = None if call.need is None else call.need.root
        if root is not None and (root.epoch, root.shard) != (since, shard):
            call.need = ONLY_PRIMARY
        line = ShardExplained(shard, answers=True, why=f"{unit} is there since epoch {since}")
        return [line, *nodes_explained(parts.routing, call)]

    def _read(self, call: Call, tenant: str) -> object:
        given, moves = call.need, 0
        while True:
            ownership = self._shards.ownership(tenant)
            try:
                return self._read_at(call, ownership, given)
            except StaleShardMap as refused:
                moves += 1
                if self._shards.moved(tenant, ownership, refused):
                    if moves < MOST_MOVES:
                        continue
                    raise
                if isinstance(refused, _NewerRoot):  # the catalogue has lost what the root knows
                    raise
            # Nobody has written elsewhere: what lies here is the newest, whatever the shard's table says by now.
            answer = self._run(call, ownership, ONLY_PRIMARY, check=False)
            call.origin = None  # the shard itself has not said so: it is answered, and not stored for others
            return answer

    def _read_at(self, call: Call, ownership: Ownership, need: ReadRequirement | None) -> object:
        if need is None and self._shards.at(ownership.shard).nodes is not None and _may_be_elsewhere(call.policy):
            need = self._needs(call)
        root = None if need is None else need.root
        if root is not None and root.epoch > ownership.since_epoch:
            raise _NewerRoot(
                f"the marks of this tenant are of epoch {root.epoch} on {root.shard}, and the shard map at hand has "
                f"{ownership.unit} on {ownership.shard} since {ownership.since_epoch}"
            )
        vouched = root is not None and (root.epoch, root.shard) == (ownership.since_epoch, ownership.shard)
        if root is not None and not vouched:
            need = ONLY_PRIMARY  # the position is one in another shard's log
        return self._run(call, ownership, need, check=not vouched)

    def _run(self, call: Call, ownership: Ownership, need: ReadRequirement | None, *, check: bool) -> object:
        parts = self._shards.at(ownership.shard)
        call.need, call.sessions = need, self._maker(call, ownership.shard, check=check)
        if check:
            with ownership_checks(ownership):
                answer = parts.routing(call)
        else:
            answer = parts.routing(call)
        if call.origin is not None:
            call.origin = call.origin._replace(epoch=ownership.since_epoch, shard=ownership.shard)
        return answer

    def _maker(self, call: Call, shard: str, *, check: bool) -> sessionmaker[Session]:
        routed = call.home or call.repository.__dict__["_tidegate_session_maker"]
        return self._makers[shard].like(routed, checked=check)


def _may_be_elsewhere(policy: Policy) -> bool:
    return isinstance(policy, Read) and policy.node == "any"


class _NewerRoot(StaleShardMap):
    """The marks know of a later epoch than the map."""
