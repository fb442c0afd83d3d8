"""Ids in canonical form: PostgreSQL finds the same row by several spellings, so everything else must find it too."""

from __future__ import annotations

import re
import uuid
from typing import Any, Final

is_canonical: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
"""Tell whether a text is an id in canonical form."""
# What PostgreSQL reads as an id: a hyphen may follow any group of four digits, and braces may surround all.
_SPELLED: Final = re.compile(r"(?:[0-9a-f]{4}-?){7}[0-9a-f]{4}").fullmatch


known_ids: Final[dict[str, str]] = {}
"""Canonical spellings that were found lately, by how the ids were spelled: to look one up takes a fifth of the time."""
_MOST_KNOWN: Final = 4096
_LONGEST_KNOWN: Final = 40


def known_id(value: Any) -> str | None:
    """Return what :func:`canonical_id` does, and keep it in :data:`known_ids`."""
    found = canonical_id(value)
    if found is not None and value.__class__ is str and len(value) < _LONGEST_KNOWN:
        if len(known_ids) >= _MOST_KNOWN:
            known_ids.clear()
        known_ids[value] = found
    return found


def canonical_id(value: Any) -> str | None:
    """Return the canonical spelling of an id; None if PostgreSQL would not read *value* as one."""
    if not isinstance(value, str):
        return str(value) if isinstance(value, uuid.UUID) else None
    if value.__class__ is str and is_canonical(value):
        return value  # the object itself, and no copy: there may be a million of them
    small = value.lower()  # only the letters A to F become letters from a to f
    if is_canonical(small):
        return small
    inner = small[1:-1] if small.startswith("{") and small.endswith("}") else small
    if not _SPELLED(inner):
        return None
    digits = inner.replace("-", "")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def is_no_id(value: Any) -> bool:
    """Tell whether *value* is text that PostgreSQL would refuse as an id."""
    return isinstance(value, str) and canonical_id(value) is None


def canonical(value: Any) -> Any:
    """Return the canonical spelling of an id. What is no id stays as it is, and the database refuses it."""
    found = canonical_id(value)
    return value if found is None else found
