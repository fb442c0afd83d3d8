"""Ids in canonical form: PostgreSQL finds the same row by several spellings, so everything else must find it too."""

from __future__ import annotations

import re
import uuid
from typing import Any, Final

is_canonical: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
"""Whether a text is an id in canonical form."""
# What PostgreSQL reads as an id: a hyphen may follow any group of four digits, and braces may surround all.
_SPELLED: Final = re.compile(r"(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}").fullmatch


def canonical_id(value: Any) -> Any:
    """The canonical spelling of an id; what PostgreSQL would not read as one is left for it to refuse."""
    if value.__class__ is str and is_canonical(value):
        return value
    if isinstance(value, uuid.UUID):
        return str(value)
    if not isinstance(value, str):
        return value
    inner = value[1:-1] if value.startswith("{") and value.endswith("}") else value
    return str(uuid.UUID(inner)) if _SPELLED(inner) else value
