"""Put Tidegate behind the factories of Dify, in one process, before any repository exists.

A hook runs after a module of Dify has been imported, and before anybody has what it defines. So nothing of Dify is
imported sooner than it would be, and nothing of Tidegate before gevent has patched what it patches.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, Final

import wrapt

from tidegate.proxy.dify import log_page
from tidegate.proxy.dify.host_classes import gated_class, gated_object
from tidegate.proxy.dify.releases import MODULES, REPOSITORIES

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
    for module in MODULES:
        wrapt.register_post_import_hook(imported_directly if direct else imported, module)
    wrapt.register_post_import_hook(log_page.imported, log_page.MODULE)


def imported(module: Any) -> None:
    """Do what is due after a module of Dify was imported: wrap its factories."""
    for known in REPOSITORIES:
        for place in known.places:
            if place.factory == module.__name__:
                _wrap_factory(module, known, place)


def imported_directly(module: Any) -> None:
    """Do as :func:`imported` does, and put gated classes in the place of those that the module defines."""
    imported(module)
    for known in REPOSITORIES:
        for place in known.places:
            cls = getattr(module, known.class_name, None)
            if place.module == module.__name__ and isinstance(cls, type):
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


def _gating(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def made(*args: Any, **kwargs: Any) -> Any:
        return gated_object(factory(*args, **kwargs))

    made.__dict__[_INSTALLED] = True
    return made
