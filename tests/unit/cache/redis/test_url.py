"""URLs of the cache: what each form names, and that no message shows a password."""

from __future__ import annotations

import pytest
import redis

from tidegate.cache.redis.client import client_of
from tidegate.cache.redis.url import Target, Timeouts
from tidegate.errors import SettingsError

WAITS = Timeouts(30, 40)
SECRET = "pa/s?s@w:ord"  # noqa: S105  # of no server
BAD = [
    f"http://u:{SECRET}@h:1/0",
    f"redis+proxy://u:{SECRET}@h:1/0",
    f"u:{SECRET}@h",
    f"redis://u:{SECRET}@h:port/0",
    f"redis://u:{SECRET}@h:99999/0",
    f"redis://u:{SECRET}@h/db",
    f"redis://u:{SECRET}@/0",
    f"redis://u:{SECRET}@h/0/1",
    f"redis+sentinel://u:{SECRET}@h,i/",
    f"redis+sentinel://u:{SECRET}@h,/main",
    f"redis+cluster://u:{SECRET}@h,i/1",
    "redis://h/0?sentinel_password=pa%2Fs",
    "redis://h/0?no_such_option=1&password=pa%2Fs",
]


def pool_of(target: Target) -> redis.ConnectionPool:
    client = client_of(target, WAITS)
    assert isinstance(client, redis.Redis)
    return client.connection_pool


@pytest.mark.parametrize("url", BAD)
def test_a_url_that_cannot_work_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        client_of(Target.of_url(url), WAITS)
    text = f"{refused.value} {refused.value.__cause__}"
    assert "cache.url" in text
    assert not any(part in text for part in ("pa/s", "w:ord", "%2F", "s@w"))


def test_one_server() -> None:
    pool = pool_of(Target.of_url("redis://user:p%40ss@cache.example:7000/3"))
    options = pool.connection_kwargs
    found = {key: options[key] for key in ("host", "port", "db", "username", "password")}
    assert found == {"host": "cache.example", "port": 7000, "db": 3, "username": "user", "password": "p@ss"}
    assert (options["socket_connect_timeout"], options["socket_timeout"]) == (0.03, 0.04)
    assert pool.connection_class is redis.Connection


def test_defaults_and_tls() -> None:
    target = Target.of_url("rediss://[::1]?ssl_ca_certs=/ca.pem")
    pool = pool_of(target)
    assert pool.connection_class is redis.SSLConnection
    found = pool.connection_kwargs
    assert (found["host"], found["port"], found["db"], found["ssl_ca_certs"]) == ("::1", 6379, 0, "/ca.pem")


def test_sentinels() -> None:
    target = Target.of_url(f"rediss+sentinel://u:{SECRET.replace('/', '%2F').replace('?', '%3F')}@a:1,b/main/2")
    assert (target.hosts, target.service, target.tls) == ((("a", 1), ("b", 26379)), "main", True)
    assert "pa" not in repr(target)
    assert target.shown == "rediss+sentinel://***@a:1,b/main/2"
    pool = pool_of(target)
    assert issubclass(pool.connection_class, redis.SSLConnection)
    found = pool.connection_kwargs
    assert (found["username"], found["password"], found["db"], found["socket_timeout"]) == ("u", SECRET, 2, 0.04)


def test_sentinels_with_a_password_of_their_own() -> None:
    target = Target.of_url("redis+sentinel://a/main?sentinel_username=s&sentinel_password=p%26a&ssl_ca_certs=/ca.pem")
    assert target.sentinel == {"username": "s", "password": "p&a"}
    assert target.server_url == "redis://a:26379/0?ssl_ca_certs=/ca.pem"
    assert "p&a" not in repr(target)
    assert target.shown == "redis+sentinel://a/main"


def test_a_cluster_names_its_servers() -> None:
    target = Target.of_url("redis+cluster://a:1,b:2")
    assert (target.kind, target.hosts) == ("cluster", (("a", 1), ("b", 2)))


@pytest.mark.parametrize("option", ["db=2", "host=elsewhere", "port=1", "password=x"])
def test_what_names_the_server_must_not_hide_among_the_options(option: str) -> None:
    """Two caches would be shown, and so taken, for one."""
    with pytest.raises(SettingsError, match="belongs before the"):
        Target.of_url(f"redis://127.0.0.1:6379/0?{option}")
