from models.workflow import WorkflowRun as WorkflowRun
