"""What an error says, as text that may be shown and logged: no password is in it, whatever the driver quotes.

Drivers quote what they cannot read. A password that holds a blank, a quote or an "@" ends what they take for the
password, and its rest turns up as a host's name, a port or a keyword. So three things are masked: the passwords that
this process knows, in all their spellings; what stands where a password belongs; and what a driver quotes of a text
that it could not read, or what could not be a name.
"""

from __future__ import annotations

import os
import re
import threading
import traceback
from collections import OrderedDict
from typing import Final
from urllib.parse import quote, quote_plus

MASK: Final = "***"
_MOST_SAID: Final = 200
_MOST_KNOWN: Final = 256
"""How many passwords are known at a time: a service that gives a new one each time must not fill the memory."""
_SURE: Final = 4
"""From this length on a password is masked inside of words too."""
_PIECE: Final = 3
"""From this length on a quoted piece of a password is masked."""

_KEYED: Final = re.compile(
    r"(?P<key>(?:\b|ssl|PG)passw(?:or)?d[\"']?\s*[=:]\s*)"
    r"(?P<value>'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|.*?(?=\s+\w+\s*=|[\"')\]}]*\s*$|$))",
    re.IGNORECASE | re.MULTILINE,
)
_USERINFO: Final = re.compile(r"(?P<scheme>\b[\w+.\-]+://)\S?.*@")
_UNREADABLE: Final = re.compile(
    r"info string|connection option|\bURI\b|percent-encoded|\bdsn\b|conninfo|invalid port|unexpected spaces|bad value",
    re.IGNORECASE,
)
_QUOTED: Final = re.compile(r'"([^"\n]*)"')
_UNREAD: Final = re.compile(r"(?P<open>[\"']).*(?P=open)", re.DOTALL)
_HOST: Final = re.compile(r"(resolve host )'(.*?)'(?=: )")
_NAME: Final = re.compile(r"[\w.:/\\-]*")
_PLACE: Final = re.compile(r'[\s|+-]*File ".*", line \d+')

_known: Final[OrderedDict[str, None]] = OrderedDict()
_lock = threading.Lock()


def remember_password(password: object) -> None:
    """Remember *password*, so that it is masked in all texts from now on; None and "" are none."""
    text = "" if password is None else str(password)
    if not text:
        return
    with _lock:
        _known[text] = None
        _known.move_to_end(text)
        while len(_known) > _MOST_KNOWN:
            _known.popitem(last=False)


def without_passwords(text: str, *, by_driver: bool = True) -> str:
    """Return *text* with a mask in place of each password, and of what may be a piece of one.

    Args:
        text: what is to be shown; of any number of lines.
        by_driver: whether the driver may have written it. What a server says quotes names and values of statements, and
            no addresses.
    """
    known = _passwords()
    text = _without_known(text, known)
    text = _KEYED.sub(rf"\g<key>{MASK}", text)
    text = _USERINFO.sub(rf"\g<scheme>{MASK}@", text)
    if _UNREADABLE.search(text):
        return _UNREAD.sub(rf"\g<open>{MASK}\g<open>", text)
    if not by_driver:
        return text
    text = _HOST.sub(lambda found: f"{found[1]}'{_name(found[2], known)}'", text)
    return _QUOTED.sub(lambda found: f'"{_name(found[1], known)}"', text)


def error_text(error: BaseException) -> str:
    """Return all that an error says: of SQLAlchemy's errors, what the driver says, and not the statement."""
    orig: object = getattr(error, "orig", None)
    text = str(orig or error).strip() or type(error).__name__
    if type(error).__module__.partition(".")[0] == "tidegate":  # what it says of others is masked already
        return _without_known(text, _passwords())
    by_server = getattr(orig or error, "sqlstate", None) or getattr(orig or error, "pgcode", None)
    return without_passwords(text, by_driver=not by_server)


def first_line(error: BaseException) -> str:
    """Return what an error says in one line: databases go on for several, with the statement."""
    return error_text(error).splitlines()[0][:_MOST_SAID]


def traceback_text(error: BaseException) -> str:
    """Return the traceback of an error, and of those that led to it."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    known = _passwords()
    # Where it happened is a path, which may hold blanks; no driver has written it.
    return "\n".join(_without_known(line, known) if _PLACE.match(line) else without_passwords(line) for line in lines)


def _passwords() -> list[str]:
    """Return the passwords that are known, the longest first: one may be a part of another."""
    with _lock:
        known = list(_known)
    if from_environment := os.environ.get("PGPASSWORD"):
        known.append(from_environment)
    return sorted(set(known), key=len, reverse=True)


def _spellings(password: str) -> set[str]:
    escaped = password.replace("\\", "\\\\").replace("'", "\\'")
    return {password, escaped, quote(password), quote(password, safe=""), quote_plus(password), repr(password)[1:-1]}


def _without_known(text: str, passwords: list[str]) -> str:
    for password in passwords:
        for spelling in _spellings(password):
            text = _without(text, spelling)
    return text


def _without(text: str, password: str) -> str:
    if len(password) >= _SURE:
        return text.replace(password, MASK)
    return re.sub(rf"(?<!\w){re.escape(password)}(?!\w)", MASK, text)


def _name(quoted: str, known: list[str]) -> str:
    """Return what was quoted, if it can be the name of a host, a user or a database, or a path; else the mask."""
    is_piece = len(quoted) >= _PIECE and any(quoted in password for password in known)
    return MASK if is_piece or not _NAME.fullmatch(quoted) else quoted


def _forked() -> None:
    global _lock  # noqa: PLW0603  # a new one: a thread of the parent's may have held it at the fork
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)
