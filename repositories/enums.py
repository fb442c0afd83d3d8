"""The values of the tables' text columns. Rows hold plain strings unless a column says otherwise."""

from __future__ import annotations

from enum import StrEnum


class WorkflowRunTriggeredFrom(StrEnum):
    """What started a run."""

    DEBUGGING = "debugging"
    APP_RUN = "app-run"
    RAG_PIPELINE_RUN = "rag-pipeline-run"
    RAG_PIPELINE_DEBUGGING = "rag-pipeline-debugging"
    WEBHOOK = "webhook"
    SCHEDULE = "schedule"
    PLUGIN = "plugin"


class WorkflowNodeExecutionTriggeredFrom(StrEnum):
    """What started a node execution."""

    SINGLE_STEP = "single-step"
    WORKFLOW_RUN = "workflow-run"
    RAG_PIPELINE_RUN = "rag-pipeline-run"


class WorkflowType(StrEnum):
    """The kind of a workflow."""

    WORKFLOW = "workflow"
    CHAT = "chat"
    RAG_PIPELINE = "rag-pipeline"


class WorkflowExecutionStatus(StrEnum):
    """The state of a run."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    PARTIAL_SUCCEEDED = "partial-succeeded"
    PAUSED = "paused"

    def is_ended(self) -> bool:
        """Tell whether a run in this state will not change any more."""
        return self in _ENDED

    @classmethod
    def ended_values(cls) -> list[str]:
        """Return the states that end a run, as the plain strings of the column."""
        return [status.value for status in _ENDED]


_ENDED = (
    WorkflowExecutionStatus.SUCCEEDED,
    WorkflowExecutionStatus.FAILED,
    WorkflowExecutionStatus.PARTIAL_SUCCEEDED,
    WorkflowExecutionStatus.STOPPED,
)


class WorkflowNodeExecutionStatus(StrEnum):
    """The state of a node execution."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXCEPTION = "exception"
    STOPPED = "stopped"
    PAUSED = "paused"
    RETRY = "retry"


class WorkflowTriggerStatus(StrEnum):
    """The state of a trigger log."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PAUSED = "paused"
    FAILED = "failed"
    RATE_LIMITED = "rate_limited"
    RETRYING = "retrying"


class CreatorUserRole(StrEnum):
    """The kind of user that made a row."""

    ACCOUNT = "account"
    END_USER = "end_user"


class ExecutionOffLoadType(StrEnum):
    """The value of a node execution that was moved to a file."""

    INPUTS = "inputs"
    PROCESS_DATA = "process_data"
    OUTPUTS = "outputs"


class PauseReasonType(StrEnum):
    """Why a run waits."""

    HUMAN_INPUT_REQUIRED = "human_input_required"
    SCHEDULED_PAUSE = "scheduled_pause"


class WorkflowAppLogCreatedFrom(StrEnum):
    """Where an app log comes from."""

    SERVICE_API = "service-api"
    WEB_APP = "web-app"
    INSTALLED_APP = "installed-app"
