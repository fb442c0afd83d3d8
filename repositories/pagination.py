"""What holds a page of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

Row = TypeVar("Row")


class InfiniteScrollPagination(Generic[Row]):
    """Hold one page.

    Args:
        data: the rows, newest first; callers may assign another list.
        limit: how many rows were asked for.
        has_more: whether another page follows.
        span: only of a page below a cursor that is not the last one: when the cursor's row, and the first row of the
            page after, were created. Changes of rows of other days do not change this page.
    """

    def __init__(
        self, data: Sequence[Row], limit: int, has_more: bool, span: tuple[datetime, datetime] | None = None
    ) -> None:
        self.data = data
        self.limit = limit
        self.has_more = has_more
        self.span = span
