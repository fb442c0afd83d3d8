"""Why a run waits. ``TYPE`` tells the reasons apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from tidegate.repositories.enums import PauseReasonType

if TYPE_CHECKING:
    from tidegate.repositories.models import WorkflowPauseReason


class HumanInputRequired(BaseModel):
    """A person has to fill in a form."""

    TYPE: Literal[PauseReasonType.HUMAN_INPUT_REQUIRED] = PauseReasonType.HUMAN_INPUT_REQUIRED
    form_id: str
    node_id: str


class SchedulingPause(BaseModel):
    """The scheduler holds the run back."""

    TYPE: Literal[PauseReasonType.SCHEDULED_PAUSE] = PauseReasonType.SCHEDULED_PAUSE
    message: str


PauseReason: TypeAlias = Annotated[HumanInputRequired | SchedulingPause, Field(discriminator="TYPE")]
"""A reason; pydantic tells the two apart by ``TYPE``."""


def reason_columns(reason: Any) -> dict[str, Any]:
    """Return the columns of *reason*, a :data:`PauseReason` or a host's object with the same attributes.

    Raises:
        ValueError: its ``TYPE`` is not known.
    """
    kind = getattr(reason, "TYPE", None)
    if kind == PauseReasonType.HUMAN_INPUT_REQUIRED:
        return {"type_": PauseReasonType.HUMAN_INPUT_REQUIRED, "form_id": reason.form_id, "node_id": reason.node_id}
    if kind == PauseReasonType.SCHEDULED_PAUSE:
        return {"type_": PauseReasonType.SCHEDULED_PAUSE, "message": reason.message}
    known = ", ".join(PauseReasonType)
    raise ValueError(f"a pause reason's TYPE must be one of {known}, not {kind!r} (of {type(reason).__name__})")


def reason_of(row: WorkflowPauseReason) -> HumanInputRequired | SchedulingPause:
    """Return the reason that *row* holds."""
    if row.type_ == PauseReasonType.HUMAN_INPUT_REQUIRED:
        return HumanInputRequired(form_id=row.form_id, node_id=row.node_id)
    return SchedulingPause(message=row.message)
