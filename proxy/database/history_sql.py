"""The columns by which a statement tells where a primary's log is, and which history it has."""

from __future__ import annotations

from typing import Final

STARTED: Final = "extract(epoch FROM pg_postmaster_start_time())::numeric::text"
RECORD: Final = "(SELECT value FROM {state} WHERE name = 'history')"
"""The record of the history, with a place for the table of named facts."""
PLACE: Final = f"pg_current_wal_insert_lsn()::text, pg_walfile_name(pg_current_wal_insert_lsn()), {STARTED}"
"""The columns that tell where a primary's log is, and of which life it is."""
HERE: Final = f"{PLACE}, {RECORD}"
"""The columns that tell where a primary's log is and which history it has, with a place for the table of named facts.
"""
