"""What becomes of methods of a host's repository, by their names and parameters."""

from __future__ import annotations

from typing import Any

from tidegate.proxy.dify.host_policies import plans_of, policies_of
from tidegate.proxy.dify.releases import WORKFLOW_RUNS


class Host:
    def get_workflow_run_by_id(self, tenant_id: str, app_id: str, run_id: str, fresh: bool = False) -> Any: ...

    def get_workflow_run_by_id_without_tenant(self, workflow_run: str) -> Any: ...

    def get_workflow_runs_count(self, tenant_id: str, app_id: str, *args: Any, **kwargs: Any) -> Any: ...

    def get_workflow_run_by_id_and_tenant_id(self, tenant_id: str, run_id: str, shard: int) -> Any: ...

    def get_archived_run_ids(self, session: Any, run_ids: Any) -> Any: ...

    def get_workflow_pause(self, workflow_run_id: str) -> Any: ...

    def delete_runs_by_ids(self, run_ids: Any) -> Any: ...

    def get_new(self) -> Any: ...

    @staticmethod
    def get_static(run_id: str) -> Any: ...


def test_a_method_is_cached_only_if_its_policy_knows_all_that_it_is_called_with() -> None:
    why = {plan.name: (plan.policy is not None, plan.why) for plan in plans_of(Host, WORKFLOW_RUNS)}
    primary = "it runs as it is, on the primary"
    assert why == {
        "get_workflow_run_by_id": (True, "not with fresh"),
        "get_workflow_run_by_id_without_tenant": (
            False,
            "this release has no parameter run_id, which its policy names",
        ),
        "get_workflow_runs_count": (
            False,
            "this release has no parameter status, time_range, triggered_from, which its policy names",
        ),
        "get_workflow_run_by_id_and_tenant_id": (False, "its policy does not know its parameter shard"),
        "get_archived_run_ids": (False, "it runs in the caller's session"),
        "get_workflow_pause": (False, "it is read on the primary, and not cached"),
        "delete_runs_by_ids": (False, f"it writes, and triggers note that: {primary}"),
        "get_new": (False, f"no policy knows it: {primary}"),
        "get_static": (False, "it needs no repository"),
    }


def test_an_argument_that_no_policy_knows_makes_a_call_uncached_unless_it_is_the_default() -> None:
    policy: Any = policies_of(Host, WORKFLOW_RUNS)["get_workflow_run_by_id"]
    asked = {"tenant_id": "t", "app_id": "a", "run_id": "r"}
    assert policy.when(asked | {"fresh": False})
    assert not policy.when(asked | {"fresh": True})


class Counting:
    def get_workflow_runs_count(
        self, tenant_id: str, app_id: str, triggered_from: str, status: str | None = None, time_range: str | None = None
    ) -> Any: ...


def test_a_count_of_a_range_of_time_is_not_cached_however_it_is_spelled() -> None:
    policy: Any = policies_of(Counting, WORKFLOW_RUNS)["get_workflow_runs_count"]
    assert policy.when({"time_range": None})
    assert policy.when({"time_range": ""})
    assert not any(policy.when({"time_range": spelled}) for spelled in ("7d", "7D", "7d\n", "1234567890s"))
