"""Dify's pages of an app's logs, and the runs of their rows, by the gate of the engine that they are asked on.

What is cached is what Dify's own method has found, in a session of its own that is begun for that. The page that Dify
would have made of it is made anew for each caller: its rows belong to the caller's session, as they do in Dify.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import inspect, select
from sqlalchemy.orm import load_only

from tidegate.proxy.dify.gates import gate_on_bind
from tidegate.proxy.dify.host_models import host_models
from tidegate.proxy.layers.facade import gated
from tidegate.repositories.base import Bindable
from tidegate.repositories.lazy import LazyPage
from tidegate.repositories.policies import PRIMARY, PolicyTable, Read
from tidegate.repositories.run_policies import of_app
from tidegate.repositories.runs.page_statements import LAZY_RUN_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.cache.codec.answers import RowsAndData

    Ask = Callable[..., RowsAndData]

MOST_RUNS: Final = 32
"""The most runs in the tags of one answer. An answer of more runs depends on all runs of its app instead."""


def _with_triggers(arguments: Mapping[str, Any], answer: Any) -> Sequence[str]:
    return (*of_app(arguments, answer), f"triggers:{arguments['app_id']}")


def _of_runs(arguments: Mapping[str, Any], answer: Any) -> Sequence[str]:
    ids = arguments["run_ids"]
    if len(ids) > MOST_RUNS:
        return of_app(arguments, answer)
    return (f"app:{arguments['app_id']}", *(f"run:{run_id}" for run_id in ids))


LOG_PAGE_POLICIES: Final = PolicyTable(
    {
        "log_page": Read(guard="logs:{app_id}", answer_tags=of_app),
        # A change of a trigger log does not bump the guard, by which a replica would be chosen. On the primary the
        # answer is not older than its look-up, and a fill compares all its tags with what that has noted.
        "detailed_log_page": Read(guard="logs:{app_id}", answer_tags=_with_triggers, node=PRIMARY),
        "runs_of_logs": Read(guard="runs:{app_id}", answer_tags=_of_runs),
    },
    ids=frozenset({"tenant_id", "app_id"}),
)


@gated(LOG_PAGE_POLICIES)
class LogPages(Bindable):
    """Read what pages of logs are made of.

    Args:
        session_maker: opens the sessions; its engine is the host's.
        ask: has the host's own method read a page, and takes that apart; None: no page will be asked for.
    """

    def __init__(self, session_maker: sessionmaker[Session], ask: Ask | None = None) -> None:
        self.session_maker = session_maker
        self._ask = ask

    def log_page(
        self,
        tenant_id: str,
        app_id: str,
        created_at_before: datetime | None,
        created_at_after: datetime | None,
        page: int,
        limit: int,
    ) -> RowsAndData:
        """Return a page of the logs that were created in a range of time."""
        del tenant_id, app_id  # the host's method has them
        return self._asked(
            created_at_before=created_at_before, created_at_after=created_at_after, page=page, limit=limit
        )

    def detailed_log_page(
        self,
        tenant_id: str,
        app_id: str,
        created_at_before: datetime | None,
        created_at_after: datetime | None,
        page: int,
        limit: int,
    ) -> RowsAndData:
        """Return the same, with what the trigger logs have of their runs."""
        del tenant_id, app_id
        return self._asked(
            created_at_before=created_at_before, created_at_after=created_at_after, page=page, limit=limit, detail=True
        )

    def _asked(self, **asked: Any) -> RowsAndData:
        if self._ask is None:
            raise TypeError("nobody said by which method of the host a page is read")
        with self.session_maker() as session:
            return self._ask(session=session, **asked)

    def runs_of_logs(self, tenant_id: str, app_id: str, run_ids: list[str]) -> list[Any]:
        """Return those of some runs that are this app's, without their large columns: a touch of one reads it for all.

        Args:
            tenant_id: the tenant.
            app_id: the app.
            run_ids: the ids, in canonical form.
        """
        run = host_models()["workflow_runs"]
        light = [getattr(run, one.key) for one in inspect(run).column_attrs if one.key not in LAZY_RUN_COLUMNS]
        wanted = select(run).where(run.id.in_(run_ids), run.tenant_id == tenant_id, run.app_id == app_id)
        with self.session_maker() as session:
            found = list(session.scalars(wanted.options(load_only(*light))))
        binding = self.tidegate_binding
        LazyPage(self.session_maker if binding is None else binding.home, run, LAZY_RUN_COLUMNS).adopt(found)
        return found


def log_pages_on(bind: Any, ask: Ask | None = None) -> LogPages | None:
    """Return what reads through the gate on what a session is bound to; None: there is none.

    Args:
        bind: an engine, or what else the host has.
        ask: as for :class:`LogPages`.
    """
    found = gate_on_bind(bind)
    return None if found is None else found.gate.adopt(LogPages(found.sessions, ask), found.sessions, found.layers)
