"""Engines beside the one that a program has: they connect, and speak to the server, as that one does.

What a program gives its engine decides which rows it reads: a ``search_path`` or a tenant that a listener sets, a role,
codecs of JSON, an isolation level. So an engine beside it is not made anew from a URL. It shares the program's dialect,
with its codecs and its ways to connect, and gets the listeners of the program's engine and pool. Only the listeners of
this library stay behind: what they do is the program's engine's business.
"""

from __future__ import annotations

from operator import attrgetter
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, NullPool, event
from sqlalchemy.engine.events import ConnectionEvents
from sqlalchemy.pool.events import PoolEvents

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Pool

_OF_THE_PROGRAM: Final = "engine_disposed"
"""An event that is about the program's engine only."""


def _events(of: type) -> tuple[str, ...]:
    named = vars(of).items()
    return tuple(name for name, value in named if isinstance(value, FunctionType) and not name.startswith("_"))


_ON_CONNECTIONS: Final = tuple(name for name in _events(ConnectionEvents) if name != _OF_THE_PROGRAM)
_IN_POOL: Final = _events(PoolEvents)
_pool_listeners: Final = attrgetter(*(f"{name}.listeners" for name in _IN_POOL))
_engine_listeners: Final = attrgetter(*(f"{name}.listeners" for name in _ON_CONNECTIONS))
_local_listeners: Final = attrgetter(*(f"{name}.local.listeners" for name in _ON_CONNECTIONS))
_RETURNING: Final = ("before_execute", "before_cursor_execute")


def sibling_engine(
    program: Engine,
    connect: Callable[[Any], Any] | None = None,
    pool: Callable[..., Pool] = NullPool,
    *,
    first: Callable[[Engine], object] = lambda _: None,
) -> Engine:
    """Make an engine beside the program's. It has the listeners that the program's engine has now.

    Args:
        program: the program's engine.
        connect: opens a DBAPI connection, and is given the pool's record of it. None: it is opened as the program's
            are.
        pool: makes the pool; is given the function that opens connections, and what any pool takes. The default keeps
            no connection.
        first: registers listeners that come before the program's.
    """

    def opened(connection_record: Any) -> Any:
        return program.pool._invoke_creator(connection_record)  # noqa: SLF001  # there is no public way to call it

    theirs: Any = program.pool
    cache: Any = program._compiled_cache  # noqa: SLF001  # there is no public way to ask for its size
    engine = Engine(
        pool(
            connect or opened,
            dialect=program.dialect,
            recycle=theirs._recycle,  # noqa: SLF001  # the same
            reset_on_return=theirs._reset_on_return,  # noqa: SLF001  # the same
        ),
        program.dialect,
        program.url,
        logging_name=getattr(program, "logging_name", None),
        echo=program.echo,
        query_cache_size=0 if cache is None else cache.capacity,
        execution_options=program.get_execution_options(),
        hide_parameters=program.hide_parameters,
    )
    first(engine)
    inherit(engine, listeners_of(program))
    return engine


def root_of(engine: Any) -> Engine:
    """Return the engine that execution_options made *engine* of; *engine* itself, if it was not made so."""
    while (proxied := getattr(engine, "_proxied", None)) is not None:
        engine = proxied
    return engine  # type: ignore[no-any-return]


def inherit(engine: Engine, listeners: list[tuple[str, Any]]) -> None:
    """Have *listeners*, as :func:`listeners_of` gives them, listen to *engine* too."""
    for name, listener in listeners:
        if name in _RETURNING:  # SQLAlchemy has wrapped those that return nothing, so each returns what it has to
            event.listen(engine, name, listener, retval=True)
        else:
            event.listen(engine, name, listener)


def listeners_of(engine: Engine) -> list[tuple[str, Any]]:
    """Return what listens to *engine* and its pool, by the event's name, but for this library's own listeners.

    Listeners to all engines are left out: they listen to each engine anyhow.
    """
    found = (_own(engine, name) for name in (*_IN_POOL, *_ON_CONNECTIONS))
    names = zip((*_IN_POOL, *_ON_CONNECTIONS), found, strict=True)
    return [(name, listener) for name, listeners in names for listener in listeners if not _is_ours(listener)]


def all_listeners(engine: Engine) -> list[tuple[Any, ...]]:
    """Return everything that listens to *engine* and its pool, to be compared with what listened before."""
    # Each read on a replica asks for this: so it is a few calls, and not some for each event.
    if (proxied := getattr(engine, "_proxied", None)) is not None:
        return [*all_listeners(proxied), *map(tuple, _local_listeners(engine.dispatch))]
    in_pool: Any = engine.pool
    return [*map(tuple, _pool_listeners(in_pool.dispatch)), *map(tuple, _engine_listeners(engine.dispatch))]


def _own(engine: Any, name: str) -> tuple[Any, ...]:
    """Return the listeners to one event of an engine, and of the engines that execution_options made it of."""
    if name in _IN_POOL:
        return tuple(getattr(engine.pool.dispatch, name).listeners)
    found = getattr(engine.dispatch, name)
    if (proxied := getattr(engine, "_proxied", None)) is None:
        return tuple(found.listeners)
    return (*_own(proxied, name), *found.local.listeners)


def _is_ours(listener: Any) -> bool:
    """Tell whether this library has registered *listener*."""
    module = _module(listener)
    if module.startswith("sqlalchemy."):  # it wraps listeners that return nothing in functions of its own
        cells = getattr(listener, "__closure__", None) or ()
        return any(_module(cell.cell_contents).startswith("tidegate.") for cell in cells if _is_function(cell))
    return module.startswith("tidegate.")


def _is_function(cell: Any) -> bool:
    try:
        return isinstance(cell.cell_contents, FunctionType | MethodType)
    except ValueError:  # the cell is empty
        return False


def _module(listener: Any) -> str:
    return str(getattr(listener, "__module__", ""))
