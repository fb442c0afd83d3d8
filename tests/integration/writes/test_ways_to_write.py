"""Every way to write a row: what the commit protocol is told, and that the rows are what they are without it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import pytest
from sqlalchemy import bindparam, delete, func, insert, text, update
from sqlalchemy.dialects import postgresql, sqlite

from tidegate.repositories.models import WorkflowRun, new_id

TENANT, OTHER = "7f6bd0c2-0d4f-4b8e-9a53-3f3c0e5a1d10", "9e0c7a54-8d2b-4f7e-8a31-0c5d4b6e2f90"
APP, APP2 = "1b0a1e8e-90c6-4f0e-8a52-5d1f0c7a2b20", "2c1b2f9f-a1d7-4a1f-9b63-6e2a1d8b3c31"
RUNS: Final[Any] = WorkflowRun.__table__

pytestmark = [pytest.mark.fast, pytest.mark.matrix]


# Inserts


def _add(watched: Any, values: list[dict[str, Any]]) -> None:
    with watched.sessions() as session:
        session.add_all([WorkflowRun(**row) for row in values])
        session.commit()


def _core(watched: Any, values: list[dict[str, Any]]) -> None:
    with watched.engine.begin() as connection:
        for row in values:
            connection.execute(insert(WorkflowRun).values(**row))


def _core_many(watched: Any, values: list[dict[str, Any]]) -> None:
    with watched.engine.begin() as connection:
        connection.execute(insert(RUNS), values)


def _multi(watched: Any, values: list[dict[str, Any]]) -> None:
    with watched.engine.begin() as connection:
        connection.execute(insert(WorkflowRun).values(values))


def _bulk_save(watched: Any, values: list[dict[str, Any]]) -> None:
    with watched.sessions() as session:
        session.bulk_save_objects([WorkflowRun(**row) for row in values])
        session.commit()


def _bulk_mappings(watched: Any, values: list[dict[str, Any]]) -> None:
    with watched.sessions() as session:
        session.bulk_insert_mappings(WorkflowRun.__mapper__, values)
        session.commit()


def _orm_bulk(watched: Any, values: list[dict[str, Any]]) -> None:
    with watched.sessions() as session:
        session.execute(insert(WorkflowRun), values)
        session.commit()


def _orm_returning(watched: Any, values: list[dict[str, Any]]) -> None:
    with watched.sessions() as session:
        found = session.scalars(insert(WorkflowRun).returning(WorkflowRun), values).all()
        assert {run.id for run in found} == {row["id"] for row in values}
        session.commit()


def _merge(watched: Any, values: list[dict[str, Any]]) -> None:
    with watched.sessions() as session:
        for row in values:
            session.merge(WorkflowRun(**row))
        session.commit()


def _bound_names(watched: Any, values: list[dict[str, Any]]) -> None:
    with watched.engine.begin() as connection:
        named = insert(WorkflowRun).values(id=bindparam("which"), app_id=bindparam("whose"))
        for row in values:
            rest = {key: value for key, value in row.items() if key not in {"id", "app_id"}}
            connection.execute(named, rest | {"which": row["id"], "whose": row["app_id"]})


def _nothing_on_conflict(watched: Any, values: list[dict[str, Any]]) -> None:
    made: Any = postgresql.insert if watched.is_postgresql else sqlite.insert
    with watched.engine.begin() as connection:
        connection.execute(made(WorkflowRun).on_conflict_do_nothing(), values)


INSERTS = [
    _add,
    _core,
    _core_many,
    _multi,
    _bulk_save,
    _bulk_mappings,
    _orm_bulk,
    _orm_returning,
    _merge,
    _bound_names,
    _nothing_on_conflict,
]


@pytest.mark.parametrize("how", INSERTS)
def test_insert(watched: Any, values_of: Any, tags_of: Any, how: Any) -> None:
    values = [
        values_of(WorkflowRun),
        values_of(WorkflowRun, app_id=APP2, created_at=datetime.fromisoformat("2023-12-31T23:59:00")),
        values_of(WorkflowRun, tenant_id=OTHER),
    ]
    how(watched, values)
    assert watched.take() == {TENANT: tags_of(values[0]) | tags_of(values[1]), OTHER: tags_of(values[2])}
    assert {row.id for row in watched.rows()} == {row["id"] for row in values}


def test_python_defaults_count(watched: Any, values_of: Any, tags_of: Any) -> None:
    values = values_of(WorkflowRun)
    del values["id"], values["created_at"]
    with watched.engine.begin() as connection:
        connection.execute(insert(WorkflowRun).values([values, values]))
    first, second = watched.rows()
    assert watched.take() == {TENANT: tags_of(first._asdict()) | tags_of(second._asdict())}


def test_expressions_are_looked_up(watched: Any, values_of: Any, tags_of: Any) -> None:
    values = values_of(WorkflowRun, created_at=func.now() if watched.is_postgresql else text("CURRENT_TIMESTAMP"))
    with watched.engine.begin() as connection:
        connection.execute(insert(WorkflowRun).values(**values))
    assert watched.take() == {TENANT: tags_of(watched.rows()[0]._asdict())}


def test_ids_are_canonical(watched: Any, values_of: Any, tags_of: Any) -> None:
    values = values_of(WorkflowRun)
    with watched.sessions() as session:
        session.add(
            WorkflowRun(**(values | {"id": values["id"].upper(), "tenant_id": TENANT.upper().replace("-", "")}))
        )
        session.commit()
    assert watched.take() == {TENANT: tags_of(values)}


# Updates that change no tag


def _attribute(watched: Any, run: dict[str, Any]) -> None:
    with watched.sessions() as session:
        session.get_one(WorkflowRun, run["id"]).status = "succeeded"
        session.commit()


def _query_update(watched: Any, _run: dict[str, Any]) -> None:
    with watched.sessions() as session:
        assert session.query(WorkflowRun).filter(WorkflowRun.app_id == APP).update({"status": "succeeded"}) == 1
        session.commit()


def _orm_update(watched: Any, run: dict[str, Any]) -> None:
    with watched.sessions() as session:
        loaded = session.get_one(WorkflowRun, run["id"])
        done: Any = session.execute(
            update(WorkflowRun)
            .where(WorkflowRun.status == "running", WorkflowRun.app_id == APP)
            .values(status="succeeded")
        )
        assert done.rowcount == 1
        assert not done.returns_rows
        assert loaded.__dict__["status"] == "succeeded"
        session.commit()


def _orm_fetch(watched: Any, run: dict[str, Any]) -> None:
    with watched.sessions() as session:
        loaded = session.get_one(WorkflowRun, run["id"])
        statement = update(WorkflowRun).where(func.lower(WorkflowRun.status) == "running", WorkflowRun.app_id == APP)
        session.execute(statement.values(status="succeeded"), execution_options={"synchronize_session": "fetch"})
        assert loaded.__dict__["status"] == "succeeded"
        session.commit()


def _orm_update_returning(watched: Any, run: dict[str, Any]) -> None:
    with watched.sessions() as session:
        statement = update(WorkflowRun).where(WorkflowRun.app_id == APP).values(status="succeeded")
        assert session.scalars(statement.returning(WorkflowRun.id)).all() == [run["id"]]
        session.commit()


def _update_by_pk(watched: Any, run: dict[str, Any]) -> None:
    with watched.sessions() as session:
        session.execute(update(WorkflowRun), [{"id": run["id"], "status": "succeeded"}])
        session.commit()


def _bulk_update(watched: Any, run: dict[str, Any]) -> None:
    with watched.sessions() as session:
        session.bulk_update_mappings(WorkflowRun.__mapper__, [{"id": run["id"], "status": "succeeded"}])
        session.commit()


def _bulk_save_update(watched: Any, run: dict[str, Any]) -> None:
    with watched.sessions() as session:
        loaded = session.get_one(WorkflowRun, run["id"])
        loaded.status = "succeeded"
        session.bulk_save_objects([loaded])
        session.commit()


def _core_update(watched: Any, _run: dict[str, Any]) -> None:
    with watched.engine.begin() as connection:
        assert connection.execute(update(RUNS).where(RUNS.c.app_id == APP).values(status="succeeded")).rowcount == 1


def _core_update_in(watched: Any, run: dict[str, Any]) -> None:
    with watched.engine.begin() as connection:
        connection.execute(update(RUNS).where(RUNS.c.id.in_([run["id"], new_id()])).values(status="succeeded"))


def _core_update_many(watched: Any, _run: dict[str, Any]) -> None:
    statement = update(RUNS).where(RUNS.c.app_id == bindparam("app")).values(status=bindparam("to"))
    with watched.engine.begin() as connection:
        connection.execute(statement, [{"app": APP, "to": "failed"}, {"app": APP, "to": "succeeded"}])


def _connection_of_session(watched: Any, _run: dict[str, Any]) -> None:
    with watched.sessions() as session:
        session.connection().execute(update(WorkflowRun).where(WorkflowRun.app_id == APP).values(status="succeeded"))
        session.commit()


def _upsert_everything(watched: Any, run: dict[str, Any]) -> None:
    made: Any = postgresql.insert if watched.is_postgresql else sqlite.insert
    statement = made(WorkflowRun).values(**(run | {"status": "succeeded"}))
    with watched.engine.begin() as connection:
        connection.execute(
            statement.on_conflict_do_update(index_elements=["id"], set_={"status": statement.excluded.status})
        )


UPDATES = [
    _attribute,
    _query_update,
    _orm_update,
    _orm_fetch,
    _orm_update_returning,
    _update_by_pk,
    _bulk_update,
    _bulk_save_update,
    _core_update,
    _core_update_in,
    _core_update_many,
    _connection_of_session,
    _upsert_everything,
]


@pytest.mark.parametrize("how", UPDATES)
def test_update(watched: Any, tags_of: Any, how: Any) -> None:
    run, other = watched.store(), watched.store(tenant_id=OTHER, app_id=APP2)
    how(watched, run)
    assert watched.take() == {TENANT: tags_of(run)}
    assert {row.id: row.status for row in watched.rows()} == {run["id"]: "succeeded", other["id"]: "running"}


# Deletes


def _delete_object(watched: Any, run: dict[str, Any]) -> None:
    with watched.sessions() as session:
        session.delete(session.get_one(WorkflowRun, run["id"]))
        session.commit()


def _query_delete(watched: Any, _run: dict[str, Any]) -> None:
    with watched.sessions() as session:
        assert session.query(WorkflowRun).filter(WorkflowRun.app_id == APP).delete() == 1
        session.commit()


def _orm_delete(watched: Any, run: dict[str, Any]) -> None:
    with watched.sessions() as session:
        loaded = session.get_one(WorkflowRun, run["id"])
        done: Any = session.execute(delete(WorkflowRun).where(WorkflowRun.app_id == APP))
        assert done.rowcount == 1
        assert not done.returns_rows
        assert loaded not in session
        session.commit()


def _orm_delete_fetch(watched: Any, run: dict[str, Any]) -> None:
    with watched.sessions() as session:
        loaded = session.get_one(WorkflowRun, run["id"])
        statement = delete(WorkflowRun).where(WorkflowRun.app_id == APP)
        session.execute(statement, execution_options={"synchronize_session": "fetch"})
        assert loaded not in session
        session.commit()


def _core_delete(watched: Any, run: dict[str, Any]) -> None:
    with watched.engine.begin() as connection:
        assert connection.execute(delete(RUNS).where(RUNS.c.id == run["id"])).rowcount == 1


def _core_delete_returning(watched: Any, _run: dict[str, Any]) -> None:
    with watched.engine.begin() as connection:
        statement = delete(RUNS).where(RUNS.c.app_id == APP).returning(RUNS.c.status)
        assert connection.scalars(statement).all() == ["running"]


def _core_delete_many(watched: Any, run: dict[str, Any]) -> None:
    with watched.engine.begin() as connection:
        statement = delete(RUNS).where(RUNS.c.id == bindparam("which"))
        assert connection.execute(statement, [{"which": run["id"]}, {"which": new_id()}]).rowcount == 1


DELETES = [
    _delete_object,
    _query_delete,
    _orm_delete,
    _orm_delete_fetch,
    _core_delete,
    _core_delete_returning,
    _core_delete_many,
]


@pytest.mark.parametrize("how", DELETES)
def test_delete(watched: Any, tags_of: Any, how: Any) -> None:
    run, other = watched.store(), watched.store(tenant_id=OTHER, app_id=APP2)
    how(watched, run)
    assert watched.take() == {TENANT: tags_of(run)}
    assert [row.id for row in watched.rows()] == [other["id"]]
