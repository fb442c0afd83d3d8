"""Lazy columns: a list selects the light columns, and the first touch of a heavy one reads it for the whole list.

The hook is SQLAlchemy's own: ``InstanceState.callables`` holds, per instance, what fetches an attribute that is not
loaded. It works on detached instances; a session's deferred loading does not. ``make_transient`` deletes these hooks.
What remains then is caught by the ``init_scalar`` event (a read) and by ``before_insert`` (a store), so that a column
never turns into NULL because nobody had looked at it. :func:`make_lazy` installs both on a model.

``vars(row)``, and what SQLAlchemy does by way of it, see only what is loaded: call :func:`load` first.
"""

from __future__ import annotations

import os
from functools import update_wrapper
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import event, inspect, select
from sqlalchemy.orm.attributes import instance_dict, instance_state, set_committed_value
from sqlalchemy.orm.base import LoaderCallableStatus, PassiveFlag

from tidegate.errors import LazyColumnError
from tidegate.public import public
from tidegate.repositories.base import read_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy import Row
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import InstanceState, Mapper, Session

_PAGE: Final = "tidegate.lazy"
_ID: Final = "tidegate.lazy.id"
_COPIERS: Final = ("__reduce_ex__", "__reduce__", "__getstate__", "__copy__", "__deepcopy__")
"""What ``copy``, ``deepcopy`` and ``pickle`` call, directly or by way of the first of them."""
_Rows = TypeVar("_Rows", bound="Iterable[Any]")

_guarded: Final[WeakKeyDictionary[type[Any], frozenset[str]]] = WeakKeyDictionary()
_guarding: Final = Lock()
os.register_at_fork(after_in_child=_guarding._at_fork_reinit)  # type: ignore[attr-defined]  # noqa: SLF001  # as Python's own modules do


class LazyPage:
    """Hold the light rows of one answer, and read the rest of them.

    Args:
        session_maker: opens a session where the rows surely are, which is a primary. Not used for rows that are
            attached to a session.
        model: the class of the rows; its primary key is one column called ``id``. It is made lazy.
        keys: the names of the columns that were not selected.
    """

    def __init__(self, session_maker: Callable[[], Session], model: type[Any], keys: Sequence[str]) -> None:
        make_lazy(model, keys)
        self._session_maker = session_maker
        self._model = model
        self._keys = tuple(keys)
        # Each is the weak reference that a state holds itself. A page that held its states would make twenty reference
        # cycles, which only the garbage collector could free.
        self._rows: list[Callable[[], Any]] = []

    def adopt(self, rows: Iterable[Any]) -> None:
        """Make the lazy columns of *rows* readable through this page.

        The rows forget by which options they were loaded: a refresh loads all columns of a row, as it does where no
        column is lazy. And SQLAlchemy 2.0 cannot read a pickle with such options in a process that has not made some.
        """
        touches = {key: _Touch(self, key) for key in self._keys}
        for row in rows:
            state = instance_state(row)
            state.load_options = ()
            loaded = instance_dict(row)
            missing = {key: touch for key, touch in touches.items() if key not in loaded}
            if not missing:
                continue
            self._rows.append(state.obj)
            state.info[_PAGE] = self
            state.info[_ID] = loaded["id"]
            # As long as an instance has no callables of its own, the attribute is one empty mapping of the class.
            state.__dict__.setdefault("callables", {}).update(missing)

    def adopt_new(self, states: Sequence[InstanceState[Any]], ids: Iterable[str]) -> None:
        """Do what :meth:`adopt` does, for rows just made, which have none of the lazy columns and no hooks yet.

        Args:
            states: the states of the rows.
            ids: the ids of the rows, in the same order.
        """
        touches = {key: _Touch(self, key) for key in self._keys}
        for state, row_id in zip(states, ids, strict=True):
            self._rows.append(state.obj)
            known = state.__dict__
            known["info"] = {_PAGE: self, _ID: row_id}
            known["callables"] = touches.copy()

    def missing(self, state: InstanceState[Any]) -> list[str]:
        """Return the lazy columns of one row that have not been read yet."""
        return [key for key in self._keys if key not in state.dict]

    def fetch(self, keys: Sequence[str], states: Iterable[InstanceState[Any]] | None, session: Session | None) -> None:
        """Read columns in one query, and keep what was found.

        Args:
            keys: the names of the columns.
            states: the states of the rows; None: every row of the page that is still alive.
            session: the session in which to read; None: a session of the page's own.
        """
        rows = [row() for row in self._rows] if states is None else [state.obj() for state in states]
        wanted: dict[Any, list[Any]] = {}
        for row in rows:
            if row is not None and any(key not in instance_dict(row) for key in keys):
                wanted.setdefault(self._id(instance_state(row)), []).append(row)
        if not wanted:
            return
        for found in self._query(keys, list(wanted), session):
            for row in wanted[found[0]]:
                self._keep(instance_state(row), row, dict(zip(keys, found[1:], strict=True)))

    def _query(self, keys: Sequence[str], ids: list[Any], session: Session | None) -> Sequence[Row[Any]]:
        columns = [getattr(self._model, key) for key in keys]
        statement = select(self._model.id, *columns).where(self._model.id.in_(ids))
        if session is None:
            return read_in(self._session_maker, lambda own: own.execute(statement).all())
        with session.no_autoflush:
            return session.execute(statement).all()

    def _keep(self, state: InstanceState[Any], row: Any, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if key not in state.dict:
                set_committed_value(row, key, value)
            state.callables.pop(key, None) if "callables" in state.__dict__ else None
        if not self.missing(state):
            _settle(state)

    def _id(self, state: InstanceState[Any]) -> Any:
        known = state.info.get(_ID)
        if known is None:  # a merge copies the callables of a row, but not its info
            known = state.info[_ID] = state.identity[0] if state.identity else state.dict["id"]
            self._rows.append(state.obj)
        return known

    def touch(self, state: InstanceState[Any], keys: Sequence[str], session: Session | None) -> None:
        """Read *keys* for the whole page, because *state* needs them.

        Raises:
            LazyColumnError: the row of *state* is gone.
        """
        row_id = self._id(state)
        self.fetch(keys, None, session)
        gone = [key for key in keys if key not in state.dict]
        if gone:
            raise LazyColumnError(
                f"{self._model.__name__} {row_id} was deleted after the list was read: {', '.join(gone)} cannot be "
                "loaded any more; call tidegate.load(rows) before deleting what a list returned"
            )


class _Touch:
    """Read one lazy column of one row, when SQLAlchemy is asked for it."""

    __slots__ = ("_key", "page")

    def __init__(self, page: LazyPage, key: str) -> None:
        self.page = page
        self._key = key

    def __call__(self, state: InstanceState[Any], passive: PassiveFlag) -> LoaderCallableStatus:
        if not passive & PassiveFlag.SQL_OK:
            return LoaderCallableStatus.PASSIVE_NO_RESULT
        # A row that a merge has made and nothing has flushed is not in the database of its session.
        self.page.touch(state, (self._key,), None if state.key is None else state.session)
        return LoaderCallableStatus.ATTR_WAS_SET


def lazy_page(state: InstanceState[Any]) -> LazyPage | None:
    """Return the page that a row has, or may have, lazy columns of; None if there is none."""
    page: LazyPage | None = state.info.get(_PAGE) if "info" in state.__dict__ else None
    if page is None and "callables" in state.__dict__:  # a merge copies the callables of a row, but not its info
        page = next((touch.page for touch in tuple(state.callables.values()) if isinstance(touch, _Touch)), None)
    return page


def _settle(state: InstanceState[Any]) -> None:
    """Take everything of its page out of a row that has all columns: its pickles are those of any row."""
    if "info" in state.__dict__:
        state.info.pop(_PAGE, None)
        state.info.pop(_ID, None)
    if "callables" in state.__dict__:  # those of columns that were assigned are still there
        for key, touch in tuple(state.callables.items()):
            if isinstance(touch, _Touch):
                state.callables.pop(key, None)  # which another thread may have done


def lazy_keys(state: InstanceState[Any]) -> Sequence[str]:
    """Return the lazy columns of a row that have not been read yet."""
    page = lazy_page(state)
    return () if page is None else page.missing(state)


@public
def load(rows: _Rows) -> _Rows:
    """Read the lazy columns of *rows* that have not been read, in one query for each list that they came from.

    Args:
        rows: instances as the repositories return them; those without lazy columns are skipped.

    Returns:
        *rows*, for chaining.

    Raises:
        LazyColumnError: a row is no longer in the database.
    """
    pages: dict[LazyPage, list[InstanceState[Any]]] = {}
    for row in rows:
        state = inspect(row, raiseerr=False)
        page = None if state is None else lazy_page(state)
        if page is None:
            continue
        if page.missing(state):
            pages.setdefault(page, []).append(state)
        else:
            _settle(state)
    for page, states in pages.items():
        keys = sorted({key for state in states for key in page.missing(state)})
        page.fetch(keys, states, states[0].session)
        for state in states:
            if page.missing(state):
                page.touch(state, page.missing(state), state.session)
    return rows


def make_lazy(model: type[Any], keys: Sequence[str]) -> None:
    """Make *model* one whose rows may lack *keys*: copies, pickles, reads and stores have them all the same.

    A copy or a pickle is made as the class says, after its row was loaded whole. A row after ``make_transient`` loads
    what it lacks when that is read, or when the row is stored. A second call does nothing.

    Args:
        model: a mapped class, of whatever base, constructor and dataclass fields: they stay as they are.
        keys: the names of its columns.
    """
    if _guarded.get(model, frozenset()).issuperset(keys):
        return
    with _guarding:
        known = _guarded.get(model)
        if known is None:
            _load_before_copies(model)
            event.listen(model, "before_insert", _on_insert, propagate=True)
        new = frozenset(keys).difference(known or ())
        for key in new:
            event.listen(getattr(model, key), "init_scalar", _on_read(key), retval=True, propagate=True)
        _guarded[model] = new.union(known or ())


def _load_before_copies(model: type[Any]) -> None:
    """Have everything that copies a row load it before: ``object``'s own way, and what the class or a base defines."""
    for name in _COPIERS:
        if name == _COPIERS[0] or any(name in vars(base) for base in model.__mro__ if base is not object):
            setattr(model, name, _loading(model, name))


def _loading(model: type[Any], name: str) -> Callable[..., Any]:
    own = vars(model).get(name)

    def copier(row: Any, *args: Any) -> Any:
        load((row,))
        whole = getattr(super(model, row), name) if own is None else own.__get__(row, type(row))
        return whole(*args)

    return update_wrapper(copier, own if own is not None else getattr(model, name))


def _on_insert(_mapper: Mapper[Any], _connection: Connection, row: Any) -> None:
    _load_transient(inspect(row))


def _on_read(key: str) -> Callable[[Any, Any, dict[str, Any]], Any]:
    def read(row: Any, value: Any, dict_: dict[str, Any]) -> Any:
        _load_transient(inspect(row))
        return dict_.get(key, value)

    return read


def _load_transient(state: InstanceState[Any]) -> None:
    """Load what a row still lacks of its list, by the identity that it had there."""
    page = lazy_page(state)
    if page is not None and page.missing(state):
        page.touch(state, page.missing(state), None)
