"""A replica's connection that breaks in the moment in which it is asked how far it has replayed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from real_servers.versioned_tenant import Book
from sqlalchemy.orm import Session

import tidegate
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import wait_for
from tidegate.repositories.models import Base
from tidegate.routing.replicas.topology import View

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.proxy.observe import Event

TERMINATE = (
    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
    " WHERE query = 'ROLLBACK' AND pid <> pg_backend_pid()"
)
"""The connection of the pool, and not the monitor's, which has no transactions."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(replicas=1, cache=False) as running:
        yield running


def test_a_connection_that_breaks_as_it_is_asked_sends_the_read_elsewhere(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(View, "vouches_for", lambda *_: False)  # so that every connection is asked
    primary, replica = cluster.shards[0].primary, cluster.shards[0].replicas[0]
    events: Counter[str] = Counter()

    def observe(event: Event) -> None:
        events[type(event).__name__] += 1

    with tidegate.connect(cluster.settings(), observe=observe) as gate:
        Base.metadata.create_all(gate.engine)
        book, runs = Book.new(), gate.workflow_runs
        with Session(gate.engine) as session:
            session.add(book.first())
            session.commit()
        name = f"127.0.0.1:{replica.port}"
        wait_for(lambda: replica.execute("SELECT to_regclass('workflow_runs')")[0][0] is not None, "the tables")

        def by_replica() -> bool:
            runs.get_workflow_run_by_id(book.tenant, book.app, book.run)
            return gate.stats().nodes.get(name, 0) > 0

        wait_for(by_replica, "the replica answers")
        assert replica.execute(TERMINATE)[0][0] > 0
        assert runs.get_workflow_run_by_id(book.tenant, book.app, book.run) is not None
        assert gate.stats().nodes[f"127.0.0.1:{primary.port}"] > 0
        assert events["Banned"] > 0
