"""Subclasses of Dify's own repositories whose calls go through the gate of the engine that their objects are given.

Methods, signatures, models, entities and errors are Dify's. What a test or a plug-in puts in the place of a method of
Dify's class takes its place here, too.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from tidegate.interruptions import pass_interruption
from tidegate.proxy.dify.gates import gate_of, host_statements, say_off
from tidegate.proxy.dify.host_models import host_models, host_types
from tidegate.proxy.dify.host_policies import UNKNOWN, plans_of, policies_of
from tidegate.proxy.dify.pages import METHOD, own_page
from tidegate.proxy.dify.releases import repository_of
from tidegate.proxy.layers.facade import gated_methods
from tidegate.proxy.layers.fingerprint import WRAPPED
from tidegate.repositories.base import Bindable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.proxy.dify.releases import HostRepository

C = TypeVar("C")
_log: Final = logging.getLogger(__name__)
_made: Final[dict[type[Any], type[Any]]] = {}
_SESSION_MAKER: Final = "session_maker"


def gated_class(cls: type[C]) -> type[C]:
    """Return the subclass of a host's repository whose objects are a gate's; the same one each time.

    A class that Tidegate does not know, and one that is gated already, comes back as it is.

    Args:
        cls: the host's class.
    """
    if WRAPPED in vars(cls):
        return cls
    found = _made.get(cls)
    if found is None:  # no lock, which a fork could leave locked: of two threads' classes the first one stays
        known = _known(cls)
        found = _made.setdefault(cls, cls if known is None else _subclass(cls, known))
    return found


def gated_object(repository: C) -> C:
    """Make a host's repository, which its factory has made, a gate's, and return it."""
    cls = gated_class(type(repository))
    if cls is not type(repository):
        session_maker = vars(repository).get(f"_{_SESSION_MAKER}")
        if session_maker is None:
            _log.warning("%s keeps no _session_maker: it runs as it is", type(repository).__name__)
            return repository
        repository.__class__ = cls
        _adopt(repository, session_maker)
    return repository


def _known(cls: type[Any]) -> HostRepository | None:
    """Return the repository that a class of the host is; None, with a line in the log: it is another.

    A subclass may ask another store first, whose changes no trigger notes: it is another.
    """
    if (known := repository_of(cls)) is not None:
        return known
    _log.warning("Tidegate does not know %s.%s: it runs as it is", cls.__module__, cls.__qualname__)
    return None


def _subclass(cls: type[C], known: HostRepository) -> type[C]:
    policies = policies_of(cls, known)
    for plan in plans_of(cls, known):
        if plan.why == UNKNOWN:
            _log.info("%s.%s: %s", cls.__name__, plan.name, plan.why)

    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        cls.__init__(self, *args, **kwargs)
        _adopt(self, kwargs[_SESSION_MAKER] if _SESSION_MAKER in kwargs else args[0] if args else None)

    named = {name: getattr(cls, name) for name in ("__doc__", "__module__", "__qualname__")} | {WRAPPED: cls}
    below: Any = type(cls.__name__, (cls, Bindable), named | own_methods(cls))
    methods = {name: _unless_patched(cls, name, method) for name, method in gated_methods(below, policies).items()}
    return cast(
        "type[C]", type(cls.__name__, (below,), named | methods | {"__init__": functools.wraps(cls.__init__)(made)})
    )


def _unless_patched(cls: type[Any], name: str, gated: Callable[..., object]) -> Callable[..., object]:
    """Return *gated*, but for as long as the host's method is another one than it was: then that one runs."""
    plain = getattr(cls, name)

    @functools.wraps(plain)
    def method(self: Any, *args: Any, **kwargs: Any) -> object:
        now = getattr(cls, name)
        return gated(self, *args, **kwargs) if now is plain else now(self, *args, **kwargs)

    return method


def own_methods(cls: type[Any]) -> dict[str, Callable[..., Any]]:
    """Return the methods of Tidegate's that answer in the place of the host's own, with the same answers."""
    if host_statements() == "dify" or (page := host_types().page) is None:
        return {}
    run = host_models().get("workflow_runs")
    try:
        found = None if run is None else own_page(cls, run, page)
    except TypeError as error:
        _log.warning("pages are read by Dify's statement: %s", error)
        return {}
    return {} if found is None else {METHOD: found}


def _adopt(repository: Any, session_maker: Any) -> None:
    """Have a repository's calls go through the gate of its engine; if that cannot be, it runs as it is."""
    try:
        found = gate_of(session_maker)
        if found is not None:
            found.gate.adopt(repository, session_maker, found.layers)
    except Exception as error:  # noqa: BLE001  # the host's constructor must not fail
        pass_interruption(error)
        say_off(error)
