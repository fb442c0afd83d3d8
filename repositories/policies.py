"""What a gate knows of a repository: one row for each method, one row for each tracked model. Plain data.

A *tag* names something that an answer depends on, inside one tenant. Templates name columns or arguments:
``"runs:{app_id}:{created_at:day}"``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from tidegate.errors import PolicyError
from tidegate.public import public

if TYPE_CHECKING:
    from sqlalchemy import Table

    from tidegate.repositories.scopes import Scope
    from tidegate.repositories.tenant_directory import Kind

AnswerTags: TypeAlias = Callable[[Mapping[str, Any], Any], Sequence[str]]
"""Gives the tags of an answer, from the call's arguments and the answer. It is called after the query."""

NearMode: TypeAlias = Literal["off", "strict", "bounded"]
"""How the near cache keeps answers: not at all, checked against the marks at each use, or served without asking."""

Model: TypeAlias = "type[Any] | Table"
"""What can be tracked: a mapped class, or a table that has none."""

GUARD: Final = "{guard}"
"""Stands for the expanded guard of the call, among the tags of an answer."""
PRIMARY: Final = "primary"
HOUR: Final = timedelta(hours=1)


@public
@dataclass(frozen=True, slots=True)
class Read:
    """The policy of a method that changes nothing.

    Args:
        guard: a template, over the arguments, of the tag that is bumped whenever any tag of the answer is; None: the
            method is not cached.
        answer_tags: gives the tags that the answer depends on; None: the guard alone.
        ttl: how long an answer may be kept; it is checked against its tags all the same.
        negative_ttl: how long the answer None may be kept.
        node: ``"primary"`` if the method must not be read from a replica, else ``"any"``.
        when: tells whether these arguments may be cached at all; None: always.
        near: the mode of the near cache: ``"off"``, ``"strict"`` or ``"bounded"`` (which is outside the guarantee).
        scope: where the rows are, for a method that names no tenant; None: on the shard of the tenant that it names.
        answer_kind: what the ``id`` of the answer is of, if the answer is no row of a tracked model; the id belongs to
            the tenant of the call.
    """

    guard: str | None = None
    answer_tags: AnswerTags | None = None
    ttl: timedelta = HOUR
    negative_ttl: timedelta = timedelta(minutes=1)
    node: Literal["any", "primary"] = "any"
    when: Callable[[Mapping[str, Any]], bool] | None = None
    near: NearMode = "strict"
    scope: Scope | None = None
    answer_kind: Kind | None = None

    def __post_init__(self) -> None:
        """Refuse another word than those that there are: it would be taken for one of them.

        Raises:
            PolicyError: names the argument and its value.
        """
        _refuse_others("Read: node", self.node, ("any", PRIMARY))
        _refuse_others("Read: near", self.near, get_args(NearMode))


@public
@dataclass(frozen=True, slots=True)
class Write:
    """The policy of a method that may change rows. Their tags follow from the rows.

    Args:
        scope: where the rows are, for a method that names no tenant; None: on the shard of the tenant that it names.
        answer_kind: what the ``id`` of the answer is of, as for :class:`Read`.
    """

    scope: Scope | None = None
    answer_kind: Kind | None = None


Policy: TypeAlias = Read | Write


@public
@dataclass(frozen=True, slots=True)
class PolicyTable(Mapping[str, Policy]):
    """One policy for each public method of a repository.

    Args:
        methods: policies by method name.
        tenant: the argument that names the tenant.
        ids: the arguments that are UUIDs: all spellings of the same id make the same call. A call whose argument is no
            UUID is not cached.
        invalidation: what ``gate.invalidate`` bumps by hand: by the name of its argument, templates over that.
    """

    methods: Mapping[str, Policy]
    tenant: str = "tenant_id"
    ids: frozenset[str] = frozenset()
    invalidation: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a text where several things are named: Python would take each of its characters for one.

        Raises:
            PolicyError: names the argument and its value.
        """
        _refuse_text("PolicyTable: ids", self.ids)
        for name, templates in self.invalidation.items():
            _refuse_text(f"PolicyTable: invalidation[{name!r}]", templates)

    def __getitem__(self, method: str) -> Policy:
        return self.methods[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self.methods)

    def __len__(self) -> int:
        return len(self.methods)

    def check(self, cls: type[Any]) -> None:
        """Check that every public method of *cls* has a row, and that every row has a method.

        Raises:
            PolicyError: they do not agree; the message names the methods.
        """
        public = {name for name in dir(cls) if not name.startswith("_") and callable(getattr(cls, name))}
        if missing := sorted(name for name in public - set(self.methods) if not is_of_class(cls, name)):
            raise PolicyError(f"{cls.__name__} has methods without a policy: {', '.join(missing)}")
        if surplus := sorted(set(self.methods) - public):
            raise PolicyError(f"policies without a method on {cls.__name__}: {', '.join(surplus)}")

    def check_scopes(self, cls: type[Any]) -> None:
        """Check that every method of *cls* names its tenant, or says where its rows are. Several shards need that.

        Raises:
            PolicyError: a method does not; the message names it.
        """
        for name, policy in self.methods.items():
            if is_of_class(cls, name):
                continue
            parameters = inspect.signature(getattr(cls, name)).parameters
            given = parameters.get(self.tenant)
            if policy.scope is None and (given is None or given.default is not inspect.Parameter.empty):
                raise PolicyError(
                    f"{cls.__name__}.{name} can be called without {self.tenant}, and its policy does not say where its "
                    "rows are: give it scope=, or it would be asked of one shard only"
                )


def is_of_class(cls: type[Any], name: str) -> bool:
    """Tell whether *name* is a static method, a class method or a class in *cls*: it needs no repository."""
    return isinstance(inspect.getattr_static(cls, name), (staticmethod, classmethod, type))


@public
@dataclass(frozen=True, slots=True)
class Tracked:
    """A model whose rows are in answers, and the tags that a change of a row bumps.

    Args:
        model: the mapped class; or a ``sqlalchemy.Table`` that has none, such as an association table, whose columns go
            by their keys.
        tenant: the column of the tenant; None if the row has none, and *parent* tells it.
        tags: templates over the columns.
        parent: (column, model): the tags of the row of *model* with that primary key are bumped too. If its primary key
            has several columns, (columns, model), in the order of the key.
        identifies: (column, kind): the id in that column is of this kind, and belongs to the tenant of the row.
        names: (column, kind) each: the id in that column is of this kind, and is that of another row.
    """

    model: Model
    tenant: str | None = "tenant_id"
    tags: tuple[str, ...] = ()
    parent: tuple[str | tuple[str, ...], Model] | None = None
    identifies: tuple[str, Kind] | None = field(default=None, compare=False)
    names: tuple[tuple[str, Kind], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        """Refuse a text where several things are named: Python would take each of its characters for one.

        Raises:
            PolicyError: names the argument and its value.
        """
        for name in ("tags", "parent", "identifies", "names"):
            _refuse_text(f"Tracked({name_of(self.model)}): {name}", getattr(self, name))
        for pair in self.names:
            _refuse_text(f"Tracked({name_of(self.model)}): names", pair)

    @property
    def parent_columns(self) -> tuple[str, ...]:
        """Return the columns that name the row of the parent; none, if there is no parent."""
        if self.parent is None:
            return ()
        named = self.parent[0]
        return (named,) if isinstance(named, str) else tuple(named)


def name_of(model: object) -> str:
    """Return the name of a class or a table, for messages."""
    found = getattr(model, "__name__", None) or getattr(model, "name", None)
    return found if isinstance(found, str) else repr(model)


def _refuse_others(what: str, given: object, known: tuple[str, ...]) -> None:
    if given not in known:
        raise PolicyError(f"{what} is {given!r}; it must be one of {', '.join(known)}")


def _refuse_text(what: str, given: object) -> None:
    if isinstance(given, str):
        raise PolicyError(f"{what} is the text {given!r}; it must be a tuple, such as ({given!r}, ...)")
