"""Light rows of a host's own model, and of Tidegate's: whole for whatever the host does with them."""

from __future__ import annotations

import copy
import dataclasses
import pickle  # noqa: TID251  # shown to work for hosts that pickle rows; Tidegate itself never does
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import real_servers
from real_servers.host_models import HOST_MODELS, DataclassRun
from real_servers.host_runs import create_host_tables
from sqlalchemy import create_engine, delete, event, insert, inspect, select, update
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, make_transient, make_transient_to_detached, sessionmaker

import tidegate
from tidegate.errors import LazyColumnError
from tidegate.repositories.indexes import create_indexes
from tidegate.repositories.models import WorkflowRun, new_id
from tidegate.repositories.runs.page_statements import page_statements
from tidegate.repositories.runs.pages import page_request, read_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from tidegate.proxy.embedded import Cluster

pytestmark = pytest.mark.fast

TENANT: Final = new_id()
HEAVY: Final = {"graph", "inputs", "outputs"}
MODELS: Final = (WorkflowRun, *HOST_MODELS)
PROCESS = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
sys.modules["tidegate"] = None
rows = pickle.load(sys.stdin.buffer)
assert not [name for name in sys.modules if name.startswith("tidegate.")]
for row in rows:
    assert (row.graph, row.inputs, row.outputs) == ("a graph", None, "an output"), vars(row)
print(len(rows))
"""


@contextmanager
def _database(cluster: Cluster) -> Iterator[str]:
    primary = cluster.shards[0].primary
    primary.execute("CREATE DATABASE host_rows", database="postgres")
    yield primary.url.rsplit("/", 1)[0] + "/host_rows"
    primary.execute("DROP DATABASE host_rows WITH (FORCE)", database="postgres")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with ExitStack() as undo:
        if request.param == "sqlite":
            made = create_engine(f"sqlite:///{tmp_path_factory.mktemp('rows')}/runs.db")
        else:
            made = create_engine(undo.enter_context(_database(request.getfixturevalue("cluster"))))
        undo.callback(made.dispose)
        create_host_tables(made)
        if request.param == "postgresql":
            create_indexes(made)  # so that pages over all sources are of an alias
        yield made


class Table:
    """Three runs of an app of their own, and light rows of them.

    Args:
        engine: where they are.
        model: the class of the rows.
    """

    def __init__(self, engine: Engine, model: type[Any]) -> None:
        self.engine = engine
        self.model = model
        self.sessions = sessionmaker(engine)
        self.app = new_id()
        self.sent: list[str] = []
        values: dict[str, Any] = {"tenant_id": TENANT, "app_id": self.app}
        values |= {"workflow_id": new_id(), "created_by": new_id()}
        values |= {"type": "workflow", "triggered_from": "app-run", "status": "running", "created_by_role": "account"}
        values |= {"version": "1", "graph": "a graph", "inputs": None, "outputs": "an output"}
        with engine.begin() as connection:
            connection.execute(insert(WorkflowRun), [values | {"id": new_id()} for _ in range(3)])
        event.listen(engine, "before_cursor_execute", self._note)

    def _note(self, *args: Any) -> None:
        self.sent.append(args[2])

    def page(self, *sources: str) -> list[Any]:
        request = page_request(TENANT, self.app, sources)
        rows: list[Any] = read_page(
            page_statements(self.model), self.sessions, self.sessions, request, lambda rows, *_: rows
        )
        assert len(rows) == 3
        for row in rows:
            assert type(row) is self.model
            assert not HEAVY & set(vars(row))
        self.sent.clear()
        return rows

    def stored(self, row_id: str) -> tuple[Any, ...]:
        with self.sessions() as session:
            run = session.get_one(WorkflowRun, row_id)
            return run.graph, run.inputs, run.outputs

    def drop(self, row_id: str) -> None:
        with self.sessions.begin() as session:
            session.execute(delete(WorkflowRun).where(WorkflowRun.id == row_id))


@pytest.fixture(params=MODELS, ids=lambda model: model.__name__)
def table(engine: Engine, request: pytest.FixtureRequest) -> Iterator[Table]:
    made = Table(engine, request.param)
    yield made
    event.remove(engine, "before_cursor_execute", made._note)


@pytest.fixture
def elsewhere() -> Iterator[sessionmaker[Session]]:
    """Another database."""
    engine = create_engine("sqlite://")
    create_host_tables(engine)
    yield sessionmaker(engine)
    engine.dispose()


def whole(row: Any) -> bool:
    """Tell whether a row has its heavy columns, without a touch."""
    loaded = vars(row)
    return [loaded.get(key, "missing") for key in ("graph", "inputs", "outputs")] == ["a graph", None, "an output"]


def test_a_detached_row_reads_each_column_once_for_its_page(table: Table) -> None:
    rows = table.page()
    assert [row.graph for row in rows] == ["a graph"] * 3
    assert len(table.sent) == 1
    assert [(row.inputs, row.outputs) for row in rows] == [(None, "an output")] * 3
    assert len(table.sent) == 3
    assert all(map(whole, rows))


def test_loops_over_the_mapper_s_columns_see_every_column(table: Table) -> None:
    one, two, _ = table.page()
    by_attribute = {attribute.key: getattr(one, attribute.key) for attribute in inspect(type(one)).mapper.column_attrs
                    if attribute.key != "draft"}  # fmt: skip
    by_column = {c.key: getattr(two, c.key) for c in inspect(two).mapper.columns if c.key != "draft"}
    for found in (by_attribute, by_column):
        assert (found["graph"], found["inputs"], found["outputs"]) == ("a graph", None, "an output")


def test_vars_have_everything_once_the_row_is_loaded(table: Table) -> None:
    one, *others = table.page()
    assert tidegate.load([one]) == [one]
    assert len(table.sent) == 1
    assert whole(one)
    assert not HEAVY & set(vars(others[0]))


COPIES: Final[dict[str, Callable[[Any], Any]]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda row: pickle.loads(pickle.dumps(row)),  # noqa: S301  # its own bytes
    "pickle of old": lambda row: pickle.loads(pickle.dumps(row, protocol=0)),  # noqa: S301  # its own bytes
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("where", ["detached", "attached"])
def test_copies_and_pickles_are_whole(table: Table, how: str, where: str) -> None:
    row = table.page()[0]
    with table.sessions() as session:
        if where == "attached":
            session.add(row)
        twin = COPIES[how](row)
    assert type(twin) is table.model
    assert twin.id == row.id
    assert whole(twin)


def _in_every_state(table: Table, *sources: str) -> list[Any]:
    """Rows as a host may have them when it pickles them."""
    (fresh, touched, assigned), (merged, unloaded, other) = table.page(*sources), table.page(*sources)
    assert touched.graph
    fresh_too, _, _ = table.page(*sources)
    for key, value in (("graph", "a graph"), ("inputs", None), ("outputs", "an output")):
        setattr(assigned, key, value)
    with table.sessions() as session:
        one = session.merge(merged)
    with table.sessions() as session:
        two = session.merge(unloaded, load=False)
        session.expunge(two)
    other.graph = "a graph"  # and the rest is read
    assert other.outputs
    make_transient(fresh_too)
    return [fresh, touched, assigned, one, two, other, fresh_too]


def test_a_pickle_is_one_of_the_host_alone(engine: Engine) -> None:
    tables = [Table(engine, model) for model in HOST_MODELS]
    rows = [row for table in tables for row in (*_in_every_state(table), *_in_every_state(table, "app-run"))]
    pickled = pickle.dumps(rows)
    assert b"tidegate" not in pickled
    found = subprocess.run(
        [sys.executable, "-c", PROCESS, str(Path(real_servers.__path__[0]).parent)],
        input=pickled,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert found.stdout.decode().strip() == str(len(rows)), found.stderr.decode()


def test_a_row_that_is_added_to_a_session_reads_there_and_stores_what_is_assigned(table: Table) -> None:
    one, two, three = table.page()
    stored = one.id
    with table.sessions() as session:
        session.add_all([one, two])
        change = update(WorkflowRun).where(WorkflowRun.app_id == table.app).values(graph="mine")
        session.execute(change.execution_options(synchronize_session=False))
        assert two.graph == "mine"
        session.expunge(two)
        one.outputs = "new"
        session.commit()
    assert (two.graph, two.outputs) == ("mine", "an output")
    assert three.graph == "mine"
    assert table.stored(stored) == ("mine", None, "new")


@pytest.mark.parametrize("load", [True, False])
def test_a_merged_row_is_whole_and_changes_no_heavy_column(table: Table, load: bool) -> None:
    row = table.page()[0]
    with table.sessions() as session:
        merged = session.merge(row, load=load)
        assert (merged.graph, merged.inputs, merged.outputs) == ("a graph", None, "an output")
        merged.version = "2"
        session.commit()
    assert table.stored(row.id) == ("a graph", None, "an output")
    with table.sessions() as session:
        again = session.merge(table.page()[0], load=load)
        session.expunge(again)
    assert whole(tidegate.load([again])[0])


def test_a_row_that_is_merged_into_another_database_is_stored_whole(
    table: Table, elsewhere: sessionmaker[Session]
) -> None:
    (one, _, _), (_, two, _) = table.page(), table.page()
    with elsewhere.begin() as session:
        session.merge(one)
        merged = session.merge(two)
        assert merged.graph == "a graph"  # before it is stored
    with elsewhere() as session:
        for run in session.scalars(select(WorkflowRun)).all():
            assert (run.graph, run.inputs, run.outputs) == ("a graph", None, "an output")


def test_what_goes_by_vars_needs_the_row_loaded(table: Table, elsewhere: sessionmaker[Session]) -> None:
    """As CAVEATS.md says."""
    (there, _, _), (transient, _, _), (bulk, _, _) = table.page(), table.page(), table.page()
    for row in (transient, bulk):
        make_transient(row)
    bulk.id, transient.id = new_id(), new_id()
    ids = [there.id, transient.id, bulk.id]
    with elsewhere.begin() as session:
        session.merge(copy.deepcopy(there))
        session.execute(update(WorkflowRun).values(graph="another graph"))
    tidegate.load([there, transient, bulk])
    with elsewhere.begin() as session:
        session.merge(there)
        session.merge(transient)
        session.bulk_save_objects([bulk])
    with elsewhere() as session:
        assert [session.get_one(WorkflowRun, row_id).graph for row_id in ids] == ["a graph"] * 3


def test_a_row_that_is_gone_raises_and_is_not_merged_with_nulls(table: Table) -> None:
    one, two, three = table.page()
    table.drop(one.id)
    for touch in (lambda: one.graph, lambda: tidegate.load([one]), lambda: copy.copy(one), lambda: pickle.dumps(one)):
        with pytest.raises(LazyColumnError, match=f"{table.model.__name__} {one.id} was deleted"):
            touch()
    with pytest.raises(LazyColumnError), table.sessions.begin() as session:
        session.merge(one)
    assert (two.graph, three.graph) == ("a graph", "a graph")


def test_a_refresh_loads_every_column_as_that_of_any_row(table: Table) -> None:
    row = table.page()[0]
    with table.sessions() as session:
        session.add(row)
        session.refresh(row)
    assert whole(row)
    assert len(table.sent) == 1


@pytest.mark.parametrize("how", ["refresh", "expire", "commit"])
def test_a_row_that_is_refreshed_or_expired_reads_every_column(table: Table, how: str) -> None:
    row, other, _ = table.page()
    with pytest.raises(InvalidRequestError):  # detached, as any row
        table.sessions().refresh(row)
    with table.sessions() as session:
        session.add(row)
        session.commit() if how == "commit" else getattr(session, how)(row)
        assert (row.graph, row.inputs, row.outputs, row.version) == ("a graph", None, "an output", "1")
    assert whole(row)
    assert other.graph == "a graph"


def test_a_transient_row_is_read_and_stored_whole(table: Table) -> None:
    (read, _, _), (_, stored, _), (_, _, gone) = table.page(), table.page(), table.page()
    for row in (read, stored, gone):
        make_transient(row)
    assert (read.graph, read.inputs, read.outputs) == ("a graph", None, "an output")
    fresh = stored.id = new_id()
    with table.sessions.begin() as session:
        session.add(stored)
    assert table.stored(fresh) == ("a graph", None, "an output")
    table.drop(gone.id)
    with pytest.raises(LazyColumnError), table.sessions.begin() as session:
        session.add(gone)


def test_a_row_that_is_made_detached_again_reads_in_a_session(table: Table) -> None:
    row = table.page()[0]
    make_transient(row)
    make_transient_to_detached(row)
    with table.sessions() as session:
        session.add(row)
        assert (row.graph, row.inputs, row.outputs) == ("a graph", None, "an output")


def test_a_new_row_has_its_own_defaults(table: Table) -> None:
    values = {attribute.key: None for attribute in inspect(table.model).column_attrs if attribute.key not in HEAVY}
    row = table.model(
        **{key: value for key, value in values.items() if table.model is not DataclassRun or key != "created_at"}
    )
    expected = ("a default", None, "{}") if table.model is DataclassRun else (None, None, None)
    assert (row.graph, row.inputs, row.outputs) == expected
    assert table.sent == []


def test_what_a_dataclass_does_with_its_fields_sees_every_column(engine: Engine) -> None:
    table = Table(engine, DataclassRun)
    one, two, three = table.page()
    assert dataclasses.replace(one, version="2").graph == "a graph"
    assert "graph='a graph'" in repr(two)
    found = {field.name: getattr(three, field.name) for field in dataclasses.fields(three)}
    assert (found["graph"], found["inputs"], found["outputs"]) == ("a graph", None, "an output")
    assert table.page()[0] == table.page()[0]
