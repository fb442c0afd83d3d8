"""What becomes of each method of the Dify that is installed here: for people."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.proxy.dify.host_models import host_tracked
from tidegate.proxy.dify.host_policies import plans_of
from tidegate.proxy.dify.releases import REPOSITORIES
from tidegate.repositories.policies import name_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.proxy.dify.releases import HostRepository


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
    return [*lines, f"tracked: {', '.join(sorted(name_of(row.model) for row in host_tracked()))}"]


def class_of(known: HostRepository) -> type[Any]:
    """Return the class that the Dify which is installed here has for a repository.

    Raises:
        ImportError: there is none; names the modules that were tried.
    """
    for place in known.places:
        try:
            module = import_module(place.module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{place.module}.".startswith(f"{error.name}."):
                raise  # it is there, and lacks something itself
            continue
        found: type[Any] = getattr(module, known.class_name)
        return found
    places = " or ".join(place.module for place in known.places)
    raise ImportError(
        f"there is no Dify here: {known.class_name} is in no module {places}; run this in the folder 'api' of Dify, "
        "with its Python"
    )


def _of_repository(known: HostRepository) -> Iterator[str]:
    cls = class_of(known)
    plans = plans_of(cls, known)
    width = max(len(plan.name) for plan in plans)
    yield f"{cls.__module__}.{cls.__name__}"
    for plan in plans:
        verdict = "passed on" if plan.policy is None else "cached"
        yield f"  {plan.name:{width}}  {verdict:9}  {plan.why}".rstrip()
