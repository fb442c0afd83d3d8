"""Loading a data set by COPY, on several connections, chunk by chunk."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.sql import SQL, Identifier

from tidegate.benchmarks.data.data_set import RUN_COLUMNS
from tidegate.benchmarks.data.node_rows import NODE_COLUMNS, OFFLOAD_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tidegate.benchmarks.data.data_set import Chunk, DataSet

CONNECTIONS: Final = 3
"""How many connections load. The server takes most of the time, to compress values: so there is one connection for
each core, and one more, for which rows are made meanwhile."""


def load(
    data_set: DataSet, conninfo: str, advance: Callable[[float], None], *, connections: int = CONNECTIONS
) -> dict[str, int]:
    """Load all of *data_set*; each connection holds one chunk in memory at a time.

    Args:
        data_set: the rows.
        conninfo: a libpq connection string of a database whose tables are empty.
        advance: is called with how many more runs have been committed.
        connections: how many connections load at the same time.

    Returns:
        The number of rows of each table.
    """
    numbers = iter(data_set.chunks)
    totals = dict.fromkeys(("workflow_runs", "workflow_node_executions", "workflow_node_execution_offload"), 0)
    with ThreadPoolExecutor(max_workers=connections, thread_name_prefix="tidegate-load") as pool:
        loaders = [_Loader(data_set, conninfo) for _ in range(connections)]
        try:
            for loaded in _in_parallel(pool, loaders, numbers):
                for table, rows in loaded.items():
                    totals[table] += rows
                advance(loaded["workflow_runs"])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for loader in loaders:
                loader.close()
    return totals


def _in_parallel(
    pool: ThreadPoolExecutor, loaders: Sequence[_Loader], numbers: Iterator[int]
) -> Iterator[dict[str, int]]:
    running: dict[Future[dict[str, int]], _Loader] = {}
    for loader, number in zip(loaders, numbers, strict=False):
        running[pool.submit(loader.load, number)] = loader
    while running:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            loader = running.pop(future)
            yield future.result()
            for following in islice(numbers, 1):
                running[pool.submit(loader.load, following)] = loader


class _Loader:
    def __init__(self, data_set: DataSet, conninfo: str) -> None:
        self._data_set = data_set
        self._connection = psycopg.connect(conninfo)

    def load(self, number: int) -> dict[str, int]:
        chunk: Chunk = self._data_set.chunk(number)
        tables = (
            ("workflow_runs", RUN_COLUMNS, chunk.runs),
            ("workflow_node_executions", NODE_COLUMNS, chunk.nodes),
            ("workflow_node_execution_offload", OFFLOAD_COLUMNS, chunk.offloads),
        )
        with self._connection.transaction(), self._connection.cursor() as cursor:
            for table, columns, rows in tables:
                _copy(cursor, table, columns, rows)
        return {table: len(rows) for table, _, rows in tables}

    def close(self) -> None:
        self._connection.close()


def _copy(cursor: psycopg.Cursor[Any], table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    names = SQL(", ").join(map(Identifier, columns))
    with cursor.copy(SQL("COPY {} ({}) FROM STDIN").format(Identifier(table), names)) as copy:
        for row in rows:
            copy.write_row(row)
