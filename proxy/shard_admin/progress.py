"""What a command is doing, shown once it takes longer than two seconds: a line that changes, or a line every 10 s."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Progress = Callable[[str, str], None]
    """Takes the name of a shard, and what is being done there; several threads may call it."""

_FIRST_S: Final = 2.0
_LINE_S: Final = 10.0
_CHANGE_S: Final = 0.2


@contextmanager
def progress(title: str, *, first_s: float = _FIRST_S) -> Iterator[Progress]:
    """Show *title*, and what is being done on each shard, on standard error while the block runs.

    It begins after *first_s* seconds.
    """
    console = Console(stderr=True)
    began_s, doing, over = time.monotonic(), dict[str, str](), threading.Event()

    def line() -> str:
        details = ", ".join(f"{shard}: {what}" for shard, what in list(doing.items()) if what)
        return f"{title}, {time.monotonic() - began_s:.0f} s{f' ({details})' if details else ''}"

    def show() -> None:
        if over.wait(first_s):
            return
        if not console.is_terminal:
            while not over.is_set():
                console.print(line(), highlight=False, markup=False, soft_wrap=True)
                over.wait(_LINE_S)
            return
        with console.status("") as status:
            while not over.is_set():
                status.update(line().replace("[", r"\["))
                over.wait(_CHANGE_S)

    watcher = threading.Thread(target=show, name="tidegate-waiting", daemon=True)
    watcher.start()
    try:
        yield doing.__setitem__
    finally:
        over.set()
        watcher.join()
