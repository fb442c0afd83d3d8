"""Who runs what: one whale and many tenants by a Zipf law, their apps, and the workflows of these."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from itertools import accumulate
from math import exp, log
from random import Random
from typing import TYPE_CHECKING, Final

from tidegate.benchmarks.data.graphs import LEAST_GRAPH_BYTES, MOST_GRAPH_BYTES
from tidegate.repositories.enums import WorkflowType

if TYPE_CHECKING:
    from collections.abc import Sequence

_RUNS_PER_TENANT: Final = 250
_FEWEST_TENANTS: Final = 12
_MOST_TENANTS: Final = 4_000
_WHALE_APPS: Final = 8
_MAIN_APP_SHARE: Final = 0.8
_VERSIONS: Final = 3
_KINDS: Final = (WorkflowType.WORKFLOW, WorkflowType.CHAT, WorkflowType.WORKFLOW, WorkflowType.RAG_PIPELINE)


@dataclass(frozen=True, slots=True)
class Workflow:
    """One version of a workflow; its runs share a graph of about *graph_bytes* bytes."""

    id: str
    version: str
    graph_bytes: int


@dataclass(frozen=True, slots=True)
class App:
    """One app; the first of its workflows is the draft, which is only debugged."""

    id: str
    tenant_id: str
    kind: WorkflowType
    workflows: tuple[Workflow, ...]
    creators: int


class Population:
    """Make all tenants of a data set, and choose whose app runs next.

    Args:
        runs: how many runs the data set has; more runs mean more tenants.
        seed: the same seed gives the same population.
    """

    def __init__(self, runs: int, seed: int) -> None:
        rng = Random(f"{seed}:population")  # noqa: S311  # data, not secrets
        tenants = min(max(runs // _RUNS_PER_TENANT, _FEWEST_TENANTS), _MOST_TENANTS)
        whale = random_uuid(rng)
        # The newest graphs of the main app have the mean size, whatever the seed. The time to read a graph depends on
        # its bytes, so pages of the main app cost what pages cost on average.
        mean = (MOST_GRAPH_BYTES - LEAST_GRAPH_BYTES) / log(MOST_GRAPH_BYTES / LEAST_GRAPH_BYTES)
        sizes = [round(mean), _graph_bytes(0.75), _graph_bytes(0.25), round(mean)]
        self.main_app = App(random_uuid(rng), whale, WorkflowType.WORKFLOW, _workflows(rng, sizes), 2_000)
        self.quiet_app = App(random_uuid(rng), whale, WorkflowType.WORKFLOW, _workflows(rng, sizes), 2_000)
        others = (_app(rng, whale, i) for i in range(2, _WHALE_APPS))
        self._whale_apps = [self.main_app, self.quiet_app, *others]
        rest = _zipf(_WHALE_APPS - 1)
        self._whale_weights = list(
            accumulate([_MAIN_APP_SHARE, *(w * (1 - _MAIN_APP_SHARE) / sum(rest) for w in rest)])
        )
        self._other_apps: list[App] = []
        weights: list[float] = []
        for tenant_weight in _zipf(tenants - 1):
            tenant_id, apps = random_uuid(rng), rng.randint(1, 5)
            of_apps = _zipf(apps)
            for weight in of_apps:
                self._other_apps.append(_app(rng, tenant_id, len(self._other_apps)))
                weights.append(tenant_weight * weight / sum(of_apps))
        self._other_weights = list(accumulate(weights))

    @property
    def whale_id(self) -> str:
        """Return the tenant that has half of the runs."""
        return self.main_app.tenant_id

    def whale_app(self, rng: Random) -> App:
        """Choose an app of the whale: in four of five cases its main app; its second app becomes quiet."""
        return rng.choices(self._whale_apps, cum_weights=self._whale_weights)[0]

    def other_app(self, rng: Random) -> App:
        """Choose an app of another tenant, by the laws of tenants and of their apps."""
        return rng.choices(self._other_apps, cum_weights=self._other_weights)[0]


def random_uuid(rng: Random) -> str:
    """Return a random UUID in canonical form; the same *rng* gives the same one."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _app(rng: Random, tenant_id: str, number: int) -> App:
    sizes = [_graph_bytes(rng.random()) for _ in range(_VERSIONS + 1)]
    kind = _KINDS[number % len(_KINDS)]
    return App(random_uuid(rng), tenant_id, kind, _workflows(rng, sizes), rng.choice((5, 20, 100)))


def _workflows(rng: Random, graph_bytes: Sequence[int]) -> tuple[Workflow, ...]:
    versions = ("draft", *(f"2026-0{i}-01 00:00:00" for i in range(1, len(graph_bytes))))
    return tuple(Workflow(random_uuid(rng), version, size) for version, size in zip(versions, graph_bytes, strict=True))


def _graph_bytes(share: float) -> int:
    """Return the size that *share* of the graphs do not exceed; sizes are spread evenly by their logarithm."""
    low, high = log(LEAST_GRAPH_BYTES), log(MOST_GRAPH_BYTES)
    return round(exp(low + share * (high - low)))


def _zipf(count: int) -> list[float]:
    return [1 / rank for rank in range(1, count + 1)]
