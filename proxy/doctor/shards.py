"""What is wrong with the databases of several shards, each and together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import SQLAlchemyError

from tidegate.error_text import first_line
from tidegate.errors import NoNodeAvailable
from tidegate.proxy.doctor.facts import Facts, cache_facts, database_facts
from tidegate.proxy.doctor.finding import Finding
from tidegate.proxy.doctor.rules import all_is_well, cache_findings, database_findings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tidegate.proxy.doctor.facts import CacheFacts, DatabaseFacts
    from tidegate.proxy.shard_admin.databases import Databases

_LEFT: Final = (
    "to prove that the shards own what the map says, and that every row is on the right shard, run: tidegate shards "
    "check"
)


def examine_databases(databases: Databases, report: Callable[[str], None]) -> tuple[list[Finding], list[str]]:
    """Ask the primary of each shard, and ask the cache once.

    Args:
        databases: the databases of the shards.
        report: is called with the name of each shard before it is asked.

    Returns:
        What is wrong; and the lines to print if nothing is gravely wrong.

    Raises:
        SettingsError: the cache's URL cannot work.
    """
    settings = databases.settings.cache
    cache: CacheFacts | None = None
    answers: dict[str, DatabaseFacts] = {}
    found: list[Finding] = []
    for name in databases.names:
        report(name)
        try:
            database = database_facts(databases.engine(name))
        except (SQLAlchemyError, NoNodeAvailable) as error:
            wrong = f"cannot be asked ({first_line(error)})"
            found.append(Finding(f"shard {name}", wrong, "calls for its tenants fail; start it, or correct its URL"))
            continue
        if cache is None and (cache := cache_facts(settings, database.namespace)) is not None:
            found = [*cache_findings(cache), *found]
        facts = Facts(database, cache)
        answers[name] = database
        found += [replace(one, about=f"shard {name}, {one.about}") for one in database_findings(facts)]
    if not answers:
        found = [*cache_findings(cache_facts(settings)), *found]
    found += _strangers(answers)
    if any(finding.grave for finding in found):
        return found, []
    well = [f"{name}: {line}" for name, facts in answers.items() for line in all_is_well(Facts(facts, cache))]
    return found, [*well, _LEFT]


def _strangers(answers: Mapping[str, DatabaseFacts]) -> list[Finding]:
    """Return a finding for each shard that a gate would refuse to have in one cluster with the first."""
    clusters = {name: facts.cluster for name, facts in answers.items() if facts.cluster is not None}
    first = next(iter(clusters), "")
    return [
        Finding(f"shard {name}", f"belongs to another cluster of shards than {first}", "no gate starts; check its URL")
        for name, cluster in clusters.items()
        if cluster != clusters[first]
    ]
