"""Three shards of real PostgreSQL, of which the first keeps the catalogue; Tidegate's tables are empty at each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from real_servers.initialised import initialise
from real_servers.replicated import caught_up
from real_servers.shards import Shards
from sqlalchemy import create_engine

from tidegate.proxy.embedded import Cluster
from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.models import Base

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def three() -> Iterator[Cluster]:
    with Cluster(shards=3) as running:
        yield running


@pytest.fixture(scope="session")
def two() -> Iterator[Cluster]:
    """Two shards with a replica each, which nobody empties."""
    with Cluster(shards=2, replicas=1) as running:
        for shard in running.shards:
            engine = create_engine(shard.primary.url)
            initialise(engine)
            engine.dispose()
            caught_up(shard.primary, *shard.replicas)
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


@pytest.fixture(scope="session")
def with_repositories(made_shards: Shards) -> None:
    for engine in made_shards.engines.values():
        Base.metadata.create_all(engine)
        create_indexes(engine)


@pytest.fixture
def stocked(shards: Shards, with_repositories: None) -> Shards:  # noqa: ARG001  # the tables are there
    """Shards with the repositories' tables, and a cache, all of them empty."""
    for engine in shards.engines.values():
        with engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(table.delete())
    shards.cluster.cache.flush()
    return shards
