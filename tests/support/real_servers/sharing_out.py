"""Which tests run in one process: those that share servers or data which take long to make.

The mark ``xdist_group`` does not do it: it is part of a test's id, which pytest 9.2 does not let a plugin change.
"""

from __future__ import annotations

from typing import Any, Final

import pytest

TOGETHER: Final = (
    "tests/integration/repositories/test_pages_cost.py",
    "tests/integration/sharding/",
    "tests/faults/test_routing_replicas.py",
    "tests/faults/test_routing_strangers.py",
    "tests/faults/test_single_flight.py",
    "tests/integration/benchmarks/test_contenders.py",
    "tests/unit/benchmarks/test_data_set.py",
    "tests/unit/benchmarks/test_report.py",
)
"""Where their ids begin; the longest lists are begun first."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadGroupScheduling

    def group(nodeid: str) -> str:
        return next((beginning for beginning in TOGETHER if nodeid.startswith(beginning)), nodeid)

    made = LoadGroupScheduling(config, log)
    made._split_scope = group
    return made
