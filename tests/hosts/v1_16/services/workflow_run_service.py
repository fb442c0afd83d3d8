from host_services import RunPages


class WorkflowRunService(RunPages):
    def get_paginate_workflow_runs(self, *asked: object) -> object:
        return self.page(*asked)
