"""A pause as callers see it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tidegate.repositories.entities.pause_reason import PauseReason


class WorkflowPauseEntity(ABC):
    """Describe a pause. The object can still be used after its session is closed."""

    @property
    @abstractmethod
    def id(self) -> str:
        """Return the id of the pause."""

    @property
    @abstractmethod
    def workflow_execution_id(self) -> str:
        """Return the id of the run that is paused."""

    @property
    @abstractmethod
    def resumed_at(self) -> datetime | None:
        """Return when the run went on (naive UTC); None while it waits."""

    @abstractmethod
    def get_state(self) -> bytes:
        """Return the state to go on from. The first call reads it from the storage."""

    @abstractmethod
    def get_pause_reasons(self) -> Sequence[PauseReason]:
        """Return why the run waits, oldest reason first."""
