"""What one transaction has changed so far: tags by tenant, whole tenants, and rows that are still to be looked up."""

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
"""How many tags of one tenant one transaction collects; with more of them the whole tenant counts as changed."""


class PendingRows(NamedTuple):
    """Rows that must be read before COMMIT: those of *table* whose *columns* have one of *keys*."""

    table: TrackedTable
    columns: tuple[str, ...]
    keys: tuple[tuple[Any, ...], ...]


class TransactionChanges:
    """Collect the changes of one transaction. A savepoint that is rolled back takes nothing back.

    Args:
        most_tags: how many tags of one tenant are collected; with more of them the whole tenant counts as changed.
    """

    def __init__(self, most_tags: int = MOST_TAGS) -> None:
        self._most_tags = most_tags
        self._tags: dict[str, set[str]] = {}
        self._whole: set[str] = set()
        self._moving: set[TrackedTable] = set()
        self._until_keys_come: dict[object, set[str]] = {}
        self.snapshot_is_old = False
        """Whether the transaction reads rows as they were when it began, and so may miss later commits of others."""
        self.only: str | None = None
        """The tenant whose session it is, where there are several shards: no other tenant's rows may change in it."""
        self._lookups: dict[tuple[TrackedTable, tuple[str, ...]], dict[tuple[Any, ...], None]] = {}
        # The tenants of rows that others name as their parent. A pause is deleted after its run, and has no tenant of
        # its own: the run's row is gone by then, and its tenant is known from here only.
        self._owners: dict[tuple[TrackedTable, str], str] = {}

    def whole(self, tenant: Any) -> None:
        """Count all of *tenant* as changed; None is nobody.

        Raises:
            TenantSwitch: the transaction is in a session of another tenant.
        """
        if tenant is not None:
            self._whole.add(self._allowed(as_text(tenant)))

    def tagged(self, tenant: Any, tags: Iterable[str]) -> None:
        """Count some tags of *tenant* as changed.

        Raises:
            TenantSwitch: the transaction is in a session of another tenant.
        """
        self._add(tenant, tags)

    def look_up(self, table: TrackedTable, columns: tuple[str, ...], keys: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Have rows looked up before COMMIT: they change, or have changed, and their values are in the database.

        Returns:
            The keys that were not asked for before.
        """
        wanted = self._lookups.setdefault((table, columns), {})
        new = [key for key in keys if key not in wanted]
        wanted.update(dict.fromkeys(new))
        return new

    def forget(self, table: TrackedTable, columns: tuple[str, ...], keys: Iterable[tuple[Any, ...]]) -> None:
        """Do not look up these rows: they did not change after all, or have been looked up."""
        for key in keys:
            self._lookups[table, columns].pop(key, None)

    def inserted(self, table: TrackedTable, values: Mapping[str, Any], insert: object) -> bool:
        """Collect a new row of *insert*.

        Where only the database knows the primary key, the whole tenant counts as changed until :meth:`keys_came` is
        called.

        Returns:
            Whether it is known what the row changes. It is not if the row has neither a tenant nor a primary key.
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
        """Take the primary keys of all rows of an INSERT, which the database made, and have the rows looked up."""
        if self._until_keys_come.pop(insert, None):
            self.look_up(table, (table.pk_column,), [(key,) for key in keys])

    def row(self, table: TrackedTable, levels: Sequence[Mapping[str, Any] | None]) -> str | None:
        """Collect a row as it is in the database, with the rows of its parents (see ``TrackedTable.read``).

        Returns:
            The row's tenant; None if the row is not there, or has none.
        """
        values, above = levels[0], None
        if values is None:
            return None
        if table.parent is not None and values[table.parent.field] is not None:
            parent = table.parent.table
            above = self.row(parent, levels[1:]) or self._owners.get((parent, as_text(values[table.parent.field])))
            if (above is None or self.snapshot_is_old) and table.tenant is not None:
                # Another transaction may have inserted the parent, or given it to another tenant. This one does not
                # see that, and the other may commit first. So it is not known which tags depend on both.
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
                f"a row of the tenant {tenant} changes in a session of the tenant {self.only}: the two tenants may be "
                "on different shards, and a transaction is on one shard; use one gate.session() for each tenant"
            )
        return tenant

    def tenant_changed(self, table: TrackedTable, rows: Iterable[Sequence[Any]]) -> None:
        """Collect *rows* of *table*, which go to other tenants, and with them all rows that name one of them as parent.

        Those child rows are not read. Instead, all of the old tenants counts as changed; and so does all of each tenant
        that a later look-up finds the rows in.
        """
        self._moving.add(table)
        for row in rows:
            self.row(table, table.read(row))

    def next_lookups(self, most: int) -> list[PendingRows]:
        """Return what is still to be looked up, at most *most* rows of each kind.

        It returns the same rows again until :meth:`forget` is called for them.
        """
        return [
            PendingRows(table, columns, tuple(islice(keys, most)))
            for (table, columns), keys in self._lookups.items()
            if keys
        ]

    def changes(self) -> tuple[Change, ...]:
        """Return what changes, sorted by tenant, so that all writers touch the marks of tenants in one order."""
        whole = self._whole.union(*self._until_keys_come.values())
        tenants = sorted(whole | {tenant for tenant, tags in self._tags.items() if tags})
        return tuple(
            Change(tenant, whole=True) if tenant in whole else Change(tenant, frozenset(self._tags[tenant]))
            for tenant in tenants
        )
