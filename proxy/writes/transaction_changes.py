"""What one transaction has changed so far: tags by tenant, whole tenants, and rows still to be looked up."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tidegate.cache.store import Change
from tidegate.cache.tags import UNKNOWN, as_text
from tidegate.errors import TenantSwitch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tidegate.proxy.writes.tracked_tables import TrackedTable

MOST_TAGS: Final = 10_000
"""Tags of one tenant in one transaction; with more of them the whole tenant counts."""


class PendingRows(NamedTuple):
    """Rows that must be read before COMMIT: those of *table* whose *columns* have one of *keys*."""

    table: TrackedTable
    columns: tuple[str, ...]
    keys: tuple[tuple[Any, ...], ...]


class TransactionChanges:
    """The changes of one transaction; grows, and is forgotten with it. A rolled back savepoint takes nothing back."""

    def __init__(self, most_tags: int = MOST_TAGS) -> None:
        self._most_tags = most_tags
        self._tags: dict[str, set[str]] = {}
        self._whole: set[str] = set()
        self._moving: set[TrackedTable] = set()
        self._until_keys_come: dict[object, set[str]] = {}
        self.snapshot_is_old = False
        """Whether the transaction reads as of its beginning, and so may not see what others have committed since."""
        self.only: str | None = None
        """The tenant whose session it is, where there are several shards; another one's rows must not change in it."""
        self._lookups: dict[tuple[TrackedTable, tuple[str, ...]], dict[tuple[Any, ...], None]] = {}
        # Of rows that others name as their parent: a pause is deleted after its run, and the tenant is the run's.
        self._owners: dict[tuple[TrackedTable, str], str] = {}

    def whole(self, tenant: Any) -> None:
        """All of *tenant* changes; None is nobody."""
        if tenant is not None:
            self._whole.add(self._allowed(as_text(tenant)))

    def tagged(self, tenant: Any, tags: Iterable[str]) -> None:
        """Some tags of *tenant* change."""
        self._add(tenant, tags)

    def look_up(self, table: TrackedTable, columns: tuple[str, ...], keys: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Rows that change, or have changed, and whose values are in the database; returns the keys that are new."""
        wanted = self._lookups.setdefault((table, columns), {})
        new = [key for key in keys if key not in wanted]
        wanted.update(dict.fromkeys(new))
        return new

    def forget(self, table: TrackedTable, columns: tuple[str, ...], keys: Iterable[tuple[Any, ...]]) -> None:
        """Rows that did not change after all, or have been looked up."""
        for key in keys:
            self._lookups[table, columns].pop(key, None)

    def inserted(self, table: TrackedTable, values: Mapping[str, Any], insert: object) -> bool:
        """A new row of *insert*. Returns whether it could be told what it changes: not without tenant or primary key.

        Where only the database knows the key, the whole tenant counts until :meth:`keys_came`.
        """
        tenant = UNKNOWN if table.tenant is None else values[table.tenant]
        tags = () if table.parent or tenant is UNKNOWN else [made.expand(values) for made in table.templates]
        if table.parent is None and tenant is not UNKNOWN and UNKNOWN not in tags:
            self._add(tenant, tags)
        elif values[table.pk] not in (UNKNOWN, None):
            self.look_up(table, (table.pk_column,), [(values[table.pk],)])
        elif tenant is not UNKNOWN:
            if tenant is not None:
                self._until_keys_come.setdefault(insert, set()).add(self._allowed(as_text(tenant)))
        else:
            return False
        return True

    def keys_came(self, insert: object, table: TrackedTable, keys: Sequence[Any]) -> None:
        """The primary keys of all rows of an INSERT, which the database made."""
        if self._until_keys_come.pop(insert, None):
            self.look_up(table, (table.pk_column,), [(key,) for key in keys])

    def row(self, table: TrackedTable, levels: Sequence[Mapping[str, Any] | None]) -> str | None:
        """A row as the database has it, with its parents' (see ``TrackedTable.read``); returns its tenant."""
        values, above = levels[0], None
        if values is None:
            return None
        if table.parent is not None and values[table.parent.field] is not None:
            parent = table.parent.table
            above = self.row(parent, levels[1:]) or self._owners.get((parent, as_text(values[table.parent.field])))
            if (above is None or self.snapshot_is_old) and table.tenant is not None:
                # The parent may have been inserted, or moved, by a transaction that this one does not see, and which
                # may commit first: what depends on both is not known.
                self.whole(values[table.tenant])
        tenant = above if table.tenant is None else values[table.tenant]
        if tenant is None:
            return None
        if table.is_parent:
            self._owners[table, as_text(values[table.pk])] = tenant
        self._add(tenant, [made.expand(values) for made in table.templates])
        if table in self._moving:
            self.whole(tenant)
        return as_text(tenant)

    def _add(self, tenant: Any, tags: Iterable[Any]) -> None:
        if tenant is None:
            return
        tenant = self._allowed(as_text(tenant))
        known = self._tags.setdefault(tenant, set())
        for tag in tags:
            if tag is UNKNOWN or len(known) > self._most_tags:
                self._whole.add(tenant)
            elif tag is not None and tenant not in self._whole:
                known.add(tag)

    def _allowed(self, tenant: str) -> str:
        if self.only is not None and tenant != self.only:
            raise TenantSwitch(
                f"a row of the tenant {tenant} changes in a session of {self.only}: they may lie on different shards, "
                "and one transaction is on one; use gate.session() of each"
            )
        return tenant

    def owners_move(self, table: TrackedTable, rows: Iterable[Sequence[Any]]) -> None:
        """*rows* of *table* go to other tenants, and with them the tags of all rows that name one of them as parent.

        Those are not read: all of the old tenants counts as changed, and of the tenants the rows are looked up in.
        """
        self._moving.add(table)
        for row in rows:
            self.row(table, table.read(row))

    def next_lookups(self, most: int) -> list[PendingRows]:
        """What is still to be looked up, at most *most* rows of each kind; until :meth:`forget` is told of them."""
        return [
            PendingRows(table, columns, tuple(islice(keys, most)))
            for (table, columns), keys in self._lookups.items()
            if keys
        ]

    def changes(self) -> tuple[Change, ...]:
        """What changes, in the order of the tenants, so that all writers touch the tenants' marks in one order."""
        whole = self._whole.union(*self._until_keys_come.values())
        tenants = sorted(whole | {tenant for tenant, tags in self._tags.items() if tags})
        return tuple(
            Change(tenant, whole=True) if tenant in whole else Change(tenant, frozenset(self._tags[tenant]))
            for tenant in tenants
        )
