"""Tags: what a template like ``"runs:{app_id}:{created_at:day}"`` expands to.

Pure, and the same for reads and writes.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, date, datetime
from enum import Enum
from functools import cache
from string import Formatter
from typing import TYPE_CHECKING, Any, Final

from tidegate.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Unknown(Enum):
    """The type of :data:`UNKNOWN`."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN
"""A value that only the database knows so far: an SQL expression, a server default. It is not None: that is a value."""

_CANONICAL: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
_SHORTEST_UUID: Final = 32


def as_text(value: Any) -> str:
    """Return *value* as it stands in a tag: an id in canonical form whatever its spelling, other values as text."""
    if value.__class__ is str and _CANONICAL(value):  # almost every value is one
        return str(value)
    if isinstance(value, Enum):
        return as_text(value.value)
    if isinstance(value, str):
        return _canonical(str(value))
    if isinstance(value, datetime):
        return _naive_utc(value).isoformat()
    return str(value)


def _canonical(text: str) -> str:
    if len(text) < _SHORTEST_UUID:
        return text
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return text


def as_day(value: Any) -> str:
    """Return the day of *value* in UTC as YYYYMMDD.

    Naive values are taken as UTC, and so is text as databases write it.

    Raises:
        ValueError: *value* is no date.
    """
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        value = _naive_utc(value)
    elif not isinstance(value, date):
        raise ValueError(f"expected a date, not {value!r}")  # noqa: TRY004  # as for other bad values
    return f"{value.year:04d}{value.month:02d}{value.day:02d}"


def _naive_utc(value: datetime) -> datetime:
    return value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)


_FORMATS: Final[Mapping[str, Callable[[Any], str]]] = {"": as_text, "day": as_day}


class Template:
    """Expand one template. :func:`template` makes the object, once for each text.

    Args:
        text: the template; a field is ``{column}`` or ``{column:day}``.

    Raises:
        PolicyError: *text* is no template; the message says what a field looks like.
    """

    __slots__ = ("_format", "_renders", "fields", "text")

    def __init__(self, text: str) -> None:
        pieces, renders = [], []
        for literal, name, spec, conversion in Formatter().parse(text):
            pieces.append(literal.replace("%", "%%"))
            if name is None:
                continue
            render = _FORMATS.get(spec or "")
            if render is None or conversion or not name.isidentifier():
                raise PolicyError(f"{text!r} is no template of a tag: a field must be {{column}} or {{column:day}}")
            pieces.append("%s")
            renders.append((name, render))
        self.text = text
        self.fields: tuple[str, ...] = tuple(name for name, _ in renders)
        self._format = "".join(pieces)
        self._renders = tuple(renders)

    def expand(self, values: Mapping[str, Any]) -> str | Unknown | None:
        """Return the tag of *values*, by the names of the fields.

        Returns:
            The text of the tag; None if a value is None, which gives no tag; ``UNKNOWN`` if a value that it needs is
            unknown.
        """
        texts, unknown = [], False
        for name, render in self._renders:
            value = values.get(name, UNKNOWN)
            if value is None:
                return None
            if value is UNKNOWN:
                unknown = True
                continue
            try:
                texts.append(render(value))
            except ValueError:  # "infinity", or a value that the database will refuse
                unknown = True
        return UNKNOWN if unknown else self._format % tuple(texts)


@cache
def template(text: str) -> Template:
    """Return the compiled template of *text*.

    Raises:
        PolicyError: *text* is no template; the message says what a field looks like.
    """
    return Template(text)
