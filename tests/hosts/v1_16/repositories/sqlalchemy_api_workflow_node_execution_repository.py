from host_queries import LaterNodeQueries
from models.workflow import WorkflowNodeExecutionModel

from repositories.api_workflow_node_execution_repository import WorkflowNodeExecutionSnapshot


class DifyAPISQLAlchemyWorkflowNodeExecutionRepository(LaterNodeQueries):
    node = WorkflowNodeExecutionModel
    snapshot = WorkflowNodeExecutionSnapshot
