"""A repository whose reads tell which server, and which connection, they were made on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from tidegate.proxy.embedded.process import wait_for
from tidegate.repositories.policies import PolicyTable, Read, Write

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, sessionmaker

    import tidegate

POLICIES = PolicyTable({"ask": Read(), "ask_primary": Write()})


class Asks:
    def __init__(self, session_maker: sessionmaker[Session]) -> None:
        self._session_maker = session_maker

    def ask(self, tenant_id: str, sql: str) -> list[Any]:
        """The first row of *sql*, on any node."""
        assert tenant_id
        with self._session_maker() as session:
            return list(session.execute(text(sql)).one())

    def ask_primary(self, tenant_id: str, sql: str) -> list[Any]:
        return self.ask(tenant_id, sql)


def asks(gate: tidegate.Gate) -> Asks:
    """One behind *gate*."""
    return gate.wrap(Asks, POLICIES, [])(gate.session_maker)


def ports_that_answer(gate: tidegate.Gate, ports: set[int]) -> set[int]:
    """The ports of the servers that answer reads, once these all do."""
    asking, seen = asks(gate), set()

    def all_answer() -> bool:
        seen.add(asking.ask("t", "SELECT inet_server_port()")[0])
        return ports <= seen

    wait_for(all_answer, f"reads are answered by {sorted(ports)}")
    for _ in range(50):
        all_answer()
    return seen
