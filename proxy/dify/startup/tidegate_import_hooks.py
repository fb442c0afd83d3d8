"""Call a function as soon as a module has been imported, before whoever imports it has what it defines.

wrapt's hooks do the same, but to import wrapt imports asyncio and ssl, which gevent must have patched before anybody
does. So this file imports nothing that a starting Python has not imported, and no other module of Tidegate.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    Hook = Callable[[ModuleType], object]


class _Hooks(MetaPathFinder):
    """Find modules as the other finders do, and put a loader around that of those with hooks."""

    def __init__(self) -> None:
        self.by_module: dict[str, list[Hook]] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.by_module:
            return None
        for finder in sys.meta_path:
            find = None if hasattr(finder, "by_module") else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _CallingLoader(spec.loader, self.by_module[fullname])
                return spec
        return None


class _CallingLoader(Loader):
    """Load as another loader does, give the module that loader back, and call the hooks."""

    def __init__(self, loader: Loader, hooks: Sequence[Hook]) -> None:
        self._loader = loader
        self._hooks = hooks

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        for hook in self._hooks:
            hook(module)


def _registered() -> _Hooks:
    """Return the one finder with hooks: this file may be imported under two names, each with a class of its own."""
    for finder in sys.meta_path:
        if hasattr(finder, "by_module"):
            return finder  # type: ignore[return-value]  # of the other name's class
    made = _Hooks()
    sys.meta_path.insert(0, made)
    return made


def after_import(module: str, hook: Hook) -> None:
    """Call *hook* with a module once it has been imported; at once, if it has been."""
    found = sys.modules.get(module)
    if found is not None:
        hook(found)
        return
    _registered().by_module.setdefault(module, []).append(hook)
