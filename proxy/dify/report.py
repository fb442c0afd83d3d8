"""What becomes of each method of the Dify that is installed here: for people."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tidegate.proxy.dify.host_models import host_tracked
from tidegate.proxy.dify.host_policies import plans_of
from tidegate.proxy.dify.log_service import what_becomes_of
from tidegate.proxy.dify.releases import LATER_LOG_PAGES, LOG_PAGES, LOG_SERVICE, REPOSITORIES
from tidegate.repositories.policies import PRIMARY, Read, name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.proxy.dify.releases import HostRepository
    from tidegate.repositories.policies import Policy


_MEANING: Final = (
    "cached: where TIDEGATE_CACHE_URL names a cache; routed: where TIDEGATE_REPLICAS names replicas; passed on: it is "
    "Dify's own"
)
OF_ACCOUNTS: Final = "its answers have names of accounts, whose changes no trigger notes"
"""Why what gives pages of logs in later releases is not cached."""


def report() -> list[str]:
    """Return a line for each method of each repository of Dify that Tidegate knows, with what becomes of its calls.

    Dify's modules are looked for in the folder in which the program runs, too.

    Raises:
        ImportError: there is no Dify here.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    lines = [line for known in REPOSITORIES for line in _of_repository(known)]
    tracked = ", ".join(sorted(name_of(row.model) for row in host_tracked()))
    return [_MEANING, *lines, *_of_log_pages(), f"tracked: {tracked}"]


def class_of(known: HostRepository) -> type[Any]:
    """Return the class that the Dify which is installed here has for a repository.

    Raises:
        ImportError: there is none; names the modules that were tried.
    """
    for place in known.places:
        if (module := _module(place.module)) is not None:
            found: type[Any] = getattr(module, known.class_name)
            return found
    places = " or ".join(place.module for place in known.places)
    raise ImportError(
        f"there is no Dify here: {known.class_name} is in no module {places}; run this in the folder 'api' of Dify, "
        "with its Python"
    )


def _module(name: str) -> Any | None:
    """Import a module of this release; None: it has none of that name.

    Raises:
        ModuleNotFoundError: it is there, and lacks something itself.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        return None


def _of_repository(known: HostRepository) -> Iterator[str]:
    cls = class_of(known)
    plans = plans_of(cls, known)
    verdicts = [(_verdict(plan.policy), plan.why) for plan in plans]
    yield from _lines(cls, [plan.name for plan in plans], verdicts)


def _verdict(policy: Policy | None) -> str:
    if not isinstance(policy, Read):
        return "passed on"
    by = ["cached"] * (policy.guard is not None) + ["routed"] * (policy.node != PRIMARY)
    return ", ".join(by) or "passed on"


def _of_log_pages() -> Iterator[str]:
    """Return lines for what gives pages of logs: a service, or in later releases a repository."""
    module = _module(LOG_SERVICE)
    if module is not None and (service := getattr(module, LOG_PAGES[0], None)) is not None:
        names = [name for name in _public(service) if "paginate" in name]
        yield from _lines(service, names, [what_becomes_of(module, service, name) for name in names])
    for later, class_name in LATER_LOG_PAGES:
        cls = getattr(_module(later), class_name, None)
        if cls is not None:
            names = _public(cls)
            yield from _lines(cls, names, [("passed on", OF_ACCOUNTS)] * len(names))


def _public(cls: type[Any]) -> list[str]:
    return sorted(name for name in dir(cls) if not name.startswith("_") and callable(getattr(cls, name)))


def _lines(cls: type[Any], names: list[str], verdicts: list[tuple[str, str]]) -> Iterator[str]:
    yield f"{cls.__module__}.{cls.__name__}"
    width = max(map(len, names), default=0)
    for name, (verdict, why) in zip(names, verdicts, strict=True):
        yield f"  {name:{width}}  {verdict:14}  {why}".rstrip()
