"""Statements that the driver must not prepare: they are planned for their values, each time."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection


@contextmanager
def unprepared(connection: Connection) -> Iterator[None]:
    """Have psycopg prepare none of the statements that run on *connection* meanwhile; other drivers never do.

    A statement that was prepared may have a generic plan, which serves any values and is best for few; and it fails
    once a column that it returns has another type.
    """
    driver = connection.connection.driver_connection
    threshold = getattr(driver, "prepare_threshold", None)
    if driver is None or threshold is None:
        yield
        return
    driver.prepare_threshold = None
    try:
        yield
    finally:
        driver.prepare_threshold = threshold
