"""Who answered the reads of the tests behind a gate with replicas: counted in every worker, and shown at the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import tidegate

_ANSWERED: pytest.StashKey[Counter[str]] = pytest.StashKey()


def count(config: pytest.Config, kind: str, gate: tidegate.Gate, compared: int) -> None:
    """Add the calls that *gate* has had, in a test of this *kind*, and for how many answers were compared."""
    assert gate._shards.every[0].nodes is not None
    primary = gate._shards.every[0].nodes.topology.primary.name
    answered = _counted(config)
    for node, calls in gate.stats().nodes.items():
        answered[f"{kind} {'primary' if node == primary else 'replicas'}"] += calls
    answered[f"{kind} compared"] += compared


def _counted(config: pytest.Config) -> Counter[str]:
    return config.stash.setdefault(_ANSWERED, Counter[str]())


def _by_replicas(config: pytest.Config, kind: str) -> tuple[int, int, int]:
    """Of this kind: calls that replicas have answered, calls, and answers that were compared."""
    answered = _counted(config)
    return (
        answered[f"{kind} replicas"],
        answered[f"{kind} replicas"] + answered[f"{kind} primary"],
        answered[f"{kind} compared"],
    )


def _kinds(config: pytest.Config) -> list[str]:
    return sorted({key.rpartition(" ")[0] for key in _counted(config)})


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if no replica answered a read of some kind, in any worker: its tests have compared nothing."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["answered"] = dict(_counted(session.config))
        return
    for kind in _kinds(session.config):
        replicas, _, compared = _by_replicas(session.config, kind)
        if compared and not replicas:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _counted(node.config).update(getattr(node, "workeroutput", {}).get("answered", {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    for kind in _kinds(config):
        replicas, calls, compared = _by_replicas(config, kind)
        failed = ": FAILED, nothing was compared" if compared and not replicas else ""
        terminalreporter.write_line(
            f"{kind}: replicas answered {replicas} of {calls} calls ({replicas / max(1, calls):.0%}){failed}"
        )
