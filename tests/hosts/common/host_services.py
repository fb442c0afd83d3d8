"""What a host's services do: a page of logs, each with its run and who created it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from extensions.ext_database import db
from models.workflow import Account, WorkflowAppLog, WorkflowRun, WorkflowTriggerLog
from sqlalchemy import and_, func, select

if TYPE_CHECKING:
    from datetime import datetime


class LogView:
    """A log as a controller shows it."""

    def __init__(self, log: Any, details: Any) -> None:
        self.log = log
        self.details_ = details

    @property
    def details(self) -> Any:
        return self.details_

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)


class RunPages:
    """Give pages of runs."""

    def __init__(self, session_maker: Any = None) -> None:
        from repositories.factory import DifyAPIRepositoryFactory

        self._runs = DifyAPIRepositoryFactory.create_api_workflow_run_repository(session_maker or db.maker)

    def page(self, tenant_id: str, app_id: str, triggered_from: Any) -> Any:
        return self._runs.get_paginated_workflow_runs(tenant_id, app_id, triggered_from)


class LogPages:
    """Give pages of logs."""

    def page(
        self,
        *,
        session: Any,
        app_model: Any,
        keyword: str | None,
        status: Any,
        created_at_before: datetime | None,
        created_at_after: datetime | None,
        page: int,
        limit: int,
        detail: bool,
        created_by_account: str | None,
    ) -> dict[str, Any]:
        log, run, fired = WorkflowAppLog, WorkflowRun, WorkflowTriggerLog
        wanted = select(log).where(log.tenant_id == app_model.tenant_id, log.app_id == app_model.id)
        if detail:
            fired_for = (fired.tenant_id == log.tenant_id, fired.app_id == log.app_id)
            wanted = wanted.outerjoin(fired, and_(*fired_for, fired.workflow_run_id == log.workflow_run_id))
            wanted = wanted.add_columns(fired.trigger_metadata)
        if status or keyword:
            wanted = wanted.join(run, run.id == log.workflow_run_id)
        if status:
            wanted = wanted.where(run.status == status)
        if keyword:
            wanted = wanted.where(run.version.contains(keyword))
        if created_by_account:
            wanted = wanted.join(Account, Account.id == log.created_by).where(Account.name == created_by_account)
        if created_at_before:
            wanted = wanted.where(log.created_at <= created_at_before)
        if created_at_after:
            wanted = wanted.where(log.created_at >= created_at_after)
        total = session.scalar(select(func.count()).select_from(wanted.subquery()))
        wanted = wanted.order_by(log.created_at.desc()).offset((page - 1) * limit).limit(limit)
        return {
            "page": page,
            "limit": limit,
            "total": total,
            "has_more": total > page * limit,
            "data": [LogView(row[0], self._details(app_model.tenant_id, *row[1:])) for row in session.execute(wanted)],
        }

    def page_of_archive(self, session: Any, app_model: Any, page: int, limit: int) -> dict[str, Any]:
        """This host keeps no archive."""
        del session, app_model
        return {"page": page, "limit": limit, "total": 0, "has_more": False, "data": []}

    def _details(self, tenant_id: str, *metadata: str | None) -> Any:
        return {"trigger_metadata": self.handle_trigger_metadata(tenant_id, metadata[0])} if metadata else None

    def handle_trigger_metadata(self, tenant_id: str, metadata: str | None) -> dict[str, Any]:
        """Make of stored metadata what a page shows: it follows a setting of the process."""
        return {"of": tenant_id, "icon": f"{os.environ.get('HOST_ICONS')}/{metadata}"} if metadata else {}
