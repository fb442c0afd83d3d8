from host_queries import LaterRunQueries, RunRepository
from models.workflow import WorkflowRun


class DifyAPISQLAlchemyWorkflowRunRepository(LaterRunQueries, RunRepository):
    run = WorkflowRun
