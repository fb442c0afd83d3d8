"""The search for the tenants of ids that the directory does not know: one query on every shard, until all are found."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import select, union

from tidegate.ids import canonical
from tidegate.proxy.database.deadlines import set_statement_deadline
from tidegate.proxy.database.ownership import newest_epoch, refuse_newer_epoch
from tidegate.proxy.shards.registry import of_all_shards
from tidegate.repositories.base import batches
from tidegate.repositories.models import (
    WorkflowAppLog,
    WorkflowArchiveLog,
    WorkflowNodeExecutionModel,
    WorkflowNodeExecutionOffload,
    WorkflowPause,
    WorkflowPauseReason,
    WorkflowRun,
    WorkflowTriggerLog,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from tidegate.proxy.shards.registry import Shards
    from tidegate.repositories.tenant_directory import Kind, TenantDirectory
    from tidegate.routing.sharding.scatter import Scatter

_OF_RUNS: Final = (WorkflowNodeExecutionModel, WorkflowAppLog, WorkflowArchiveLog, WorkflowTriggerLog)


def _of_runs(ids: list[str]) -> Any:
    return select(WorkflowRun.id, WorkflowRun.tenant_id).where(WorkflowRun.id.in_(ids))


def _of_what_runs_left(ids: list[str]) -> Any:
    parts = [select(m.workflow_run_id, m.tenant_id).where(m.workflow_run_id.in_(ids)) for m in _OF_RUNS]
    return union(*parts)


def _of_nodes(ids: list[str]) -> Any:
    node, offload = WorkflowNodeExecutionModel, WorkflowNodeExecutionOffload
    left = select(offload.node_execution_id, offload.tenant_id).where(offload.node_execution_id.in_(ids))
    return union(select(node.id, node.tenant_id).where(node.id.in_(ids)), left)


def _of_pauses(ids: list[str]) -> Any:
    run, pause = WorkflowRun, WorkflowPause
    return select(pause.id, run.tenant_id).join(run, run.id == pause.workflow_run_id).where(pause.id.in_(ids))


def _left_of_runs(ids: list[str]) -> Any:
    return select(WorkflowPause.workflow_run_id).where(WorkflowPause.workflow_run_id.in_(ids))


def _left_of_pauses(ids: list[str]) -> Any:
    reason, pause = WorkflowPauseReason.pause_id, WorkflowPause.id
    return union(select(pause).where(pause.in_(ids)), select(reason).where(reason.in_(ids)))


_Query: TypeAlias = "Callable[[list[str]], Any]"
_QUERIES: Final[Mapping[Kind, Sequence[_Query]]] = {
    "run": (_of_runs, _of_what_runs_left),
    "node": (_of_nodes,),
    "pause": (_of_pauses,),
}
_NOBODYS: Final[Mapping[Kind, _Query]] = {"run": _left_of_runs, "pause": _left_of_pauses}


class IdSearch:
    """Find tenants by ids of rows.

    Args:
        directory: is asked first, and records what was found.
        shards: the shards of the gate.
        scatter: asks them.
    """

    def __init__(self, directory: TenantDirectory, shards: Shards, scatter: Scatter) -> None:
        self._directory: Final = directory
        self._shards: Final = shards
        self._scatter: Final = scatter
        self.searched = 0
        """How many ids the directory did not know, counted once for each query that looked for them."""

    def __call__(self, kind: Kind, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the tenants of those of *ids* that are found anywhere, by the id as it was given.

        Raises:
            PartialResult: a shard does not answer, and an id was not found on the others.
            StaleShardMap: an id was not found, and nobody could say whether there is a newer map with other shards.
        """
        known = dict(self._directory.tenants(kind, ids))
        for query in _QUERIES[kind]:
            unknown = [each for each in dict.fromkeys(ids) if each not in known]
            if not unknown:
                break
            self.searched += len(unknown)
            for some in batches(unknown):
                known.update(self._search(kind, query, some))
        return known

    def within(self, session: Session, kind: Kind, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the same as a call, but look first at the rows that *session* sees.

        The session holds a connection, and an id that it finds needs no other one. Only the ids that it does not find
        are searched on all shards.

        Raises:
            PartialResult, StaleShardMap: as when called.
        """
        known = dict(self._directory.tenants(kind, ids))
        for query in _QUERIES[kind]:
            unknown = [each for each in dict.fromkeys(ids) if each not in known]
            for some in batches(unknown):
                # Do not record this in the directory: what this session has written may yet be rolled back.
                rows = session.connection().execute(query([canonical(each) for each in some]))
                known.update(_as_given(some, {str(key): str(tenant) for key, tenant in rows}))
        unknown = [each for each in ids if each not in known]
        return {**known, **self(kind, unknown)} if unknown else known

    def orphans(self, kind: Kind, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the shards, by id, that hold pauses or pause reasons of *ids* whose runs are gone.

        Without the run, nobody knows the tenant of such a row.

        Raises:
            PartialResult, StaleShardMap: as when called.
        """
        found: dict[str, str] = {}
        query = _NOBODYS.get(kind)
        if query is None:
            return found
        for some in batches(dict.fromkeys(ids)):
            for shard, rows in self._ask(kind, query, some).items():
                found.update((row[0], shard) for row in rows)
        return _as_given(ids, found)

    def _search(self, kind: Kind, query: _Query, ids: Sequence[str]) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for rows in self._ask(kind, query, ids).values():
            self._directory.record(kind, rows)
            found.update(rows)
        return _as_given(ids, found)

    def _ask(self, kind: Kind, query: _Query, ids: Sequence[str]) -> Mapping[str, list[Any]]:
        """Return the rows of all shards, or of some that have all *ids*."""
        wanted = {canonical(each) for each in ids}
        statement = query(list(wanted))

        def ask(names: Sequence[str], epoch: int | None) -> Mapping[str, list[Any]]:
            queries = {name: partial(self._rows, name, statement) for name in names}
            answers = self._scatter.all_of(queries, enough=partial(_has, wanted))
            if not _has(wanted, answers.succeeded):
                if epoch is not None:  # an id that was not found may be on a shard that this map does not have
                    refuse_newer_epoch(max((newest for _, newest in answers.succeeded.values()), default=0), epoch)
                answers.every(f"whose a {kind} is")
            return {name: rows for name, (rows, _) in answers.succeeded.items()}

        return of_all_shards(self._shards, ask)

    def _rows(self, shard: str, statement: Any) -> tuple[list[Any], int]:
        """Return the rows of one shard, and the newest epoch that the shard knew after they had been read."""
        with self._shards.at(shard).engine.connect() as connection:
            set_statement_deadline(connection)
            rows = [tuple(map(str, row)) for row in connection.execute(statement)]
            return rows, newest_epoch(connection)


def _has(wanted: set[str], answers: Mapping[str, tuple[list[Any], int]]) -> bool:
    return wanted <= {row[0] for rows, _ in answers.values() for row in rows}


def _as_given(ids: Sequence[str], found: Mapping[str, str]) -> dict[str, str]:
    return {each: found[canonical(each)] for each in ids if canonical(each) in found}
