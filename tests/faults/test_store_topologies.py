"""Behind TLS, behind Sentinel, on a cluster: the store goes where its data goes, and trusts no other server's marks."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from real_servers.deadlines import patient

from tidegate.cache.redis.breaker import Pauses
from tidegate.cache.store import Change, Hit, Miss, NoRoot, StoreRefused, StoreUnavailable
from tidegate.position import NOWHERE, AskedFor, History, Origin
from tidegate.proxy.embedded.process import ServerProcess, free_port, give_to_server, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tidegate.proxy.embedded.programs import Programs

ORIGIN = Origin(1, History(1), "s0")
ASKED = AskedFor(History(1))


def certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cache")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "cache.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


class TlsProxy:
    """Takes TLS off and passes on."""

    def __init__(self, pem: Path, port: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pem)
        self._behind = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._start(self._accept)

    def _start(self, target: Any, *args: Any) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._talk, self._server.accept()[0])

    def _talk(self, raw: socket.socket) -> None:
        behind = ("127.0.0.1", self._behind)
        with (
            contextlib.suppress(OSError),
            raw,
            self._context.wrap_socket(raw, server_side=True) as outer,
            socket.create_connection(behind) as inner,
        ):
            self._start(self._pump, inner, outer)
            self._pump(outer, inner)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def tls(shared_valkey: Any, tmp_path: Path) -> Iterator[tuple[TlsProxy, Path]]:
    pem = certificate(tmp_path)
    proxy = TlsProxy(pem, shared_valkey.port)
    yield proxy, pem
    proxy.close()


def test_a_store_behind_tls(tls: tuple[TlsProxy, Path], store_at: Any, put_answer: Any) -> None:
    proxy, pem = tls
    store = store_at(f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={pem}")
    put_answer(store, body=b"x" * 300_000)
    assert store.lookup("t", "d", "tag", ASKED).body == b"x" * 300_000
    store.close()
    with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
        store_at(f"rediss://127.0.0.1:{proxy.port}/0").lookup("t", "d", "tag", ASKED)
    with pytest.raises(StoreUnavailable):
        store_at(f"redis://127.0.0.1:{proxy.port}/0", read_timeout_ms=200).lookup("t", "d", "tag", ASKED)


@pytest.fixture
def sentinel(start_valkey: Any, programs: Programs, servers_folder: Path) -> Iterator[tuple[Any, Any, int]]:
    master = start_valkey()
    replica = start_valkey("--replicaof", "127.0.0.1", str(master.port))
    wait_for(lambda: _info(replica)["master_link_status"] == "up", "the replica follows")
    port, home = free_port(), Path(tempfile.mkdtemp(dir=servers_folder))
    conf = home / "sentinel.conf"
    conf.write_text(
        f'port {port}\nbind 127.0.0.1\ndir "{home}"\nsentinel monitor main 127.0.0.1 {master.port} 1\n'
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
    )
    give_to_server(home)
    server = ServerProcess("sentinel", home)
    watcher = redis.Redis(port=port, protocol=2)

    def knows() -> bool:
        try:
            found: Any = watcher.sentinel_master("main")
            return int(found["num-slaves"]) == 1
        except redis.RedisError:
            return False

    server.start([str(programs.valkey), str(conf), "--sentinel"], knows)
    yield master, replica, port
    server.end(9)


def _info(node: Any) -> dict[str, Any]:
    with redis.Redis.from_url(node.url, protocol=2) as client:
        return dict(client.info("replication"))


def test_after_a_failover_the_store_follows_and_trusts_no_old_mark(
    sentinel: tuple[Any, Any, int], store_at: Any, put_answer: Any
) -> None:
    master, replica, port = sentinel
    store = store_at(f"redis+sentinel://127.0.0.1:{port}/main/0", pauses=Pauses(first_s=0.05, longest_s=0.1))
    put_answer(store)
    inside = redis.Redis.from_url(replica.url, protocol=2)
    wait_for(lambda: bool(inside.keys("tg:e:*")), "the replica has the entry")
    master.kill()
    deadline, found = time.monotonic() + patient(30), None
    while found is None:
        assert time.monotonic() < deadline
        with contextlib.suppress(StoreUnavailable):
            found = store.lookup("t", "d", "tag", ASKED)
    # The marks came along (a master's last ones may not have), and are another life's.
    assert inside.keys("tg:m:*")
    assert found == NoRoot()
    store.make_root("t", "n2", ORIGIN)
    assert isinstance(store.lookup("t", "d", "tag", ASKED), Miss)


def test_a_sentinel_that_wants_a_password_of_its_own(
    sentinel: tuple[Any, Any, int], store_at: Any, put_answer: Any
) -> None:
    master, _, port = sentinel
    inside: Any = redis.Redis(port=port, protocol=2)
    inside.execute_command("ACL", "SETUSER", "default", "on", "resetpass", ">senti/nel")
    inside.execute_command("ACL", "SETUSER", "asker", "on", ">as&ker", "+@all")
    inside.close()
    admin: Any = redis.Redis.from_url(master.url, protocol=2)
    admin.execute_command("ACL", "SETUSER", "default", "on", "resetpass", ">ma/ster")
    url = f"redis+sentinel://:ma%2Fster@127.0.0.1:{port}/main/0"
    put_answer(store_at(f"{url}?sentinel_password=senti%2Fnel"))
    put_answer(store_at(f"{url}?sentinel_username=asker&sentinel_password=as%26ker"))
    for options in ("", "?sentinel_password=wrong"):
        with pytest.raises(StoreUnavailable) as refused:
            store_at(url + options).lookup("t", "d", "tag", ASKED)
        assert "wrong" not in str(refused.value)


@pytest.fixture
def own_cluster(start_valkey_cluster: Any) -> list[Any]:
    return list(start_valkey_cluster("--cluster-require-full-coverage", "no"))


def _tenants(store: Any, nodes: list[Any]) -> dict[int, str]:
    """A tenant for each node, by port."""
    client = store._link._client
    found: dict[int, str] = {}
    for n in range(100):
        slot = client.keyslot(store._keys.marks(f"t{n}"))
        found.setdefault(client.nodes_manager.get_node_from_slot(slot).port, f"t{n}")
    assert set(found) == {node.port for node in nodes}
    return found


def test_a_cluster_that_loses_a_server_or_moves_a_slot(own_cluster: list[Any], store_at: Any) -> None:
    nodes = own_cluster
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    store = store_at(url, pauses=Pauses(first_s=60))
    tenants = _tenants(store, nodes)
    for tenant in tenants.values():
        store.make_root(tenant, "n", ORIGIN)

    moving = next(
        f"m{n}"
        for n in range(100)
        if _port(store, f"m{n}") == nodes[1].port and _slot(store, f"m{n}") != _slot(store, tenants[nodes[1].port])
    )
    clients: list[Any] = [redis.Redis.from_url(node.url, protocol=2) for node in nodes]
    target = clients[2].execute_command("CLUSTER", "MYID")
    for client in (clients[2], clients[1], clients[0]):
        client.execute_command("CLUSTER", "SETSLOT", _slot(store, moving), "NODE", target)
    store.make_root(moving, "n", ORIGIN)
    assert isinstance(store.lookup(moving, "d", "tag", ASKED), Miss)
    assert _port(store, moving) == nodes[2].port

    nodes[0].kill()
    for _ in range(10):
        with pytest.raises(StoreUnavailable):
            store.lookup(tenants[nodes[0].port], "d", "tag", ASKED)
        for node in nodes[1:]:
            assert isinstance(store.lookup(tenants[node.port], "d", "tag", ASKED), Miss)
    for _ in range(100):
        with pytest.raises(StoreUnavailable, match="a moment ago"):
            store.lookup(tenants[nodes[0].port], "d", "tag", ASKED)
    store.close()


def test_a_full_server_of_a_cluster_forgets_also_where_a_slot_has_moved_to(
    own_cluster: list[Any], store_at: Any, put_answer: Any
) -> None:
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in own_cluster)
    stale = store_at(url)
    old = next(node for node in own_cluster if node.port == _port(stale, "t"))
    new = next(node for node in own_cluster if node is not old)
    clients: list[Any] = [redis.Redis.from_url(node.url, protocol=2) for node in (new, old)]
    target = clients[0].execute_command("CLUSTER", "MYID")
    for client in clients:
        client.execute_command("CLUSTER", "SETSLOT", _slot(stale, "t"), "NODE", target)
    fresh = store_at(url)
    wait_for(lambda: fresh._link._client.nodes_manager.initialize() or _port(fresh, "t") == new.port, "the map is new")
    put_answer(fresh)
    clients[0].config_set("maxmemory", "1")
    assert _port(stale, "t") == old.port
    with pytest.raises(StoreRefused, match="OutOfMemory"):
        stale.open([Change("t", frozenset({"tag"}))], "5", ORIGIN, ["n"])
    assert fresh.lookup("t", "d", "tag", ASKED) == NoRoot()


@pytest.mark.parametrize("told", ["bump", "stamp"])
def test_marks_of_a_slot_that_was_away_know_what_was_changed_there(
    told: str, own_cluster: list[Any], store_at: Any, put_answer: Any
) -> None:
    store = store_at("redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in own_cluster))
    home = next(node for node in own_cluster if node.port == _port(store, "t"))
    away = next(node for node in own_cluster if node is not home)
    put_answer(store)
    change = [Change("t", frozenset({"tag"}))]
    _move(store, "t", home, away)
    if told == "bump":
        store.bump(change, ORIGIN, NOWHERE)
    else:
        store.stamp(change, "5", ORIGIN, NOWHERE)
    _move(store, "t", away, home)
    assert store.lookup("t", "d", "tag", ASKED) == NoRoot()


def _move(store: Any, tenant: str, source: Any, target: Any) -> None:
    """Move the slot of a tenant with its keys, as redis-cli does."""
    slot = _slot(store, tenant)
    clients: list[Any] = [redis.Redis.from_url(node.url, protocol=2) for node in (source, target)]
    old, new = clients
    ids = [client.execute_command("CLUSTER", "MYID") for client in (old, new)]
    new.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
    old.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
    keys = old.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1000)
    old.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)
    for client in (new, old):
        client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
    wait_for(lambda: store._link._client.nodes_manager.initialize() or _port(store, tenant) == target.port, "it moved")


def _slot(store: Any, tenant: str) -> int:
    return int(store._link._client.keyslot(store._keys.marks(tenant)))


def _port(store: Any, tenant: str) -> int:
    return int(store._link._client.nodes_manager.get_node_from_slot(_slot(store, tenant)).port)


def test_no_cluster_answers(store_at: Any) -> None:
    with pytest.raises(StoreUnavailable) as refused:
        store_at(f"redis+cluster://user:secret@127.0.0.1:{free_port()}")
    assert "secret" not in str(refused.value)
    assert not isinstance(refused.value, Hit)


def test_a_user_of_a_cluster_needs_the_map_too(own_cluster: list[Any], store_at: Any) -> None:
    rights = (
        "~tg:* +eval +evalsha +info +time +get +set +del +exists +unlink +mget +strlen +pttl +pexpire "
        "+hget +hmget +hset +hdel +hlen +hrandfield +cluster|slots +command"
    )
    for node in own_cluster:
        admin: Any = redis.Redis.from_url(node.url, protocol=2)
        admin.execute_command("ACL", "SETUSER", "tidegate", "on", ">p@ss", *rights.split())
    url = "redis+cluster://tidegate:p%40ss@" + ",".join(f"127.0.0.1:{node.port}" for node in own_cluster)
    store = store_at(url)
    for tenant in _tenants(store, own_cluster).values():
        store.make_root(tenant, "n", ORIGIN)
        assert isinstance(store.lookup(tenant, "d", "tag", ASKED), Miss)
    with pytest.raises(StoreUnavailable) as refused:
        store_at(url.replace("p%40ss", "wrong"))
    assert "wrong" not in str(refused.value)
