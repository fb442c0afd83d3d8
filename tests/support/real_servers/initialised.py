"""A database as ``tidegate init`` leaves it, without the indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate.proxy.database.schema import make_tables
from tidegate.proxy.tracking.tracked_tables import Tables
from tidegate.proxy.tracking.triggers import make_triggers, missing_triggers
from tidegate.repositories.models import Base
from tidegate.repositories.tracked import TRACKED

if TYPE_CHECKING:
    from sqlalchemy import Engine


def initialise(engine: Engine) -> None:
    """Make all these tables and triggers."""
    Base.metadata.create_all(engine)
    make_tables(engine)
    make_triggers(engine, missing_triggers(engine, Tables(TRACKED)))
