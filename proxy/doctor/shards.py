"""What is wrong with the databases of several shards, and with them together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import SQLAlchemyError

from tidegate.errors import NoNodeAvailable
from tidegate.proxy.doctor.facts import Facts, cache_facts, database_facts
from tidegate.proxy.doctor.finding import Finding
from tidegate.proxy.doctor.rules import all_is_well, cache_findings, database_findings
from tidegate.routing.replicas.failures import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tidegate.proxy.doctor.facts import DatabaseFacts
    from tidegate.proxy.shard_admin.databases import Databases

_LEFT: Final = (
    "that the shards own what the map says, and every row lies where it belongs, proves: tidegate shards check"
)


def examine_databases(databases: Databases, report: Callable[[str], None]) -> tuple[list[Finding], list[str]]:
    """Ask the primary of each shard, and the cache once.

    Args:
        databases: of the shards.
        report: told of each shard that is asked.

    Returns:
        What is wrong, and lines for when nothing gravely is.

    Raises:
        SettingsError: the cache's URL cannot work.
    """
    cache = cache_facts(databases.settings.cache)
    told: dict[str, DatabaseFacts] = {}
    found = cache_findings(cache)
    for name in databases.names:
        report(name)
        try:
            facts = Facts(database_facts(databases.engine(name)), cache)
        except (SQLAlchemyError, NoNodeAvailable) as error:
            wrong = f"cannot be asked ({databases.without_passwords(first_line(error))})"
            found.append(
                Finding(f"shard {name}", wrong, "its tenants alone are without it; start it, or correct its URL")
            )
            continue
        told[name] = facts.database
        found += [replace(one, about=f"shard {name}, {one.about}") for one in database_findings(facts)]
    found += _strangers(told)
    if any(finding.grave for finding in found):
        return found, []
    well = [f"{name}: {line}" for name, facts in told.items() for line in all_is_well(Facts(facts, cache))]
    return found, [*well, _LEFT]


def _strangers(told: Mapping[str, DatabaseFacts]) -> list[Finding]:
    """Shards that a gate would refuse to have in one cluster."""
    clusters = {name: facts.cluster for name, facts in told.items() if facts.cluster is not None}
    first = next(iter(clusters), "")
    return [
        Finding(f"shard {name}", f"belongs to another cluster of shards than {first}", "no gate starts; see its URL")
        for name, cluster in clusters.items()
        if cluster != clusters[first]
    ]
