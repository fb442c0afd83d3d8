"""What ``tidegate doctor`` says: one thing that is wrong, and what would help."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Args:
        about: the index, the table, the cache, the node or the setting.
        wrong: what is wrong with it.
        cure: what it costs, and what would help.
        grave: whether something is not used for it, or is missing; else it only costs.
    """

    about: str
    wrong: str
    cure: str
    grave: bool = True

    def text(self) -> str:
        """One line."""
        return f"{self.about} {self.wrong}: {self.cure}"
