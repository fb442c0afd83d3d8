"""Which slot a tenant is in. This rule is frozen for ever, since rows lie where it says.

``slot = blake2b(tenant, digest_size=8) mod 4096``. The tenant's id is taken in canonical form (lower case, hyphens
after 8, 12, 16 and 20 digits, no braces; text that is no id as it is), in UTF-8, without key, salt or person. The
digest of 8 bytes is read as an unsigned number, most significant byte first. It is not the start of a longer digest, as
its length goes into the hash.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from tidegate.ids import canonical

SLOTS: Final = 4096
_DIGEST_BYTES: Final = 8


def canonical_tenant(tenant: Any) -> str:
    """Return the tenant's id as text, the same for every spelling that PostgreSQL takes for the same id."""
    return str(canonical(tenant))


@lru_cache(maxsize=16_384)
def slot_of(tenant: str) -> int:
    """Return the slot of a tenant, 0 to 4095. Its id must be in canonical form; see :func:`canonical_tenant`."""
    return int.from_bytes(blake2b(tenant.encode(), digest_size=_DIGEST_BYTES).digest(), "big") % SLOTS
