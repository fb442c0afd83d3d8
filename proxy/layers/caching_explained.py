"""What the two caches would make of a call, in words. Nothing is stored, kept, leased or counted by asking."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tidegate.cache.codec.values import Unreadable
from tidegate.cache.marks import Refusal, RootState
from tidegate.cache.read_through import unpacked
from tidegate.cache.request import ONLY_PRIMARY, ReadRequirement
from tidegate.cache.store import Hit, Miss, StoreUnavailable
from tidegate.cache.tags import as_text, template
from tidegate.proxy.explanation import CacheExplained, uncached
from tidegate.repositories.policies import Read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tidegate.cache.near.lru import NearEntry
    from tidegate.cache.store import Lookup
    from tidegate.proxy.call import Call
    from tidegate.proxy.explanation import Explanation
    from tidegate.proxy.layers.caching import CachedCall, Caching

_STALE: Final[Mapping[Refusal, str]] = {
    Refusal.NO_ENTRY: "nothing is stored for this call",
    Refusal.NONCE: "what is stored is of before the tenant's marks were lost",
    Refusal.STATE: "the tenant's marks do not vouch for anything yet",
    Refusal.FLOOR: "what is stored is older than a change of the whole tenant",
    Refusal.BUMPED: "what is stored is older than a change of something that it depends on",
    Refusal.EPOCH: "the tenant has moved to another shard since the shard map at hand, which the next call reads again",
    Refusal.ORIGIN: "the tenant's marks are of another history of the database: the next call asks which is newer",
    Refusal.INTENT: "a transaction that changes something that it depends on may be committing",
}
_UNKNOWN_KIND: Final = "an argument is of a kind that cannot be told apart for sure"


def explained(layer: Caching, call: Call) -> Explanation:
    """Explain what *layer* would make of *call*, and the layers below it."""
    # Twice: the first may find that the cache does not answer when it is asked for what is switched off.
    request = layer.peek(call) or (None if _why_not(layer, call) else layer.peek(call))
    if request is None:
        why = _why_not(layer, call) or _UNKNOWN_KIND
        return uncached(call.shown(), layer.below.explain(call).nodes, why)
    near, (cache, requirement) = _near(layer, call, request), _cache(layer, request)
    below = layer.below.explain(call.at(call.route._replace(requirement=requirement)))
    return replace(
        below,
        answered="near" if near.answers else "store" if cache.answers else "node",
        stores=not (requirement and requirement.primary),
        near=near,
        cache=cache,
    )


def _why_not(layer: Caching, call: Call) -> str | None:
    """Say why a call is none of the cache's business; None if no rule says so."""
    return next(_reasons(layer, call), None)


def _reasons(layer: Caching, call: Call) -> Iterator[str]:
    """Yield the reasons in the order in which they are found out."""
    policy = call.policy
    if not isinstance(policy, Read):
        yield "it is declared Write"
        return
    if policy.guard is None:
        yield "its policy names no guard, so it is never cached"
    if call.tenant is None:
        yield "it names no tenant"
    if not call.route.cacheable:
        yield "one of its ids is none, which is the database's to refuse"
    if policy.when is not None and not policy.when(call.arguments):
        yield "its policy does not let these arguments be cached"
    if (switch := layer.switches.off_by(call.method.name, as_text(call.tenant))) is not None:
        yield f"it is switched off ({switch})"
    if layer.untold.of(as_text(call.tenant)):
        yield "the cache was not told of a change of this tenant, which waits in the outbox"
    if policy.guard and not isinstance(template(policy.guard).expand(call.arguments), str):
        yield f"its arguments do not say what {policy.guard} is"


def _near(layer: Caching, call: Call, request: CachedCall) -> CacheExplained:
    if layer.near is None or not isinstance(call.policy, Read):
        return CacheExplained("near cache", answers=False, why="cache.near is false")
    mode = layer.near_mode(call, call.policy)
    kept: NearEntry | None = layer.near.peek(request.tenant, request.entry)
    if mode == "off":
        answers, why = False, "its policy or cache.near_modes says that no answer is kept"
    elif kept is None or kept.has_ended():
        answers, why = False, "this process has not kept its answer"
    elif mode == "bounded" and layer.vouches_for(request.tenant, kept):
        answers, why = True, "kept in this process, and the stream of pushes has named no change since"
    else:
        answers, why = _checked(layer, request, kept)
    return CacheExplained("near cache", answers, why)


def _checked(layer: Caching, request: CachedCall, kept: NearEntry) -> tuple[bool, str]:
    try:
        fresh = layer.store.check(request.tenant, kept.noted, kept.tags, layer.asked(request.tenant))
    except StoreUnavailable as error:
        return False, f"kept in this process, but the cache cannot be asked whether it is fresh ({error})"
    if fresh:
        return True, f"kept in this process, and fresh while nothing changes of {', '.join(kept.tags)}"
    return False, "kept in this process, but something that it depends on has changed"


def _cache(layer: Caching, request: CachedCall) -> tuple[CacheExplained, ReadRequirement | None]:
    """Say what is stored; and which node will do, where the marks have told it (None: they are to be asked)."""

    def says(why: str, *, answers: bool = False) -> CacheExplained:
        return CacheExplained("cache", answers, why)

    try:
        asked = layer.asked(request.tenant)
        found = layer.store.lookup(request.tenant, request.entry, request.guard, asked)
        if isinstance(found, Hit):
            left_s = _left_s(layer, request, found)
            why = f"fresh while nothing changes of {', '.join(found.tags)}, and for another {left_s:.0f} s at most"
            return says(why, answers=True), None
    except Unreadable as error:
        return says(f"what is stored cannot be read ({error})"), None
    except StoreUnavailable as error:
        return says(f"it cannot be asked ({error}), so the primary is"), ONLY_PRIMARY
    if isinstance(found, Miss) and (found.moved or found.foreign):
        return says(_STALE[found.reason]), ONLY_PRIMARY
    if isinstance(found, Miss) and not found.dirty:
        requirement = ReadRequirement(found.position, primary=False, root=found.origin)
        return says(_STALE.get(found.reason, found.reason)), requirement
    return says(_unclean(found)), ONLY_PRIMARY


def _left_s(layer: Caching, request: CachedCall, hit: Hit) -> float:
    """Return how long an entry may still be served, in seconds.

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
    """Say why only the primary will do."""
    if not isinstance(found, Miss):
        return "the tenant has no marks, or they were lost: the next call makes them, and asks the primary"
    if found.state is RootState.PENDING:
        return "the tenant's marks have just been made, and the primary was not asked yet what was running then"
    if found.state is RootState.QUARANTINE:
        return f"quarantine: a transaction older than {found.awaits} may be running; tidegate doctor names the oldest"
    running = ", ".join(f"{xid} for {age_ms} ms" for xid, age_ms in found.intents.items())
    return f"a transaction may be committing a change of what it depends on ({running})"
