"""Put Tidegate behind the factories of Dify, in one process, before any repository exists.

A hook runs after a module of Dify has been imported, and before anybody has what it defines. So nothing of Dify is
imported sooner than it would be, but its models in direct mode, and nothing of Tidegate before gevent has patched what
it patches.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, Final

from tidegate.error_text import first_line
from tidegate.interruptions import pass_interruption
from tidegate.proxy.dify import page_loading
from tidegate.proxy.dify.gates import say_off
from tidegate.proxy.dify.host_classes import gated_class, gated_object
from tidegate.proxy.dify.releases import MODULES, REPOSITORIES
from tidegate.proxy.dify.startup.tidegate_import_hooks import after_import

if TYPE_CHECKING:
    from collections.abc import Callable

    from tidegate.proxy.dify.releases import HostRepository, Place

_log: Final = logging.getLogger(__name__)
_INSTALLED: Final = "_tidegate_installed"


def install(*, direct: bool = False) -> None:
    """Put a gate behind what Dify's factories return, and will return, in this process.

    It may be called at any time, and again: modules that are imported already are done at once. Objects that were made
    before stay as they are.

    Args:
        direct: also put the gated classes in the place of Dify's in their modules, for code that builds them itself. It
            must have been called before such code imports them.
    """
    for module in (*MODULES, *page_loading.MODULES):
        after_import(module, functools.partial(imported, direct=direct))


def imported(module: Any, *, direct: bool = False) -> None:
    """Do what is due after a module of Dify was imported. Whatever fails is logged: the host's import does not fail.

    Args:
        module: one of those that are hooked.
        direct: as for :func:`install`.
    """
    try:
        if module.__name__ in page_loading.MODULES:
            page_loading.imported(module)
        for known, place in ((one, place) for one in REPOSITORIES for place in one.places):
            if place.factory == module.__name__:
                _wrap_factory(module, known, place)
            if direct and place.module == module.__name__:
                _replace_class(module, known)
    except Exception as error:  # noqa: BLE001  # the host runs as it is
        pass_interruption(error)
        _log.error("Tidegate could not be installed in %s: %s", module.__name__, first_line(error))


def _replace_class(module: Any, known: HostRepository) -> None:
    cls = getattr(module, known.class_name, None)
    if isinstance(cls, type):
        setattr(module, known.class_name, gated_class(cls))


def _wrap_factory(module: Any, known: HostRepository, place: Place) -> None:
    owner = getattr(module, place.owner, None) if place.owner else module
    factory = vars(owner).get(place.function) if owner is not None else None
    if factory is None:
        _log.warning(
            "%s has no %s: repositories of %s run as they are", place.factory, place.function, known.class_name
        )
        return
    plain = factory.__func__ if isinstance(factory, classmethod) else factory
    if not getattr(plain, _INSTALLED, False):
        made = _gating(plain)
        setattr(owner, place.function, classmethod(made) if isinstance(factory, classmethod) else made)
        _log.info("Tidegate is installed in this process, before %s.%s", place.factory, place.function)


def _gating(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def made(*args: Any, **kwargs: Any) -> Any:
        repository = factory(*args, **kwargs)
        try:
            return gated_object(repository)
        except Exception as error:  # noqa: BLE001  # the host has what it asked for
            pass_interruption(error)
            say_off(error)
            return repository

    made.__dict__[_INSTALLED] = True
    return made
