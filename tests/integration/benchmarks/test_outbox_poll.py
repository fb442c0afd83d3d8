"""The poll of the outbox beside a transaction that runs for long, as the command prints it."""

from __future__ import annotations

import typer
from typer.testing import CliRunner

from tidegate.benchmarks.outbox_poll import main


def test_it_prints_a_poll_before_beside_and_after() -> None:
    app = typer.Typer()
    app.command()(main)
    said = CliRunner().invoke(app, ["--writes", "200"])
    assert said.exit_code == 0, said.output
    lines = said.output.splitlines()
    assert [line.rpartition(":")[0] for line in lines] == [
        "poll of the outbox, empty",
        "poll of the outbox, after 200 writes",
        "poll of the outbox, after VACUUM",
    ]
