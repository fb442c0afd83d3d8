from host_queries import LaterNodeQueries
from models.workflow import WorkflowNodeExecutionModel
from services.workflow.node_execution_queries import WorkflowNodeExecutionSnapshot


class DifyAPISQLAlchemyWorkflowNodeExecutionRepository(LaterNodeQueries):
    node = WorkflowNodeExecutionModel
    snapshot = WorkflowNodeExecutionSnapshot
