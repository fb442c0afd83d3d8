from host_queries import Snapshot

WorkflowNodeExecutionSnapshot = Snapshot
