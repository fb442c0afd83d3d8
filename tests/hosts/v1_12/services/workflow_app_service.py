from host_services import LogPages


class WorkflowAppService(LogPages):
    def get_paginate_workflow_app_logs(self, **asked: object) -> object:
        return self.page(**asked)
