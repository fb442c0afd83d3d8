"""Who is a member by Patroni's answers, and whom to ask; what is asked is the test's."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import pytest
from real_servers.deadlines import patient

from tidegate.routing.replicas.patroni import Discovery, Member, fetch, members_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def member(**fields: Any) -> dict[str, Any]:
    usual = {"name": "pg1", "role": "replica", "state": "streaming", "host": "10.0.0.1", "port": 5432, "timeline": 3}
    return usual | fields


def answer(*members: Any) -> bytes:
    return json.dumps({"members": members, "scope": "dify"}).encode()


USED: dict[str, tuple[dict[str, Any], bool]] = {
    "a replica that streams": ({}, True),
    "one that replays an archive": ({"state": "running"}, True),
    "a synchronous one": ({"role": "sync_standby"}, True),
    "one that starts": ({"state": "starting"}, False),
    "one that has stopped": ({"state": "stopped"}, False),
    "one that failed to start": ({"state": "start failed"}, False),
    "one that is being made": ({"state": "creating replica"}, False),
    "one that no load is to go to": ({"tags": {"noloadbalance": True}}, False),
    "one that is never to lead": ({"tags": {"nofailover": True}}, False),
    "one whose tags say no": ({"tags": {"noloadbalance": False, "nofailover": False, "zone": "a"}}, True),
    "one without an address yet": ({"host": None}, False),
    "the leader": ({"role": "leader", "state": "running"}, True),
    "by the name that it had before": ({"role": "master", "state": "running"}, True),
    "of a cluster that is a standby": ({"role": "standby_leader"}, True),
    "the leader whatever its tags": ({"role": "leader", "tags": {"noloadbalance": True}}, True),
    "and its state, as its monitor will see": ({"role": "leader", "state": "starting"}, True),
    "something else": ({"role": "replica", "state": None, "tags": "none"}, False),
}


@pytest.mark.parametrize(("fields", "used"), USED.values(), ids=USED)
def test_who_is_used(fields: dict[str, Any], *, used: bool) -> None:
    assert members_of(answer(member(**fields))) == ([Member("10.0.0.1", 5432)] if used else [])


def test_a_port_and_an_interface_are_told() -> None:
    told = member(port="6432", api_url="http://10.0.0.1:8008/patroni")
    assert members_of(answer(told)) == [Member("10.0.0.1", 6432, "http://10.0.0.1:8008/patroni")]


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b'{"members": {}}', b"<html>", b"\xff", answer(member(port="x"))]
)
def test_what_is_no_answer_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # of json's too, in its words
        members_of(text)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/cluster", "host:8008"])
def test_other_urls_are_not_read(url: str) -> None:
    with pytest.raises(URLError, match="expected a URL like http://host:8008"):
        fetch(url)


class Interfaces:
    """Some URLs that answer; the others are away."""

    def __init__(self, *urls: str, **answers: bytes) -> None:
        self.found: list[Sequence[Member]] = []
        self.lost: list[str] = []
        self.asked: list[str] = []
        self.answers = answers
        self.discovery = Discovery(urls, self.found.append, self.lost.append, every_s=3600.0, fetch=self.fetch)

    def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        name = url.removeprefix("http://").partition("/")[0].partition("@")[2] or url[7:].partition("/")[0]
        if name not in self.answers:
            raise URLError(f"{name} is away")
        return self.answers[name]


ONE = [Member("10.0.0.1", 5432)]


def test_the_first_that_answers_is_believed() -> None:
    told = Interfaces("http://a/", "http://b", "http://c", b=answer(member()), c=answer())
    assert told.discovery.ask_now()
    assert (told.found, told.lost, told.asked) == ([ONE], [], ["http://a/cluster", "http://b/cluster"])


def test_one_that_talks_nonsense_is_passed_over() -> None:
    told = Interfaces("http://a", "http://b", a=b"<html>", b=answer(member()))
    assert told.discovery.ask_now()
    assert told.found == [ONE]


def test_members_are_asked_when_those_that_were_given_are_gone() -> None:
    told = Interfaces("http://a", a=answer(member(api_url="http://b/patroni")), b=answer(member()))
    assert told.discovery.ask_now()
    del told.answers["a"]
    assert told.discovery.ask_now()
    assert told.asked[-1] == "http://b/cluster"


def test_when_nobody_answers_nothing_is_found_and_no_secret_told() -> None:
    told = Interfaces("http://user:secret@a", "http://b")
    assert not told.discovery.ask_now()
    assert told.found == []
    assert told.lost == ["http://a: <urlopen error a is away>; http://b: <urlopen error b is away>"]


def test_it_goes_on_asking_until_it_is_closed() -> None:
    asked = threading.Semaphore(0)

    def answers(_url: str) -> bytes:
        asked.release()
        return answer(member())

    discovery = Discovery(["http://a"], lambda _members: None, lambda _why: None, every_s=0.001, fetch=answers)
    discovery.ensure_started()
    discovery.ensure_started()
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("tidegate-discovery") == 1
    for _ in range(3):
        assert asked.acquire(timeout=patient(10))
    thread = next(thread for thread in threading.enumerate() if thread.name == "tidegate-discovery")
    discovery.close()
    thread.join(patient(10))
    assert not thread.is_alive()
    discovery.ensure_started()
    assert "tidegate-discovery" not in [thread.name for thread in threading.enumerate()]
