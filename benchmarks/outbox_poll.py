"""The poll of the outbox beside a transaction that runs for long: what it walks past are notes that were taken again.

Run it: ``python -m tidegate.benchmarks.outbox_poll``. It prints how long one poll takes, in milliseconds: with an empty
table, after so many watched writes beside a transaction that keeps vacuum from their notes, and once that has ended.
"""

from __future__ import annotations

import statistics
from time import perf_counter_ns
from typing import TYPE_CHECKING, Annotated, Final

import typer
from sqlalchemy import create_engine, text

from tidegate.proxy.database.schema import make_tables
from tidegate.proxy.embedded import Cluster
from tidegate.proxy.writes.apply_notes import waiting

if TYPE_CHECKING:
    from sqlalchemy import Engine

_POLLS: Final = 21
# What the triggers and the commit of a watched write do with the outbox, without the rest of it.
_WRITES: Final = """
CREATE PROCEDURE watched_writes(many int) LANGUAGE plpgsql AS $$ BEGIN
  FOR i IN 1..many LOOP
    PERFORM tidegate_put_note(repeat('s', 300), repeat('r', 300));
    PERFORM tidegate_take_notes(NULL);
    COMMIT;
  END LOOP;
END $$"""


def measure_polls(writes: int) -> tuple[float, float, float]:
    """Return the medians of polls, in milliseconds: before the writes, after them, and once nothing holds vacuum back.

    Args:
        writes: how many watched writes there are beside the long transaction.

    Raises:
        EmbeddedServerError: a server could not be started.
    """
    with Cluster(cache=False) as cluster:
        engine = create_engine(cluster.shards[0].primary.url)
        try:
            make_tables(engine)
            before = _poll_ms(engine)
            alone = engine.execution_options(isolation_level="AUTOCOMMIT")
            with engine.connect() as old, alone.connect() as connection:
                old.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
                old.execute(text("SELECT 1"))
                connection.exec_driver_sql(_WRITES)
                connection.execute(text("CALL watched_writes(:many)"), {"many": writes})
                beside = _poll_ms(engine)
                old.rollback()
                connection.exec_driver_sql("VACUUM tidegate_outbox")
            return before, beside, _poll_ms(engine)
        finally:
            engine.dispose()


def _poll_ms(engine: Engine) -> float:
    times = []
    for _ in range(_POLLS):
        began = perf_counter_ns()
        waiting(engine)
        times.append(perf_counter_ns() - began)
    return statistics.median(times) / 1e6


def main(writes: Annotated[int, typer.Option(min=1, help="watched writes beside the transaction")] = 100_000) -> None:
    """Print how long a poll of the outbox takes beside a transaction that runs for long."""
    for what, took in zip(("empty", f"after {writes:,} writes", "after VACUUM"), measure_polls(writes), strict=True):
        typer.echo(f"poll of the outbox, {what}: {took:.1f} ms")


if __name__ == "__main__":
    typer.run(main)
