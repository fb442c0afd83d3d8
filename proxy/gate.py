"""The gate: what a program holds. Repositories behind the cache, sessions on the primary, invalidation by hand."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy.exc import DBAPIError

from tidegate.cache.store import OtherHistory, StoreUnavailable
from tidegate.cache.switches import checked_switch
from tidegate.cache.tags import as_text
from tidegate.errors import PolicyError, RoutingError, SettingsError
from tidegate.position import Origin
from tidegate.proxy.explain import explain, why_uncached
from tidegate.proxy.layers.gated_repositories import NodeExecutions, WorkflowRuns, subclass
from tidegate.proxy.layers.partial_results import partial_results
from tidegate.proxy.shards.retry import StaleMapRetry
from tidegate.proxy.tracking.kinds_of_table import check_tables
from tidegate.proxy.tracking.observers import entities
from tidegate.proxy.writes.comparable_types import check_comparable
from tidegate.proxy.writes.invalidation import (
    change_of,
    checked_invalidation,
    invalidate_at_commit,
    invalidate_by_outbox,
    invalidate_now,
)
from tidegate.public import public
from tidegate.repositories.base import Binding, bind
from tidegate.repositories.node_policies import NODE_EXECUTION_POLICIES
from tidegate.repositories.policies import name_of
from tidegate.repositories.run_policies import WORKFLOW_RUN_POLICIES
from tidegate.repositories.tracked import TRACKED
from tidegate.repositories.workflow_execution_repository import (
    SQLAlchemyWorkflowExecutionRepository,
    WriteSideRepository,
    tenant_of,
)
from tidegate.repositories.workflow_node_execution_repository import SQLAlchemyWorkflowNodeExecutionRepository
from tidegate.routing.replicas.token import Token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy import Engine
    from sqlalchemy.orm import Session, sessionmaker

    from tidegate.cache.codec.records import HostTypes
    from tidegate.cache.near.push_versions import PushVersions
    from tidegate.cache.store import Change, Store
    from tidegate.proxy.call import Layer
    from tidegate.proxy.explanation import Explanation
    from tidegate.proxy.layers.caller_sessions import CallerSessions
    from tidegate.proxy.observe import Counters, Stats
    from tidegate.proxy.shards.id_queries import TrackedIds
    from tidegate.proxy.shards.registry import Shards
    from tidegate.proxy.tracking.coverage import Coverage
    from tidegate.proxy.tracking.observers import Observers, RowObserver
    from tidegate.repositories.policies import Model, PolicyTable, Tracked

C = TypeVar("C")
W = TypeVar("W", bound=WriteSideRepository)


@dataclass(frozen=True, slots=True)
class GateParts:
    """What a gate is put together from; ``build`` does it.

    Args:
        shards: of the gate, one or several.
        store: the cache; None: there is none.
        pushes: what near answers in ``bounded`` mode rely on; None: there is no such stream.
        counters: of calls and events.
        layers: makes the layers for the rows of some models.
        caller_sessions: runs methods that take the caller's session.
        tracked_ids: what is tracked, as far as it says whose ids are whose.
        coverage: which tracked tables have their triggers.
        observers: are told what was committed.
        flip_wait_s: how long a write waits for a flip, in seconds.
        on_close: called when the gate is closed.
    """

    shards: Shards
    store: Store | None
    pushes: PushVersions | None
    counters: Counters
    layers: Callable[[Sequence[Tracked], HostTypes | None], Layer]
    caller_sessions: CallerSessions
    tracked_ids: TrackedIds
    coverage: Coverage
    observers: Observers
    flip_wait_s: float
    on_close: Callable[[], None]


@public
class Gate:
    """Repositories behind one cache and one primary or several; also a context manager. See ``tidegate.connect``."""

    def __init__(self, parts: GateParts) -> None:
        self._parts = parts
        self._shards = parts.shards
        self._closers = [parts.on_close]
        self._layers = parts.layers(TRACKED, None)
        self._invalidation: dict[str, tuple[str, ...]] = {}
        self._learn_invalidation(WORKFLOW_RUN_POLICIES)
        self._learn_invalidation(NODE_EXECUTION_POLICIES)
        self.workflow_runs = self.adopt(WorkflowRuns(self.session_maker), self.session_maker)
        self.node_executions = self.adopt(NodeExecutions(self.session_maker), self.session_maker)

    @property
    def engine(self) -> Engine:
        """Return the primary's engine, which is watched.

        Raises:
            PolicyError: there are several shards, and an engine for each.
        """
        if self._shards.only is None:
            raise PolicyError("this gate has an engine for each of its shards: use gate.session(tenant_id)")
        return self._shards.only.engine

    @property
    def session_maker(self) -> sessionmaker[Session]:
        """Return what makes sessions on the primary; what they commit is marked in the cache.

        Where there are several shards, its sessions have no tenant and so no shard: it is for making repositories, and
        :meth:`session` for sessions.
        """
        return self._shards.session_maker

    def adopt(
        self,
        repository: C,
        session_maker: sessionmaker[Session],
        layer: Layer | None = None,
        made_with: tuple[Any, ...] = (),
    ) -> C:
        """Have the calls of a gated *repository* go through this gate, and return it.

        Args:
            repository: an object of a gated class.
            session_maker: what it opens sessions with.
            layer: where its calls go; None: to the layers of the gate's own repositories.
            made_with: what its constructor was given beside the session maker.

        Raises:
            PolicyError: *session_maker* is not one of this gate's engine, as it is: what it reads is not what the
                gate's entries hold, or what it writes would not be seen.
        """
        self._shards.check_session_maker(session_maker)
        self._shards.keep_alive()
        sessions = self._parts.caller_sessions
        attributes = dict(getattr(repository, "__dict__", {}))
        return bind(repository, Binding(session_maker, layer or self._layers, None, sessions, made_with, attributes))

    def workflow_executions(self, user: Any, app_id: str, triggered_from: Any) -> SQLAlchemyWorkflowExecutionRepository:
        """Return what saves runs for *user*: an account (``current_tenant_id``) or an end user (``tenant_id``)."""
        return self._write_side(SQLAlchemyWorkflowExecutionRepository, user, app_id, triggered_from)

    def workflow_node_executions(
        self, user: Any, app_id: str, triggered_from: Any
    ) -> SQLAlchemyWorkflowNodeExecutionRepository:
        """Return what saves node executions for *user*."""
        return self._write_side(SQLAlchemyWorkflowNodeExecutionRepository, user, app_id, triggered_from)

    def _write_side(self, cls: type[W], user: Any, app_id: str, triggered_from: Any) -> W:
        home = self._shards.home(self.session_maker, as_text(tenant_of(user)))
        retry = partial(StaleMapRetry, self._shards, self._parts.flip_wait_s)
        return bind(cls(home, user, app_id, triggered_from), Binding(home, retry=retry))

    def wrap(self, cls: type[C], policies: PolicyTable, tracked: Iterable[Tracked]) -> type[C]:
        """Make a subclass of *cls*, a repository of your own, whose calls go through this gate.

        Args:
            cls: takes a ``session_maker`` first, or by that name.
            policies: one row for each public method.
            tracked: the models whose rows are in its answers, and the tags that a change of one bumps.

        Raises:
            PolicyError: *policies* and *cls* do not agree, or a model cannot be tracked.
            SettingsError: a tenant, or what a tag names, is of a type of which values are equal whose texts are not.
        """
        watched = tuple(tracked)
        checked_invalidation(policies.invalidation)
        models, coverage = {row.model for row in watched}, self._parts.coverage
        coverage.add(watched)
        coverage.note_repository(cls.__name__, policies, watched)
        tables = [table for table in coverage.tables if not models.isdisjoint(table.models)]
        for shard in self._shards.every:
            check_tables(shard.engine, tables)
            check_comparable(shard.engine, tables)
            with suppress(DBAPIError, RoutingError):  # the shard is away: looked for later
                coverage.look(shard.name, shard.engine, now=True)
        self._parts.tracked_ids.add(watched)
        self._learn_invalidation(policies)
        layers = self.layers(watched)

        def adopt(repository: C, session_maker: sessionmaker[Session], made_with: tuple[Any, ...]) -> C:
            return self.adopt(repository, session_maker, layers, made_with)

        return subclass(cls, policies, adopt, sharded=self._shards.only is None)

    def layers(self, tracked: Sequence[Tracked], types: HostTypes | None = None) -> Layer:
        """Return where calls go whose answers are rows of these models; for :meth:`adopt`.

        Args:
            tracked: the models. Their tables must be tracked by this gate.
            types: the other classes of which answers are made; None: Tidegate's own page.
        """
        return self._parts.layers(tracked, types)

    @property
    def has_cache(self) -> bool:
        """Tell whether the settings name a cache, and it is the one that serves this database."""
        return self._parts.store is not None

    def why_uncached(self) -> str:
        """Ask the cache, and return why nothing is cached now, or less than could be; "": answers are cached."""
        return why_uncached(self._parts.store, self._parts.coverage)

    def _learn_invalidation(self, policies: PolicyTable) -> None:
        for name, templates in policies.invalidation.items():
            self._invalidation[name] = tuple(dict.fromkeys((*self._invalidation.get(name, ()), *templates)))

    @contextmanager
    def session(self, tenant_id: str, *, token: str | None = None) -> Iterator[Session]:
        """Open a session on the tenant's primary, which is watched; the caller commits.

        Args:
            tenant_id: the tenant.
            token: from :meth:`token` of another process: reads of this tenant show from now on what that has written,
                those through repositories too.

        Raises:
            ValueError: *token* is none.
        """
        tenant = as_text(tenant_id)
        if token is not None:
            self._shards.of_tenant(tenant).reach(tenant, Token.of_text(token))
        with self._shards.home(self.session_maker, tenant)() as session:
            yield session

    partial_results = staticmethod(partial_results)

    def token(self, tenant_id: str | None = None) -> str:
        """Return where the writes of this process stand, as text of at most 64 bytes, for :meth:`session` of another.

        Args:
            tenant_id: only of this tenant, which is less to wait for; None: of all, where there is one shard.

        Raises:
            ValueError: there are several shards, and a token is of one of them.
        """
        if tenant_id is not None:
            tenant = as_text(tenant_id)
            return self._shards.of_tenant(tenant).token(tenant).text()
        if self._shards.only is None:
            raise ValueError("a token is of one shard: say gate.token(tenant_id)")
        return self._shards.only.token(None).text()

    def invalidate(self, tenant_id: str, *, session: Session | None = None, **named: str | None) -> None:
        """Void what is cached of a tenant, or of some things of it, in one round trip: for changes no trigger notes.

        Args:
            tenant_id: the tenant.
            session: note it in its transaction: it takes effect once that has committed, within the outbox window.
            named: ``app_id``: only answers about this app. ``run_id``: only answers about this run and its node
                executions; not pages and counts it is in. Others, as the policy tables of :meth:`wrap` name them.

        Raises:
            ValueError: no policy table names such a thing.
        """
        given = {name: value for name, value in named.items() if value is not None}
        change, any_shard = change_of(tenant_id, given, self._invalidation), self._shards.every[0]
        if session is not None:
            invalidate_at_commit(change, session)
        elif not self._told(change):
            home = self._shards.home(self.session_maker, change.tenant)
            invalidate_by_outbox(change, any_shard.outbox, home)

    def _told(self, change: Change) -> bool:
        """Tell the cache of *change*, and whether it was told."""
        store, shards = self._parts.store, self._shards
        if store is None:
            return False
        for newest in (False, True):
            shard = shards.of_tenant(change.tenant)
            at_shard = Origin(shards.asked(change.tenant).epoch or 0, shard=shard.name)
            try:
                invalidate_now(change, store, at_shard, shard.primary)
            except OtherHistory:
                if newest or not shards.refresh():  # the map may be old
                    return False
            except StoreUnavailable:
                return False
            else:
                return True
        return False

    def switch(self, name: str, *, off: bool) -> None:
        """Switch the cache off or on for every gate on this database, within about a second.

        Args:
            name: "all", "method:" and a name, or "tenant:" and an id.
            off: off or on.

        Raises:
            SettingsError: *name* is no switch, or this gate has no cache.
            StoreUnavailable: the cache does not answer.
        """
        if self._parts.store is None:
            raise SettingsError(
                "this gate has no cache that could be switched: cache.url is not set, or not the one "
                "that serves this database"
            )
        self._parts.store.switch(checked_switch(name), off=off)

    def observe(self, entity: Model | None, callback: RowObserver) -> Callable[[], None]:
        """Tell *callback* of each row that was changed, after the commit, in a thread of this gate.

        It is told at most once of what this gate commits, and of those outside writes that this gate applies:
        ``docs/observers.md`` has the promise.

        Args:
            entity: a tracked model; None: all that are tracked. Summaries of anything come to everybody.
            callback: is given a :class:`RowEvent`. It must not take long: what comes meanwhile waits, or is missed.

        Returns:
            What ends it.

        Raises:
            PolicyError: *entity* is not tracked by this gate.
            TypeError: *callback* cannot be called.
        """
        if not callable(callback):
            raise TypeError(f"an observer is called with each event: a function is expected, not {callback!r}")
        names = entities(self._parts.coverage.tables)
        if entity is not None and entity not in names:
            raise PolicyError(f"{name_of(entity)} is not tracked by this gate: wrap a repository that tracks it, first")
        return self._parts.observers.add(None if entity is None else names[entity], callback)

    def explain(self, method: Callable[..., object], *args: Any, **kwargs: Any) -> Explanation:
        """Tell what would answer a call if it were made now, and why nobody before that; change nothing.

        Args:
            method: of a repository behind a gate, like ``gate.workflow_runs.get_workflow_run_by_id``.
            args: what it would be called with.
            kwargs: the same, by name.

        Raises:
            PolicyError: *method* is none of a repository behind a gate.
            TypeError: it does not take these arguments.
        """
        return explain(method, args, kwargs)

    def stats(self) -> Stats:
        """Return what this gate has counted since it was made: calls by method, and events of its cache."""
        return self._parts.counters.stats()

    def also_close(self, closer: Callable[[], None]) -> None:
        """Call *closer* when the gate is closed, after what it has of its own."""
        self._closers.append(closer)

    def close(self) -> None:
        """End what runs beside the program, and close connections; harmless when repeated."""
        self._shards.close()
        if self._parts.pushes is not None:
            self._parts.pushes.close()
        if self._parts.store is not None:
            self._parts.store.close()
        closers, self._closers = self._closers, []
        for closer in closers:
            closer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
