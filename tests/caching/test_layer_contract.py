"""What every layer of the cache promises, whatever it is made of."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stores.ground import Server
from tierllm.caching.disk_layer import DiskLayer
from tierllm.caching.layer import Layer
from tierllm.caching.memory_layer import MemoryLayer
from tierllm.caching.redis_layer import RedisLayer
from tierllm.errors import ConfigError

A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))


class Ground(NamedTuple):
    """A layer with room for some hundred entries, and a way to let time pass for it."""

    layer: Layer
    pass_s: Callable[[float], None]


def redis() -> Iterator[Ground]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        server = Server(Path(directory))
        layer = RedisLayer(server.url, max_bytes=2**20, timeout_s=5)
        yield Ground(layer, time.sleep)  # the server's clock is its own
        layer.close()
        server.stop()


def memory() -> Iterator[Ground]:
    now_s = [0.0]

    def pass_s(seconds: float) -> None:
        now_s[0] += seconds

    layer = MemoryLayer(max_bytes=2**20, clock=lambda: now_s[0])
    yield Ground(layer, pass_s)
    layer.close()


def disk() -> Iterator[Ground]:
    now_s = [1e9]

    def pass_s(seconds: float) -> None:
        now_s[0] += seconds

    with tempfile.TemporaryDirectory() as directory:
        layer = DiskLayer(directory, max_bytes=2**20, timeout_s=10, wall_clock=lambda: now_s[0])
        yield Ground(layer, pass_s)
        layer.close()


GROUNDS: dict[str, Callable[[], Iterator[Ground]]] = {"memory": memory, "disk": disk, "redis": redis}


@pytest.fixture(params=GROUNDS)
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    yield from GROUNDS[request.param]()


@pytest.fixture
def layer(ground: Ground) -> Layer:
    return ground.layer


def test_what_was_set_is_there_byte_by_byte(layer: Layer) -> None:
    values = {A: b"", B: bytes(range(256)) * 40, C: b"\x00\r\n'\""}
    for slot, data in values.items():
        assert layer.set(slot, data, ttl_s=60)
    assert {slot: layer.get(slot) for slot in values} == values


def test_slots_of_all_kinds_are_told_apart(layer: Layer) -> None:
    slots = [b"\x00", b"\x00\x00", b"a", b"A", b"a:", b"a/../b", b"%s", "ä".encode(), bytes(32), b"x" * 200]
    for n, slot in enumerate(slots):
        assert layer.set(slot, b"%d" % n, ttl_s=60)
    assert [layer.get(slot) for slot in slots] == [b"%d" % n for n in range(len(slots))]


def test_what_was_never_set_is_missed(layer: Layer) -> None:
    layer.set(A, b"a", ttl_s=60)
    assert layer.get(B) is None


def test_the_last_one_counts(layer: Layer) -> None:
    layer.set(A, b"old", ttl_s=60, group="gold")
    layer.set(A, b"new and longer", ttl_s=60, group="bronze")
    assert layer.get(A) == b"new and longer"
    assert layer.stats().entries == 1


def test_time_runs_out(ground: Ground) -> None:
    layer, pass_s = ground
    layer.set(A, b"short", ttl_s=1)
    layer.set(B, b"long", ttl_s=60)
    assert layer.get(A) == b"short"
    pass_s(1.1)
    assert layer.get(A) is None
    assert layer.get(B) == b"long"


def test_setting_again_gives_the_new_time(ground: Ground) -> None:
    layer, pass_s = ground
    layer.set(A, b"a", ttl_s=60)
    layer.set(A, b"b", ttl_s=1)
    layer.set(B, b"a", ttl_s=1)
    layer.set(B, b"b", ttl_s=60)
    pass_s(1.1)
    assert layer.get(A) is None
    assert layer.get(B) == b"b"


@pytest.mark.parametrize("ttl_s", [0, 0.0, -1, -1e300, float("-inf")], ids=str)
def test_no_time_to_live_keeps_nothing_and_the_old_one_goes(layer: Layer, ttl_s: float) -> None:
    layer.set(A, b"old", ttl_s=60)
    assert not layer.set(A, b"new", ttl_s=ttl_s)
    assert layer.get(A) is None


def test_deleted_is_gone_and_deleting_nothing_is_fine(layer: Layer) -> None:
    layer.set(A, b"a", ttl_s=60)
    layer.set(B, b"b", ttl_s=60)
    layer.delete(A)
    layer.delete(A)
    layer.delete(C)
    assert layer.get(A) is None
    assert layer.get(B) == b"b"
    assert layer.set(A, b"again", ttl_s=60)
    assert layer.get(A) == b"again"


def test_a_group_is_cleared_and_no_other(layer: Layer) -> None:
    layer.set(A, b"a", ttl_s=60, group="gold")
    layer.set(B, b"b", ttl_s=60, group="gold ")
    layer.set(C, b"c", ttl_s=60)
    layer.clear("gold")
    assert (layer.get(A), layer.get(B), layer.get(C)) == (None, b"b", b"c")
    layer.clear("")
    assert (layer.get(B), layer.get(C)) == (b"b", None)
    layer.clear("nobody")
    layer.clear()
    assert layer.get(B) is None
    assert layer.stats().entries == 0


def test_it_counts(ground: Ground) -> None:
    layer, pass_s = ground
    layer.set(A, b"a", ttl_s=1)
    layer.set(B, b"b" * 100, ttl_s=60)
    layer.set(C, b"c", ttl_s=0)
    for slot in (A, B, B, C):
        layer.get(slot)
    stats = layer.stats()
    assert (stats.hits, stats.misses, stats.sets, stats.rejected) == (3, 1, 2, 1)
    assert stats.entries == 2
    assert stats.bytes > 100
    pass_s(1.1)
    layer.get(A)
    assert layer.stats()[:2] == (3, 2)


BAD: dict[str, dict[str, Any]] = {
    "slot-str": {"slot": "a"},
    "slot-none": {"slot": None},
    "slot-empty": {"slot": b""},
    "slot-bytearray": {"slot": bytearray(b"a")},
    "data-str": {"data": "secret words"},
    "data-none": {"data": None},
    "data-bytearray": {"data": bytearray(b"secret words")},
    "data-view": {"data": memoryview(b"secret words")},
    "ttl-none": {"ttl_s": None},
    "ttl-str": {"ttl_s": "60"},
    "ttl-bool": {"ttl_s": True},
    "ttl-nan": {"ttl_s": float("nan")},
    "ttl-inf": {"ttl_s": float("inf")},
    "ttl-huge": {"ttl_s": 10**400},
    "group-none": {"group": None},
    "group-bytes": {"group": b"gold"},
}


@pytest.mark.parametrize("wrong", BAD.values(), ids=BAD)
def test_garbage_is_told_and_changes_nothing(layer: Layer, wrong: dict[str, Any]) -> None:
    layer.set(A, b"a", ttl_s=60)
    with pytest.raises(ConfigError, match=rf"Layer\.set\({next(iter(wrong))}=.*give ") as caught:
        layer.set(**{"slot": A, "data": b"b", "ttl_s": 60, "group": ""} | wrong)
    assert "secret" not in str(caught.value)
    assert layer.get(A) == b"a"


def test_what_the_caller_does_to_his_copy_changes_nothing(layer: Layer) -> None:
    layer.set(A, b"abc", ttl_s=60)
    mine = layer.get(A)
    assert mine is not None
    mine += b"def"
    assert layer.get(A) == b"abc"


def test_threads_get_what_was_set_there(layer: Layer) -> None:
    slots = [bytes([n]) * 32 for n in range(20)]
    wrong: list[object] = []
    start = threading.Barrier(4)

    def run(number: int) -> None:
        start.wait()
        try:
            for n in range(150):
                slot = slots[(n * 7 + number) % 20]
                if n % 3 == 0:
                    layer.set(slot, slot + b"%d" % n, ttl_s=60, group=f"g{number}")
                elif n % 31 == 0:
                    layer.delete(slot)
                found = layer.get(slot)
                if found is not None and not found.startswith(slot):
                    wrong.append(found)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = layer.stats()
    assert not wrong
    assert stats.hits + stats.misses == 600
    assert stats.sets + stats.rejected == 200


async def test_native_forms_do_the_same(layer: Layer) -> None:
    if layer.aget is None or layer.aset is None:
        assert layer.inline or (layer.aget is None and layer.aset is None)
        return
    assert await layer.aset(A, b"a", 60, "gold")
    assert await layer.aget(A) == layer.get(A) == b"a"
    layer.clear("gold")
    assert await layer.aget(A) is None


async def test_closing_twice_is_fine(layer: Layer) -> None:
    layer.set(A, b"a", ttl_s=60)
    layer.close()
    layer.close()
    await layer.aclose()
