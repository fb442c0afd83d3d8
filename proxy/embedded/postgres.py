"""One PostgreSQL server: a primary, or a replica that streams from it."""

from __future__ import annotations

import contextlib
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

from tidegate.errors import EmbeddedServerError
from tidegate.proxy.embedded.binaries import postgres_major
from tidegate.proxy.embedded.process import ServerProcess, free_port, give_to_server, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

DATABASE: Final = "tidegate"
SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "127.0.0.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "wal_level": "logical",
    "wal_retrieve_retry_interval": "100ms",
    "hot_standby_feedback": "off",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "fsync": "off",
    "synchronous_commit": "off",
    "wal_writer_delay": "10ms",  # by default it sleeps 200 ms, and replicas would be behind by that
    "full_page_writes": "off",
    "max_wal_size": "1GB",
    "dynamic_shared_memory_type": "mmap",  # it is in the data folder, and is removed with it
}
_SETTINGS_18: Final[Mapping[str, str]] = {"io_method": "sync"}
"""Settings that older versions do not have."""
_MAJOR_18: Final = 18


class PostgresNode:
    """Run one PostgreSQL server; every method returns when its change has taken effect.

    Args:
        name: for messages, file names and replication slots.
        folder: the server's data folder.
        programs: the folder of PostgreSQL's programs.
    """

    def __init__(self, name: str, folder: Path, programs: Path) -> None:
        self.name = name
        self.port = free_port()
        self._folder = folder
        self._programs = programs
        self._server = ServerProcess(name, folder)
        self._slots: list[str] = []

    @property
    def url(self) -> str:
        """Return the server's SQLAlchemy URL. It has no password: any local user may connect while the server runs."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def running(self) -> bool:
        """Tell whether the server process runs."""
        return self._server.running

    def create(self, settings: Mapping[str, str]) -> None:
        """Make the data folder of a primary."""
        options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        locale = (
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
        )  # macOS has no C.UTF-8 of its own
        run([str(self._programs / "initdb"), "-D", str(self._folder), *options, *locale], cwd=self._folder)
        self._configure(settings)

    def create_replica(self, replica: PostgresNode, settings: Mapping[str, str]) -> None:
        """Make the data folder of *replica* as a copy of this one, which must not have been started yet."""
        shutil.copytree(self._folder, replica._folder, dirs_exist_ok=True)
        self._slots.append(replica.name)
        source = replica._source(self)
        replication = {"primary_conninfo": source, "primary_slot_name": replica.name}
        replica._configure(dict(settings) | replication)
        (replica._folder / "standby.signal").touch()
        give_to_server(replica._folder)

    def _configure(self, settings: Mapping[str, str]) -> None:
        # Use no socket file: its path may have 103 bytes at most, and that of a temporary folder may be longer.
        own = {"port": str(self.port), "unix_socket_directories": ""}
        usual = SETTINGS if postgres_major(self._programs) < _MAJOR_18 else {**SETTINGS, **_SETTINGS_18}
        lines = [f"{name} = '{value}'" for name, value in {**usual, **settings, **own}.items()]
        (self._folder / "tidegate.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        configuration = self._folder / "postgresql.conf"
        include = "include 'tidegate.conf'\n"
        if include not in configuration.read_text(encoding="utf-8"):
            with configuration.open("a", encoding="utf-8") as file:
                file.write(include)
        give_to_server(self._folder)

    def launch(self) -> None:
        """Start the server and wait until it answers."""
        self._server.start([str(self._programs / "postgres"), "-D", str(self._folder)], self._answers)

    def start(self) -> None:
        """Start the server again after :meth:`stop` or :meth:`kill`; a replica streams when this returns."""
        self.launch()
        if self.execute("SELECT pg_is_in_recovery()")[0][0]:
            self.wait_streaming()

    def wait_streaming(self) -> None:
        """Wait until the replica streams from its primary."""
        query = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
        wait_for(lambda: self.execute(query)[0][0] == 1, f"{self.name} streams from its primary")

    def wait_database(self) -> None:
        """Wait until a replica streams and has the database."""
        query = "SELECT count(*) FROM pg_database WHERE datname = %s"
        wait_for(lambda: self.execute(query, DATABASE, database="postgres")[0][0] == 1, f"{self.name} has the database")
        self.wait_streaming()

    def make_database(self) -> None:
        """Create the database and the replication slots of the replicas."""
        for slot in self._slots:
            self.execute("SELECT pg_create_physical_replication_slot(%s)", slot, database="postgres")
        # Copied by the kernel: a quarter of the time that a copy through the log takes.
        self.execute(f"CREATE DATABASE {DATABASE} STRATEGY file_copy", database="postgres")

    def stop(self) -> None:
        """Shut the server down in good order, and end its sessions (SIGINT)."""
        self._server.end(signal.SIGINT)

    def kill(self) -> None:
        """Kill the server (SIGKILL), as happens when the machine's memory runs out."""
        self._server.end(signal.SIGKILL)

    def end(self) -> None:
        """Shut the server down at once (SIGQUIT), for a cluster that will not be used again."""
        self._server.end(signal.SIGQUIT)

    def pause(self) -> None:
        """Stop every process of the server for a while (SIGSTOP): connections stay open, and nothing answers."""
        self._server.signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the processes go on (SIGCONT) after :meth:`pause`."""
        self._server.signal_all(signal.SIGCONT)

    def pause_replay(self) -> None:
        """Let a replica receive changes and not show them."""
        self.execute("SELECT pg_wal_replay_pause()")
        wait_for(
            lambda: self.execute("SELECT pg_get_wal_replay_pause_state()")[0][0] == "paused", f"{self.name} pauses"
        )

    def resume_replay(self) -> None:
        """Let a replica show changes again after :meth:`pause_replay`."""
        self.execute("SELECT pg_wal_replay_resume()")

    def delay(self, seconds: float) -> None:
        """Have a replica show changes *seconds* after their commit; 0 ends this.

        Raises:
            ValueError: *seconds* is negative.
        """
        if seconds < 0:
            raise ValueError(f"delay must be 0 seconds or more, not {seconds!r}")
        wanted = f"{round(seconds * 1000)}ms"
        self.execute(f"ALTER SYSTEM SET recovery_min_apply_delay = '{wanted}'")
        self.execute("SELECT pg_reload_conf()")
        query = "SELECT setting FROM pg_settings WHERE name = 'recovery_min_apply_delay'"
        wait_for(lambda: self.execute(query)[0][0] == str(round(seconds * 1000)), f"{self.name} takes the delay")

    def promote(self) -> None:
        """Make a replica a primary; it takes writes when this returns.

        Raises:
            EmbeddedServerError: it is no replica, or is not promoted within 120 s.
        """
        if not self.execute("SELECT pg_is_in_recovery()")[0][0]:
            raise EmbeddedServerError(f"{self.name} is a primary already")
        self.execute("SELECT pg_promote(true, 120)")
        wait_for(lambda: not self.execute("SELECT pg_is_in_recovery()")[0][0], f"{self.name} is promoted")

    def follow(self, other: PostgresNode) -> None:
        """Have a replica stream from *other*, for instance from a server that was promoted.

        Raises:
            EmbeddedServerError: it does not stream within 120 s, for instance because *other* has another history.
        """
        query = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s"
        if not other.execute(query, self.name)[0][0]:
            other.execute("SELECT pg_create_physical_replication_slot(%s)", self.name)
        self.execute(f"ALTER SYSTEM SET primary_conninfo = '{self._source(other)}'")
        self.execute("SELECT pg_reload_conf()")
        streams = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming' AND sender_port = %s"
        wait_for(lambda: self.execute(streams, other.port)[0][0] == 1, f"{self.name} streams from {other.name}")

    def _source(self, other: PostgresNode) -> str:
        return f"host=127.0.0.1 port={other.port} user=postgres application_name={self.name}"

    def execute(self, sql: str, *parameters: Any, database: str = DATABASE) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own, and return its rows."""
        with psycopg.connect(self._conninfo(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def _conninfo(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname={database} connect_timeout=30"

    def _answers(self) -> bool:
        # A free port may be taken by another program before this server has it.
        with contextlib.suppress(psycopg.Error):
            found = self.execute("SELECT current_setting('data_directory')", database="postgres")[0][0]
            return Path(found).resolve() == self._folder.resolve()
        return False
