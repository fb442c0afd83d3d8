"""Pages of logs, as a later release reads them: in two statements, with the names of who created them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from models.workflow import Account, WorkflowAppLog, WorkflowRun
from sqlalchemy import and_, func, select


@dataclass(frozen=True)
class WorkflowAppLogItem:
    id: str
    run_status: str | None
    created_by_account: str | None
    created_at: datetime


@dataclass(frozen=True)
class WorkflowAppLogPage:
    page: int
    limit: int
    total: int
    has_more: bool
    data: tuple[WorkflowAppLogItem, ...]


class WorkflowAppLogRepository:
    def __init__(self, *, session_factory: Any) -> None:
        self._session_factory = session_factory

    def get_paginated(
        self, *, tenant_id: str, app_id: str, status: Any = None, page: int = 1, limit: int = 20
    ) -> WorkflowAppLogPage:
        log, run = WorkflowAppLog, WorkflowRun
        its_run = and_(run.id == log.workflow_run_id, run.tenant_id == log.tenant_id, run.app_id == log.app_id)
        wanted = select(log.id, run.status, Account.name, log.created_at).outerjoin(run, its_run)
        wanted = wanted.outerjoin(Account, Account.id == log.created_by)
        wanted = wanted.where(log.tenant_id == tenant_id, log.app_id == app_id)
        if status is not None:
            wanted = wanted.where(run.status == status)
        with self._session_factory() as session:
            total = session.scalar(select(func.count()).select_from(wanted.subquery()))
            newest = wanted.order_by(log.created_at.desc()).offset((page - 1) * limit).limit(limit)
            items = tuple(WorkflowAppLogItem(*row) for row in session.execute(newest))
        return WorkflowAppLogPage(page, limit, total, total > page * limit, items)
