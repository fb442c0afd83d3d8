"""Protocols and classes agree, to the last default; building a repository by its path costs next to nothing."""

from __future__ import annotations

import inspect
import timeit
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from tidegate import repositories as plain
from tidegate.errors import RepositoryImportError
from tidegate.repositories.models import new_id
from tidegate.repositories.settings import repository_settings

PAIRS: list[tuple[type[Any], type[Any]]] = [
    (plain.APIWorkflowRunRepository, plain.DifyAPISQLAlchemyWorkflowRunRepository),
    (plain.DifyAPIWorkflowNodeExecutionRepository, plain.DifyAPISQLAlchemyWorkflowNodeExecutionRepository),
    (plain.WorkflowExecutionRepository, plain.SQLAlchemyWorkflowExecutionRepository),
    (plain.WorkflowNodeExecutionRepository, plain.SQLAlchemyWorkflowNodeExecutionRepository),
]


def public(cls: type[Any]) -> dict[str, inspect.Signature]:
    names = [name for name in dir(cls) if not name.startswith("_")]
    return {name: inspect.signature(getattr(cls, name)) for name in names if callable(getattr(cls, name))}


@pytest.mark.parametrize(("protocol", "cls"), PAIRS)
def test_a_class_has_what_its_protocol_asks_for_parameter_by_parameter(protocol: type[Any], cls: type[Any]) -> None:
    theirs, ours = public(protocol), public(cls)
    assert set(theirs) <= set(ours)
    assert set(ours) - set(theirs) <= {"get_workflow_pause"}
    for name, signature in theirs.items():
        assert list(signature.parameters.values()) == list(ours[name].parameters.values()), name


def test_the_run_repository_has_every_method_of_the_contract() -> None:
    assert len(public(plain.APIWorkflowRunRepository)) == 28
    assert len(public(plain.DifyAPIWorkflowNodeExecutionRepository)) == 13


class Account:
    id = new_id()
    current_tenant_id = new_id()


def test_building_one_costs_microseconds_and_opens_nothing() -> None:
    maker = sessionmaker(create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    for build in (
        lambda: plain.DifyAPIRepositoryFactory.create_api_workflow_run_repository(maker),
        lambda: plain.DifyAPIRepositoryFactory.create_api_workflow_node_execution_repository(maker),
        lambda: plain.DifyCoreRepositoryFactory.create_workflow_execution_repository(
            maker, Account(), new_id(), "app-run"
        ),
    ):
        build()
        best = min(timeit.repeat(build, number=1000, repeat=5)) / 1000
        assert best < 50e-6


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("no.such.module.Class", "No module named 'no'"),
        ("tidegate.repositories.base.Missing", "Missing"),
        ("NoDots", "Empty module name"),
        ("", "Empty module name"),
        ("datetime.datetime", "cannot be built"),
    ],
)
def test_a_path_that_cannot_be_used_is_named_with_its_cause(
    monkeypatch: pytest.MonkeyPatch, path: str, cause: str
) -> None:
    monkeypatch.setenv("API_WORKFLOW_RUN_REPOSITORY", path)
    repository_settings.cache_clear()
    try:
        with pytest.raises(RepositoryImportError, match=cause) as caught:
            plain.DifyAPIRepositoryFactory.create_api_workflow_run_repository(sessionmaker())
        assert f"API_WORKFLOW_RUN_REPOSITORY={path!r}" in str(caught.value)
    finally:
        monkeypatch.undo()
        repository_settings.cache_clear()
