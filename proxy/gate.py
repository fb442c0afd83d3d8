"""The gate: what a program holds. Repositories behind the cache, sessions on the primary, invalidation by hand."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sqlalchemy import Engine
from sqlalchemy.orm import sessionmaker

from tidegate.cache.switches import checked_switch
from tidegate.cache.tags import as_text
from tidegate.errors import PolicyError, SettingsError
from tidegate.position import NOWHERE
from tidegate.proxy.explain import explain
from tidegate.proxy.layers.facade import IN_SESSION
from tidegate.proxy.layers.gated_repositories import DIFY_MODELS, NodeExecutions, WorkflowRuns, subclass
from tidegate.proxy.layers.partial_results import partial_results
from tidegate.proxy.shards.retry import StaleMapRetry
from tidegate.proxy.shards.sessions import for_tenant, is_routed
from tidegate.proxy.writes.invalidation import change_of, invalidate_at_commit, invalidate_now
from tidegate.repositories.workflow_execution_repository import (
    SQLAlchemyWorkflowExecutionRepository,
    WriteSideRepository,
    tenant_of,
)
from tidegate.repositories.workflow_node_execution_repository import SQLAlchemyWorkflowNodeExecutionRepository
from tidegate.routing.replicas.token import Token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sqlalchemy.orm import Session

    from tidegate.cache.near.push_versions import PushVersions
    from tidegate.cache.store import Store
    from tidegate.proxy.call import Layer
    from tidegate.proxy.explain import Explanation
    from tidegate.proxy.observe import Counters, Stats
    from tidegate.proxy.shards.registry import Shard, Shards
    from tidegate.repositories.policies import PolicyTable, Tracked

C = TypeVar("C")
W = TypeVar("W", bound=WriteSideRepository)


@dataclass(frozen=True, slots=True)
class GateParts:
    """What a gate was put together from; see ``build``."""

    shards: tuple[Shard, ...]
    routed: Shards | None
    """Who has which tenant; None where there is one shard."""
    session_maker: sessionmaker[Session]
    store: Store | None
    pushes: PushVersions | None
    counters: Counters
    pipeline: Callable[[tuple[type[Any], ...]], Layer]
    in_session: Callable[..., object] | None
    """Runs methods that take the caller's session; None where there is one shard."""
    flip_wait_s: float
    """How long a write waits for a flip, in seconds."""
    on_close: Callable[[], None]


class Gate:
    """Repositories behind one cache and one primary; also a context manager. Made by ``tidegate.connect``."""

    def __init__(self, parts: GateParts) -> None:
        self._parts = parts
        self._closers = [parts.on_close]
        self._pipeline = parts.pipeline(DIFY_MODELS)
        self.workflow_runs = self.adopt(WorkflowRuns(parts.session_maker), parts.session_maker)
        self.node_executions = self.adopt(NodeExecutions(parts.session_maker), parts.session_maker)

    @property
    def engine(self) -> Engine:
        """The primary's engine, watched.

        Raises:
            PolicyError: there are several shards, and an engine for each.
        """
        if self._parts.routed is not None:
            raise PolicyError("this gate has an engine for each of its shards: use gate.session(tenant_id)")
        return self._parts.shards[0].engine

    @property
    def session_maker(self) -> sessionmaker[Session]:
        """Makes sessions on the primary; what they commit is marked in the cache.

        Where there are several shards, its sessions have no tenant and so no shard: it is for making repositories, and
        :meth:`session` for sessions.
        """
        return self._parts.session_maker

    def adopt(self, repository: C, session_maker: sessionmaker[Session], pipeline: Layer | None = None) -> C:
        """Have the calls of a gated *repository* go through this gate; gives it back.

        Raises:
            PolicyError: *session_maker* is not one of this gate's engine, as it is: what it reads is not what the
                gate's entries hold, or what it writes would not be seen.
        """
        self._check_bind(session_maker)
        for shard in self._parts.shards:
            shard.keep_alive()
        repository.__dict__["_tidegate_session_maker"] = session_maker
        repository.__dict__["_tidegate_pipeline"] = pipeline or self._pipeline
        if self._parts.in_session is not None:
            repository.__dict__[IN_SESSION] = self._parts.in_session
        return repository

    def _check_bind(self, session_maker: sessionmaker[Session]) -> None:
        if self._parts.routed is not None:
            if not is_routed(session_maker, self._parts.routed):
                raise PolicyError(f"a repository of this gate needs its session_maker, not {session_maker!r}")
            return
        bind = session_maker.kw.get("bind") if isinstance(session_maker, sessionmaker) else None
        if not isinstance(bind, Engine) or bind.dialect is not self.engine.dialect:
            raise PolicyError(
                f"a repository of this gate needs a sessionmaker bound to its engine, not {session_maker!r}"
            )
        if bind.get_execution_options().get("schema_translate_map"):
            raise PolicyError("a repository behind a gate must not translate schemas: they would share one cache")

    def workflow_executions(self, user: Any, app_id: str, triggered_from: Any) -> SQLAlchemyWorkflowExecutionRepository:
        """Where runs are saved, for *user*: an account (``current_tenant_id``) or an end user (``tenant_id``)."""
        return self._write_side(SQLAlchemyWorkflowExecutionRepository, user, app_id, triggered_from)

    def workflow_node_executions(
        self, user: Any, app_id: str, triggered_from: Any
    ) -> SQLAlchemyWorkflowNodeExecutionRepository:
        """Where node executions are saved, for *user*."""
        return self._write_side(SQLAlchemyWorkflowNodeExecutionRepository, user, app_id, triggered_from)

    def _write_side(self, cls: type[W], user: Any, app_id: str, triggered_from: Any) -> W:
        if self._parts.routed is None:
            return cls(self.session_maker, user, app_id, triggered_from)
        tenant = tenant_of(user)
        made = cls(for_tenant(self.session_maker, tenant), user, app_id, triggered_from)
        made.__dict__["_tidegate_again"] = partial(StaleMapRetry, self._parts.routed, self._parts.flip_wait_s)
        return made

    def wrap(self, cls: type[C], policies: PolicyTable, tracked: Iterable[Tracked]) -> type[C]:
        """A subclass of *cls*, a repository of your own, whose calls go through this gate.

        Args:
            cls: takes a ``session_maker`` first, or by that name.
            policies: one row for each public method.
            tracked: the models whose rows are in its answers, and the tags that a change of one bumps.

        Raises:
            PolicyError: *policies* and *cls* do not agree.
        """
        watched = tuple(tracked)
        for shard in self._parts.shards:
            shard.watch.tables.add(watched)
        pipeline = self._parts.pipeline(tuple(row.model for row in watched))

        def adopt(repository: C, session_maker: sessionmaker[Session]) -> C:
            return self.adopt(repository, session_maker, pipeline)

        return subclass(cls, policies, adopt, sharded=self._parts.routed is not None)

    @contextmanager
    def session(self, tenant_id: str, *, token: str | None = None) -> Iterator[Session]:
        """A session on the tenant's primary, watched; the caller commits.

        Args:
            tenant_id: the tenant.
            token: from :meth:`token` of another process: reads of this tenant show from now on what that has written,
                those through repositories too.

        Raises:
            ValueError: *token* is none.
        """
        if token is not None:
            self._reach(tenant_id, Token.of_text(token))
        with self._sessions(tenant_id)() as session:
            yield session

    partial_results = staticmethod(partial_results)

    def _sessions(self, tenant_id: str) -> sessionmaker[Session]:
        return self.session_maker if self._parts.routed is None else for_tenant(self.session_maker, tenant_id)

    def _shard(self, tenant_id: str) -> Shard:
        routed = self._parts.routed
        return self._parts.shards[0] if routed is None else routed.at(routed.ownership(tenant_id).shard)

    def _reach(self, tenant_id: str, token: Token) -> None:
        shard = self._shard(tenant_id)
        if shard.unmarked_writes is None:
            return
        # A position in the log of a shard that had the tenant before says nothing here; what was moved is here by now.
        position = token.position if token.shard == shard.name else shard.primary.transaction("")[1]
        shard.unmarked_writes.reach(as_text(tenant_id), position)

    def token(self, tenant_id: str | None = None) -> str:
        """Where the writes of this process stand, as text of at most 64 bytes, for :meth:`session` of another process.

        Args:
            tenant_id: only of this tenant, which is less to wait for; None: of all, where there is one shard.

        Raises:
            ValueError: there are several shards, and a token is of one of them.
        """
        if tenant_id is None and self._parts.routed is not None:
            raise ValueError("a token is of one shard: say gate.token(tenant_id)")
        shard = self._parts.shards[0] if tenant_id is None else self._shard(tenant_id)
        all_writes = shard.all_writes
        position = None
        if all_writes is not None:
            position = all_writes.newest if tenant_id is None else all_writes.position(as_text(tenant_id))
        if position is None or position == NOWHERE:  # a commit is on its way, or nobody keeps count: now is late enough
            position = shard.primary.transaction("")[1]
        return Token(position, shard.name).text()

    def invalidate(
        self,
        tenant_id: str,
        *,
        app_id: str | None = None,
        run_id: str | None = None,
        session: Session | None = None,
    ) -> None:
        """Void what is cached of a tenant, or of one app or run of it, in one round trip: for changes no gate saw.

        Args:
            tenant_id: the tenant.
            app_id: only answers about this app.
            run_id: only answers about this run and its node executions; not pages and counts it is in.
            session: take effect with the commit of its transaction, and not before.
        """
        change, any_shard = change_of(tenant_id, app_id, run_id), self._parts.shards[0]
        if session is not None:
            invalidate_at_commit(change, session, any_shard.watch)
        else:
            invalidate_now(change, self._parts.store, any_shard.outbox, self._sessions(change.tenant))

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

    def explain(self, method: Callable[..., object], *args: Any, **kwargs: Any) -> Explanation:
        """What would answer a call if it were made now, and why nobody before that; only looks.

        Args:
            method: of a repository behind a gate, like ``gate.workflow_runs.get_workflow_run_by_id``.
            args: what it would be called with.
            kwargs: the same.

        Raises:
            PolicyError: *method* is none of a repository behind a gate.
            TypeError: it does not take these arguments.
        """
        return explain(method, args, kwargs)

    def stats(self) -> Stats:
        """What this gate has counted since it was made: calls by method, and events of its cache."""
        return self._parts.counters.stats()

    def also_close(self, closer: Callable[[], None]) -> None:
        """Call *closer* when the gate is closed, after what it has of its own."""
        self._closers.append(closer)

    def close(self) -> None:
        """End what runs beside the program, and close connections; harmless when repeated."""
        for shard in self._parts.shards:
            shard.close()
        if self._parts.pushes is not None:
            self._parts.pushes.close()
        store = self._parts.store
        if store is not None and hasattr(store, "close"):
            store.close()
        closers, self._closers = self._closers, []
        for closer in closers:
            closer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
