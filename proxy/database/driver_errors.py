"""What the driver raises on a connection that is used without SQLAlchemy, raised as SQLAlchemy raises it.

A program catches SQLAlchemy's errors. A read that finds its marks gone asks the primary on the driver's connection, so
the program would see the driver's own error there, and nowhere else.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection


@contextmanager
def driver_connection(connection: Connection) -> Iterator[Any]:
    """Hand out the driver's connection; one that breaks meanwhile does not go back to the pool.

    Yields:
        The DBAPI connection.

    Raises:
        sqlalchemy.exc.DBAPIError: in place of an error of the driver, which is its ``orig``.
    """
    dialect, raw = connection.dialect, connection.connection.dbapi_connection
    errors = dialect.loaded_dbapi.Error
    try:
        yield raw
    except errors as error:
        is_lost = dialect.is_disconnect(error, raw, None)
        if is_lost:
            connection.invalidate(error)
        raise DBAPIError.instance(None, None, error, errors, dialect=dialect, connection_invalidated=is_lost) from error
