"""The search for the tenants of ids that the directory does not know: one query on every shard, until all are found."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tidegate.ids import canonical
from tidegate.proxy.database.deadlines import set_statement_deadline
from tidegate.proxy.database.ownership import newest_epoch, refuse_newer_epoch
from tidegate.proxy.shards.registry import of_all_shards
from tidegate.repositories.base import batches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.orm import Session

    from tidegate.proxy.shards.id_queries import Query, TrackedIds
    from tidegate.proxy.shards.registry import Shards
    from tidegate.repositories.tenant_directory import Kind, TenantDirectory
    from tidegate.routing.sharding.scatter import Scatter


class IdSearch:
    """Find tenants by ids of rows.

    Args:
        directory: is asked first, and records what was found.
        tracked: tells which rows have or name the ids of a kind.
        shards: the shards of the gate.
        scatter: asks them.
    """

    def __init__(self, directory: TenantDirectory, tracked: TrackedIds, shards: Shards, scatter: Scatter) -> None:
        self._directory: Final = directory
        self._shards: Final = shards
        self._scatter: Final = scatter
        self.tracked: Final = tracked
        self.searched = 0
        """How many ids the directory did not know, counted once for each query that looked for them."""

    def __call__(self, kind: Kind, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the tenants of those of *ids* that are found anywhere, by the id as it was given.

        Raises:
            PartialResult: a shard does not answer, and an id was not found on the others.
            StaleShardMap: an id was not found, and nobody could say whether there is a newer map with other shards.
        """
        known = dict(self._directory.tenants(kind, ids))
        for query in self.tracked.queries(kind).owners:
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
        for query in self.tracked.queries(kind).owners:
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
        query = self.tracked.queries(kind).orphans
        if query is None:
            return found
        for some in batches(dict.fromkeys(ids)):
            for shard, rows in self._ask(kind, query, some).items():
                found.update((row[0], shard) for row in rows)
        return _as_given(ids, found)

    def _search(self, kind: Kind, query: Query, ids: Sequence[str]) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for rows in self._ask(kind, query, ids).values():
            self._directory.record(kind, rows)
            found.update(rows)
        return _as_given(ids, found)

    def _ask(self, kind: Kind, query: Query, ids: Sequence[str]) -> Mapping[str, list[Any]]:
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
