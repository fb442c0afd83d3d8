"""The routing layer: reads go to a replica that has reached the position they need, everything else to the primary.

A replica that fails is left alone for a while, and the read goes on to another one, and to the primary in the end.
Reads only: a write is run once, on the primary.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy.exc import DBAPIError

from tidegate.cache.read_needs import ReadNeeds
from tidegate.cache.request import ONLY_PRIMARY, Answer, ReadRequirement
from tidegate.cache.tags import as_text, template
from tidegate.error_text import first_line
from tidegate.errors import Overloaded, PolicyError
from tidegate.position import NOWHERE, Origin
from tidegate.proxy.database.origins import origins_seen
from tidegate.proxy.explanation import uncached
from tidegate.proxy.layers.explained import explained
from tidegate.repositories.policies import Read
from tidegate.routing.events import Banned, Passed, Refused
from tidegate.routing.replicas.attempt import Attempt, ConnectionLost, NotReached, current
from tidegate.routing.replicas.choose import ReplicaRequirement, choose
from tidegate.routing.replicas.failures import Verdict, verdict
from tidegate.routing.replicas.health import HEALTHY, BackoffPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.cache.root_recovery import RootRecovery
    from tidegate.cache.store import Store
    from tidegate.cache.untold import UntoldChanges
    from tidegate.position import AskedFor
    from tidegate.proxy.call import Call
    from tidegate.proxy.explanation import Explanation
    from tidegate.proxy.nodes.shard_nodes import ShardNodes
    from tidegate.routing.events import Observer
    from tidegate.routing.replicas.admission import Admission
    from tidegate.routing.replicas.own_writes import OwnWrites
    from tidegate.routing.replicas.topology import Node


ANYWHERE: Final = ReadRequirement(NOWHERE, primary=False)
"""Nobody knows of a write that a replica would have to show."""


UNSURE: Final = "a write may be under way, or the tenant's marks do not tell"
"""Why only the primary will do, as the marks say it."""


class ReadRequirements(NamedTuple):
    """What tells which node will do for a call that the caching has not asked about.

    Args:
        ask: asks the marks, and advances a root that is not clean.
        peek: the same, but changes nothing.
    """

    ask: Callable[[Call], ReadRequirement]
    peek: Callable[[Call], ReadRequirement]


def read_requirements(
    store: Store | None, recovery: RootRecovery | None, untold: UntoldChanges, asked: Callable[[str], AskedFor]
) -> ReadRequirements:
    """Make what tells which node will do, by the marks.

    Args:
        store: where the marks are; None: nobody knows of any write.
        recovery: advances roots.
        untold: of whom the marks do not tell everything.
        asked: tells whose marks a tenant's must be.
    """
    if store is None:
        return ReadRequirements(lambda _call: ANYWHERE, lambda _call: ANYWHERE)
    return ReadRequirements(
        _asking(ReadNeeds(store, recovery, asked), untold), _asking(ReadNeeds(store, None, asked), untold)
    )


def _asking(needs: ReadNeeds, untold: UntoldChanges) -> Callable[[Call], ReadRequirement]:

    def ask(call: Call) -> ReadRequirement:
        policy = call.policy
        guard = template(policy.guard).expand(call.arguments) if isinstance(policy, Read) and policy.guard else None
        if not call.route.cacheable or not isinstance(guard, str):
            return ONLY_PRIMARY
        tenant = as_text(call.tenant)
        return ONLY_PRIMARY if untold.of(tenant) else needs(tenant, guard)

    return ask


class PrimaryOnly:
    """Run every call on the primary, with the session maker of its route."""

    def __call__(self, call: Call) -> Answer:
        """Run the plain method; tell whose data it has read, where somebody wants to know."""
        if not call.route.wants_origin:
            return Answer(call.run())
        with origins_seen() as seen:
            value = call.run()
        # Several sessions may have answered together; where they do not agree, nothing may be stored.
        return Answer(value, seen.pop() if len(seen) == 1 else None)

    def explain(self, call: Call) -> Explanation:
        """Explain nothing of nodes: there is only one."""
        return uncached(call.shown())


class TryAnotherNode(Exception):  # noqa: N818  # no mistake: the read goes on
    """Say that this replica did not answer."""


class Routing:
    """Choose the node for each call of one shard.

    Args:
        nodes: the servers.
        shard: the shard's name, as origins have it.
        requirements: tells which node will do for a call that no layer above has asked about.
        own_writes: positions that the marks do not have: of tokens, and of writes the cache could not be told of.
        admission: to the primary, of reads.
        silent_s: how old what is known of a node may be, in seconds.
        bans: how long a replica that failed is left alone.
        observe: told what happened.
    """

    def __init__(
        self,
        nodes: ShardNodes,
        *,
        shard: str,
        requirements: ReadRequirements,
        own_writes: OwnWrites,
        admission: Admission,
        silent_s: float,
        bans: BackoffPolicy,
        observe: Observer,
    ) -> None:
        self._nodes: Final = nodes
        self._shard: Final = shard
        self._requirements: Final = requirements
        self._own_writes: Final = own_writes
        self._admission: Final = admission
        self._silent_s: Final = silent_s
        self._bans: Final = bans
        self._observe: Final = observe
        self._primary: Final = PrimaryOnly()

    def __call__(self, call: Call) -> Answer:
        """Have a node answer that has reached the position; the primary, where none has, or may."""
        self._nodes.ensure_started()
        if not isinstance(call.policy, Read):
            return self._at_primary(call)
        required = self._required(call, self._requirements.ask)
        if isinstance(required, str):
            return self._on_primary(call)
        if (found := self._on_replicas(call, required)) is not None:
            return found
        self._nodes.want()
        try:
            return self._on_primary(call)
        except DBAPIError as error:
            if verdict(error) is not Verdict.BAN:
                raise
            self._observe(Passed(self._nodes.topology.primary.name, first_line(error)))
        # The primary has failed in the middle. Replicas may have reached the position since; or it is back at once.
        found = self._on_replicas(call, required)
        return self._on_primary(call) if found is None else found

    def _on_replicas(self, call: Call, required: ReplicaRequirement) -> Answer | None:
        """Have one of them answer; None if none does."""
        passed: list[Node] = []
        while (node := self._choice(required, passed) or self._later_choice(required, passed)) is not None:
            try:
                return self._on_replica(call, node, required)
            except TryAnotherNode as why:
                passed.append(node)
                self._observe(Passed(node.name, str(why)))
        return None

    def explain(self, call: Call) -> Explanation:
        """Explain which nodes would answer *call*, and why the others would not; the primary first."""
        self._nodes.look()
        nodes = explained(self._nodes.topology, self._required(call, self._requirements.peek), time.monotonic())
        return uncached(call.shown(), nodes)

    def _required(self, call: Call, ask: Callable[[Call], ReadRequirement]) -> ReplicaRequirement | str:
        """Return what a replica must have to answer a read; a text: why only the primary will do."""
        if not isinstance(call.policy, Read):
            return "writes are the primary's"
        if call.policy.node != "any":
            return "the method's policy names the primary"
        if call.tenant is None:
            return "the call names no tenant"
        requirement = call.route.requirement
        if requirement is None:
            requirement = ask(call)
        if requirement.primary:
            return UNSURE
        own = self._own_writes.position(call.tenant)
        if own is None:
            return "a commit of this process has not come back"
        position = requirement.position if own is NOWHERE else requirement.position.merged(own)
        return ReplicaRequirement(position, self._silent_s)

    def _choice(self, required: ReplicaRequirement, passed: list[Node]) -> Node | None:
        return choose(self._nodes.topology, required, time.monotonic(), random.random, passed)

    def _later_choice(self, required: ReplicaRequirement, passed: list[Node]) -> Node | None:
        return self._choice(required, passed) if self._nodes.look_again(required) else None

    def _on_primary(self, call: Call) -> Answer:
        try:
            with self._admission.admitted(call.tenant or ""):
                return self._at_primary(call)
        except Overloaded:
            self._observe(Refused(call.tenant or ""))
            raise

    def _at_primary(self, call: Call) -> Answer:
        name = self._nodes.topology.primary.name
        answer = self._primary(call)
        return Answer(answer.value, answer.origin, name)

    def _on_replica(self, call: Call, node: Node, required: ReplicaRequirement) -> Answer:
        view = node.view
        maker = self._nodes.session_maker(node, call.route.sessions or call.repository.tidegate_binding.home)
        if view is None or maker is None:
            raise TryAnotherNode("its connections are not to be had here")
        attempt = Attempt(node, view, required.position, time.monotonic())
        if not self._nodes.enter(attempt):
            raise TryAnotherNode("all its connections are in use")
        token = current.set(attempt)
        try:
            value = call.run(maker)
        except Exception as error:
            self._judge(call, attempt, error)
            raise
        finally:
            self._nodes.leave(attempt)
            current.reset(token)
        if node.health.failures:
            node.health = HEALTHY
        return Answer(value, attempt.history and Origin(0, attempt.history, self._shard), node.name)

    def _judge(self, call: Call, attempt: Attempt, error: Exception) -> None:
        """Return where the caller is to see the error.

        Raises:
            TryAnotherNode: another node is to answer.
            PolicyError: the method is no read.
        """
        if isinstance(error, NotReached):
            if isinstance(error, ConnectionLost):
                self._ban(attempt.node, str(error))
            raise TryAnotherNode(str(error)) from None
        found = Verdict.BAN if attempt.was_cut else verdict(error)
        why = first_line(error)
        if found is Verdict.NO_READ:
            raise PolicyError(
                f"{call.method.qualified_name} is declared Read, and a standby refused it ({why}): declare it Write, "
                "or Read(node=PRIMARY) if it only locks"
            ) from error
        if found is Verdict.BAN:
            self._ban(attempt.node, why)
        if found is not Verdict.RAISE:
            raise TryAnotherNode(why) from None

    def _ban(self, node: Node, why: str) -> None:
        now_s = time.monotonic()
        before, node.health = node.health, node.health.failed(self._bans, now_s, random.random())  # noqa: S311  # jitter
        if node.health is not before:
            self._observe(Banned(node.name, node.health.until_s - now_s, why))
