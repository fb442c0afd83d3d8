"""Slots, frozen; and shard maps: what cannot work, how even they are, and what a new shard takes."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tidegate
from tidegate.errors import SettingsError
from tidegate.proxy.settings import Settings
from tidegate.routing.sharding.shard_map import Owner, ShardMap, even_map, map_of_ranges
from tidegate.routing.sharding.slots import SLOTS, canonical_tenant, slot_of

if TYPE_CHECKING:
    from pathlib import Path

ID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
EIGHT = [f"s{i}" for i in range(8)]
# Never to be changed: rows lie on the shards that these numbers chose.
FROZEN = {
    "00000000-0000-0000-0000-000000000000": 2058,
    ID: 4046,
    "ffffffff-ffff-ffff-ffff-ffffffffffff": 2793,
    "4c0fe2c1-2b6d-4a3e-9f57-0d6c2f1b8e90": 2859,
    "acme": 641,
    "": 692,
    "テナント": 1341,
}


def random_tenants(count: int) -> list[str]:
    numbers = random.Random(20)  # noqa: S311  # no secret
    return [str(uuid.UUID(int=numbers.getrandbits(128), version=4)) for _ in range(count)]


@pytest.mark.parametrize(("tenant", "slot"), FROZEN.items())
def test_the_slot_of_a_tenant_is_frozen(tenant: str, slot: int) -> None:
    assert slot_of(canonical_tenant(tenant)) == slot


@pytest.mark.parametrize(
    "spelt",
    [
        ID,
        ID.upper(),
        ID.replace("-", ""),
        "{" + ID + "}",
        "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}",
        uuid.UUID(ID),
    ],
)
def test_every_spelling_of_an_id_is_the_same_tenant(spelt: str) -> None:
    assert slot_of(canonical_tenant(spelt)) == FROZEN[ID]
    assert even_map(EIGHT).ownership(spelt) == ("slot:4046", "s7", 1)
    assert even_map(EIGHT, {ID: "s2"}).ownership(spelt) == (f"tenant:{ID}", "s2", 1)


def test_what_is_no_id_is_a_tenant_of_its_own_in_each_spelling() -> None:
    assert slot_of(canonical_tenant("Acme")) != slot_of(canonical_tenant("acme"))
    assert slot_of(canonical_tenant(7)) == slot_of("7")


def with_its_share(before: ShardMap, shard: str) -> ShardMap:
    """A map with one shard more, which has got from each of the others what it is to have."""
    taken = {slot for slots in before.slots_to_add(shard).values() for slot in slots}
    return before.with_shard_known(shard, before.epoch).with_slots_moved(taken, shard)


def test_an_even_split_is_within_three_percent_and_a_ninth_shard_takes_its_share_from_each() -> None:
    tenants = random_tenants(100_000)
    before = even_map(EIGHT)
    homes = Counter(before.ownership(tenant).shard for tenant in tenants)
    assert set(homes) == set(EIGHT)
    assert all(abs(homes[name] / 12_500 - 1) <= 0.03 for name in EIGHT), homes
    after = with_its_share(before, "s8")
    moved = [slot for slot in range(SLOTS) if before.slots[slot] != after.slots[slot]]
    assert {after.slots[slot] for slot in moved} == {Owner("s8", 2)}
    assert {before.slots[slot].shard for slot in moved} == set(EIGHT)
    assert len(moved) / SLOTS <= 1 / 9 + 0.01
    went = sum(before.ownership(tenant) != after.ownership(tenant) for tenant in tenants)
    assert 1 / 9 - 0.01 <= went / len(tenants) <= 1 / 9 + 0.01
    sizes = [len(after.slots_of(name)) for name in after.shards]
    assert max(sizes) - min(sizes) <= 1
    assert (after.epoch, len(after.stretches())) == (2, 16)


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(1, SLOTS - 1), max_size=30), st.integers(1, 9))
def test_a_new_shard_takes_from_any_map_in_proportion(cuts: set[int], count: int) -> None:
    names = tuple(f"s{i}" for i in range(count))
    bounds = [0, *sorted(cuts), SLOTS]
    slots = [
        Owner(names[i % count], 1 + i % 3) for i, (low, high) in enumerate(pairwise(bounds)) for _ in range(low, high)
    ]
    before = ShardMap(3, names, tuple(slots))
    after = with_its_share(before, "new")
    assert len(after.slots_of("new")) == SLOTS // (count + 1)
    for name in names:
        gave = len(before.slots_of(name)) - len(after.slots_of(name))
        assert abs(gave - len(before.slots_of(name)) / (count + 1)) <= 2
    assert after.epoch == 4
    assert ShardMap.of_text(after.as_text()) == after


def test_a_shard_may_own_many_ranges_and_a_pin_overrules_them() -> None:
    made = map_of_ranges(["a", "b", "c"], {"a": [(0, 9), (20, 4095)], "b": [(10, 19)]}, {ID: "c"})
    assert [tuple(row) for row in made.stretches()] == [(0, 9, "a", 1), (10, 19, "b", 1), (20, 4095, "a", 1)]
    assert made.ownership(ID).shard == "c"
    assert [ownership.unit for ownership in made.owned_units("c")] == [f"tenant:{ID}"]
    assert [ownership.unit for ownership in made.owned_units("b")] == [f"slot:{i}" for i in range(10, 20)]
    assert ShardMap.of_text(made.as_text()) == made


def test_slots_that_move_get_the_epoch_of_their_move_and_no_others() -> None:
    made = even_map(["a", "b"]).with_slots_moved([5, 6], "b")
    assert (made.epoch, made.slots[5], made.slots[6], made.slots[7]) == (2, ("b", 2), ("b", 2), ("a", 1))
    again = made.with_slots_moved([6], "a")
    assert (again.slots[5], again.slots[6]) == (("b", 2), ("a", 3))
    with pytest.raises(SettingsError, match="the target names the shard 'c'; known are a, b"):
        made.with_slots_moved([5], "c")
    with pytest.raises(SettingsError, match="from 0 to 4095, not 4096"):
        made.with_slots_moved([4096], "b")
    with pytest.raises(SettingsError, match="the shard 'a' is in the map already"):
        made.slots_to_add("a")
    known = made.with_shard_known("c")
    assert (known.epoch, known.shards, known.slots) == (3, ("a", "b", "c"), made.slots)
    assert known.with_shard_known("c") is known


@pytest.mark.parametrize(
    ("sharding", "message"),
    [
        ({"ranges": {"a": [[0, 2047]], "b": [[2047, 4095]]}}, "b has 2047-4095, but slot 2047 belongs to a already"),
        ({"ranges": {"a": [[0, 99], [200, 4095]]}}, "no shard has the slots 100-199"),
        ({"ranges": {"a": [[0, 4094]]}}, "no shard has the slots 4095-4095"),
        ({"ranges": {"a": [[0, 4095]], "z": []}}, "sharding.ranges names the shard 'z'; known are a, b"),
        ({"ranges": {"a": [[0, 4096]]}}, "a has 0-4096: slots are whole numbers from 0 to 4095, not 4096"),
        ({"ranges": {"a": [[-1, 4095]]}}, "from 0 to 4095, not -1"),
        ({"ranges": {"a": [[9, 3], [0, 4095]]}}, "a has 9-3, which ends before it begins"),
        ({"pins": {ID: "z"}}, f"sharding.pins: tenant '{ID}' names the shard 'z'; known are a, b"),
        ({"pins": {ID: "a", ID.upper(): "a"}}, f"'{ID}' and '{ID.upper()}' are the same tenant; pin it once"),
        ({"catalogue": "z"}, "sharding.catalogue names the shard 'z'; known are a, b"),
    ],
)
def test_a_mistake_in_the_settings_is_named(sharding: dict[str, object], message: str) -> None:
    shards = [{"name": name, "primary": "postgresql+psycopg://host/db"} for name in "ab"]
    settings = Settings.model_validate({"shards": shards, "sharding": sharding})
    with pytest.raises(SettingsError) as raised:
        settings.shard_map()
    assert message in str(raised.value)


def test_shards_need_names_of_their_own() -> None:
    with pytest.raises(SettingsError, match="shards: 2 are called 'a'"):
        even_map(["a", "b", "a"])
    with pytest.raises(SettingsError, match="there is none"):
        even_map([])


def test_a_file_says_the_map(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.toml"
    path.write_text(
        f"""
        [[shards]]
        name = "a"
        primary = "postgresql+psycopg://host/a"
        [[shards]]
        name = "b"
        primary = "postgresql+psycopg://host/b"
        [sharding]
        catalogue = "b"
        poll_s = 0.5
        pins = {{ "{ID}" = "b" }}
        ranges = {{ a = [[0, 4046]], b = [[4047, 4095]] }}
        """
    )
    settings = Settings.from_toml(path)
    assert settings.shard_map() == map_of_ranges(["a", "b"], {"a": [(0, 4046)], "b": [(4047, 4095)]}, {ID: "b"})
    assert (settings.sharding.catalogue, settings.sharding.poll_s) == ("b", 0.5)
    path.write_text(path.read_text().replace("[[0, 4046]]", "[[0]]"))
    with pytest.raises(SettingsError, match=r"sharding\.ranges\.a\.0"):
        Settings.from_toml(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format":1,"epoch":1,"shards":["a"],"slots":[],"pins":{}}'])
def test_what_is_no_map_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="no shard"):
        ShardMap.of_text(text)


def test_a_map_of_another_release_is_refused() -> None:
    with pytest.raises(SettingsError, match="the shard map has format 2; this release reads 1"):
        ShardMap.of_text(even_map(["a"]).as_text().replace('"format":1', '"format":2'))


@pytest.mark.parametrize("sharding", [{"catalogue": "s7"}, {"pins": {"t": "s7"}}, {"ranges": {"s7": [(0, 4095)]}}])
def test_a_gate_refuses_an_unknown_shard_before_it_connects(sharding: dict[str, object]) -> None:
    nowhere = {"name": "s0", "primary": "postgresql+psycopg://u@127.0.0.1:1/x"}
    given_ones = Settings.model_validate({"shards": [nowhere], "sharding": sharding})
    with pytest.raises(SettingsError, match=r"s7.*known are s0"):
        tidegate.connect(given_ones)
