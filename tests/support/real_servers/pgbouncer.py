"""PgBouncer, the connection pooler, in front of one PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg

from tidegate.proxy.embedded.process import ServerProcess, free_port, give_to_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What a gate's URL says in "options" no pooler can pass on to a connection that others use too.
_CONFIGURATION: Final = """
[databases]
* = host=127.0.0.1 port={server} user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
admin_users = postgres
pool_mode = {mode}
default_pool_size = {pool}
max_client_conn = 200
server_login_retry = 1
ignore_startup_parameters = options
"""


def pgbouncer_program() -> str | None:
    """The program; Debian has it where only root looks."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class PgBouncer:
    """A pooler in front of a server.

    Args:
        home: a folder of its own, which must not be there yet.
        server: the port of the PostgreSQL server.
        mode: "transaction" or "session".
        pool: how many connections to the server there are for each database.
    """

    def __init__(self, home: Path, server: int, mode: str, pool: int) -> None:
        self.port: Final = free_port()
        folder = home / "pgbouncer"
        folder.mkdir(parents=True)
        self._file = folder / "pgbouncer.ini"
        users = folder / "users.txt"
        users.write_text('"postgres" ""\n', encoding="utf-8")
        made = _CONFIGURATION.format(server=server, port=self.port, users=users, mode=mode, pool=pool)
        self._file.write_text(made, encoding="utf-8")
        give_to_server(home)
        self._at = f"host=127.0.0.1 port={self.port} user=postgres"
        self._process = ServerProcess("pgbouncer", folder)

    def start(self) -> None:
        """Start it, and wait until a statement goes through."""
        self._process.start([pgbouncer_program() or "pgbouncer", str(self._file)], self._answers)

    def stop(self) -> None:
        """End it."""
        self._process.end(signal.SIGINT)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let all clients wait meanwhile, as one does to restart the server: none loses its connection."""
        with psycopg.connect(
            f"{self._at} dbname=pgbouncer", autocommit=True, cursor_factory=psycopg.ClientCursor
        ) as console:
            console.execute("PAUSE")
            yield
            console.execute("RESUME")

    def url(self, direct: str) -> str:
        """The URL through the pooler of what has the URL *direct* on the server itself."""
        head, _, database = direct.rpartition("/")
        return f"{head.rpartition(':')[0]}:{self.port}/{database}"

    def _answers(self) -> bool:
        try:
            with psycopg.connect(f"{self._at} dbname=postgres") as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.Error:
            return False
