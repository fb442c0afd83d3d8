"""A host's repository of runs: its own model and its own page, read by Tidegate's statement; and a table to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from real_servers.host_models import LATER_COLUMNS
from tidegate.repositories.models import Base
from tidegate.repositories.runs.page_statements import page_statements
from tidegate.repositories.runs.pages import page_request, read_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session, sessionmaker

    from real_servers.host_models import HostRun


@dataclass
class HostPage:
    """The host's page, which knows no span."""

    data: Sequence[Any]
    limit: int
    has_more: bool


class HostRuns:
    """The host's repository, whose pages Tidegate reads.

    Args:
        session_maker: opens the sessions.
        model: the class of the rows.
    """

    def __init__(self, session_maker: sessionmaker[Session], model: type[HostRun]) -> None:
        self._session_maker = session_maker
        self._model = model

    def get_paginated_workflow_runs(self, *args: Any, **kwargs: Any) -> HostPage:
        request = page_request(*args, **kwargs)
        statements = page_statements(self._model)
        return read_page(
            statements,
            self._session_maker,
            self._session_maker,
            request,
            lambda rows, n, more, _: HostPage(rows, n, more),
        )


def create_host_tables(engine: Engine) -> None:
    """Make the tables, with the columns that a later release of the host adds."""
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        for name in LATER_COLUMNS:
            connection.execute(text(f"ALTER TABLE workflow_runs ADD COLUMN {name} VARCHAR(40)"))
