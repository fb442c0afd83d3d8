"""The routing layer: which node answers a call. There is one node a shard for now, its primary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.proxy.origins import origins_seen

if TYPE_CHECKING:
    from tidegate.proxy.call import Call


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
