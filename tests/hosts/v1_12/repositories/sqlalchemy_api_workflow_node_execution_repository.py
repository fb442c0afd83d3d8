from host_queries import NodeQueries
from models.workflow import WorkflowNodeExecutionModel


class DifyAPISQLAlchemyWorkflowNodeExecutionRepository(NodeQueries):
    node = WorkflowNodeExecutionModel
