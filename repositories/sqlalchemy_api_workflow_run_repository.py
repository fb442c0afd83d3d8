"""The plain run repository, put together from its parts."""

from __future__ import annotations

from tidegate.repositories.run_queries import RunQueries
from tidegate.repositories.run_statistics import RunStatistics


class DifyAPISQLAlchemyWorkflowRunRepository(RunQueries, RunStatistics):
    """Workflow runs on one database, with no cache and no routing.

    Args:
        session_maker: a ``sessionmaker`` bound to the database's engine.
    """
