"""`make test` runs tests of each file that CI runs tests of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from real_servers.amounts import IS_SHORT

ROOT = Path(__file__).parents[2]


def collected(**more: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not soak", "tests"]
    environment = {name: value for name, value in os.environ.items() if name != "TIDEGATE_TESTS"}
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment | more | {"PYTHONSAFEPATH": "1"}
    )
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.skipif(IS_SHORT, reason="it is about what this run leaves out")
def test_the_sample_has_tests_of_every_file_and_is_less_than_half() -> None:
    whole, sample = collected(), collected(TIDEGATE_TESTS="short")
    assert {test.split("::")[0] for test in whole} == {test.split("::")[0] for test in sample}
    assert len(sample) < len(whole) / 2
