"""The servers that tests share: one cluster per test process, a fresh database per test."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tidegate.proxy.embedded import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@pytest.fixture
def database_url(cluster: Cluster) -> Iterator[str]:
    primary = cluster.shards[0].primary
    name = f"test_{next(_numbers)}"
    primary.execute(f"CREATE DATABASE {name}", database="postgres")
    yield primary.url.rsplit("/", 1)[0] + f"/{name}"
    primary.execute(f"DROP DATABASE {name} WITH (FORCE)", database="postgres")


@pytest.fixture
def valkey_url(cluster: Cluster) -> str:
    cluster.cache.flush()
    return cluster.cache.url
