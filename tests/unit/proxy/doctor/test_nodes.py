"""What is said of the servers of a shard, by what they have told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy.engine import make_url

from tidegate.position import Position
from tidegate.proxy.doctor.node_facts import NodeFacts, behind
from tidegate.proxy.doctor.nodes import budget, findings_of
from tidegate.proxy.nodes.addresses import Address
from tidegate.proxy.settings import PoolSettings, Settings
from tidegate.routing.replicas.topology import ServerId, View

POOL = PoolSettings(size=10, overflow=10)


def address(name: str, **fields: object) -> Address:
    made = Address(name, make_url(f"postgresql+psycopg://u:secret@{name}/db"), 1.0, 10.0, POOL)
    return replace(made, **fields)  # type: ignore[arg-type]


def facts(name: str, *, standby: bool = True, **fields: object) -> NodeFacts:
    view = View(0.0, ServerId("1", name), standby, Position(2, 1000))
    made = NodeFacts(
        view,
        timezone="UTC",
        retry_ms=200,
        connections=97,
        sees_receiver=True,
        user="dify",
        receives=standby,
        shown_age_s=0.0,
        safe_lsn=1000,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def seen(name: str, *, standby: bool = True, system: str = "1", timeline: int = 2, lsn: int = 1000) -> View:
    return View(0.0, ServerId(system, name), standby, Position(timeline, lsn))


KNOWN = [address("a"), address("b"), address("c")]
WELL: dict[str, NodeFacts | str] = {"a": facts("a", standby=False), "b": facts("b"), "c": facts("c")}

FOUND: dict[str, tuple[dict[str, NodeFacts | str], list[str]]] = {
    "nothing": ({}, []),
    "nothing, where another one was promoted": (
        {"a": facts("a"), "b": facts("b", standby=False)},
        [],
    ),
    "a replica is away": (
        {"b": "connection refused"},
        ["b does not answer (connection refused): start it, or remove it from the settings"],
    ),
    "the primary is away": (
        {"a": "connection refused"},
        [
            "a does not answer (connection refused): start it, or remove it from the settings",
            "the shard has no primary: none of its servers takes writes; promote one",
        ],
    ),
    "not a standby": (
        {"b": facts("b", view=seen("b", standby=False, timeline=1))},
        ["b is not a standby, and a is the primary: no gate uses it; make it follow the primary"],
    ),
    "another cluster": (
        {"b": facts("b", view=seen("b", system="9"), timezone="Asia/Tokyo")},
        [
            "b is of another cluster than a (its system identifier is 9): no gate reads from it; correct its URL",
        ],
    ),
    "replay paused": (
        {"b": facts("b", view=replace(seen("b"), replay_paused=True))},
        ["b has its replay paused: it falls behind until somebody calls pg_wal_replay_resume() there"],
    ),
    "cut off": (
        {"b": facts("b", receives=False)},
        [
            (
                "b receives nothing from its primary: look at its log and at primary_conninfo, and check that its "
                "replication slot exists"
            ),
        ],
    ),
    "lag": (
        {"b": facts("b", view=seen("b", lsn=400), shown_age_s=61.25)},
        [
            (
                "b lags: 2 s later it has not replayed what the primary had written (600 bytes; the newest commit "
                "that it shows is 61.2 s old): gates read from it only while it is less than 10 s behind (max_lag_s)"
            )
        ],
    ),
    "nothing replayed yet": (
        {"b": facts("b", view=seen("b", lsn=400), shown_age_s=None)},
        [
            (
                "b lags: 2 s later it has not replayed what the primary had written (600 bytes; the newest commit "
                "that it shows is none yet): gates read from it only while it is less than 10 s behind (max_lag_s)"
            )
        ],
    ),
    "another time zone": (
        {"a": facts("a", standby=False, timezone="Europe/Berlin")},
        [
            (
                "a has the time zone Europe/Berlin, not UTC: set timezone = 'UTC' there, or in the options of the "
                "engine that the gate is put on"
            )
        ],
    ),
    "UTC by another name": ({"b": facts("b", timezone="Etc/UTC")}, []),
    "slow to follow a promotion": (
        {"b": facts("b", retry_ms=5000)},
        ["b has wal_retrieve_retry_interval at 5 s: a promotion may take as long; set it to 200ms"],
    ),
    "a user without rights": (
        {"b": facts("b", sees_receiver=False)},
        [
            (
                "b does not tell dify from which timeline it receives: after a failover, gates use it some minutes "
                "later than they could; GRANT pg_monitor TO dify"
            )
        ],
    ),
    "a right that a primary does not need": ({"a": facts("a", standby=False, sees_receiver=False)}, []),
    "one server by two names": (
        {"c": facts("b")},
        ["c is the same server as b: name it once: its pool and its share of reads count twice"],
    ),
}


@pytest.mark.parametrize(("changed", "lines"), FOUND.values(), ids=FOUND)
def test_what_is_wrong_is_said(changed: dict[str, NodeFacts | str], lines: list[str]) -> None:
    assert [found.text() for found in findings_of(KNOWN, WELL | changed)] == lines


GRAVE = {
    "a lag past the bound": (facts("b", view=seen("b", lsn=400), shown_age_s=10.1), True),
    "a lag within it": (facts("b", view=seen("b", lsn=400), shown_age_s=9.9), False),
    "a time zone": (facts("b", timezone="Asia/Tokyo"), False),
    "a paused replay": (facts("b", view=replace(seen("b"), replay_paused=True)), True),
}


@pytest.mark.parametrize(("told", "grave"), GRAVE.values(), ids=GRAVE)
def test_what_keeps_reads_away_is_grave(told: NodeFacts, *, grave: bool) -> None:
    (found,) = findings_of(KNOWN, {**WELL, "b": told})
    assert found.grave is grave


def test_an_idle_primary_makes_no_lag() -> None:
    primary = facts("a", standby=False)
    assert behind(facts("b", shown_age_s=3600.0), primary).shown_age_s == 0.0
    assert behind(facts("b", view=seen("b", lsn=999), shown_age_s=3.0), primary).shown_age_s == 3.0


def test_a_page_that_ends_within_a_record_makes_no_lag() -> None:
    primary = facts("a", standby=False, safe_lsn=8192)
    received = facts("b", view=seen("b", lsn=8000), shown_age_s=3.0, safe_lsn=8192)
    assert behind(received, primary).shown_age_s == 0.0
    assert behind(replace(received, safe_lsn=8191), primary).shown_age_s == 3.0
    assert behind(received, replace(primary, safe_lsn=8191)).shown_age_s == 3.0
    assert behind(replace(received, view=replace(received.view, replay_paused=True)), primary).shown_age_s == 3.0


BUDGETS = {
    "enough": (POOL, 4, "a: 4 x 22 = 88 connections at most, of 97", None),
    "too many": (
        POOL,
        5,
        "a: 5 x 22 = 110 connections at most, of 97",
        (
            "a takes 97 connections, and 5 x 22 = 110 may be opened: make the pools smaller (pool, or the replica's "
            "own), or raise max_connections"
        ),
    ),
    "a smaller pool of its own, for it may become the primary": (
        PoolSettings(size=1, overflow=1),
        1,
        "a: 1 x 22 = 22 connections at most, of 97",
        None,
    ),
    "a larger one": (PoolSettings(size=40, overflow=0), 1, "a: 1 x 42 = 42 connections at most, of 97", None),
}


@pytest.mark.parametrize(("pool", "processes", "line", "wrong"), BUDGETS.values(), ids=BUDGETS)
def test_the_pools_are_summed_up(pool: PoolSettings, processes: int, line: str, wrong: str | None) -> None:
    said, found = budget(address("a", pool=pool), facts("a"), Settings(pool=POOL), processes)
    assert said == line
    assert (None if found is None else found.text()) == wrong


def test_a_server_that_is_away_has_a_sum_too() -> None:
    assert budget(address("a"), "away", Settings(pool=POOL), 2) == ("a: 2 x 22 = 44 connections at most", None)


def test_a_shard_with_the_catalogue_is_followed_by_one_connection_more() -> None:
    line, _ = budget(address("a"), "away", Settings(pool=POOL), 2, catalogue=True)
    assert line == "a: 2 x 23 = 46 connections at most"
