from __future__ import annotations

from typing import Any


class InfiniteScrollPagination:
    def __init__(self, data: list[Any], limit: int, has_more: bool) -> None:
        self.data = data
        self.limit = limit
        self.has_more = has_more
