"""Which cache server serves a database, as the database says it.

The name of a server says nothing: one URL may lead to two servers, and two URLs to one. What counts is the server's id
together with its replication id (see :class:`~tidegate.cache.store.CacheServer`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import DBAPIError

from tidegate.proxy.database.placement import own
from tidegate.proxy.database.schema import CACHE, CLAIM, STATE

if TYPE_CHECKING:
    from sqlalchemy import Engine

_NOBODY: Final = "-"


class Serving(NamedTuple):
    """A cache server that serves a database.

    Args:
        url: where it was found, without the password. Only for messages; and a server that has lost all it had may
            claim to be this one only where it is found at the same place.
        id: the server's; "": whichever server is found there is to be taken.
        life: its replication id.
    """

    url: str
    id: str = ""
    life: str = ""

    def text(self) -> str:
        """Return it as it stands in the database."""
        return f"{self.url} {self.id or _NOBODY} {self.life or _NOBODY}"

    @classmethod
    def of_text(cls, text: str | None) -> Serving | None:
        """Return what :meth:`text` wrote; None where there is none."""
        if not text:
            return None
        url, name, life = (*text.split(" "), _NOBODY, _NOBODY)[:3]
        return cls(url, name.replace(_NOBODY, ""), life.replace(_NOBODY, ""))


class Served(NamedTuple):
    """What a database says: who serves it, and who claims to be that server, or to come after it."""

    by: Serving | None
    claim: Serving | None


def served(engine: Engine) -> Served:
    """Return who serves this database, in one query."""
    with own(engine).connect() as connection:
        rows = connection.execute(select(STATE.c.name, STATE.c.value).where(STATE.c.name.in_((CACHE, CLAIM)))).all()
    facts = {row.name: row.value for row in rows}
    return Served(Serving.of_text(facts.get(CACHE)), Serving.of_text(facts.get(CLAIM)))


def record_serving(engine: Engine, serving: Serving, instead_of: Serving | None) -> None:
    """Record who serves this database, if *instead_of* is still what is recorded; a claim ends with that."""
    if instead_of is None:
        _insert(engine, CACHE, serving)
        return
    with own(engine).begin() as connection:
        changed = update(STATE).where(STATE.c.name == CACHE, STATE.c.value == instead_of.text())
        if connection.execute(changed.values(value=serving.text())).rowcount:
            connection.execute(delete(STATE).where(STATE.c.name == CLAIM))


def replace_serving_cache(engine: Engine, url: str) -> None:
    """Record that the cache at *url* serves this database from now on; every gate must be restarted with it."""
    wanted = Serving(url).text()
    with own(engine).begin() as connection:
        connection.execute(delete(STATE).where(STATE.c.name.in_((CACHE, CLAIM))))
        connection.execute(insert(STATE).values(name=CACHE, value=wanted))


def record_claim(engine: Engine, claim: Serving) -> None:
    """Record a claim, if there is none."""
    _insert(engine, CLAIM, claim)


def remove_claim(engine: Engine, claim: Serving) -> None:
    """Remove a claim: by whoever uses the server that serves this database."""
    with own(engine).begin() as connection:
        connection.execute(delete(STATE).where(STATE.c.name == CLAIM, STATE.c.value == claim.text()))


def _insert(engine: Engine, name: str, serving: Serving) -> None:
    try:
        with own(engine).begin() as connection:
            connection.execute(insert(STATE).values(name=name, value=serving.text()))
    except DBAPIError:  # another gate was faster
        if served(engine) == Served(None, None):
            raise
