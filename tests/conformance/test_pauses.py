"""Pausing and resuming runs: one of two wins, states follow the commit, and nothing is left behind."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, func, select

from tidegate.errors import SettingsError, WorkflowRunError
from tidegate.repositories.entities.pause_reason import HumanInputRequired, SchedulingPause
from tidegate.repositories.entities.workflow_pause import WorkflowPauseEntity
from tidegate.repositories.models import WorkflowPause, WorkflowPauseReason, WorkflowRun, new_id
from tidegate.repositories.runs.pause_storage import FolderStorage, MemoryStorage
from tidegate.repositories.settings import repository_settings
from tidegate.repositories.sqlalchemy_api_workflow_run_repository import DifyAPISQLAlchemyWorkflowRunRepository

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy.orm import Session, sessionmaker

    from tests.conformance.conftest import Behind

    Make = Callable[..., WorkflowRun]
    Runs = DifyAPISQLAlchemyWorkflowRunRepository

pytestmark = [pytest.mark.fast, pytest.mark.matrix]

OWNER = new_id()
FORM = HumanInputRequired(form_id=new_id(), node_id="ask-the-boss")
LATER = SchedulingPause(message="the queue is full")


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


@pytest.fixture
def runs(behind: Behind, storage: MemoryStorage) -> Runs:
    return behind.runs(storage=storage)


def rows(session_maker: sessionmaker[Session]) -> tuple[int, int]:
    with session_maker() as session:
        pauses, reasons = (
            sum(session.scalars(select(func.count()).select_from(model)))
            for model in (WorkflowPause, WorkflowPauseReason)
        )
        return pauses, reasons


def status(session_maker: sessionmaker[Session], run_id: str) -> str:
    with session_maker() as session:
        return session.scalars(select(WorkflowRun.status).where(WorkflowRun.id == run_id)).one()


def test_a_pause_keeps_state_and_reasons_and_is_usable_after_its_session(
    runs: Runs, make_run: Make, session_maker: sessionmaker[Session]
) -> None:
    run = make_run()
    made = runs.create_workflow_pause(run.id.upper(), OWNER, '{"at": "é"}', [FORM, LATER])
    found = runs.get_workflow_pause(run.id)
    assert found is not None
    for pause in (made, found):
        assert isinstance(pause, WorkflowPauseEntity)
        assert (pause.id, pause.workflow_execution_id, pause.resumed_at) == (made.id, run.id, None)
        assert pause.get_state() == '{"at": "é"}'.encode()
        assert pause.get_pause_reasons() == [FORM, LATER]
    assert status(session_maker, run.id) == "paused"


def test_attributes_of_a_reason_count_and_an_unknown_kind_is_named(runs: Runs, make_run: Make) -> None:
    class Hosts:
        TYPE = "scheduled_pause"
        message = "a host's own class"

    class Strange:
        TYPE = "weather"

    run = make_run()
    with pytest.raises(ValueError, match=r"human_input_required, scheduled_pause, not 'weather'"):
        runs.create_workflow_pause(run.id, OWNER, "{}", [Strange()])  # type: ignore[list-item]  # a host's object
    pause = runs.create_workflow_pause(run.id, OWNER, "{}", [Hosts()])  # type: ignore[list-item]  # a host's object
    assert pause.get_pause_reasons() == [SchedulingPause(message="a host's own class")]


def test_only_a_running_run_is_paused_and_a_refused_pause_leaves_no_state(
    runs: Runs, make_run: Make, storage: MemoryStorage
) -> None:
    with pytest.raises(ValueError, match="not found"):
        runs.create_workflow_pause(new_id(), OWNER, "{}", [])
    for other in ("succeeded", "paused", "stopped"):
        with pytest.raises(RuntimeError, match=f"is {other}, and must be running"):
            runs.create_workflow_pause(make_run(status=other).id, OWNER, "{}", [])
    assert len(storage) == 0


def test_of_two_pauses_at_once_one_wins_and_the_other_is_told(
    runs: Runs, make_run: Make, session_maker: sessionmaker[Session], storage: MemoryStorage, request: Any
) -> None:
    if "sqlite-memory" in request.node.name:
        pytest.skip("one connection for all: nothing is at once")
    run = make_run()
    gate = threading.Barrier(2)
    outcomes: list[object] = []

    def pause() -> None:
        gate.wait()
        try:
            outcomes.append(runs.create_workflow_pause(run.id, OWNER, "{}", [FORM]))
        except Exception as error:  # noqa: BLE001  # the kind is what is tested
            outcomes.append(error)

    threads = [threading.Thread(target=pause) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["WorkflowRunError", "_Pause"]
    assert rows(session_maker) == (1, 1)
    assert len(storage) == 1


def test_resuming_sets_the_time_and_the_status_once(
    runs: Runs, make_run: Make, session_maker: sessionmaker[Session]
) -> None:
    run = make_run()
    pause = runs.create_workflow_pause(run.id, OWNER, "state", [FORM])
    resumed = runs.resume_workflow_pause(run.id, pause)
    assert resumed.resumed_at is not None
    assert (resumed.get_state(), resumed.get_pause_reasons()) == (b"state", [FORM])
    assert status(session_maker, run.id) == "running"
    with pytest.raises(WorkflowRunError, match="is running, and must be paused"):
        runs.resume_workflow_pause(run.id, pause)
    found = runs.get_workflow_pause(run.id)
    assert found is not None
    assert found.resumed_at == resumed.resumed_at


def test_what_cannot_be_resumed_says_why_and_changes_nothing(
    runs: Runs, make_run: Make, session_maker: sessionmaker[Session]
) -> None:
    run, other = make_run(), make_run()
    mine, others = (runs.create_workflow_pause(r.id, OWNER, "{}", []) for r in (run, other))
    with pytest.raises(ValueError, match="not found"):
        runs.resume_workflow_pause(new_id(), mine)
    with pytest.raises(WorkflowRunError, match=f"waits for pause {mine.id}, not for {others.id}"):
        runs.resume_workflow_pause(run.id, others)
    with pytest.raises(WorkflowRunError, match="has no pause"):
        runs.resume_workflow_pause(make_run(status="paused").id, mine)
    runs.resume_workflow_pause(run.id, mine)
    with session_maker.begin() as session:  # as if somebody had written the status by hand
        session.get_one(WorkflowRun, run.id).status = "paused"
    with pytest.raises(WorkflowRunError, match="was resumed already"):
        runs.resume_workflow_pause(run.id, mine)
    assert status(session_maker, run.id) == "paused"


def test_a_second_pause_replaces_the_first_with_its_reasons_and_state(
    runs: Runs, make_run: Make, session_maker: sessionmaker[Session], storage: MemoryStorage
) -> None:
    run = make_run()
    first = runs.create_workflow_pause(run.id, OWNER, "one", [FORM, LATER])
    runs.resume_workflow_pause(run.id, first)
    second = runs.create_workflow_pause(run.id, OWNER, "two", [LATER])
    assert rows(session_maker) == (1, 1)
    assert len(storage) == 1
    assert second.get_state() == b"two"


def test_deleting_a_pause_takes_its_reasons_and_its_state(
    runs: Runs, make_run: Make, session_maker: sessionmaker[Session], storage: MemoryStorage
) -> None:
    pause = runs.create_workflow_pause(make_run().id, OWNER, "{}", [FORM])
    runs.delete_workflow_pause(pause)
    assert rows(session_maker) == (0, 0)
    assert len(storage) == 0
    with pytest.raises(RuntimeError, match=f"no pause {pause.id}"):
        runs.delete_workflow_pause(pause)


def test_pruning_takes_old_pauses_and_those_resumed_long_ago(
    runs: Runs, make_run: Make, session_maker: sessionmaker[Session], storage: MemoryStorage
) -> None:
    pauses = [runs.create_workflow_pause(make_run().id, OWNER, "{}", [FORM]) for _ in range(4)]
    now = datetime(2026, 3, 1, 12, 0)  # noqa: DTZ001  # columns are naive UTC
    times = [(now - timedelta(9), None), (now, now - timedelta(5)), (now, now), (now, None)]
    with session_maker.begin() as session:
        for pause, (created_at, resumed_at) in zip(pauses, times, strict=True):
            row = session.get_one(WorkflowPause, pause.id)
            row.created_at, row.resumed_at = created_at, resumed_at
    assert runs.prune_pauses(now - timedelta(7), now - timedelta(2), limit=0) == []
    assert runs.prune_pauses(now - timedelta(7), now - timedelta(2), limit=1) == [pauses[0].id]
    assert runs.prune_pauses(now - timedelta(7), now - timedelta(2)) == [pauses[1].id]
    assert rows(session_maker) == (2, 2)
    assert len(storage) == 2
    with pytest.raises(ValueError, match="limit must be a whole number from 0 to 100,000, not -1"):
        runs.prune_pauses(now, now, limit=-1)


def test_states_are_removed_after_the_commit_and_stay_if_there_is_none(
    runs: Runs, make_run: Make, behind: Behind, storage: MemoryStorage
) -> None:
    """A failing COMMIT takes back a new state and keeps an old one."""
    run = make_run()
    pause = runs.create_workflow_pause(run.id, OWNER, "old", [])
    runs.resume_workflow_pause(run.id, pause)
    engine = behind.engine

    def fail(_connection: Any) -> None:
        raise OSError("on purpose")

    event.listen(engine, "commit", fail)
    try:
        for step in (
            lambda: runs.create_workflow_pause(run.id, OWNER, "new", []),
            lambda: runs.delete_workflow_pause(pause),
            lambda: runs.delete_runs_by_ids([run.id]),
        ):
            with pytest.raises(OSError, match="on purpose"):
                step()
            assert len(storage) == 1
    finally:
        event.remove(engine, "commit", fail)
    kept = runs.get_workflow_pause(run.id)
    assert kept is not None
    assert kept.get_state() == b"old"


def test_a_storage_that_fails_after_the_commit_is_logged_and_not_raised(
    session_maker: sessionmaker[Session], make_run: Make, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(MemoryStorage):
        def delete(self, key: str) -> None:
            raise OSError(f"cannot reach {key}")

    runs = DifyAPISQLAlchemyWorkflowRunRepository(session_maker, storage=Broken())
    pause = runs.create_workflow_pause(make_run().id, OWNER, "{}", [])
    runs.delete_workflow_pause(pause)
    assert rows(session_maker) == (0, 0)
    assert "workflow-state-" in caplog.text


def test_the_storage_comes_from_the_settings_and_is_asked_for_when_it_is_missing(
    session_maker: sessionmaker[Session], make_run: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = DifyAPISQLAlchemyWorkflowRunRepository(session_maker)
    run = make_run()
    try:
        monkeypatch.delenv("TIDEGATE_PAUSE_STORAGE", raising=False)
        repository_settings.cache_clear()
        with pytest.raises(SettingsError, match="TIDEGATE_PAUSE_STORAGE is not set"):
            runs.create_workflow_pause(run.id, OWNER, "{}", [])
        assert status(session_maker, run.id) == "running"
        monkeypatch.setenv("TIDEGATE_PAUSE_STORAGE", f"folder:{tmp_path / 'states'}")
        repository_settings.cache_clear()
        pause = runs.create_workflow_pause(run.id, OWNER, "kept", [])
        (file,) = (tmp_path / "states").iterdir()
        assert FolderStorage(tmp_path / "states").load(file.name) == b"kept" == pause.get_state()
        monkeypatch.delenv("TIDEGATE_PAUSE_STORAGE")
        repository_settings.cache_clear()
        with pytest.raises(SettingsError, match="TIDEGATE_PAUSE_STORAGE is not set"):
            runs.delete_runs_by_ids([run.id])
        assert rows(session_maker) == (1, 0)
        assert status(session_maker, run.id) == "paused"
    finally:
        monkeypatch.undo()
        repository_settings.cache_clear()
