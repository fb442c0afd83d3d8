"""The gates of this process: one for each engine of the host, made when the first repository asks for it.

A host must start, whatever is wrong with Tidegate's settings: what cannot work is logged once, as an error, and the
host's repositories run as they are.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import Engine
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.orm import sessionmaker

from tidegate.error_text import first_line
from tidegate.errors import SettingsError
from tidegate.interruptions import pass_interruption
from tidegate.proxy.build import gate_on
from tidegate.proxy.dify.host_models import host_tracked, host_types
from tidegate.proxy.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from tidegate.proxy.call import Layer
    from tidegate.proxy.gate import Gate

_log: Final = logging.getLogger(__name__)
_DATABASE: Final = "postgresql"


class HostGate(NamedTuple):
    """A gate on an engine of the host, and the layers for the host's own rows."""

    gate: Gate
    layers: Layer


_gates: Final[WeakKeyDictionary[Engine, HostGate | None]] = WeakKeyDictionary()
_lock: Final = threading.RLock()
_said: Final[set[str]] = set()
"""What does not work, and was logged: a host may make engines without end, as tests do."""


def gate_of(session_maker: Any) -> HostGate | None:
    """Return the gate on the engine that *session_maker* is bound to; make it first, if this is the first time.

    Args:
        session_maker: the host's.

    Returns:
        None: it is bound to no engine, as one that is bound to a connection, whose transaction nobody else sees; or to
        an engine with options of its own, which may be those of another schema or isolation; or there can be no gate on
        that engine, which the log says.
    """
    engine = _engine_of(session_maker)
    if engine is None:
        return None
    try:
        return _gates[engine]
    except KeyError:
        with _lock:
            if engine not in _gates:
                _gates[engine] = _made(engine, session_maker)
            return _gates[engine]


def _engine_of(session_maker: Any) -> Engine | None:
    # By their types, and not by isinstance(): a stand-in of a test's says that it is what it stands for.
    if not issubclass(type(session_maker), sessionmaker):
        return None
    bind: Any = session_maker.kw.get("bind")
    kind = type(bind)
    return bind if issubclass(kind, Engine) and not issubclass(kind, OptionEngine) else None


def gates() -> list[Gate]:
    """Return the gates that there are in this process."""
    with _lock:
        return [found.gate for found in _gates.values() if found is not None]


def _made(engine: Engine, session_maker: sessionmaker[Session]) -> HostGate | None:
    """Make a gate; None where there can be none."""
    try:
        _check(engine)
        settings = host_settings(engine)
        gate = gate_on(engine, session_maker, settings)
        layers = gate.layers(host_tracked(), host_types())
    except Exception as error:  # noqa: BLE001  # the host's repositories work without it
        pass_interruption(error)
        say_off(error)
        return None
    where = "answers are cached" if gate.has_cache else "nothing is cached: TIDEGATE_CACHE_URL names no cache of it"
    _log.info("Tidegate is on: %s, and %d replicas are named", where, len(settings.shards[0].replicas))
    return HostGate(gate, layers)


def say_off(error: BaseException) -> None:
    """Say in the log why there is no gate, the first time that there is none for this reason."""
    line = first_line(error)
    with _lock:
        is_new = line not in _said
        _said.add(line)
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

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_DIFY_", env_file=".env", extra="ignore")

    statements: str = "tidegate"


def host_statements() -> str:
    """Return whose statements are used where Tidegate has better ones: "tidegate" or "dify"."""
    given = _HostVariables().statements
    if given not in ("tidegate", "dify"):
        _log.error("TIDEGATE_DIFY_STATEMENTS is %r: expected tidegate or dify; Dify's are used", given)
        return "dify"
    return given


def host_settings(engine: Engine) -> Settings:
    """Return the settings of a gate on the host's engine: of the process's environment, and of its ``.env`` file.

    Raises:
        SettingsError: they cannot work, or name several shards.
    """
    settings = Settings.from_environment(primary=engine.url.render_as_string(hide_password=False), env_file=".env")
    if len(settings.shards) > 1:
        names = ", ".join(shard.name for shard in settings.shards)
        raise SettingsError(
            f"shards: TIDEGATE_CONFIG names a file with {len(settings.shards)} [[shards]] ({names}), and Dify brings "
            "one engine, of one database: its own code joins tables that would lie on several. Give Dify's processes a "
            "file with that one, or with none; several shards are served by tidegate.connect() alone"
        )
    return settings
