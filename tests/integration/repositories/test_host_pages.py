"""Pages of a host's own model: the rows, the order and the pages that Tidegate's own repository gives."""

from __future__ import annotations

import contextlib
import random
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import pytest
from real_servers.host_models import HOST_MODELS, HostSource, HostStatus, LaterRun, PlainRun, StrictRun
from real_servers.host_runs import HostPage, HostRuns, create_host_tables
from sqlalchemy import create_engine, event, insert, inspect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from tidegate.repositories.enums import WorkflowRunTriggeredFrom as Source
from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.models import WorkflowRun, new_id
from tidegate.repositories.runs.page_statements import page_statements
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_servers.host_models import HostRun
    from sqlalchemy import Engine

    from tidegate.proxy.embedded import Cluster

pytestmark = pytest.mark.fast

TENANT, APP, LATER_APP = new_id(), new_id(), new_id()
HEAVY: Final = frozenset({"graph", "inputs", "outputs"})
NOON: Final = datetime(2026, 5, 1, 12)  # noqa: DTZ001  # as columns hold it
SOURCES: Final = [*HostSource, *map(str, HostSource), Source.SCHEDULE, "no-such-source", ""]
STATUSES: Final = [None, None, "", *HostStatus, "stopped", "no-such-status"]
KINDS: Final = ("sqlite", "postgresql", "postgresql-indexed", "psycopg2", "psycopg2-indexed")


def _rows() -> list[dict[str, Any]]:
    """Runs of few times, so that many are equal; and some of a source that only the database knows."""
    chance = random.Random(20261129)  # noqa: S311  # the same rows each time
    rows: list[dict[str, Any]] = []
    for i in range(320):
        later = i % 10 == 9
        rows.append({
            "id": new_id(), "tenant_id": TENANT, "app_id": LATER_APP if later else APP, "workflow_id": new_id(),
            "type": "workflow", "triggered_from": "a-later-source" if later else str(chance.choice(list(HostSource))),
            "version": str(i), "graph": f'{{"n": {i}}}', "inputs": None, "status": str(chance.choice(list(HostStatus))),
            "created_by_role": "account", "created_by": new_id(), "error": None if i % 3 else "an error",
            "created_at": NOON + timedelta(seconds=chance.randrange(12)), "total_tokens": i,
        })  # fmt: skip
    return rows


ROWS: Final = _rows()


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    kind: str = request.param
    with contextlib.ExitStack() as undo:
        if kind == "sqlite":
            made = create_engine(f"sqlite:///{tmp_path_factory.mktemp('pages')}/runs.db")
        else:
            url = undo.enter_context(_database(request.getfixturevalue("cluster"), f"host_pages_{KINDS.index(kind)}"))
            made = create_engine(url.replace("+psycopg:", "+psycopg2:") if "psycopg2" in kind else url)
        undo.callback(made.dispose)
        create_host_tables(made)
        with made.begin() as connection:
            connection.execute(insert(WorkflowRun), ROWS)
        if kind.endswith("indexed"):
            create_indexes(made)
        yield made


@contextlib.contextmanager
def _database(cluster: Cluster, name: str) -> Iterator[str]:
    primary = cluster.shards[0].primary
    primary.execute(f"CREATE DATABASE {name}", database="postgres")
    yield primary.url.rsplit("/", 1)[0] + f"/{name}"
    primary.execute(f"DROP DATABASE {name} WITH (FORCE)", database="postgres")


@pytest.fixture
def own(engine: Engine) -> DifyAPISQLAlchemyWorkflowRunRepository:
    return DifyAPISQLAlchemyWorkflowRunRepository(sessionmaker(engine))


def _arguments(chance: random.Random) -> tuple[Any, ...]:
    sources: Any = chance.choices(SOURCES, k=chance.randrange(4))
    if len(sources) == 1 and chance.random() < 0.5:
        sources = sources[0]
    last = (
        chance.choice([None, *[row["id"] for row in ROWS if row["app_id"] == APP]]) if chance.random() < 0.7 else None
    )
    return TENANT, APP, sources, chance.choice([0, 1, 3, 20, 400]), last, chance.choice(STATUSES)


def _order(row: dict[str, Any]) -> tuple[datetime, str]:
    return row["created_at"], row["id"]


def _expected(_tenant: str, app: str, sources: Any, limit: int, last: str | None, status: str | None) -> list[str]:
    wanted = {str(sources)} if isinstance(sources, str) else set(map(str, sources))
    here = [row for row in ROWS if row["app_id"] == app and (not wanted or row["triggered_from"] in wanted)]
    if status:
        here = [row for row in here if row["status"] == status]
    if last:
        cursor = next(_order(row) for row in ROWS if row["id"] == last)
        here = [row for row in here if _order(row) < cursor]
    return [row["id"] for row in sorted(here, key=_order, reverse=True)][: limit + 1]


@pytest.mark.parametrize("model", HOST_MODELS)
def test_pages_are_those_of_tidegate_s_own_repository(
    engine: Engine, own: DifyAPISQLAlchemyWorkflowRunRepository, model: type[HostRun]
) -> None:
    host, chance = HostRuns(sessionmaker(engine), model), random.Random(7)  # noqa: S311  # the same pages each time
    light = [attribute.key for attribute in inspect(WorkflowRun).column_attrs if attribute.key not in HEAVY]
    own.get_paginated_workflow_runs(TENANT, APP, [])  # looks which indexes there are
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    for _ in range(60):
        arguments = _arguments(chance)
        sent.clear()
        one = own.get_paginated_workflow_runs(*arguments)
        queries = len(sent)
        other = host.get_paginated_workflow_runs(*arguments)
        assert len(sent) == 2 * queries
        expected = _expected(*arguments)
        assert [row.id for row in other.data] == [row.id for row in one.data] == expected[: arguments[3]], arguments
        assert (type(other), other.limit, other.has_more) == (HostPage, one.limit, len(expected) > one.limit)
        assert one.has_more == other.has_more
        for mine, theirs in zip(one.data, other.data, strict=True):
            assert type(theirs) is model
            assert not HEAVY & set(vars(theirs))
            assert [vars(mine)[key] for key in light] == [vars(theirs)[key] for key in light]
        if other.data:
            row = chance.choice(other.data)
            assert row.graph == f'{{"n": {row.version}}}'


@pytest.mark.parametrize("model", HOST_MODELS)
def test_walking_the_pages_skips_and_repeats_nothing(engine: Engine, model: type[HostRun]) -> None:
    host = HostRuns(sessionmaker(engine), model)
    for sources in ([], list(HostSource), HostSource.APP_RUN):
        seen: list[str] = []
        last = None
        while True:
            page = host.get_paginated_workflow_runs(TENANT, APP, sources, 7, last)
            seen += [row.id for row in page.data]
            if not page.has_more:
                break
            last = seen[-1]
        assert seen == _expected(TENANT, APP, sources, len(ROWS), None, None)


def test_members_of_an_enumeration_are_asked_for_by_their_values(engine: Engine) -> None:
    class OfOldStyle(str, Enum):  # noqa: UP042  # whose str() is its name
        APP_RUN = "app-run"
        FAILED = "failed"

    page = HostRuns(sessionmaker(engine), StrictRun).get_paginated_workflow_runs
    expected = _expected(TENANT, APP, "app-run", 400, None, "failed")
    for sources in (OfOldStyle.APP_RUN, [OfOldStyle.APP_RUN, "app-run"]):
        assert [row.id for row in page(TENANT, APP, sources, 400, None, OfOldStyle.FAILED).data] == expected


def test_a_model_that_has_enumerations_gives_their_members(engine: Engine) -> None:
    (row,) = HostRuns(sessionmaker(engine), StrictRun).get_paginated_workflow_runs(TENANT, APP, [], 1).data
    assert (type(row.status), type(row.triggered_from)) == (HostStatus, HostSource)


def test_a_column_that_tidegate_does_not_know_is_light_unless_the_model_defers_it(engine: Engine) -> None:
    (row,) = HostRuns(sessionmaker(engine), LaterRun).get_paginated_workflow_runs(TENANT, APP, [], 1).data
    assert "note" in vars(row)
    assert "draft" not in vars(row)


def test_all_sources_are_all_that_the_database_has(engine: Engine) -> None:
    page = HostRuns(sessionmaker(engine), PlainRun).get_paginated_workflow_runs(TENANT, LATER_APP, [])
    assert {row.triggered_from for row in page.data} == {"a-later-source"}


def test_only_a_row_that_the_model_cannot_hold_raises_what_loading_it_raises(engine: Engine) -> None:
    host = HostRuns(sessionmaker(engine), StrictRun)
    assert host.get_paginated_workflow_runs(TENANT, APP, "a-later-source").data == []
    with pytest.raises(ValueError, match="'a-later-source' is not a valid HostSource"):
        host.get_paginated_workflow_runs(TENANT, LATER_APP, "a-later-source")


@pytest.mark.parametrize("model", HOST_MODELS)
def test_arguments_that_cannot_work_are_refused_as_by_tidegate_s_own(engine: Engine, model: type[HostRun]) -> None:
    page = HostRuns(sessionmaker(engine), model).get_paginated_workflow_runs
    with pytest.raises(ValueError, match="limit must be"):
        page(TENANT, APP, [], -1)
    with pytest.raises(ValueError, match="status must be one text"):
        page(TENANT, APP, [], status=["failed"])
    with pytest.raises(ValueError, match="at most 100 sources"):
        page(TENANT, APP, [f"source-{i}" for i in range(101)])
    for stranger in (new_id(), next(row["id"] for row in ROWS if row["app_id"] == LATER_APP)):
        with pytest.raises(ValueError, match="Last workflow run not exists"):
            page(TENANT, APP, [], last_id=stranger)


def test_statements_are_made_once_for_each_model_and_shape() -> None:
    for model in (WorkflowRun, *HOST_MODELS):
        statements = page_statements(model)
        assert page_statements(model) is statements
        shape = {"with_status": True, "with_cursor": True, "indexed": True}
        assert statements.page(2, **shape) is statements.page(2, **shape)
        assert statements.page(2, **shape) is not statements.page(3, **shape)


def test_a_model_that_cannot_be_read_is_refused_by_what_it_lacks() -> None:
    class Other(DeclarativeBase):
        """Models of another table."""

    class Thing(Other):
        __tablename__ = "thing"
        id: Mapped[str] = mapped_column(primary_key=True)
        tenant_id: Mapped[str]

    class Wide(Other):
        __tablename__ = "wide"
        id: Mapped[str] = mapped_column(primary_key=True)
        tenant_id: Mapped[str] = mapped_column(primary_key=True)
        app_id: Mapped[str]
        triggered_from: Mapped[str]
        status: Mapped[str]
        created_at: Mapped[datetime]
        graph: Mapped[str]
        inputs: Mapped[str]
        outputs: Mapped[str]

    with pytest.raises(
        TypeError, match="Thing has no columns app_id, triggered_from, status, created_at, graph, inputs"
    ):
        page_statements(Thing)
    with pytest.raises(TypeError, match="the primary key of Wide is not id alone"):
        page_statements(Wide)
    with pytest.raises(TypeError, match="a mapped class, not of <class 'str'>"):
        page_statements(str)
