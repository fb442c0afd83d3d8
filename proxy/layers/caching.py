"""The caching layer: which calls are read through the cache, and what one is made of there."""

from __future__ import annotations

from dataclasses import replace
from os import getpid
from random import uniform
from typing import TYPE_CHECKING, Final

from tidegate.cache.codec.values import Undecodable
from tidegate.cache.events import NearChecked, StoreFailed, served
from tidegate.cache.near.lru import NearEntry
from tidegate.cache.read_through import end_of
from tidegate.cache.request import ONLY_PRIMARY, Answer
from tidegate.cache.store import StoreUnavailable
from tidegate.cache.tags import template
from tidegate.proxy.layers.caching_explained import explained
from tidegate.proxy.layers.fingerprint import fingerprint_of
from tidegate.repositories.policies import GUARD, Read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tidegate.cache.codec.answers import AnswerCodec, Decoded
    from tidegate.cache.events import Observer
    from tidegate.cache.near.lru import LruCache
    from tidegate.cache.near.push_versions import PushVersions
    from tidegate.cache.read_through import ReadThrough
    from tidegate.cache.request import ReadRequirement
    from tidegate.cache.store import Hit, Store
    from tidegate.cache.switches import Switches
    from tidegate.cache.untold import UntoldChanges
    from tidegate.position import AskedFor
    from tidegate.proxy.call import Call, Layer
    from tidegate.proxy.explanation import Explanation
    from tidegate.repositories.policies import NearMode

_JITTER: Final = 0.1


class Caching:
    """Answer reads from the cache where their policy lets it, and pass on the rest.

    Args:
        read_through: the read path.
        store: entries and marks.
        codec: answers as bytes.
        near: decoded answers of this process; None: no near cache.
        pushes: what near answers in ``bounded`` mode rely on; None: they are checked each time.
        near_modes: modes by method, or for "all", instead of those of the policies.
        blobs: large values of this process, by their content.
        switches: what is switched off.
        untold: whose changes the cache was not told of.
        below: the layer that asks a node.
        keep_alive: called before a node is asked; starts what a process forked off has to run for itself.
        observe: told what happened.
    """

    def __init__(
        self,
        *,
        read_through: ReadThrough,
        store: Store,
        codec: AnswerCodec,
        near: LruCache | None,
        pushes: PushVersions | None,
        near_modes: Mapping[str, NearMode],
        blobs: LruCache,
        switches: Switches,
        untold: UntoldChanges,
        below: Layer,
        keep_alive: Callable[[], None],
        observe: Observer,
    ) -> None:
        self._read_through = read_through
        self.store = store
        self.codec = codec
        self.near = near
        self.blobs = blobs
        self._pushes = pushes
        self._near_modes = near_modes
        self.below = below
        self.keep_alive = keep_alive
        self.switches = switches
        self.untold = untold
        self._process = getpid()
        self._observe = observe

    def __call__(self, call: Call) -> Answer:
        """Answer *call*, never older than the newest change that was visible on the primary as it began."""
        # Forked off, perhaps without Python's hooks. Hits alone must learn of what the cache is not told, too.
        if self._process != getpid():
            self._process = getpid()
            self.keep_alive()
        request = self._request(call)
        if request is None:
            return self.below(call)
        if request.near != "off" and self.near is not None:
            kept: NearEntry | None = self.near.get(request.tenant, request.entry)
            if kept is not None and kept.has_ended():
                self.near.evict(request.tenant, request.entry)
                kept = None
            vouched = request.near == "bounded" and self._is_vouched_for(request, kept)
            fresh = kept is not None and (vouched or self._is_fresh(request, kept))
            if fresh is None:  # the cache does not answer, and a call waits for that once
                return request.query(ONLY_PRIMARY)
            if kept is not None and fresh:
                self._observe(served(request.tenant, "near"))
                return Answer(
                    self.codec.build(kept.decoded, call.route.home or call.repository.tidegate_binding.home),
                    answered_by="near",
                )
        # Only now: what is near is found by its fingerprint alone.
        if not request.expand_guard():
            return self.below(call)
        return self._read_through(request)

    def explain(self, call: Call) -> Explanation:
        """Explain what each of the two caches has, and which nodes would answer where neither does."""
        return explained(self, call)

    def _is_vouched_for(self, request: CachedCall, kept: NearEntry | None) -> bool:
        pushes = self._pushes
        if pushes is None:
            return False
        # Alive first: a stream that comes back may bring old news between a version read too early and its answer.
        vouched = pushes.alive()
        request.version = pushes.version(request.tenant)
        request.asked = self.asked(request.tenant)
        return vouched and kept is not None and (kept.version, kept.asked) == (request.version, request.asked)

    def asked(self, tenant: str) -> AskedFor:
        """Return whose marks those of *tenant* must be, as far as this process knows."""
        return self._read_through.asked(tenant)

    def peek(self, call: Call) -> CachedCall | None:
        """Return the call as it is looked up; None if it is none of the cache's business. Change nothing."""
        request = self._request(call)
        return request if request is not None and request.expand_guard() else None

    def vouches_for(self, tenant: str, kept: NearEntry) -> bool:
        """Tell whether the stream of pushes says that nothing of *tenant* has changed since *kept* was looked up."""
        pushes = self._pushes
        known = pushes is not None and pushes.alive() and kept.version == pushes.version(tenant)
        return known and kept.asked == self.asked(tenant)

    def near_mode(self, call: Call, policy: Read) -> NearMode:
        """Return how the answers of a call are kept in this process."""
        modes = self._near_modes
        return modes.get(call.method.name, modes.get("all", policy.near)) if modes else policy.near

    def _request(self, call: Call) -> CachedCall | None:
        """Return the call as a request of the read path; None if it is none of the cache's business."""
        policy, tenant = call.policy, call.tenant
        if not isinstance(policy, Read) or policy.guard is None or tenant is None or not call.route.cacheable:
            return None
        if policy.when is not None and not policy.when(call.arguments):
            return None
        if self.switches.are_off(call.method.name, tenant) or self.untold.of(tenant):
            return None
        fingerprint = fingerprint_of(call)
        return None if fingerprint is None else CachedCall(self, call, policy, tenant, fingerprint)

    def _is_fresh(self, request: CachedCall, kept: NearEntry) -> bool | None:
        """Tell whether *kept* is fresh; None: the cache does not answer."""
        if request.near == "bounded":
            self._observe(NearChecked(request.tenant))
        try:
            fresh = self.store.check(request.tenant, kept.noted, kept.tags, self.asked(request.tenant))
        except StoreUnavailable as error:
            self._observe(StoreFailed("check", str(error)))
            return None
        if self.near is not None:
            if not fresh:
                self.near.evict(request.tenant, request.entry)
            elif kept.version != request.version:  # a push named the tenant, but nothing that this answer depends on
                renewed = replace(kept, version=request.version, asked=request.asked)
                self.near.put(request.tenant, request.entry, renewed)
        return fresh


class CachedCall:
    """One call on its way through the read path: a :class:`~tidegate.cache.request.Request`."""

    __slots__ = ("_call", "_fingerprint", "_layer", "_policy", "asked", "entry", "guard", "near", "tenant", "version")

    def __init__(self, layer: Caching, call: Call, policy: Read, tenant: str, fingerprint: bytes) -> None:
        self.tenant = tenant
        self.entry = fingerprint.hex()
        self.guard = ""
        self.near: NearMode = "off" if layer.near is None else layer.near_mode(call, policy)
        self.version = 0
        self.asked: AskedFor | None = None
        self._layer = layer
        self._call = call
        self._policy = policy
        self._fingerprint = fingerprint

    def query(self, requirement: ReadRequirement) -> Answer:
        """Ask a node by the layers below."""
        self._layer.keep_alive()
        route = self._call.route.required(requirement)
        answer = self._layer.below(self._call.at(route))
        return Answer(answer.value, answer.origin, answer.node, "node")

    def expand_guard(self) -> bool:
        """Tell whether the arguments name the guard, and keep it; without one the call cannot be cached."""
        guard = template(self._policy.guard or "").expand(self._call.arguments)
        if not isinstance(guard, str):
            return False
        self.guard = guard
        return True

    def tags(self, value: object) -> tuple[str, ...]:
        """Return the guard, or what the policy says of the answer."""
        if self._policy.answer_tags is None:
            return (self.guard,)
        tags = self._policy.answer_tags(self._call.arguments, value)
        return tuple(self.guard if tag == GUARD else tag for tag in tags)

    def ttl_ms(self, value: object) -> int:
        """Return the policy's time, jittered, so that what was stored together does not end together."""
        ttl = self._policy.negative_ttl if value is None else self._policy.ttl
        return int(ttl.total_seconds() * 1000 * uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311  # no secret

    def freeze(self, value: object) -> tuple[bytes, Mapping[str, bytes]]:
        """Encode an answer as (body, blobs)."""
        encoded = self._layer.codec.encode(self.tenant, self._fingerprint, value)
        for name, blob in encoded.blobs.items():
            self._layer.blobs.put(self.tenant, name, blob)
        return encoded.body, encoded.blobs

    def thaw(self, body: bytes, hit: Hit | None) -> object:
        """Build a new answer of a body, and keep what was parsed where the policy lets a near cache."""
        layer = self._layer
        decoded = layer.codec.decode(self.tenant, self._fingerprint, body)
        if decoded.blobs:
            decoded = self._resolved(decoded)
        keeps = self.near != "off" and hit is not None
        call = self._call
        home = call.route.home or call.repository.tidegate_binding.home
        value = layer.codec.build(decoded, home, shared=keeps)
        if hit is not None and keeps and layer.near is not None:
            kept = NearEntry(decoded, hit.noted, hit.tags, end_of(hit.body), self.version, self.asked)
            layer.near.put(self.tenant, self.entry, kept)
        return value

    def _resolved(self, decoded: Decoded) -> Decoded:
        layer = self._layer
        found: dict[str, bytes] = {}
        for name in decoded.blobs:
            if (kept := layer.blobs.get(self.tenant, name)) is not None:
                found[name] = kept
        missing = [name for name in decoded.blobs if name not in found]
        fetched = dict(zip(missing, layer.store.blobs(self.tenant, missing) if missing else (), strict=True))
        for name, blob in fetched.items():
            if blob is None:
                raise Undecodable(f"blob {name} is not there")
            found[name] = blob
        resolved = layer.codec.resolve(decoded, found)
        # Only now: what was fetched has the content that its name says.
        for name in missing:
            layer.blobs.put(self.tenant, name, found[name])
        return resolved
