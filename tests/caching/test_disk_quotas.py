"""The layer on the disk, shared out among groups."""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.ground import SPAWN
from tierllm.caching.disk_layer import DiskLayer
from tierllm.caching.disk_room import PROVEN
from tierllm.errors import ConfigError

MIB = 2**20
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where a disk need not be waited for: all this is about what is kept, and not for how long."""


def slot(number: int) -> bytes:
    return number.to_bytes(32, "big")


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)


@pytest.fixture
def open_with(place: Path) -> Iterator[Callable[..., DiskLayer]]:
    layers: list[DiskLayer] = []

    def open_with(**quotas: float) -> DiskLayer:
        layers.append(DiskLayer(place, max_bytes=MIB, quotas=quotas, timeout_s=5))
        return layers[-1]

    yield open_with
    for each in layers:
        each.close()


OpenWith = Callable[..., DiskLayer]


def fill(layer: DiskLayer, group: str, count: int, size: int, began: int = 0) -> list[bytes]:
    slots = [slot(began + zlib.crc32(group.encode()) * 2**40 + n) for n in range(count)]
    for each in slots:
        layer.set(each, bytes(size), ttl_s=600, group=group)
    return slots


def held(layer: DiskLayer, slots: list[bytes]) -> int:
    return sum(layer.get(each) is not None for each in slots)


def sql(place: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with sqlite3.connect(place / "answers" / "cache.db") as connection:
        found = connection.execute(statement, values).fetchall()
    connection.close()
    return found


def booked_rightly(place: Path) -> bool:
    """What the groups are said to take, and to have on probation, is what their rows say, and no more."""
    booked = dict(sql(place, "SELECT tag, bytes FROM Groups"))
    rows = dict(sql(place, "SELECT tag, sum(size) FROM Cache WHERE tag IS NOT NULL GROUP BY tag"))
    on_probation = dict(sql(place, "SELECT tag, bytes FROM Probation WHERE bytes != 0"))
    new = sql(
        place,
        "SELECT tag, sum(size) FROM Cache WHERE tag IS NOT NULL AND access_time < ? GROUP BY tag",
        PROVEN,
    )
    every = on_probation.pop(0, 0)
    return booked == rows and on_probation == dict(new) and every == sum(on_probation.values())


def test_shares_are_known(open_with: OpenWith) -> None:
    assert open_with(gold=0.5).quotas == {"gold": 0.5}
    assert open_with().quotas == {}


@pytest.mark.parametrize("quotas", [{"gold": 1.5}, {"gold": -0.1}, {"a": 0.6, "b": 0.6}, {1: 0.5}, "gold"])
def test_shares_that_make_no_sense_are_refused(place: Path, quotas: Any) -> None:
    with pytest.raises(ConfigError, match=r"^DiskLayer\(quotas="):
        DiskLayer(place, quotas=quotas)


@pytest.mark.parametrize("size", [100, 1900, 9000], ids=str)
def test_a_batch_cannot_push_out_what_is_within_its_share(
    place: Path, open_with: OpenWith, size: int
) -> None:
    layer = open_with(gold=0.5)
    gold = fill(layer, "gold", int(0.35 * MIB) // (size + 300), size)
    bronze = fill(layer, "bronze", 2 * MIB // (size + 300), size)
    assert held(layer, gold) == len(gold)
    assert 0 < held(layer, bronze) < len(bronze)
    stats = layer.stats()
    assert stats.evictions == len(bronze) - held(layer, bronze)
    assert stats.bytes <= MIB
    assert booked_rightly(place)


def test_without_quotas_nobody_is_guaranteed_anything(open_with: OpenWith) -> None:
    layer = open_with()
    gold = fill(layer, "gold", 150, 1900)
    fill(layer, "bronze", 1500, 1900)
    assert held(layer, gold) == 0


def test_room_that_is_lent_is_taken_back(place: Path, open_with: OpenWith) -> None:
    layer = open_with(gold=0.5, silver=0.2)
    bronze = fill(layer, "bronze", 800, 1900)
    before = held(layer, bronze)
    assert before > 350  # all of it
    gold = fill(layer, "gold", 190, 1900)
    assert held(layer, gold) == len(gold)
    silver = fill(layer, "silver", 60, 1900)
    assert held(layer, gold) == len(gold)
    assert held(layer, silver) == len(silver)
    assert 0.25 * before < held(layer, bronze) < 0.5 * before
    assert booked_rightly(place)


def test_whoever_is_furthest_above_gives(open_with: OpenWith) -> None:
    layer = open_with(gold=0.4, silver=0.4)
    gold = fill(layer, "gold", 300, 1900)
    silver = fill(layer, "silver", 1000, 1900)
    assert abs(held(layer, gold) - held(layer, silver)) < 20
    bronze = fill(layer, "bronze", 60, 1900)
    assert held(layer, bronze) == 60
    assert abs(held(layer, gold) - held(layer, silver)) < 25


def test_of_groups_without_a_quota_the_largest_gives(open_with: OpenWith) -> None:
    layer = open_with(gold=0.2)
    small = fill(layer, "small", 50, 1900)
    fill(layer, "large", 1500, 1900)
    assert held(layer, small) == 50


def test_a_group_without_a_share_takes_nothing_from_those_within(place: Path, open_with: OpenWith) -> None:
    layer = open_with(gold=0.5, silver=0.5, bronze=0.0)
    bronze = fill(layer, "bronze", 1, 1900)
    assert held(layer, bronze) == 1  # there is room for everybody
    gold = fill(layer, "gold", 600, 1900)
    silver = fill(layer, "silver", 600, 1900)
    before = layer.stats()
    golds, silvers = held(layer, gold), held(layer, silver)
    kept = sum(
        layer.set(slot(n), bytes(30_000), ttl_s=600, group=("bronze", "tin")[n % 2]) for n in range(10)
    )
    assert kept == 0
    assert (held(layer, gold), held(layer, silver)) == (golds, silvers)
    after = layer.stats()
    assert (after.rejected - before.rejected, after.evictions - before.evictions) == (10, 0)
    assert booked_rightly(place)


def test_what_is_not_kept_is_gone_all_the_same(open_with: OpenWith) -> None:
    layer = open_with(gold=1.0)
    layer.set(slot(1), b"old", ttl_s=600, group="tin")
    fill(layer, "gold", 600, 1900)
    assert layer.set(slot(2), b"gold's own", ttl_s=600, group="gold")
    assert not layer.set(slot(2), bytes(30_000), ttl_s=600, group="tin")
    assert layer.get(slot(2)) is None


def test_what_was_asked_for_stays_longest_within_its_group(open_with: OpenWith) -> None:
    layer = open_with(gold=0.3)
    bronze = fill(layer, "bronze", 100, 1900)
    for n in range(10):
        assert layer.get(bronze[5]) is not None
        fill(layer, "bronze", 100, 1900, began=1000 * (n + 1))
    assert layer.get(bronze[5]) is not None
    assert layer.get(bronze[6]) is None


def test_claims_take_from_whoever_is_above(place: Path, open_with: OpenWith) -> None:
    layer = open_with(gold=0.5)
    gold = fill(layer, "gold", 150, 1900)
    fill(layer, "bronze", 600, 1900)
    for n in range(100):
        assert layer.claim(slot(n), b"me" * 50, 60)
    assert held(layer, gold) == 150
    assert layer.stats().bytes <= MIB


def test_shares_may_be_others_the_next_time(place: Path, open_with: OpenWith) -> None:
    first = open_with()
    gold = fill(first, "gold", 150, 1900)
    bronze = fill(first, "bronze", 100, 1900)
    first.close()
    second = open_with(gold=0.5)
    fill(second, "tin", 800, 1900)
    assert (held(second, gold), held(second, bronze)) == (150, 100)
    second.close()
    third = open_with(bronze=0.4)
    fill(third, "gold", 800, 1900, began=10_000)
    assert held(third, bronze) == 100
    assert held(third, gold) == 0
    assert booked_rightly(place)


@pytest.mark.parametrize("quotas", [{}, {"gold": 0.5}], ids=["without quotas", "with quotas"])
def test_what_is_set_again_is_booked_once(place: Path, open_with: OpenWith, quotas: dict[str, float]) -> None:
    layer = open_with(**quotas)
    for n in range(60):
        layer.set(slot(n % 7), bytes(100 * n), ttl_s=600, group=("gold", "bronze", "")[n % 3])
    assert booked_rightly(place)
    for n in range(7):
        layer.set(slot(n), b"x", ttl_s=0)
    assert sql(place, "SELECT * FROM Groups") == []


TAMPERINGS = [
    "DELETE FROM Groups",
    "UPDATE Groups SET bytes = 1000000000",
    "UPDATE Groups SET bytes = -5",
    "UPDATE Groups SET bytes = 'many'",
    "INSERT INTO Groups VALUES (x'aa', 99999999)",
    "INSERT INTO Groups VALUES ('text', 99999999)",
    "UPDATE Cache SET size = 'x'",
    "UPDATE Cache SET size = 99999999",
    "UPDATE Cache SET size = NULL, tag = NULL",
    "UPDATE Cache SET tag = 'gold'",
    "DROP TABLE Groups",
    "DELETE FROM Probation",
    "UPDATE Probation SET bytes = 1000000000",
    "UPDATE Probation SET bytes = -1000000000",
    "UPDATE Probation SET bytes = 'many'",
    "UPDATE Probation SET bytes = 1e300",
    "DROP TABLE Probation",
    "UPDATE Cache SET access_time = 'x'",
    "UPDATE Cache SET access_time = NULL",
    "UPDATE Cache SET access_time = 5e12",
]


@pytest.mark.parametrize("statement", TAMPERINGS)
def test_books_that_were_tampered_with_harm_nobody(place: Path, open_with: OpenWith, statement: str) -> None:
    layer = open_with(gold=0.5)
    fill(layer, "gold", 100, 1900)
    fill(layer, "bronze", 400, 1900)
    sql(place, statement)
    for began in (1000, 2000):
        fill(layer, "gold", 200, 1900, began=began)
        fill(layer, "bronze", 200, 1900, began=began)
        assert layer.stats().bytes <= MIB
    layer.clear()
    assert layer.stats().entries == 0
    gold = fill(layer, "gold", 100, 1900, began=3000)
    bronze = fill(layer, "bronze", 700, 1900, began=3000)
    assert held(layer, gold) == 100
    assert held(layer, bronze[-50:]) == 50
    assert layer.stats().bytes <= MIB


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("set"),
            st.integers(0, 40),
            st.sampled_from([10, 2000, 7000, 60_000]),
            st.sampled_from(["gold", "silver", "bronze", "tin"]),
        ),
        st.tuples(st.just("flood"), st.sampled_from(["gold", "silver", "bronze"])),
        st.tuples(st.just("get"), st.integers(0, 40)),
        st.tuples(st.just("delete"), st.integers(0, 40)),
        st.tuples(st.just("clear"), st.sampled_from(["gold", "tin"])),
    ),
    max_size=25,
)


@given(steps=STEPS)
@settings(max_examples=30, deadline=None)
def test_nobody_within_his_share_gives_room_to_others(steps: list[tuple[Any, ...]]) -> None:
    """After each step: the books are right, the room is kept, and only those above their share lost."""
    quotas = {"gold": 0.5, "silver": 0.2}
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        place = Path(directory)
        layer = DiskLayer(place, max_bytes=MIB, quotas=quotas)
        layer.set(slot(0), b"", ttl_s=600)
        fresh = 1000

        def groups() -> dict[str, int]:
            assert layer._database.rows is not None
            return {tag.decode(): bytes for tag, bytes in layer._database.rows.rows("SELECT * FROM Groups")}

        def put(number: int, size: int, group: str) -> None:
            layer.delete(slot(number))
            before, evicted = groups(), layer.stats().evictions
            layer.set(slot(number), bytes(size), ttl_s=600, group=group)
            after = groups()
            all_of_it = sum(before.values())
            if layer.stats().evictions == evicted:
                assert all(after.get(each, 0) >= before[each] for each in before)
                return
            for each, share in quotas.items():
                if each != group and before.get(each, 0) <= share * all_of_it:
                    assert after.get(each, 0) == before.get(each, 0)

        for what, *values in steps:
            if what == "set":
                put(*values)
            elif what == "flood":
                for _ in range(25):
                    fresh += 1
                    put(fresh, 20_000, values[0])
            elif what == "get":
                layer.get(slot(values[0]))
            elif what == "delete":
                layer.delete(slot(values[0]))
            else:
                layer.clear(values[0])
            assert layer.stats().bytes <= MIB
        layer.close()
        assert booked_rightly(place)


def set_some(where: str, group: str, told: Connection) -> None:
    layer = DiskLayer(where, max_bytes=MIB, quotas={"gold": 0.5}, timeout_s=20)
    rng = random.Random(group)
    for n in range(300):
        layer.set(slot(rng.randrange(10**9)), bytes(rng.randrange(6000)), ttl_s=600, group=group)
        if n % 50 == 0:
            layer.delete(slot(n))
    layer.close()
    told.send(group)


def test_processes_keep_the_same_books(place: Path, open_with: OpenWith) -> None:
    layer = open_with(gold=0.5)
    gold = fill(layer, "gold", 150, 1900)
    workers = []
    for group in ("bronze", "tin"):
        here, there = SPAWN.Pipe(duplex=False)
        worker = SPAWN.Process(target=set_some, args=(str(place), group, there))
        worker.start()
        workers.append((worker, here))
    for worker, here in workers:
        assert here.poll(60)
        here.recv()
        worker.join()
    assert held(layer, gold) == 150
    assert booked_rightly(place)
