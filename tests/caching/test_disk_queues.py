"""The layer on the disk: who goes when there is no room left."""

from __future__ import annotations

import itertools
import os
import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tierllm.caching.disk_layer import DiskLayer
from tierllm.caching.disk_marks import Marks
from tierllm.caching.disk_room import PROVEN

MIB = 2**20
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where a disk need not be waited for: all this is about who goes, and not for how long."""

SIZE = 1900
HELD = 350
"""About so many of these fit."""


class Now:
    """Seconds since 1970; every look takes a millisecond."""

    def __init__(self) -> None:
        self.s = 1.7e9

    def __call__(self) -> float:
        self.s += 0.001
        return self.s


Open = Callable[..., DiskLayer]


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        yield Path(directory)


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def open_one(place: Path, now: Now) -> Iterator[Open]:
    layers: list[DiskLayer] = []

    def open_one(**quotas: float) -> DiskLayer:
        layers.append(DiskLayer(place, max_bytes=MIB, quotas=quotas, timeout_s=5, wall_clock=now))
        return layers[-1]

    yield open_one
    for each in layers:
        each.close()


def slot(number: int) -> bytes:
    return number.to_bytes(32, "big")


def put(layer: DiskLayer, numbers: range, group: str = "", ttl_s: float = 6000) -> None:
    for number in numbers:
        assert layer.set(slot(number), bytes(SIZE), ttl_s=ttl_s, group=group)


def held(layer: DiskLayer, numbers: range) -> int:
    """Asking so is asking for them."""
    return sum(layer.get(slot(number)) is not None for number in numbers)


def sql(place: Path, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with sqlite3.connect(place / "answers" / "cache.db") as connection:
        found = connection.execute(statement, values).fetchall()
    connection.close()
    return found


def proven(place: Path) -> set[int]:
    """Those in the main queue."""
    found = sql(place, "SELECT key FROM Cache WHERE access_time >= ?", PROVEN)
    return {int.from_bytes(key[2:], "big") for (key,) in found}


def booked_rightly(place: Path) -> bool:
    new = dict(
        sql(place, "SELECT tag, sum(size) FROM Cache WHERE access_time < ? GROUP BY tag", PROVEN),
    )
    booked = dict(sql(place, "SELECT tag, bytes FROM Probation WHERE bytes != 0"))
    return booked.pop(0, 0) == sum(new.values()) and booked == new


def traffic(layer: DiskLayer, requests: list[int]) -> float:
    """Each is kept when it was not there; the part that was there."""
    found = 0
    for number in requests:
        if layer.get(slot(number)) is None:
            put(layer, range(number, number + 1))
        else:
            found += 1
    return found / len(requests)


@pytest.mark.parametrize("quotas", [{}, {"": 0.5}], ids=["without quotas", "with quotas"])
def test_a_scan_of_ten_times_the_layer_costs_the_hot_keys_nothing(
    place: Path, open_one: Open, quotas: dict[str, float]
) -> None:
    layer = open_one(**quotas)
    sums = list(itertools.accumulate(1 / (n + 1) for n in range(2000)))
    requests = random.Random(7).choices(range(2000), cum_weights=sums, k=8000)
    traffic(layer, requests[:5000])
    before = traffic(layer, requests[5000:6500])
    hot = range(30)
    assert held(layer, hot) == len(hot)
    put(layer, range(10_000, 10_000 + 10 * HELD))
    assert held(layer, hot) == len(hot)
    assert traffic(layer, requests[6500:]) > before - 0.02
    assert booked_rightly(place)


def test_new_ones_go_unless_they_were_asked_for(place: Path, open_one: Open) -> None:
    layer = open_one()
    put(layer, range(100))
    assert held(layer, range(50, 60)) == 10
    put(layer, range(1000, 1000 + 2 * HELD))
    assert proven(place) == set(range(50, 60))
    assert held(layer, range(100)) == 10
    assert booked_rightly(place)


def test_what_comes_back_soon_has_proven_itself(place: Path, open_one: Open) -> None:
    layer = open_one()
    put(layer, range(600))
    assert held(layer, range(1)) == 0
    put(layer, range(1))
    assert proven(place) == {0}
    put(layer, range(1000, 1000 + 5 * HELD))
    assert held(layer, range(1)) == 1
    put(layer, range(1, 2))  # too long ago
    assert proven(place) == {0}
    assert booked_rightly(place)


@pytest.mark.parametrize("over", [False, True], ids=["in its time", "when its time is over"])
def test_what_is_set_again_has_proven_itself_to_every_process(
    place: Path, open_one: Open, now: Now, over: bool
) -> None:
    layer, other = open_one(), open_one()
    put(layer, range(10), ttl_s=60)
    now.s += 100 * over
    again = range(1 if over else 3)  # the others go by the way
    put(layer, again)
    assert proven(place) == set(again)
    put(other, range(1000, 1000 + 2 * HELD))
    assert held(layer, range(10)) == len(again)
    assert booked_rightly(place)


def test_what_was_good_yesterday_goes_too(place: Path, open_one: Open) -> None:
    layer = open_one()
    yesterday, today = range(HELD), range(1000, 1000 + 3 * HELD)
    put(layer, yesterday)
    put(layer, yesterday)
    assert len(proven(place)) > 0.9 * HELD
    put(layer, today)
    before = len(proven(place) & set(yesterday))
    assert before > 0.8 * HELD
    for number in today:  # twice each
        put(layer, range(number, number + 1))
        put(layer, range(number, number + 1))
    assert not proven(place) & set(yesterday)
    assert booked_rightly(place)


def test_in_the_main_queue_asking_buys_another_round(place: Path, open_one: Open) -> None:
    layer = open_one()
    put(layer, range(HELD))
    put(layer, range(HELD))
    for number in range(1000, 1000 + 2 * HELD):
        layer.get(slot(5))
        put(layer, range(number, number + 1))
        put(layer, range(number, number + 1))
    assert proven(place) & set(range(HELD)) == {5}


def test_a_scan_within_a_group_costs_its_hot_keys_nothing(place: Path, open_one: Open) -> None:
    layer = open_one(gold=0.5)
    put(layer, range(100), group="gold")
    put(layer, range(200, 300), group="bronze")
    for hot in (range(30), range(200, 230)):
        assert held(layer, hot) == 30
    put(layer, range(1000, 1000 + 3 * HELD), group="gold")
    put(layer, range(5000, 5000 + 3 * HELD), group="bronze")
    assert held(layer, range(30)) == held(layer, range(200, 230)) == 30
    assert booked_rightly(place)


@pytest.mark.parametrize("quotas", [{}, {"gold": 0.5}], ids=["without quotas", "with quotas"])
def test_a_database_from_when_there_was_one_queue(
    place: Path, open_one: Open, quotas: dict[str, float]
) -> None:
    layer = open_one()
    put(layer, range(100), group="gold")
    put(layer, range(100, 200), group="bronze")
    layer.close()
    sql(place, "DROP TABLE Probation")
    second = open_one(**quotas)
    assert held(second, range(200)) == 200
    assert booked_rightly(place)
    put(second, range(1000, 1000 + 2 * HELD), group="gold")
    assert booked_rightly(place)
    assert second.stats().entries < 1.3 * HELD


def test_a_damaged_entry_goes_with_the_new_ones(place: Path, open_one: Open) -> None:
    layer = open_one()
    put(layer, range(10))
    put(layer, range(5))
    sql(place, "UPDATE Cache SET value = x'00' WHERE key IN (?, ?)", b"s:" + slot(1), b"s:" + slot(7))
    assert held(layer, range(10)) == 8
    assert proven(place) == {0, 2, 3, 4}
    assert booked_rightly(place)
    put(layer, range(1000, 1000 + 2 * HELD))
    assert sql(place, "SELECT 1 FROM Cache WHERE key >= 'damaged:' AND key < 'damaged;'") == []
    assert booked_rightly(place)


BOOKS = [
    "DELETE FROM Probation",
    "UPDATE Probation SET bytes = 1000000000",
    "UPDATE Probation SET bytes = -1000000000",
    "UPDATE Cache SET access_time = access_time + 1e12 WHERE access_time < 1e12",
    "UPDATE Cache SET access_time = access_time - 1e12 WHERE access_time >= 1e12",
]


@pytest.mark.parametrize("lie", BOOKS)
@pytest.mark.parametrize("quotas", [{}, {"gold": 0.5}], ids=["without quotas", "with quotas"])
def test_books_that_lie_are_mended(place: Path, open_one: Open, lie: str, quotas: dict[str, float]) -> None:
    layer = open_one(**quotas)
    put(layer, range(HELD), group="gold")
    held(layer, range(0, HELD, 2))
    put(layer, range(1000, 1000 + HELD), group="gold")
    sql(place, lie)
    put(layer, range(2000, 2000 + 2 * HELD), group="gold")
    hot = range(5000, 5030)
    put(layer, hot, group="gold")
    put(layer, hot, group="gold")
    put(layer, range(6000, 6000 + 4 * HELD), group="gold")
    assert held(layer, hot) == 30
    assert layer.stats().bytes <= MIB


def test_marks_are_bounded_and_the_last_ones_are_there() -> None:
    marks = Marks(100)
    for number in range(1000):
        marks.add(number)
    assert len(marks._new | marks._old) <= 100
    assert all(marks.take(number) for number in range(950, 1000))
    assert not any(marks.take(number) for number in range(900))


def test_marks_are_bounded_by_bytes() -> None:
    marks = Marks(100, 1000)
    for number in range(50):
        marks.add(number, 100)
    known = [number for number in range(50) if marks.take(number)]
    assert known == list(range(known[0], 50))
    assert 5 <= len(known) <= 12
