"""The servers that Dify's programs run on here: PostgreSQL, as its migrations and tests expect it, and Valkey."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

import redis

from tidegate.proxy.embedded import Cluster
from tidegate.proxy.embedded.process import temporary_folder

if TYPE_CHECKING:
    from tidegate.proxy.embedded.postgres import PostgresNode

_EXTENSION: Final = {
    "uuid-ossp.control": "comment = 'what is used of it'\ndefault_version = '1.1'\nrelocatable = true\n",
    "uuid-ossp--1.1.sql": "".join(
        f"CREATE FUNCTION {name}() RETURNS uuid AS 'SELECT gen_random_uuid()' LANGUAGE SQL VOLATILE PARALLEL SAFE;\n"
        for name in ("uuid_generate_v1", "uuid_generate_v4")
    )
    + "CREATE FUNCTION uuid_nil() RETURNS uuid AS 'SELECT ''00000000-0000-0000-0000-000000000000''::uuid' "
    "LANGUAGE SQL IMMUTABLE PARALLEL SAFE;\n",
}
"""An extension that Dify makes, and these servers come without."""
CLOSED: Final = "127.0.0.1:9"
"""Host and port where nobody listens."""


class DifyServers:
    """A primary with a replica, and a Valkey that Dify and Tidegate share; use it in a ``with`` block."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dify_", dir=temporary_folder()))
        self._folder.chmod(0o755)  # the servers may run as another user
        extension = self._folder / "extension"
        extension.mkdir(mode=0o755)
        for name, text in _EXTENSION.items():
            (extension / name).write_text(text)
        settings = {"extension_control_path": f"$system:{self._folder}", "max_connections": "300"}
        self._cluster = Cluster(replicas=1, postgres_settings=settings)

    def __enter__(self) -> Self:
        self._cluster.start()
        # PostgreSQL 18 has functions of the name that Dify gives one of its own, and then says COMMENT ON FUNCTION,
        # without arguments: with two of the name that is an error.
        for arguments in ("", "interval"):
            self._primary.execute(
                f"ALTER FUNCTION pg_catalog.uuidv7({arguments}) RENAME TO uuidv7_built_in", database="template1"
            )
        return self

    def __exit__(self, *exc: object) -> None:
        self._cluster.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _primary(self) -> PostgresNode:
        return self._cluster.shards[0].primary

    @property
    def postgres(self) -> str:
        """Return the primary's host and port."""
        return _address(self._primary.url)

    @property
    def redis(self) -> str:
        """Return the host and port of Valkey."""
        return _address(self._cluster.cache.url)

    @property
    def cache_url(self) -> str:
        """Return the URL for Tidegate: another database of the Valkey that Dify uses."""
        return f"redis://{self.redis}/9"

    def empty_cache(self) -> None:
        """Forget what Tidegate has there, and nothing of Dify's."""
        with redis.Redis.from_url(self.cache_url) as client:
            client.flushdb()

    def url(self, database: str, *, replica: bool = False) -> str:
        """Return the URL of a database, on the primary or its replica."""
        node = self._cluster.shards[0].replicas[0] if replica else self._primary
        return f"{node.url.rpartition('/')[0]}/{database}"

    def dify_settings(self, database: str, folder: Path) -> dict[str, str]:
        """Return the settings of Dify, as variables, for these servers.

        Args:
            database: of Dify's tables.
            folder: for the files that Dify stores.
        """
        host, _, port = self.postgres.partition(":")
        redis_host, _, redis_port = self.redis.partition(":")
        return {
            "DB_TYPE": "postgresql",
            "DB_HOST": host,
            "DB_PORT": port,
            "DB_USERNAME": "postgres",
            "DB_PASSWORD": "none",
            "DB_DATABASE": database,
            "REDIS_HOST": redis_host,
            "REDIS_PORT": redis_port,
            "REDIS_USERNAME": "",
            "REDIS_PASSWORD": "",
            "REDIS_DB": "0",
            "CELERY_BROKER_URL": f"redis://{self.redis}/1",
            "SECRET_KEY": "of-servers-that-end-with-the-program-0123456789",
            "STORAGE_TYPE": "opendal",
            "OPENDAL_SCHEME": "fs",
            "OPENDAL_FS_ROOT": str(folder / "storage"),
            "WEB_FORM_SUBMIT_RATE_LIMIT_MAX_ATTEMPTS": "1000000",
            "PLUGIN_DAEMON_URL": f"http://{CLOSED}",
            "CODE_EXECUTION_ENDPOINT": f"http://{CLOSED}",
        }

    def fresh(self, database: str) -> None:
        """Make an empty database of this name, and empty Valkey; drop what Dify's tests have made beside it."""
        for name in (database, "dify_plugin"):
            self._primary.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", database="postgres")
        self._primary.execute(f"CREATE DATABASE {database}", database="postgres")
        self._cluster.cache.flush()


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}"
