"""The caching layer: which calls are read through the cache, and what one is made of there."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from hashlib import blake2b
from random import uniform
from typing import TYPE_CHECKING, Any, Final

import msgpack

from tidegate.cache.events import Served, StoreFailed
from tidegate.cache.near import Kept
from tidegate.cache.request import Answer
from tidegate.cache.store import StoreUnavailable
from tidegate.cache.tags import template
from tidegate.cache.values import Uncacheable, Undecodable
from tidegate.repositories.policies import GUARD, Read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tidegate.cache.codec import Codec, Decoded
    from tidegate.cache.events import Observer
    from tidegate.cache.near import Bounded
    from tidegate.cache.read_through import ReadThrough
    from tidegate.cache.request import Need
    from tidegate.cache.store import Hit, Store
    from tidegate.proxy.call import Call, Pipeline
    from tidegate.proxy.switches import Switches

_JITTER: Final = 0.1


class Caching:
    """Answers reads from the cache where their policy lets it, and passes on the rest.

    Args:
        read_through: the read path.
        store: entries and marks.
        codec: answers as bytes.
        near: decoded answers of this process; None: no near cache.
        blobs: large values of this process, by their content.
        switches: what is switched off.
        below: the layer that asks a node.
        observe: told what happened.
    """

    def __init__(
        self,
        *,
        read_through: ReadThrough,
        store: Store,
        codec: Codec,
        near: Bounded | None,
        blobs: Bounded,
        switches: Switches,
        below: Pipeline,
        observe: Observer,
    ) -> None:
        self._read_through = read_through
        self.store = store
        self.codec = codec
        self.near = near
        self.blobs = blobs
        self.below = below
        self._switches = switches
        self._observe = observe

    def __call__(self, call: Call) -> object:
        """The answer, never older than the newest change visible on the primary as the call began."""
        request = self._request(call)
        if request is None:
            return self.below(call)
        if request.near:
            kept: Kept | None = self.near.get(request.tenant, request.entry) if self.near is not None else None
            if kept is not None and self._is_fresh(request, kept):
                self._observe(Served(request.tenant, "near"))
                return self.codec.build(kept.decoded, request.session_maker)
        return self._read_through(request)

    def _request(self, call: Call) -> CachedCall | None:
        """The call as a request of the read path; None if it is none of the cache's business."""
        policy, tenant = call.policy, call.tenant
        if not isinstance(policy, Read) or policy.guard is None or not isinstance(tenant, str):
            return None
        if policy.when is not None and not policy.when(call.arguments):
            return None
        if self._switches.are_off(call.method, tenant):
            return None
        guard = template(policy.guard).expand(call.arguments)
        if not isinstance(guard, str):
            return None
        fingerprint = _fingerprint(call)
        return None if fingerprint is None else CachedCall(self, call, policy, tenant, guard, fingerprint)

    def _is_fresh(self, request: CachedCall, kept: Kept) -> bool:
        try:
            fresh = self.store.check(request.tenant, kept.noted, kept.tags)
        except StoreUnavailable as error:
            self._observe(StoreFailed("check", str(error)))
            return False
        if not fresh and self.near is not None:
            self.near.forget(request.tenant, request.entry)
        return fresh


class CachedCall:
    """One call on its way through the read path; see :class:`~tidegate.cache.request.Request`."""

    def __init__(self, layer: Caching, call: Call, policy: Read, tenant: str, guard: str, fingerprint: bytes) -> None:
        self.tenant = tenant
        self.entry = fingerprint.hex()
        self.guard = guard
        self.near = policy.near != "off" and layer.near is not None
        self.session_maker = call.repository.__dict__["_tidegate_session_maker"]
        self._layer = layer
        self._call = call
        self._policy = policy
        self._fingerprint = fingerprint

    def query(self, need: Need) -> Answer:
        """Ask a node by the layers below."""
        self._call.need = need
        self._call.origin = None
        return Answer(self._layer.below(self._call), self._call.origin)

    def tags(self, value: object) -> tuple[str, ...]:
        """The guard, or what the policy says of the answer."""
        if self._policy.answer_tags is None:
            return (self.guard,)
        tags = self._policy.answer_tags(self._call.arguments, value)
        return tuple(self.guard if tag == GUARD else tag for tag in tags)

    def ttl_ms(self, value: object) -> int:
        """The policy's, jittered, so that what was stored together does not end together."""
        ttl = self._policy.negative_ttl if value is None else self._policy.ttl
        return int(ttl.total_seconds() * 1000 * uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311  # no secret

    def freeze(self, value: object) -> tuple[bytes, Mapping[str, bytes]]:
        """The answer as bytes."""
        encoded = self._layer.codec.encode(self.tenant, self._fingerprint, value)
        for name, blob in encoded.blobs.items():
            self._layer.blobs.put(self.tenant, name, blob, len(blob))
        return encoded.body, encoded.blobs

    def thaw(self, body: bytes, hit: Hit | None) -> object:
        """A new answer; keeps what was parsed where the policy lets a near cache."""
        layer = self._layer
        decoded = layer.codec.decode(self.tenant, self._fingerprint, body)
        if decoded.blobs:
            decoded = self._resolved(decoded)
        value = layer.codec.build(decoded, self.session_maker)
        if hit is not None and self._may_be_near(value) and layer.near is not None:
            kept = Kept(decoded, hit.noted, hit.tags, decoded.size_bytes)
            layer.near.put(self.tenant, self.entry, kept, kept.size)
        return value

    def _may_be_near(self, value: object) -> bool:
        return self.near and (self._policy.near_if is None or self._policy.near_if(value))

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
            layer.blobs.put(self.tenant, name, found[name], len(found[name]))
        return resolved


def _fingerprint(call: Call) -> bytes | None:
    """The digest of a call: its method and every argument; None for arguments that cannot be told apart for sure."""
    try:
        packed = msgpack.packb([call.name, list(call.arguments.values())], default=_plain, strict_types=False)
    except (Uncacheable, TypeError, ValueError, OverflowError):
        return None
    return blake2b(packed, digest_size=16).digest()


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        utc = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
        return msgpack.ExtType(1, utc.isoformat().encode())
    raise Uncacheable(f"an argument of type {type(value).__qualname__}")
