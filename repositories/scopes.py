"""Where a call's rows are, for methods that name no tenant. Plain data; a row of a policy table says which applies.

Of several shards a tenant is on one. A method with no row of these would silently be asked of one shard only, so a
table with such a method is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tidegate.repositories.tenant_directory import Kind


@dataclass(frozen=True, slots=True)
class ByRowId:
    """With the tenant of one id.

    Args:
        kind: of what the id is.
        argument: that holds it; "entity.attribute" for an attribute of one.
        tenant: an argument that may name the tenant, and gets it where it was found otherwise; None: there is none.
        search: an unknown id is searched for by the call itself, on every shard: it gives a row with a ``tenant_id``,
            or None. Otherwise the id is looked up first.
        is_row: the answer is the row of that id: None says that there is none.
        first: of several rows that are found, the attributes by which one is the first.
        otherwise: where the argument is None, or has no such attribute.
    """

    kind: Kind
    argument: str
    tenant: str | None = None
    search: bool = False
    is_row: bool = False
    first: tuple[str, ...] = ()
    otherwise: ByRowId | None = None


@dataclass(frozen=True, slots=True)
class ByRowIds:
    """With the tenants of several ids, or of rows that have one: a part on each shard, and the answers are added up.

    Args:
        kind: of what the ids are.
        argument: a list of ids, or of rows with an ``id`` and maybe a ``tenant_id``.
    """

    kind: Kind
    argument: str


@dataclass(frozen=True, slots=True)
class AllShards:
    """On every shard, and the answers are merged.

    Args:
        order: attributes by which the rows of an answer are in order, and which tell any two of them apart.
        limit: the argument that says how many rows there may be.
        tenants: an argument that may say whose rows alone are wanted.
    """

    order: tuple[str, ...]
    limit: str
    tenants: str | None = None


@dataclass(frozen=True, slots=True)
class AllShardsInOrder:
    """On every shard, one after another in the order of what was found on all.

    Args:
        find: a method of the repository's own, of the same arguments: gives what is to be done, in order.
        do: another one, of one of these and the arguments; says whether it was done. The last of each is in the answer.
        limit: the argument that says how many at most.
        most: how many, where that is None.
    """

    find: str
    do: str
    limit: str
    most: int


@dataclass(frozen=True, slots=True)
class NoRows:
    """It touches no row."""


@dataclass(frozen=True, slots=True)
class CallerSession:
    """In the caller's session, and so on its shard.

    Args:
        kind: of what the ids are that it asks about; None: it asks about none.
        ids: the argument with the id, or the row with a ``tenant_id``; None: it is not about one.
        lists: the argument with a list of them; None: it is not about several.
        tenants: an argument that may say whose rows alone are wanted; None among its values: all.
        order: attributes by which rows of several shards are merged; (): they are added up, or put together.
        limit: the argument that says how many rows there may be; None: as many as there are.
        writes: whether it changes rows.
    """

    kind: Kind | None = None
    ids: str | None = None
    lists: str | None = None
    tenants: str | None = None
    order: tuple[str, ...] = ()
    limit: str | None = None
    writes: bool = False


Scope: TypeAlias = ByRowId | ByRowIds | AllShards | AllShardsInOrder | NoRows | CallerSession
