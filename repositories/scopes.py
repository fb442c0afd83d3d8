"""Where the rows of a call are, for methods that name no tenant.

Plain data; a row of a policy table says which applies.

A tenant is on one of several shards. A method without a scope would silently be asked of one shard only, so a policy
table with such a method is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from tidegate.repositories.tenant_directory import Kind


@dataclass(frozen=True, slots=True)
class ByRowId:
    """The rows are with the tenant of one id.

    Args:
        kind: what the id is of.
        argument: the argument that holds the id; "entity.attribute" for an attribute of an argument.
        tenant: an argument that may name the tenant. If it does not, it gets the tenant that was found. None: there is
            no such argument.
        search: the call itself searches every shard for an unknown id; its answer is a row with a ``tenant_id``, or
            None. Otherwise the id is looked up first.
        is_row: the answer is the row of that id, so that None says that there is no such row.
        first: if several rows are found, the attributes by which one is the first.
        otherwise: the scope if the argument is None, or has no such attribute.
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
    """The rows are with the tenants of several ids, or of rows: each shard does a part, and the answers are added up.

    Args:
        kind: what the ids are of.
        argument: a list of ids, or of rows with an ``id`` and maybe a ``tenant_id``.
    """

    kind: Kind
    argument: str


@dataclass(frozen=True, slots=True)
class AllShards:
    """The rows are on every shard, and the answers are merged.

    Args:
        order: the attributes by which the rows of an answer are ordered, and which tell any two of them apart.
        limit: the argument that says how many rows there may be.
        tenants: an argument that may say whose rows alone are wanted.
    """

    order: tuple[str, ...]
    limit: str
    tenants: str | None = None


@dataclass(frozen=True, slots=True)
class AllShardsInOrder:
    """The rows are on every shard, and are worked on one after another, in the order of what was found on all.

    Args:
        find: a method of the repository with the same arguments: it returns what is to be done, in order.
        do: a method of the repository that takes one of these and the arguments, and tells whether it was done. The
            last element of each that was done is in the answer.
        limit: the argument that says how many at most.
        most: how many at most, if that argument is None.
    """

    find: str
    do: str
    limit: str
    most: int


@dataclass(frozen=True, slots=True)
class NoRows:
    """The call touches no row."""


@dataclass(frozen=True, slots=True)
class CallerSession:
    """The rows are in the caller's session, and so on its shard.

    Args:
        kind: what the ids are of that the call asks about; None: it asks about none.
        ids: the argument with the id, or with a row that has a ``tenant_id``; None: the call is not about one.
        lists: the argument with a list of ids; None: the call is not about several.
        tenants: an argument that may say whose rows alone are wanted; if its value is None, all are.
        order: the attributes by which rows of several shards are merged; (): answers are added up, or put together.
        limit: the argument that says how many rows there may be; None: as many as there are.
        writes: whether the call changes rows.
    """

    kind: Kind | None = None
    ids: str | None = None
    lists: str | None = None
    tenants: str | None = None
    order: tuple[str, ...] = ()
    limit: str | None = None
    writes: bool = False


Scope: TypeAlias = ByRowId | ByRowIds | AllShards | AllShardsInOrder | NoRows | CallerSession
