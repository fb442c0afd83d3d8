"""What is wrong with the servers of a shard, in plain words. Only :func:`examine` asks them; all else is pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tidegate.proxy.doctor.finding import Finding
from tidegate.proxy.doctor.node_facts import CATCHES_UP_S, NodeFacts, behind, facts_of
from tidegate.proxy.nodes.addresses import addresses
from tidegate.proxy.nodes.patroni_members import address_of
from tidegate.routing.replicas.patroni import Discovery
from tidegate.routing.replicas.topology import Topology

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tidegate.proxy.nodes.addresses import Address
    from tidegate.proxy.settings import Settings, ShardSettings
    from tidegate.routing.replicas.patroni import Member

_UTC: Final = frozenset({"UTC", "Etc/UTC", "GMT", "Etc/GMT", "Etc/UCT", "UCT", "Zulu", "Etc/Zulu", "Universal"})
_SLOW_RETRY_MS: Final = 1000
_SUPERVISION: Final = 2
"""Connections to the primary beside the pool's: that of its monitor, and the one that listens for the outbox."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What is wrong with a shard's servers; and, for each server, how many connections the pools may open."""

    findings: tuple[Finding, ...]
    budgets: tuple[str, ...]


def examine(shard: ShardSettings, settings: Settings, processes: int = 1) -> Examined:
    """Ask every server of *shard*, and judge the answers for a program of so many *processes*."""
    known, findings = _known(shard, settings)
    first = {address.name: facts_of(address.url) for address in known}
    primary = _primary(known, first)
    # Ask the standbys a second time, after the primary: what they show is compared with what it had written by then.
    answers = first | {one.name: _caught_up(one, primary) for one in known if _is_standby(first[one.name])}
    findings += findings_of(known, answers)
    catalogue = len(settings.shards) > 1 and settings.sharding.catalogue == shard.name
    budgets = [budget(address, answers[address.name], settings, processes, catalogue=catalogue) for address in known]
    return Examined(
        (*findings, *(found for _, found in budgets if found is not None)), tuple(line for line, _ in budgets)
    )


def findings_of(known: Sequence[Address], told: Mapping[str, NodeFacts | str]) -> list[Finding]:
    """Return what is wrong with the servers.

    Args:
        known: the servers.
        told: what each server said, by name; a text says why it did not answer.
    """
    findings = [
        Finding(name, f"does not answer ({facts})", "start it, or remove it from the settings")
        for name, facts in told.items()
        if isinstance(facts, str)
    ]
    primary = _primary(known, told)
    if primary is None:
        findings.append(Finding("the shard", "has no primary", "none of its servers takes writes; promote one"))
    for address in known:
        facts = told[address.name]
        if not isinstance(facts, str):
            findings += _of_node(address, facts, primary)
    return findings + _twins(told)


def _of_node(address: Address, facts: NodeFacts, primary: tuple[str, NodeFacts] | None) -> list[Finding]:
    findings = []
    if primary is not None and facts.view.server.system != primary[1].view.server.system:
        wrong = f"is of another cluster than {primary[0]} (its system identifier is {facts.view.server.system})"
        return [Finding(address.name, wrong, "no gate reads from it; correct its URL")]
    if facts.view.standby:
        findings += _of_standby(address, facts, primary)
    elif primary is not None and address.name != primary[0]:
        wrong = f"is not a standby, and {primary[0]} is the primary"
        findings.append(Finding(address.name, wrong, "no gate uses it; make it follow the primary"))
    if facts.timezone not in _UTC:
        cure = "set timezone = 'UTC' there, or in the options of the engine that the gate is put on"
        findings.append(Finding(address.name, f"has the time zone {facts.timezone}, not UTC", cure, grave=False))
    if facts.retry_ms > _SLOW_RETRY_MS:
        wrong = f"has wal_retrieve_retry_interval at {facts.retry_ms / 1000:g} s"
        cure = "a promotion may take as long; set it to 200ms"
        findings.append(Finding(address.name, wrong, cure, grave=False))
    return findings


def _of_standby(address: Address, facts: NodeFacts, primary: tuple[str, NodeFacts] | None) -> list[Finding]:
    name, findings = address.name, []
    if facts.view.replay_paused:
        cure = "it falls behind until somebody calls pg_wal_replay_resume() there"
        findings.append(Finding(name, "has its replay paused", cure))
    if not facts.receives:
        cure = "look at its log and at primary_conninfo, and check that its replication slot exists"
        findings.append(Finding(name, "receives nothing from its primary", cure))
    if primary is not None and facts.shown_age_s != 0.0:
        age = "none yet" if facts.shown_age_s is None else f"{facts.shown_age_s:.1f} s old"
        bytes_behind = primary[1].safe_lsn - facts.view.position.lsn
        too_far = facts.shown_age_s is None or facts.shown_age_s > address.max_lag_s
        wrong = (
            f"lags: {CATCHES_UP_S:g} s later it has not replayed what the primary had written ({bytes_behind:,} bytes; "
            f"the newest commit that it shows is {age})"
        )
        cure = f"gates read from it only while it is less than {address.max_lag_s:g} s behind (max_lag_s)"
        findings.append(Finding(name, wrong, cure, grave=too_far))
    if not facts.sees_receiver:
        wrong = f"does not tell {facts.user} from which timeline it receives"
        cure = f"after a failover, gates use it some minutes later than they could; GRANT pg_monitor TO {facts.user}"
        findings.append(Finding(name, wrong, cure, grave=False))
    return findings


def _twins(told: Mapping[str, NodeFacts | str]) -> list[Finding]:
    names: dict[object, str] = {}
    findings = []
    for name, facts in told.items():
        if isinstance(facts, str):
            continue
        other = names.setdefault(facts.view.server, name)
        if other != name:
            cure = "name it once: its pool and its share of reads count twice"
            findings.append(Finding(name, f"is the same server as {other}", cure, grave=False))
    return findings


def budget(
    address: Address, facts: NodeFacts | str, settings: Settings, processes: int, *, catalogue: bool = False
) -> tuple[str, Finding | None]:
    """Return, as one line, how many connections to a server the pools may open; and a finding if these are too many.

    Any replica may become the primary, and gets the primary's pool then. Where its shard keeps the catalogue, one more
    connection follows that.

    Args:
        address: the server.
        facts: what it said; a text says why it did not answer.
        settings: all settings.
        processes: how many processes have a gate.
        catalogue: whether the server's shard keeps the catalogue.
    """
    pools = (address.pool, settings.pool)
    each = max(pool.size + pool.overflow for pool in pools) + _SUPERVISION + catalogue
    line = f"{address.name}: {processes} x {each} = {processes * each} connections at most"
    if isinstance(facts, str):
        return line, None
    line += f", of {facts.connections}"
    if processes * each <= facts.connections:
        return line, None
    wrong = f"takes {facts.connections} connections, and {processes} x {each} = {processes * each} may be opened"
    cure = "make the pools smaller (pool, or the replica's own), or raise max_connections"
    return line, Finding(address.name, wrong, cure)


def _known(shard: ShardSettings, settings: Settings) -> tuple[list[Address], list[Finding]]:
    known = addresses(shard, settings)
    if not shard.patroni:
        return known, []
    members: list[Member] = []
    troubles: list[str] = []
    Discovery(shard.patroni, members.extend, troubles.append, every_s=0.0).ask_now()
    found = {address.name: address for address in (address_of(member, known[0]) for member in members)}
    cure = "gates do not use the servers that only Patroni names; correct the URLs in patroni, or start it"
    findings = [Finding("Patroni", f"does not answer ({why})", cure) for why in troubles]
    return list((found | {address.name: address for address in known}).values()), findings


def _primary(known: Sequence[Address], told: Mapping[str, NodeFacts | str]) -> tuple[str, NodeFacts] | None:
    """Return the node that a gate would take for the primary, by the same rules; None if it does not answer as one."""
    topology = Topology([address.node() for address in known])
    for node in topology.nodes:
        if not isinstance(facts := told[node.name], str):
            topology.observed(node, facts.view)
    facts = told[topology.primary.name]
    return None if isinstance(facts, str) or facts.view.standby else (topology.primary.name, facts)


def _is_standby(facts: NodeFacts | str) -> bool:
    return not isinstance(facts, str) and facts.view.standby


def _caught_up(address: Address, primary: tuple[str, NodeFacts] | None) -> NodeFacts | str:
    if primary is None:
        return facts_of(address.url)
    facts = facts_of(address.url, primary[1].safe_lsn)
    return facts if isinstance(facts, str) else behind(facts, primary[1])
