"""An answer in the process ends with the time of its policy, as the server's entry does, though nothing has changed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from real_servers.deadlines import patient
from real_servers.shaped_gate import Shaped, shaped, stocked
from real_servers.tracked_shapes import SHAPES_POLICIES, TRACKED_SHAPES, Shapes

import tidegate
from tidegate import PolicyTable, Read
from tidegate.proxy.embedded.process import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.cache.request import AnsweredBy
    from tidegate.repositories.policies import NearMode

TIME = timedelta(milliseconds=400)


@pytest.fixture
def outside(database_url: str, valkey_url: str) -> Iterator[Shaped]:
    with shaped(database_url, valkey_url) as found:
        yield stocked(found)


@pytest.mark.parametrize("mode", ["strict", "bounded"])
def test_an_answer_is_asked_for_again_when_its_time_is_over(outside: Shaped, mode: NearMode) -> None:
    policies = PolicyTable({**SHAPES_POLICIES, "plain_one": Read(guard="plain:{row_id}", ttl=TIME, near=mode)})
    with tidegate.connect(outside.settings) as gate:
        shapes: Any = gate.wrap(Shapes, policies, TRACKED_SHAPES)(gate.session_maker)

        def answered(where: AnsweredBy) -> int:
            shapes.plain_one("ann", "a")
            return sum(found.answered.get(where, 0) for found in gate.stats().methods.values())

        wait_for(lambda: answered("near") > 0, "the answer is near", patient(20))
        before = answered("node")
        # Nothing changes, so only the end of its time has the database asked again.
        wait_for(lambda: answered("node") > before, "the end of its time", patient(20))
