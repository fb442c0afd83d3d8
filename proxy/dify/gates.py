"""The gates of this process: one for each engine of the host, made when the first repository asks for it.

A host must start, whatever is wrong with Tidegate's settings: what cannot work is logged once, as an error, and the
host's repositories run as they are.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import Engine
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.orm import sessionmaker

from tidegate.error_text import first_line
from tidegate.errors import PolicyError, SettingsError
from tidegate.fork_hooks import reset_after_fork
from tidegate.interruptions import pass_interruption
from tidegate.proxy.build import gate_on
from tidegate.proxy.dify.host_models import host_tracked, host_types
from tidegate.proxy.settings import ENV_FILE, Settings

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from tidegate.proxy.call import Layer
    from tidegate.proxy.gate import Gate

_log: Final = logging.getLogger(__name__)
_DATABASE: Final = "postgresql"


class HostGate(NamedTuple):
    """A gate on an engine of the host, the layers for the host's own rows, and sessions for Tidegate's own reads."""

    gate: Gate
    layers: Layer
    sessions: sessionmaker[Session]


_AGAIN_S: Final = 5.0
"""How long after a failure that may pass a gate is tried to be made again, in seconds."""


class _Gates:
    """The gates of this process, by engine."""

    def __init__(self) -> None:
        self.by_engine: WeakKeyDictionary[Engine, HostGate | None] = WeakKeyDictionary()
        self.again_s: WeakKeyDictionary[Engine, float] = WeakKeyDictionary()
        self.said: set[str] = set()
        """What does not work, and was logged: a host may make engines without end, as tests do."""
        self.lock = threading.RLock()
        reset_after_fork(self._forked)

    def _forked(self) -> None:
        self.lock = threading.RLock()  # another thread may have been making a gate


_known: Final = _Gates()


def gate_of(session_maker: Any) -> HostGate | None:
    """Return the gate on the engine that *session_maker* is bound to; make it first, if this is the first time.

    Args:
        session_maker: the host's.

    Returns:
        None: it is bound to no engine, as one that is bound to a connection, whose transaction nobody else sees; or to
        an engine with options of its own, which may be those of another schema or isolation; or there can be no gate on
        that engine now, which the log says. If it is the database that does not answer, a later call tries again.
    """
    # By its type, and not by isinstance(): a stand-in of a test's says that it is what it stands for.
    return gate_on_bind(session_maker.kw.get("bind")) if issubclass(type(session_maker), sessionmaker) else None


def gate_on_bind(bind: Any) -> HostGate | None:
    """Return the gate on what a session is bound to; as :func:`gate_of`.

    Args:
        bind: an engine, or what else the host has.
    """
    kind = type(bind)
    if not issubclass(kind, Engine) or issubclass(kind, OptionEngine):
        return None
    engine: Engine = bind
    try:
        return _known.by_engine[engine]
    except KeyError:
        with _known.lock:
            if engine in _known.by_engine:
                return _known.by_engine[engine]
            return None if time.monotonic() < _known.again_s.get(engine, 0.0) else _made(engine)


def gates() -> list[Gate]:
    """Return the gates that there are in this process."""
    with _known.lock:
        return [found.gate for found in _known.by_engine.values() if found is not None]


def _made(engine: Engine) -> HostGate | None:
    """Make a gate; None where there can be none, or none now."""
    found: HostGate | None = None
    sessions = sessionmaker(bind=engine, expire_on_commit=False)
    try:
        _check(engine)
        settings = host_settings(engine)
        gate = gate_on(engine, sessions, settings)
        try:
            found = HostGate(gate, gate.layers(host_tracked(), host_types()), sessions)
        except BaseException:
            gate.close()
            raise
        _say_on(gate, settings)
    except (SettingsError, PolicyError) as error:
        say_off(error)
    except Exception as error:  # noqa: BLE001  # the host's repositories work without it
        pass_interruption(error)
        say_off(error)
        _known.again_s[engine] = time.monotonic() + _AGAIN_S
        return None
    _known.by_engine[engine] = found
    return found


def _say_on(gate: Gate, settings: Settings) -> None:
    replicas = sum(len(shard.replicas) for shard in settings.shards)  # a file of settings may name no shard
    if not gate.has_cache:
        where = "nothing is cached: TIDEGATE_CACHE_URL names no cache of this database"
    elif why := gate.why_uncached():
        where = f"not all is cached now: {why}"
    else:
        _log.info("Tidegate is on: answers are cached, and %d replicas are named", replicas)
        return
    _log.warning("Tidegate is on, but %s; %d replicas are named", where, replicas)


def say_off(error: BaseException) -> None:
    """Say in the log why there is no gate, the first time that there is none for this reason."""
    line = first_line(error)
    with _known.lock:
        is_new = line not in _known.said
        _known.said.add(line)
    if is_new:
        _log.error("Tidegate is off in this process: %s", line)


def _check(engine: Engine) -> None:
    """See that there can be a gate on an engine of the host.

    Raises:
        SettingsError: there cannot.
    """
    if engine.dialect.name != _DATABASE:
        raise SettingsError(
            f"the database is {engine.dialect.name}, and in Dify Tidegate knows what changes on {_DATABASE} alone: "
            "nothing is cached or routed"
        )
    if engine.get_execution_options().get("schema_translate_map"):
        raise SettingsError("the engine has a schema_translate_map: tenants of several schemas would share one cache")


class _HostVariables(BaseSettings):
    """The TIDEGATE_DIFY_* variables."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_DIFY_", env_file=ENV_FILE, extra="ignore")

    statements: str = "tidegate"


def host_statements() -> str:
    """Return whose statements are used where Tidegate has better ones: "tidegate" or "dify"."""
    try:
        given = _HostVariables().statements
    except (OSError, UnicodeDecodeError) as error:
        _log.error("%s cannot be read: %s; Dify's own statements are used", ENV_FILE, first_line(error))
        return "dify"
    if given not in ("tidegate", "dify"):
        _log.error("TIDEGATE_DIFY_STATEMENTS is %r: expected tidegate or dify; Dify's are used", given)
        return "dify"
    return given


def host_settings(engine: Engine) -> Settings:
    """Return the settings of a gate on the host's engine: of the process's environment, and of its ``.env`` file.

    Raises:
        SettingsError: they cannot work, or name several shards.
    """
    settings = Settings.from_environment(primary=engine.url.render_as_string(hide_password=False), env_file=ENV_FILE)
    if len(settings.shards) > 1:
        names = ", ".join(shard.name for shard in settings.shards)
        raise SettingsError(
            f"shards: TIDEGATE_CONFIG names a file with {len(settings.shards)} [[shards]] ({names}), and Dify brings "
            "one engine, of one database: its own code joins tables that would lie on several. Give Dify's processes a "
            "file with that one, or with none; several shards are served by tidegate.connect() alone"
        )
    return settings
