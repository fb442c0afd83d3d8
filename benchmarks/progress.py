"""What is being done, and how much of it is done: a bar on a terminal, and lines elsewhere."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    Advance = Callable[[float], None]

_LINE_S: Final = 10.0


class Steps:
    """Show one step after the other on *console*."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def step(self, title: str, total: float | None = None) -> Iterator[Advance]:
        """Show a step while it lasts, and how long it took when it is over.

        Args:
            title: what is being done.
            total: how much there is to do; None: not known.

        Yields:
            A function that is called with how much more has been done; several threads may call it.
        """
        began = time.monotonic()
        with self._bar(title, total) if self.console.is_terminal else self._lines(title, total) as advance:
            yield advance
        self.console.print(f"[green]done[/] {title} ({time.monotonic() - began:.1f} s)", highlight=False)

    @contextmanager
    def _bar(self, title: str, total: float | None) -> Iterator[Advance]:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True) as progress:
            task = progress.add_task(title, total=total)
            yield lambda more: progress.advance(task, more)

    @contextmanager
    def _lines(self, title: str, total: float | None) -> Iterator[Advance]:
        self.console.print(f"     {title} ...", highlight=False)
        done, next_line = 0.0, time.monotonic() + _LINE_S

        def advance(more: float) -> None:
            nonlocal done, next_line
            done += more
            if total and time.monotonic() > next_line:
                next_line = time.monotonic() + _LINE_S
                self.console.print(f"     {title}: {done / total:.0%}", highlight=False)

        yield advance
