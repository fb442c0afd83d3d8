"""The outbox of a shard: what it says of tenants that have moved since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from real_servers.sharded import settings_of, tenant_on
from sqlalchemy import select

import tidegate
from tidegate.cache.store import Change
from tidegate.errors import StaleShardMap
from tidegate.position import NOWHERE, History, Origin, Position
from tidegate.proxy.database.histories import Histories
from tidegate.proxy.database.identity import database_id
from tidegate.proxy.database.primary import PostgresPrimary
from tidegate.proxy.database.schema import OUTBOX
from tidegate.proxy.tracking.notes import note_of
from tidegate.proxy.writes.apply_notes import apply
from tidegate.routing.sharding.slots import slot_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from real_servers.shards import Shards


class Told:
    """A store, as the outbox uses it."""

    def __init__(self) -> None:
        self.positions: dict[str, Position] = {}
        self.origins: dict[str, Origin | None] = {}

    def bump(self, changes: Sequence[Change], origin: Origin | None, position: Position) -> None:
        self.positions.update((change.tenant, position) for change in changes)
        self.origins.update((change.tenant, origin) for change in changes)

    def newest_history(self, _shard: str, history: History | None = None) -> History | None:
        return history


def test_a_position_is_said_of_no_tenant_that_has_moved_and_one_that_cannot_be_told_holds_none_up(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidegate.proxy.writes.apply_notes._BATCH", 2)
    tenants = ("unknown", "unknown", "moved", "here")
    rows = [note_of([Change(tenant, whole=True)])._asdict() for tenant in tenants]
    told, engine = Told(), shards.engines["s0"]
    histories = Histories(engine.dialect, "s0")
    histories.join(database_id(engine))
    histories.use(told)  # type: ignore[arg-type]
    here = PostgresPrimary(engine, "s0", histories).origin("")
    assert here is not None
    with shards.engines["s0"].begin() as connection:
        connection.execute(OUTBOX.insert(), rows)

    def make_root(tenant: str) -> Origin:
        if tenant == "unknown":
            raise StaleShardMap("the catalogue is away")
        return here._replace(epoch=7) if tenant == "here" else Origin(9, History(3, "ab"), "s1")

    with pytest.raises(StaleShardMap, match="catalogue is away"):
        apply(engine, told, histories, shard="s0", make_root=make_root)  # type: ignore[arg-type]
    assert told.positions.keys() == {"moved", "here"}
    assert told.positions["moved"] == NOWHERE < told.positions["here"]
    assert told.origins == {"moved": None, "here": here._replace(epoch=7)}
    with shards.engines["s0"].connect() as connection:
        assert list(connection.scalars(select(OUTBOX.c.rows))) == [rows[0]["rows"]] * 2


def test_a_gate_knows_which_tenants_are_on_the_shard_of_an_outbox(stocked: Shards) -> None:
    tenant = tenant_on("s0")
    with tidegate.connect(settings_of(stocked, catalogue="s0")) as gate:
        makes = {parts.name: parts.applier._make_root for parts in gate._shards.every if parts.applier is not None}
        for make_root in makes.values():
            assert make_root is not None
            origin = make_root(tenant)
            assert origin is not None
            assert origin.shard == "s0"
        stocked.flipper().flip([slot_of(tenant)], "s0", "s1")
        gate._shards.refresh()
        for make_root in makes.values():
            assert make_root is not None
            origin = make_root(tenant)
            assert origin is not None
            assert origin.shard == "s1"
