"""What would answer a call, and why not what comes before it: ``gate.explain``.

Only looks: nothing is stored, kept, leased, brought on or counted, and no node is asked for anything that the call is
about. What it says holds for the moment at which it was asked, as everything about a cache does.
"""

from __future__ import annotations

import inspect
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from tidegate.cache.codec.values import Unreadable
from tidegate.cache.marks import Refusal, RootState
from tidegate.cache.read_through import unpacked
from tidegate.cache.request import ONLY_PRIMARY, ReadRequirement
from tidegate.cache.store import Hit, Miss, StoreUnavailable
from tidegate.cache.tags import as_text, template
from tidegate.errors import PolicyError
from tidegate.proxy.call import bound_copy
from tidegate.proxy.layers.caching import Caching
from tidegate.proxy.layers.explained import nodes_explained
from tidegate.proxy.layers.facade import POLICY
from tidegate.proxy.layers.telemetry import Telemetry
from tidegate.proxy.layers.tenancy import Tenancy
from tidegate.repositories.policies import Read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tidegate.cache.near.lru import NearEntry
    from tidegate.cache.store import Lookup
    from tidegate.proxy.call import Answered, Call, Layer
    from tidegate.proxy.layers.caching import CachedCall
    from tidegate.proxy.layers.explained import NodeLine

_MOST_SHOWN: Final = 60
_ONE_BY_ONE: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_SESSION: Final = "it runs in the caller's own session, or takes any arguments"
_NO_CACHE: Final = "this gate has none: cache.url is not set, or does not name the cache that serves this database"
_STALE: Final[Mapping[Refusal, str]] = {
    Refusal.NO_ENTRY: "nothing is stored for this call",
    Refusal.NONCE: "what is stored is of before the tenant's marks were lost",
    Refusal.STATE: "the tenant's marks do not vouch for anything yet",
    Refusal.FLOOR: "what is stored is older than a change of the whole tenant",
    Refusal.BUMPED: "what is stored is older than a change of something that it depends on",
    Refusal.EPOCH: "the tenant has moved to another shard since the shard map at hand, which the next call reads again",
    Refusal.INTENT: "a transaction that changes something that it depends on may be committing",
}


@dataclass(frozen=True, slots=True)
class CacheExplained:
    """One of the two caches, as a call would find it now.

    Args:
        name: which.
        answers: whether it has a fresh answer.
        why: in words.
    """

    name: Literal["near cache", "cache"]
    answers: bool
    why: str

    def text(self) -> str:
        """One line."""
        return f"{self.name} {'answers' if self.answers else 'does not answer'}: {self.why}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would answer a call if it were made now; ``str()`` of it is for people.

    Args:
        call: the method with its arguments as the gate takes them: ids in canonical form.
        answered: the first that would: "near", the "store", a "node" because no cache has a fresh answer, or "plain"
            because the call is none of the cache's business; as in ``gate.stats()``.
        stores: whether a node's answer would be stored, as things are now.
        near: the copy in this process.
        cache: the one that all share.
        nodes: which of them may answer where no cache does; empty where there is only one.
    """

    call: str
    answered: Answered
    stores: bool
    near: CacheExplained
    cache: CacheExplained
    nodes: tuple[NodeLine, ...] = ()

    def __str__(self) -> str:
        lines = [self.near.text(), self.cache.text()]
        if self.answered in ("node", "plain"):
            lines.append(f"a node's answer is {'stored' if self.stores else 'not stored'}")
        elif self.nodes:
            lines.append("if none did:")
        lines += [node.text() for node in self.nodes] or ["the primary is the only node"]
        return "\n  ".join([self.call, *lines])


def explain(method: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Explanation:
    """See :meth:`tidegate.proxy.gate.Gate.explain`."""
    repository, function = getattr(method, "__self__", None), getattr(method, "__func__", None)
    pipeline = getattr(repository, "_tidegate_pipeline", None)
    if pipeline is None or getattr(function, POLICY, None) is None:
        raise PolicyError(
            f"{method!r} is no method of a repository behind a gate, or is overridden there: expected one like "
            "gate.workflow_runs.get_workflow_run_by_id"
        )
    signature = inspect.signature(method)
    bound = signature.bind(*args, **kwargs)
    names = [*signature.parameters]
    if names[:1] == ["session"] or any(one.kind not in _ONE_BY_ONE for one in signature.parameters.values()):
        name = f"{type(repository).__name__}.{method.__name__}"
        return _plain(_shown(name, bound.arguments), _SESSION)
    calls: list[Call] = []
    twin = bound_copy(repository, None)
    twin.__dict__["_tidegate_pipeline"] = calls.append
    method.__func__(twin, *args, **kwargs)  # type: ignore[attr-defined]  # it is bound
    return explained(pipeline, calls[0])


def explained(pipeline: Layer, call: Call) -> Explanation:
    """What the layers of *pipeline* would make of *call*."""
    layer = pipeline.below if isinstance(pipeline, Telemetry) else pipeline
    if isinstance(layer, Tenancy):
        layer.name(call)
        layer = layer.below
    shown = _shown(f"{type(call.repository).__name__}.{call.method}", call.arguments)
    if not isinstance(layer, Caching):
        return _plain(shown, _NO_CACHE, nodes_explained(layer, call))
    # Twice: the first may find that the cache does not answer when asked for what is switched off.
    request = layer.peek(call) or (None if _why_not(layer, call) else layer.peek(call))
    if request is None:
        why = _why_not(layer, call) or "an argument is of a kind that cannot be told apart for sure"
        return _plain(shown, why, nodes_explained(layer.below, call))
    near, (cache, need) = _near(layer, call, request), _cache(layer, request)
    answered: Answered = "near" if near.answers else "store" if cache.answers else "node"
    call.need = need
    return Explanation(shown, answered, not (need and need.primary), near, cache, nodes_explained(layer.below, call))


def _plain(shown: str, why: str, nodes: tuple[NodeLine, ...] = ()) -> Explanation:
    near = CacheExplained("near cache", answers=False, why=why)
    cache = CacheExplained("cache", answers=False, why=why)
    return Explanation(shown, "plain", stores=False, near=near, cache=cache, nodes=nodes)


def _shown(name: str, arguments: Mapping[str, Any]) -> str:
    texts = []
    for key, value in arguments.items():
        text = repr(value)
        texts.append(f"{key}={text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + '...'}")
    return f"{name}({', '.join(texts)})"


def _why_not(layer: Caching, call: Call) -> str | None:
    """Why a call is none of the cache's business; None if no rule says so."""
    return next(_reasons(layer, call), None)


def _reasons(layer: Caching, call: Call) -> Iterator[str]:
    """In the order in which they are found out."""
    policy = call.policy
    if not isinstance(policy, Read):
        yield "it is declared Write"
        return
    if policy.guard is None:
        yield "its policy names no guard, so it is never cached"
    if call.tenant is None:
        yield "it names no tenant"
    if not call.cacheable:
        yield "one of its ids is none, which is the database's to refuse"
    if policy.when is not None and not policy.when(call.arguments):
        yield "its policy does not let these arguments be cached"
    if (switch := layer.switches.off_by(call.method, as_text(call.tenant))) is not None:
        yield f"it is switched off ({switch})"
    if policy.guard and not isinstance(template(policy.guard).expand(call.arguments), str):
        yield f"its arguments do not say what {policy.guard} is"


def _near(layer: Caching, call: Call, request: CachedCall) -> CacheExplained:
    if layer.near is None or not isinstance(call.policy, Read):
        return CacheExplained("near cache", answers=False, why="cache.near is false")
    mode = layer.near_mode(call, call.policy)
    kept: NearEntry | None = layer.near.peek(request.tenant, request.entry)
    if mode == "off":
        answers, why = False, "neither its policy nor cache.near_modes turns it on"
    elif kept is None:
        answers, why = False, "this process has not kept its answer"
    elif mode == "bounded" and layer.vouches_for(request.tenant, kept):
        answers, why = True, "kept in this process, and the stream of pushes has named no change since"
    else:
        answers, why = _checked(layer, request, kept)
    return CacheExplained("near cache", answers, why)


def _checked(layer: Caching, request: CachedCall, kept: NearEntry) -> tuple[bool, str]:
    try:
        fresh = layer.store.check(request.tenant, kept.noted, kept.tags, epoch=layer.epoch(request.tenant))
    except StoreUnavailable as error:
        return False, f"kept in this process, but the cache cannot be asked whether it is fresh ({error})"
    if fresh:
        return True, f"kept in this process, and fresh while nothing changes of {', '.join(kept.tags)}"
    return False, "kept in this process, but something that it depends on has changed"


def _cache(layer: Caching, request: CachedCall) -> tuple[CacheExplained, ReadRequirement | None]:
    """What is stored; and which node will do, where the marks have told (None: they are to be asked)."""

    def says(why: str, *, answers: bool = False) -> CacheExplained:
        return CacheExplained("cache", answers, why)

    try:
        epoch = layer.epoch(request.tenant)
        found = layer.store.lookup(request.tenant, request.entry, request.guard, epoch=epoch)
        if isinstance(found, Hit):
            left_s = _left_s(layer, request, found)
            why = f"fresh while nothing changes of {', '.join(found.tags)}, and for another {left_s:.0f} s at most"
            return says(why, answers=True), None
    except Unreadable as error:
        return says(f"what is stored cannot be read ({error})"), None
    except StoreUnavailable as error:
        return says(f"it cannot be asked ({error}), so the primary is"), ONLY_PRIMARY
    if isinstance(found, Miss) and found.moved:
        return says(_STALE[found.reason]), ONLY_PRIMARY
    if isinstance(found, Miss) and not found.dirty:
        return says(_STALE.get(found.reason, found.reason)), ReadRequirement(
            found.position, primary=False, root=found.origin
        )
    return says(_unclean(found)), ONLY_PRIMARY


def _left_s(layer: Caching, request: CachedCall, hit: Hit) -> float:
    """How long an entry may still be served, in seconds.

    Raises:
        Unreadable: it is none that can be.
    """
    until_ms, frozen = unpacked(hit.body)
    decoded = layer.codec.decode(request.tenant, bytes.fromhex(request.entry), frozen)
    names = [name for name in decoded.blobs if layer.blobs.peek(request.tenant, name) is None]
    if names and None in layer.store.blobs(request.tenant, names):
        raise Unreadable("a large value of it is gone")
    return max(0.0, until_ms / 1000 - time.time())


def _unclean(found: Lookup) -> str:
    """Why only the primary will do."""
    if not isinstance(found, Miss):
        return "the tenant has no marks, or they were lost: the next call makes them, and asks the primary"
    if found.state is RootState.PENDING:
        return "the tenant's marks have just been made, and the primary was not asked yet what was running then"
    if found.state is RootState.QUARANTINE:
        return f"quarantine: a transaction older than {found.awaits} may be running; tidegate doctor names the oldest"
    running = ", ".join(f"{xid} for {age_ms} ms" for xid, age_ms in found.intents.items())
    return f"a transaction may be committing a change of what it depends on ({running})"
