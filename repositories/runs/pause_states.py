"""What pausing and deleting runs have in common: the states of pauses, which must follow the rows."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from tidegate.error_text import traceback_text
from tidegate.interruptions import pass_interruption
from tidegate.repositories.base import SQLAlchemyRepository
from tidegate.repositories.runs.pause_storage import no_storage, storage_from
from tidegate.repositories.settings import repository_settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.repositories.runs.pause_storage import ObjectStorage

_log: Final = logging.getLogger(__name__)
_resolved = cache(storage_from)


class RunStates(SQLAlchemyRepository):
    """Keep the states of paused runs: the base of the parts that pause and delete runs.

    Args:
        session_maker: a ``sessionmaker`` bound to the database's engine.
        storage: where the states of paused runs lie; None: what TIDEGATE_PAUSE_STORAGE names, as soon as one is needed.
    """

    def __init__(self, session_maker: sessionmaker[Session], *, storage: ObjectStorage | None = None) -> None:
        super().__init__(session_maker)
        self._given_storage = storage

    def _storage(self) -> ObjectStorage:
        """Return the storage where states lie.

        Raises:
            SettingsError: none was given, and the setting names none.
        """
        if self._given_storage is not None:
            return self._given_storage
        setting = repository_settings().tidegate_pause_storage
        if not setting:
            raise no_storage()
        return _resolved(setting)

    def _discard_states(self, keys: Iterable[str]) -> None:
        """Remove states that no committed row names any more.

        A storage that fails here leaves the object behind, and a line in the log. The rows are as they should be, so
        the caller is not told of a failure.
        """
        for key in keys:
            try:
                self._storage().delete(key)
            except Exception as error:  # noqa: BLE001  # a host's storage may raise anything
                pass_interruption(error)
                _log.error(  # with the traceback, but without passwords
                    "the state %s is no longer needed, but it could not be removed\n%s", key, traceback_text(error)
                )


def may_be_committed(error: BaseException) -> bool:
    """Tell whether a transaction that failed with *error* may have been committed all the same.

    That is so if the connection was lost (perhaps with the answer to COMMIT), or if the thread was interrupted.
    """
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    return not isinstance(error, Exception)
