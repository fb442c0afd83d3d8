from host_queries import RunQueries, RunRepository
from models.workflow import WorkflowRun


class DifyAPISQLAlchemyWorkflowRunRepository(RunQueries, RunRepository):
    run = WorkflowRun
