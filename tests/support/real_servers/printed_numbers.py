"""What a test counted, for whoever runs it with -rP or -s."""

from __future__ import annotations

from collections.abc import Mapping


def show(what: str, figures: Mapping[str, int] | str) -> None:
    """Print one line; what was counted comes with its total."""
    if isinstance(figures, Mapping):
        figures = f"{sum(figures.values())}: " + ", ".join(f"{name} {n}" for name, n in sorted(figures.items()))
    print(f"{what}: {figures}", flush=True)  # noqa: T201  # the one place
