"""Which tables a text writes: rather too many than too few, and none for what only looks like a write."""

from __future__ import annotations

import pytest

from tidegate.proxy.writes.sql_text import tables_written


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("INSERT INTO runs VALUES (1)", [("INSERT", "runs")]),
        ("insert or replace into Runs values (1)", [("INSERT", "runs")]),
        ('UPDATE ONLY public."Runs" SET a = 1', [("UPDATE", "Runs")]),
        ("UPDATE OR IGNORE runs SET a = 1", [("UPDATE", "runs")]),
        ("delete\nfrom -- where?\n app . runs", [("DELETE", "runs")]),
        ("MERGE INTO runs USING x ON true WHEN MATCHED THEN DELETE", [("MERGE", "runs")]),
        ("TRUNCATE TABLE a, ONLY public.b, c *, d CASCADE", [("TRUNCATE", name) for name in "abcd"]),
        ("TRUNCATE a", [("TRUNCATE", "a")]),
        ("COPY runs (id, status) FROM STDIN", [("COPY", "runs")]),
        ("WITH gone AS (DELETE FROM runs RETURNING id) SELECT * FROM gone", [("DELETE", "runs")]),
        ("SELECT 1; UPDATE runs SET a = 1", [("UPDATE", "runs")]),
        ("DO $$ BEGIN DELETE FROM runs; END $$", [("DELETE", "runs")]),
        ("UPDATE runs SET a = 'it''s' WHERE b = $1", [("UPDATE", "runs")]),
        (r"UPDATE runs SET a = E'\'' WHERE b = 'DELETE FROM x'", [("UPDATE", "runs")]),
    ],
)
def test_writes(sql: str, tables: list[tuple[str, str]]) -> None:
    assert list(tables_written(sql).tables) == tables


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'DELETE FROM runs'",
        'SELECT "update" FROM runs',
        "SELECT 1 -- DELETE FROM runs",
        "SELECT /* DELETE FROM runs */ 1",
        "COPY runs TO STDOUT",
        "COPY (SELECT 1) TO STDOUT",
        "SELECT replace(a, 'b', 'c') FROM runs",
        "CREATE FUNCTION f() RETURNS void AS $f$ DELETE FROM runs $f$ LANGUAGE sql",
        "SELECT 1",
        "",
    ],
)
def test_reads(sql: str) -> None:
    assert tables_written(sql).tables == ()


def test_locks_write_no_table() -> None:
    names = {name for _, name in tables_written("SELECT * FROM runs WHERE a = 1 FOR UPDATE OF runs SKIP LOCKED").tables}
    assert "runs" not in names


@pytest.mark.parametrize(
    ("sql", "commits"),
    [
        ("COMMIT", True),
        (" /* now */ commit work", True),
        ("END", True),
        ("PREPARE TRANSACTION 'x'", True),
        ("COMMIT PREPARED 'x'", False),
        ("PREPARE plan AS SELECT 1", False),
        ("SELECT commit FROM end", False),
        ("ROLLBACK", False),
    ],
)
def test_the_end_of_a_transaction(sql: str, commits: bool) -> None:
    assert tables_written(sql).commits is commits


@pytest.mark.parametrize("sql", ["select 1; commit", "insert into t values (1); END", "select ';'; /* ; */ COMMIT"])
def test_a_commit_behind_another_statement_commits(sql: str) -> None:
    assert tables_written(sql).commits


def test_a_commit_inside_a_text_does_not() -> None:
    assert not tables_written("select '; commit', 1 as \"; commit\"").commits
