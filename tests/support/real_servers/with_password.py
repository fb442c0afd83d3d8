"""A PostgreSQL that asks for a password, on TCP and on a socket file, and every way to give it one."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import psycopg2
from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL

from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import give_to_server, temporary_folder, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest
    from sqlalchemy import Engine

USER: Final = "asked"
PASSWORD: Final = "hid den's \"w@rd%/\\:#"  # noqa: S105  # made up, with whatever a URL or a driver might trip over
PIECES: Final = ("hid", "den's", "w@rd", "hid%20den", "hid+den")
"""Pieces of it that must not be in a log."""
_CONNECTS: Final[dict[str, Callable[..., Any]]] = {"psycopg": psycopg.connect, "psycopg2": psycopg2.connect}


class Asking:
    """A running cluster whose primary asks the user for the password.

    Args:
        cluster: the cluster; its primary is changed.
        sockets: the folder for the primary's socket file.
    """

    def __init__(self, cluster: Cluster, sockets: Path) -> None:
        self.cluster = cluster
        self.primary = cluster.shards[0].primary
        self.port = self.primary.port
        self.sockets = sockets
        quoted = PASSWORD.replace("'", "''")
        self.primary.execute(f"CREATE ROLE {USER} LOGIN SUPERUSER PASSWORD E'{quoted.replace(chr(92), chr(92) * 2)}'")
        self.primary.execute(f"ALTER SYSTEM SET unix_socket_directories = '{sockets}'")
        (asked,) = self.primary.execute("SHOW hba_file")[0]
        rules = Path(asked)
        first = f"host all {USER} 127.0.0.1/32 scram-sha-256\nlocal all {USER} scram-sha-256\n"
        rules.write_text(first + rules.read_text(encoding="utf-8"), encoding="utf-8")
        self.primary.stop()
        self.primary.start()

    def arguments(self) -> dict[str, Any]:
        return {"host": "127.0.0.1", "port": self.port, "user": USER, "dbname": "tidegate", "password": PASSWORD}

    def listening(self, name: str) -> bool:
        """Whether a connection of the user's with this name listens."""
        sql = "SELECT 1 FROM pg_stat_activity WHERE application_name = %s AND usename = %s AND query LIKE 'LISTEN%%'"
        return bool(self.primary.execute(sql, name, USER))


@contextmanager
def asking() -> Iterator[Asking]:
    sockets = Path(tempfile.mkdtemp(prefix="s", dir=temporary_folder()))  # short: a socket's path has 103 bytes at most
    give_to_server(sockets)
    try:
        with Cluster() as cluster:
            yield Asking(cluster, sockets)
    finally:
        shutil.rmtree(sockets)


class Ways:
    """The ways to give an engine an address and a password: each method makes an engine.

    Args:
        server: the server.
        driver: "psycopg" or "psycopg2".
        folder: for files.
        environment: where variables are set.
    """

    def __init__(self, server: Asking, driver: str, folder: Path, environment: pytest.MonkeyPatch) -> None:
        self._server = server
        self._driver = driver
        self._folder = folder
        self._environment = environment

    def _url(self, password: str | None = PASSWORD, **query: Any) -> URL:
        host: dict[str, Any] = {} if "host" in query else {"host": "127.0.0.1", "port": self._server.port}
        return URL.create(
            f"postgresql+{self._driver}", username=USER, password=password, database="tidegate", query=query, **host
        )

    def a_url(self) -> Engine:
        return create_engine(self._url())

    def options_in_the_url(self) -> Engine:
        return create_engine(self._url(options="-c search_path=public -c work_mem=5MB"))

    def host_and_port_in_one(self) -> Engine:
        return create_engine(self._url(host=f"127.0.0.1:{self._server.port}"))

    def several_hosts(self) -> Engine:
        return create_engine(self._url(host=("127.0.0.1:1", f"127.0.0.1:{self._server.port}")))

    def a_socket(self) -> Engine:
        return create_engine(self._url(host=str(self._server.sockets), port=str(self._server.port)))

    def connect_args(self) -> Engine:
        return create_engine(f"postgresql+{self._driver}://", connect_args=self._server.arguments())

    def a_creator(self) -> Engine:
        arguments, connect = self._server.arguments(), _CONNECTS[self._driver]
        return create_engine(f"postgresql+{self._driver}://", creator=lambda: connect(**arguments))

    def a_listener(self) -> Engine:
        engine = create_engine(f"postgresql+{self._driver}://{USER}@is-not-there:1/none")
        arguments = self._server.arguments()
        event.listen(engine, "do_connect", lambda _dialect, _record, _args, params: params.update(arguments))
        return engine

    def a_service(self) -> Engine:
        file = self._folder / "services"
        lines = [f"{key}={value}" for key, value in self._server.arguments().items()]
        file.write_text("[dify]\n" + "\n".join(lines) + "\n", encoding="utf-8")
        self._environment.setenv("PGSERVICEFILE", str(file))
        return create_engine(f"postgresql+{self._driver}://?service=dify")

    def a_password_file(self) -> Engine:
        file = self._folder / "passwords"
        escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
        file.write_text(f"127.0.0.1:{self._server.port}:*:{USER}:{escaped}\n", encoding="utf-8")
        file.chmod(0o600)
        self._environment.setenv("PGPASSFILE", str(file))
        return create_engine(self._url(password=None))

    def a_variable(self) -> Engine:
        self._environment.setenv("PGPASSWORD", PASSWORD)
        return create_engine(self._url(password=None))


WAYS: Final = tuple(name for name in vars(Ways) if not name.startswith("_"))


def wait_listening(server: Asking, name: str) -> None:
    wait_for(lambda: server.listening(name), f"{name} listens")
