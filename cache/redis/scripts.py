"""The rules of ``marks`` in Lua, on one tenant's hash of marks. Read ``marks`` first; the names are the same.

A script runs alone on its server, so each is one step of the protocol. All keys are given in KEYS. Records:

- root, field ``r``:
  ``1 <state> <counter> <floor> <position> <opens> <life> n<nonce> w<awaits> o<origin>[ x<xid> <ms>]*``;
  *opens* counts the fields ``x...``; *life* is the replication id of the server that made the root; the open intents
  follow
- mark, field ``t<tag>``: ``<generation> <position>[ x<xid> <ms>]*``
- field ``x<xid>``: the fields of the tags on which that transaction has an intent, so that nobody has to search for
  them
- entry: ``1 n<nonce> <counter>[ t<tag>]*``, a line feed, the body
- lease: ``1 n<nonce> <counter> k<token>``

``marks.trimmed`` sorts all marks to drop the oldest. For 10,000 marks that would take a server tens of milliseconds, so
``trim`` draws some by chance instead. Those at or below the floor say nothing that the root does not say. If they are
less than a quarter of the draw, the floor rises to its lower quartile. A write drops at most 64 marks and twice those
that it touched, so that no write is held up by another's.

Marks that do not parse are as good as lost: they are deleted, and the next caller finds no root.
"""

from __future__ import annotations

import hashlib
from typing import Final

from tidegate.cache.redis import lua_reads, lua_writes


class Script:
    """Hold one script, its digest and its head.

    A server that has the script is asked to run it by the digest. The head is the beginning of that command, packed.

    Args:
        fragments: parts of Lua, which are joined.
    """

    def __init__(self, *fragments: str) -> None:
        self.text = "\n".join(fragment.strip() for fragment in fragments).encode("ascii")
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode("ascii")
        self.head = b"$7\r\nEVALSHA\r\n$%d\r\n%b\r\n" % (len(self.sha), self.sha)


_READ: Final = (lua_reads.SERVER, lua_reads.TEXT, lua_reads.ROOT, lua_reads.STALE)
_ALTER: Final = (lua_reads.SERVER, lua_reads.TEXT, lua_reads.ROOT, lua_writes.WRITE, lua_writes.SAVE)

LOOKUP: Final = Script(lua_reads.HIT, *_READ, lua_reads.ENTRY, lua_reads.LOOKUP)
CHECK: Final = Script(*_READ, lua_reads.CHECK)
LEASE: Final = Script(lua_reads.TEXT, lua_reads.PUT, lua_reads.LEASE)
RELEASE: Final = Script(lua_reads.TEXT, lua_reads.HOLDER, lua_reads.RELEASE)
FILL: Final = Script(*_READ, lua_reads.ENTRY, lua_reads.HOLDER, lua_reads.PUT, lua_reads.FILL)
MAKE_ROOT: Final = Script(*_ALTER, lua_writes.MAKE)
COMPLETE_ROOT: Final = Script(*_ALTER, lua_writes.COMPLETE)
END_QUARANTINE: Final = Script(*_ALTER, lua_writes.RELEASE_ROOT)
OPEN: Final = Script(*_ALTER, lua_writes.TOUCH, lua_writes.OPEN)
STAMP: Final = Script(*_ALTER, lua_writes.TOUCH, lua_writes.LOADED, lua_writes.STAMP)
BUMP: Final = Script(*_ALTER, lua_writes.TOUCH, lua_writes.LOADED, lua_writes.OUTDATED, lua_writes.STAMP)
RESOLVE: Final = Script(*_ALTER, lua_writes.TOUCH, lua_writes.RESOLVE)
LOSE: Final = Script(lua_writes.LOSE)
NEWEST: Final = Script(lua_reads.TEXT, lua_writes.NEWEST)
SWITCH: Final = Script(lua_reads.TEXT, lua_writes.SWITCH)
