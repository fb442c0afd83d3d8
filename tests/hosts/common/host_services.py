"""What a host's services do: a page of logs, each with its run and who created it."""

from __future__ import annotations

from typing import Any

from extensions.ext_database import db
from models.workflow import WorkflowAppLog
from sqlalchemy import func, select


class LogView:
    """A log as a controller shows it."""

    def __init__(self, log: Any) -> None:
        self.log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


class RunPages:
    """Give pages of runs."""

    def __init__(self, session_maker: Any) -> None:
        from repositories.factory import DifyAPIRepositoryFactory

        self._runs = DifyAPIRepositoryFactory.create_api_workflow_run_repository(session_maker)

    def page(self, tenant_id: str, app_id: str, triggered_from: Any) -> Any:
        return self._runs.get_paginated_workflow_runs(tenant_id, app_id, triggered_from)


class LogPages:
    """Give pages of logs."""

    def page(self, *, session: Any, tenant_id: str, app_id: str, limit: int = 20) -> dict[str, Any]:
        here = (WorkflowAppLog.tenant_id == tenant_id, WorkflowAppLog.app_id == app_id)
        total = session.scalar(select(func.count()).select_from(WorkflowAppLog).where(*here))
        wanted = select(WorkflowAppLog).where(*here).order_by(WorkflowAppLog.created_at.desc()).limit(limit)
        return {"total": total, "data": [LogView(log) for log in session.scalars(wanted)], "engine": str(db.engine.url)}
