"""Three shards of real PostgreSQL, of which the first keeps the catalogue; Tidegate's tables are empty at each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from real_servers.shards import Shards

from tidegate.proxy.embedded import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def three() -> Iterator[Cluster]:
    with Cluster(shards=3, cache=False) as running:
        yield running


@pytest.fixture(scope="session")
def made_shards(three: Cluster) -> Iterator[Shards]:
    shards = Shards(three)
    shards.make_tables()
    yield shards
    shards.close()


@pytest.fixture
def shards(made_shards: Shards) -> Shards:
    made_shards.empty()
    return made_shards
