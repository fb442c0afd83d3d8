from __future__ import annotations

from typing import TYPE_CHECKING, Any

from host_services import LogPages, LogView

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["LogView", "WorkflowAppService"]


class WorkflowAppService(LogPages):
    def get_paginate_workflow_app_logs(
        self,
        *,
        session: Any,
        app_model: Any,
        keyword: str | None = None,
        status: Any = None,
        created_at_before: datetime | None = None,
        created_at_after: datetime | None = None,
        page: int = 1,
        limit: int = 20,
        detail: bool = False,
        created_by_end_user_session_id: str | None = None,
        created_by_account: str | None = None,
    ) -> object:
        del created_by_end_user_session_id  # this host has accounts alone
        return self.page(
            session=session,
            app_model=app_model,
            keyword=keyword,
            status=status,
            created_at_before=created_at_before,
            created_at_after=created_at_after,
            page=page,
            limit=limit,
            detail=detail,
            created_by_account=created_by_account,
        )

    def get_paginate_workflow_archive_logs(
        self, *, session: Any, app_model: Any, page: int = 1, limit: int = 20
    ) -> object:
        return self.page_of_archive(session, app_model, page, limit)
