"""What ``marks`` says, in Lua, on one tenant's hash of marks. Read ``marks`` first; the names are the same.

A script runs alone on its server, so each is one step of the protocol. All keys are given in KEYS. Records:

- root, field ``r``:
  ``1 <state> <counter> <floor> <position> <opens> <life> n<nonce> w<awaits> o<origin>[ x<xid> <ms>]*``;
  *opens* counts the fields ``x...``, *life* is the replication id of the server that made it, then come open intents
- mark, field ``t<tag>``: ``<generation> <position>[ x<xid> <ms>]*``
- field ``x<xid>``: the fields of the tags on which that transaction has an intent, so that none has to be searched for
- entry: ``1 n<nonce> <counter>[ t<tag>]*``, a line feed, the body
- lease: ``1 n<nonce> <counter> k<token>``

Where ``marks.trimmed`` sorts all marks to drop the oldest, which takes a server tens of milliseconds for 10,000,
``trim`` draws some by chance: those at or below the floor say nothing that the root does not say, and if they are less
than a quarter of the draw, the floor rises to its lower quartile. A write drops at most 64 marks and twice those it
touched, so that none is held up by another's.

Marks that do not parse are as good as lost: they are deleted, and whoever comes next finds no root.
"""

from __future__ import annotations

import hashlib
from typing import Final

from tidegate.cache.redis import lua_reads, lua_writes


class Script:
    """A text and its digest, by which a server that has it is asked to run it; *head* is how it is asked, packed."""

    def __init__(self, *fragments: str) -> None:
        self.text = "\n".join(fragment.strip() for fragment in fragments).encode("ascii")
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode("ascii")
        self.head = b"$7\r\nEVALSHA\r\n$%d\r\n%b\r\n" % (len(self.sha), self.sha)


_READ: Final = (lua_reads.SERVER, lua_reads.TEXT, lua_reads.ROOT, lua_reads.STALE)
_ALTER: Final = (lua_reads.SERVER, lua_reads.TEXT, lua_reads.ROOT, lua_writes.WRITE, lua_writes.SAVE)

LOOKUP: Final = Script(lua_reads.HIT, *_READ, lua_reads.ENTRY, lua_reads.LOOKUP)
CHECK: Final = Script(*_READ, lua_reads.CHECK)
LEASE: Final = Script(lua_reads.TEXT, lua_reads.PUT, lua_reads.LEASE)
RELEASE: Final = Script(lua_reads.TEXT, lua_reads.HELD, lua_reads.RELEASE)
FILL: Final = Script(*_READ, lua_reads.ENTRY, lua_reads.HELD, lua_reads.PUT, lua_reads.FILL)
MAKE_ROOT: Final = Script(*_ALTER, lua_writes.MAKE)
COMPLETE_ROOT: Final = Script(*_ALTER, lua_writes.COMPLETE)
END_QUARANTINE: Final = Script(*_ALTER, lua_writes.RELEASE_ROOT)
OPEN: Final = Script(*_ALTER, lua_writes.TOUCH, lua_writes.OPEN)
STAMP: Final = Script(*_ALTER, lua_writes.TOUCH, lua_writes.STAMP)
RESOLVE: Final = Script(*_ALTER, lua_writes.TOUCH, lua_writes.RESOLVE)
LOSE: Final = Script(lua_writes.LOSE)
SWITCH: Final = Script(lua_reads.TEXT, lua_writes.SWITCH)
