"""A pause as callers see it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from tidegate.repositories.entities.pause_reason import PauseReason


class WorkflowPauseEntity(ABC):
    """That a run waits, or waited; usable after its session is closed."""

    @property
    @abstractmethod
    def id(self) -> str:
        """The pause's own id."""

    @property
    @abstractmethod
    def workflow_execution_id(self) -> str:
        """The run that is paused."""

    @property
    @abstractmethod
    def resumed_at(self) -> datetime | None:
        """When it went on (naive UTC), None while it waits."""

    @abstractmethod
    def get_state(self) -> bytes:
        """The state to go on from; read from the storage at the first call."""

    @abstractmethod
    def get_pause_reasons(self) -> Sequence[PauseReason]:
        """Why it waits, oldest first."""
