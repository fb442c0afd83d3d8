"""``tidegate shards check``: compare the map with the shards' own tables, and every row with the map."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from tidegate.error_text import first_line
from tidegate.errors import TidegateError
from tidegate.proxy.shard_admin.check_ownership import disagreements, newer_epoch, records
from tidegate.proxy.shard_admin.check_rows import Found, check_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tidegate.proxy.shard_admin.check_ownership import Records
    from tidegate.proxy.shard_admin.databases import Databases, Known
    from tidegate.proxy.shard_admin.progress import Progress

T = TypeVar("T")
_AT_ONCE: Final = 8


@dataclass(slots=True)
class Result:
    """What disagrees or could not be asked, what to do about it, and a summary of what was checked."""

    wrong: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    summary: str = ""


def check(databases: Databases, report: Progress) -> Result:
    """Check all shards of the map and of the settings; a shard that does not answer is among what is wrong.

    Args:
        databases: the databases of the shards.
        report: is told what is being done on each shard.
    """
    result, before = Result(), databases.known()
    names = list(dict.fromkeys((*before.shard_map.shards, *databases.names)))
    engines = _each(names, databases.own_engine, result)
    _verify_apart(databases, list(engines), result)
    recorded = _each(list(engines), lambda name: records(engines[name]), result)
    result.wrong += disagreements(before, recorded)
    _advise(before, recorded, databases, result)
    found = Found()
    _each(list(engines), lambda name: check_rows(name, engines, before.shard_map, found, report), result)
    result.wrong += sorted(found.wrong)
    after = databases.known()
    if after.entry != before.entry:
        result.wrong.append(
            f"the map has changed from epoch {before.last_epoch} to {after.last_epoch} while this ran, so some lines "
            "may be about the old map and some about the new one; run this again"
        )
    result.summary = _summary(before, recorded, found, result.wrong)
    return result


def _each(names: Sequence[str], ask: Callable[[str], T], result: Result) -> dict[str, T]:
    """Ask several shards at once. Those that fail are named in *result*, and left out of the answer."""

    def answer(name: str) -> T | Exception:
        try:
            return ask(name)
        except (TidegateError, SQLAlchemyError) as error:
            return error

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = dict(zip(names, pool.map(answer, names), strict=True))
    result.wrong += [f"{n} was not checked: {first_line(a)}" for n, a in answers.items() if isinstance(a, Exception)]
    return {name: answer for name, answer in answers.items() if not isinstance(answer, Exception)}


def _verify_apart(databases: Databases, names: Sequence[str], result: Result) -> None:
    """Check that no two shards are one database under two URLs."""
    seen: dict[object, str] = {}
    for name, identity in _each(names, databases.identity, result).items():
        if (other := seen.setdefault(identity, name)) != name:
            result.wrong.append(
                f"the URLs of {other} and {name} lead to the same database; each shard needs a database of its own"
            )


def _advise(known: Known, recorded: dict[str, Records], databases: Databases, result: Result) -> None:
    if known.flip is not None:
        flip = known.flip
        result.wrong.append(
            f"{len(flip.slots)} slots are on their way from {flip.from_shard} to {flip.to_shard}, "
            f"at epoch {flip.since_epoch}"
        )
        result.advice.append("if no process works on that flip any more, run: tidegate shards finish")
    result.advice += [
        f"{name} owns nothing: a gate that starts makes it own what the first map says; no later map does that"
        for name, of_shard in recorded.items()
        if not of_shard.owned and not of_shard.gone and known.shard_map.slots_of(name)
    ]
    newer = newer_epoch(known, recorded)
    if newer is None:
        return
    catalogue = databases.settings.sharding.catalogue
    if catalogue is None:
        result.advice.append(
            f"shards know of epoch {newer}, so there is a catalogue for them: set sharding.catalogue to its shard"
        )
        return
    result.advice.append(
        f"shards know of epoch {newer}, and the last epoch of the catalogue on {catalogue} is {known.last_epoch}: it "
        "has lost its newest map, as happens in a failover. Gates that have that map go on with it; the writes of "
        "other gates to the slots that it flipped are refused. Do not flip. Once all shards answer, "
        + ("run: tidegate shards finish, then check and repair" if known.flip else "run: tidegate shards repair")
        + "; and replicate that shard synchronously"
    )


def _summary(known: Known, asked: Iterable[str], found: Found, wrong: Sequence[str]) -> str:
    shards = len({*asked} & {*known.shard_map.shards})
    looked_at = (
        f"{shards} of {len(known.shard_map.shards)} shards, epoch {known.shard_map.epoch}; {found.tenants:,} tenants "
        f"looked up; {found.by_parent:,} rows without a tenant, of which {found.orphans:,} name a row that is on no "
        "shard"
    )
    return f"{len(wrong)} wrong: {looked_at}" if wrong else f"all agrees: {looked_at}"
