"""The sharding layer: each call goes to the shard of its tenant, and after a flip to the one that has it then.

With one shard every call goes there, and nothing is asked.

It stands below the caching: a hit asks no shard. What a root says of its tenant's shard is taken for what it is: a root
of the very ownership that the map names vouches for the shard, one of a later epoch tells that the map is old.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from tidegate.cache.request import ONLY_PRIMARY
from tidegate.errors import StaleShardMap, UnknownTenant
from tidegate.proxy.call import OneShard
from tidegate.proxy.explanation import ShardExplained, uncached
from tidegate.proxy.shards.ownership_checks import ownership_checks
from tidegate.proxy.shards.registry import MOST_MOVES
from tidegate.proxy.shards.retry import StaleMapRetry
from tidegate.proxy.shards.sessions import ShardMakers
from tidegate.repositories.policies import Read

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.cache.request import Answer, ReadRequirement
    from tidegate.proxy.call import Call
    from tidegate.proxy.explanation import Explanation
    from tidegate.proxy.shards.registry import Shard, Shards
    from tidegate.repositories.policies import Policy
    from tidegate.routing.sharding.shard_map import Ownership


class Sharding:
    """Run calls on their tenants' shards.

    Args:
        shards: all of them.
        ask: tells which node will do for a read that the caching has not asked about.
        flip_wait_s: how long a write waits for a flip to get by, in seconds.
    """

    def __init__(self, shards: Shards, ask: Callable[[Call], ReadRequirement], flip_wait_s: float) -> None:
        self._shards: Final = shards
        self._ask: Final = ask
        self._flip_wait_s: Final = flip_wait_s
        self._makers: Final = {name: ShardMakers(shard.engine) for name, shard in shards.by_name.items()}

    def __call__(self, call: Call) -> Answer:
        """Answer from the shard that has the tenant.

        Raises:
            UnknownTenant: the call names none, and no layer above knows whose it is.
            StaleShardMap: the shard that the map names does not own the tenant, and there is no newer map to be had.
        """
        only = self._shards.only
        if only is not None:
            return only.routing(call)
        if isinstance(call.scope, OneShard):
            shard = self._shards.at(call.scope.shard)
            sessions = self._maker(call, shard.name, check=True)
            return shard.routing(call.at(call.route.on_shard(sessions, call.route.requirement)))
        if call.tenant is None:
            raise UnknownTenant(f"{call.method.qualified_name} names no tenant, and this gate has several shards")
        if isinstance(call.policy, Read):
            return self._read(call, call.tenant)
        retry = partial(StaleMapRetry, self._shards, self._flip_wait_s)
        shard = self._shards.at(self._shards.ownership(call.tenant).shard)
        return shard.routing(call.at(call.route._replace(retry=retry)))

    def explain(self, call: Call) -> Explanation:
        """Explain which shard has the tenant, and which of its nodes would answer; every shard, if nobody knows."""
        if self._shards.only is not None:
            return self._shards.only.routing.explain(call)
        if call.tenant is None:
            why = "whose rows these are is not known before they are found"
            return uncached(
                call.shown(), [ShardExplained(name, answers=True, why=why) for name in self._shards.names()]
            )
        unit, name, since_epoch = self._shards.ownership(call.tenant)
        shard = self._shards.by_name.get(name)  # not joined for this: its database need not answer
        if shard is None:
            why = f"{unit} is there, and these settings have no such shard"
            return uncached(call.shown(), [ShardExplained(name, answers=False, why=why)])
        root = None if call.route.requirement is None else call.route.requirement.root
        if root is not None and (root.epoch, root.shard) != (since_epoch, name):
            call = call.at(call.route._replace(requirement=ONLY_PRIMARY))
        line = ShardExplained(name, answers=True, why=f"{unit} is there since epoch {since_epoch}")
        return uncached(call.shown(), [line, *shard.routing.explain(call).nodes])

    def _read(self, call: Call, tenant: str) -> Answer:
        moves = 0
        while True:
            ownership = self._shards.ownership(tenant)
            try:
                return self._read_at(call, ownership)
            except StaleShardMap as refused:
                moves += 1
                if self._shards.moved(tenant, ownership, refused):
                    if moves < MOST_MOVES:
                        continue
                    raise
                if isinstance(refused, _NewerRoot):  # the catalogue has lost what the root knows
                    raise
            # Nobody has written elsewhere: what lies here is the newest, whatever the shard's table says by now. The
            # shard itself has not said so: it is answered, and not stored for others.
            shard = self._shards.at(ownership.shard)
            return self._run(call, ownership, shard, ONLY_PRIMARY, check=False)._replace(origin=None)

    def _read_at(self, call: Call, ownership: Ownership) -> Answer:
        requirement, shard = call.route.requirement, self._shards.at(ownership.shard)
        if requirement is None and shard.nodes is not None and _may_be_elsewhere(call.policy):
            requirement = self._ask(call)
        root = None if requirement is None else requirement.root
        if root is not None and root.epoch > ownership.since_epoch:
            raise _NewerRoot(
                f"the marks of this tenant are of epoch {root.epoch} on {root.shard}, and the shard map at hand has "
                f"{ownership.unit} on {ownership.shard} since {ownership.since_epoch}"
            )
        vouched = root is not None and (root.epoch, root.shard) == (ownership.since_epoch, ownership.shard)
        if root is not None and not vouched:
            requirement = ONLY_PRIMARY  # the position is one in another shard's log
        return self._run(call, ownership, shard, requirement, check=not vouched)

    def _run(
        self, call: Call, ownership: Ownership, shard: Shard, requirement: ReadRequirement | None, *, check: bool
    ) -> Answer:
        routing, sessions = shard.routing, self._maker(call, ownership.shard, check=check)
        routed = call.at(call.route.on_shard(sessions, requirement))
        if check:
            with ownership_checks(ownership):
                answer = routing(routed)
        else:
            answer = routing(routed)
        if answer.origin is None:
            return answer
        return answer._replace(origin=answer.origin._replace(epoch=ownership.since_epoch, shard=ownership.shard))

    def _maker(self, call: Call, shard: str, *, check: bool) -> sessionmaker[Session]:
        return self._makers[shard].like(call.home, checked=check)


def _may_be_elsewhere(policy: Policy) -> bool:
    return isinstance(policy, Read) and policy.node == "any"


class _NewerRoot(StaleShardMap):
    """The marks know of a later epoch than the map."""
