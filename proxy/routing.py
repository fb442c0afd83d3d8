"""The routing layer: reads go to a replica that has reached the position they need, everything else to the primary.

A replica that fails is left alone for a while, and the read goes on to another one, and to the primary in the end.
Reads only: a write is run once, on the primary.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

from tidegate.cache.needs import Needs
from tidegate.cache.request import ONLY_PRIMARY, Need
from tidegate.cache.tags import as_text, template
from tidegate.errors import Overloaded, PolicyError
from tidegate.proxy.origins import origins_seen
from tidegate.repositories.policies import Read
from tidegate.repositories.position import NOWHERE, Origin
from tidegate.routing.attempt import Attempt, NotReached, current
from tidegate.routing.bans import HEALTHY, Bans
from tidegate.routing.choose import Wanted, choose
from tidegate.routing.events import Banned, Passed, Refused
from tidegate.routing.failures import Verdict, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.cache.keeper import Keeper
    from tidegate.cache.store import Store
    from tidegate.proxy.call import Call
    from tidegate.proxy.nodes import Nodes
    from tidegate.routing.admission import Admission
    from tidegate.routing.events import Observer
    from tidegate.routing.topology import Node
    from tidegate.routing.written import Written


ANYWHERE: Final = Need(NOWHERE, primary=False)
"""Nobody knows of a write that a replica would have to show."""


def needs_of(store: Store | None, keeper: Keeper | None) -> Callable[[Call], Need]:
    """What tells which node will do for a call that the caching has not asked about."""
    if store is None or keeper is None:
        return lambda _call: ANYWHERE
    marks = Needs(store, keeper)

    def ask(call: Call) -> Need:
        policy = call.policy
        guard = template(policy.guard).expand(call.arguments) if isinstance(policy, Read) and policy.guard else None
        if not call.cacheable or not isinstance(guard, str):
            return ONLY_PRIMARY
        return marks(as_text(call.tenant), guard)

    return ask


class OnPrimary:
    """Runs every call on the primary, with the repository's own session maker."""

    def __call__(self, call: Call) -> object:
        """The plain answer; notes whose data it is, where that is asked for."""
        if not call.tell_origin:
            return call.run_plain()
        with origins_seen() as seen:
            answer = call.run_plain()
        # Several sessions may have answered together; where they do not agree, nothing may be stored.
        call.origin = seen.pop() if len(seen) == 1 else None
        return answer


class Elsewhere(Exception):  # noqa: N818  # no mistake: the read goes on
    """This replica did not answer."""


class Routing:
    """Chooses the node for each call of one shard.

    Args:
        nodes: the servers.
        shard: the shard's name, as origins have it.
        needs: which node will do for a call that no layer above has asked about.
        written: positions that the marks do not have: of tokens, and of writes the cache could not be told of.
        admission: to the primary, of reads.
        silent_s: how old what is known of a node may be, in seconds.
        bans: how long a replica that failed is left alone.
        observe: told what happened.
    """

    def __init__(
        self,
        nodes: Nodes,
        *,
        shard: str,
        needs: Callable[[Call], Need],
        written: Written,
        admission: Admission,
        silent_s: float,
        bans: Bans,
        observe: Observer,
    ) -> None:
        self._nodes: Final = nodes
        self._shard: Final = shard
        self._needs: Final = needs
        self._written: Final = written
        self._admission: Final = admission
        self._silent_s: Final = silent_s
        self._bans: Final = bans
        self._observe: Final = observe
        self._primary: Final = OnPrimary()

    def __call__(self, call: Call) -> object:
        """The answer of a node that has reached the position; of the primary, where none has, or may."""
        self._nodes.ensure_started()
        if not isinstance(call.policy, Read):
            call.node = self._nodes.topology.primary.name
            return self._primary(call)
        wanted = self.wanted(call)
        if wanted is not None:
            passed: list[Node] = []
            while (node := self._choice(wanted, passed)) is not None:
                try:
                    return self._on_replica(call, node, wanted)
                except Elsewhere as why:
                    passed.append(node)
                    self._observe(Passed(node.name, str(why)))
            self._nodes.want()
        return self._on_primary(call)

    def wanted(self, call: Call) -> Wanted | None:
        """What a replica must have to answer a read; None: only the primary will do."""
        if not isinstance(call.policy, Read) or call.policy.node != "any" or call.tenant is None:
            return None
        need = call.need if call.need is not None else self._needs(call)
        if need.primary:
            return None
        own = self._written.position(as_text(call.tenant))
        return None if own is None else Wanted(need.position.merged(own), self._silent_s)

    def _choice(self, wanted: Wanted, passed: list[Node]) -> Node | None:
        return choose(self._nodes.topology, wanted, time.monotonic(), random.random, passed)

    def _on_primary(self, call: Call) -> object:
        call.node = self._nodes.topology.primary.name
        try:
            with self._admission.admitted(call.tenant or ""):
                return self._primary(call)
        except Overloaded:
            self._observe(Refused(call.tenant or ""))
            raise

    def _on_replica(self, call: Call, node: Node, wanted: Wanted) -> object:
        view = node.view
        maker = self._nodes.session_maker(node, call.sessions or call.repository.__dict__["_tidegate_session_maker"])
        if view is None or maker is None:
            raise Elsewhere("its connections are not to be had here")
        attempt = Attempt(node, view, wanted.position, time.monotonic())
        token = current.set(attempt)
        self._nodes.enter(attempt)
        try:
            answer = call.run_plain(maker)
        except Exception as error:
            self._judge(call, attempt, error)
            raise
        finally:
            self._nodes.leave(attempt)
            current.reset(token)
        if node.health.failures:
            node.health = HEALTHY
        call.node = node.name
        call.origin = Origin(0, attempt.timeline, self._shard) if attempt.timeline else None
        return answer

    def _judge(self, call: Call, attempt: Attempt, error: Exception) -> None:
        """Return where the caller is to see the error.

        Raises:
            Elsewhere: another node is to answer.
            PolicyError: the method is no read.
        """
        if isinstance(error, NotReached):
            raise Elsewhere(str(error)) from None
        found = Verdict.BAN if attempt.was_cut else verdict(error)
        why = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        if found is Verdict.NO_READ:
            raise PolicyError(
                f"{call.name} is declared Read, and a standby refused it ({why}): declare it Write, or "
                "Read(node=PRIMARY) if it only locks"
            ) from error
        if found is Verdict.BAN:
            self._ban(attempt.node, why)
        if found is not Verdict.RAISE:
            raise Elsewhere(why) from None

    def _ban(self, node: Node, why: str) -> None:
        now_s = time.monotonic()
        before, node.health = node.health, node.health.failed(self._bans, now_s, random.random())  # noqa: S311  # jitter
        if node.health is not before:
            self._observe(Banned(node.name, node.health.until_s - now_s, why))
