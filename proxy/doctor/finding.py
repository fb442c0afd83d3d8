"""What ``tidegate doctor`` says: one thing that is wrong, and what would help."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Args:
        about: the index, the table, the cache, the node or the setting.
        wrong: what is wrong with it, as the rest of a sentence that begins with *about*.
        cure: what it costs, and what would help.
        grave: True if something is missing, or is not used because of it; False if it only costs something.
    """

    about: str
    wrong: str
    cure: str
    grave: bool = True

    def text(self) -> str:
        """Return the finding as one line."""
        return f"{self.about} {self.wrong}: {self.cure}"
