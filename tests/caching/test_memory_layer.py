"""The layer in memory: bounds, shares, what stays, and what happens when things go wrong."""

from __future__ import annotations

import os
import random
import threading
import tracemalloc
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.caching import admission
from tierllm.caching.admission import FEW_SHELLS, MOST_SPARED, Kept, Share
from tierllm.caching.memory_layer import ENTRY_BYTES, NAME_BYTES, MemoryLayer
from tierllm.errors import ConfigError

PLAIN_BYTES = ENTRY_BYTES + 4 + 1  # an entry of these tests: a slot of 4 bytes, data of 1


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def slot(number: int) -> bytes:
    return number.to_bytes(4, "big")


def size(group: str) -> int:
    return PLAIN_BYTES + (NAME_BYTES + 4 * len(group) if group else 0)


def fill(layer: MemoryLayer, numbers: range, group: str = "") -> int:
    return sum(layer.set(slot(n), b"x", ttl_s=60, group=group) for n in numbers)


def found(layer: MemoryLayer, numbers: range) -> int:
    return sum(layer.get(slot(n)) is not None for n in numbers)


def sound(layer: MemoryLayer) -> None:
    """The books agree with what is there, and the bounds hold."""
    stats = layer.stats()
    assert stats.entries <= layer.max_entries
    assert stats.bytes <= layer.max_bytes
    assert stats.bytes == sum(each.size for each in layer._entries.values())
    held = [(share.entries, share.bytes) for share in layer._all]
    assert (stats.entries, stats.bytes) == tuple(map(sum, zip(*held, strict=True)))
    for share in layer._all:
        queued = [each for each in (*share._small, *share._main) if each.data is not None]
        assert len(queued) == share.entries
        assert all(layer._entries[each.slot] is each for each in queued)
        assert share._small_bytes == sum(each.size for each in share._small)
        assert len(share._remembered_in_order) <= max(share.entries, 1)
        assert len(share._small) + len(share._main) - share.entries == share._dead
        assert share._dead <= layer.max_entries // 2 + FEW_SHELLS


# -- what makes no sense ----------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no-bytes": ({"max_bytes": 0}, "max_bytes=0.*4096 or more"),
    "few-bytes": ({"max_bytes": 4095}, "4096 or more"),
    "negative-bytes": ({"max_bytes": -1}, "4096 or more"),
    "float-bytes": ({"max_bytes": 1e6}, "whole number"),
    "bool-bytes": ({"max_bytes": True}, "whole number"),
    "text-bytes": ({"max_bytes": "64MB"}, "whole number"),
    "no-entries": ({"max_entries": 0}, "max_entries=0.*1 or more"),
    "negative-entries": ({"max_entries": -5}, "1 or more"),
    "no-bound": ({"max_entries": None}, "1 or more"),
    "float-entries": ({"max_entries": 10.0}, "1 or more"),
    "clock": ({"clock": 7}, "a function that tells seconds"),
    "quotas-list": ({"quotas": ["gold"]}, "a mapping of groups"),
    "quota-group": ({"quotas": {7: 0.5}}, "groups are names"),
    "quota-negative": ({"quotas": {"gold": -0.1}}, "a share from 0 to 1"),
    "quota-percent": ({"quotas": {"gold": 50}}, "a share from 0 to 1"),
    "quota-nan": ({"quotas": {"gold": float("nan")}}, "a share from 0 to 1"),
    "quota-text": ({"quotas": {"gold": "half"}}, "a share from 0 to 1"),
    "quota-bool": ({"quotas": {"gold": True}}, "a share from 0 to 1"),
    "quotas-sum": ({"quotas": {"gold": 0.7, "bronze": 0.4}}, r"sum up to 1\.1"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_what_makes_no_sense_is_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MemoryLayer(**options)


def test_tenths_that_sum_up_to_the_whole_are_the_whole() -> None:
    layer = MemoryLayer(max_entries=10, quotas={f"g{n}": 0.1 for n in range(10)})
    assert fill(layer, range(10), "g3") == 10


# -- against a model ----------------------------------------------------------------------

GROUPS = ("", "gold", "bronze", "other")
SHARES: list[dict[str, float]] = [
    {"gold": 0.5},
    {"gold": 0.25, "bronze": 0.25},
    {"gold": 0.6, "bronze": 0},
    {"gold": 0.7, "bronze": 0.3},
]
number, group_name = st.integers(0, 11), st.sampled_from(GROUPS)
step = st.one_of(
    st.tuples(st.just("get"), number),
    st.tuples(st.just("set"), number, st.integers(0, 1500), st.sampled_from((-1, 5, 50)), group_name),
    st.tuples(st.just("delete"), number),
    st.tuples(st.just("clear"), st.sampled_from((None, *GROUPS))),
    st.tuples(st.just("time"), st.sampled_from((1.0, 4.0, 60.0, -3.0))),
)


@given(
    steps=st.lists(step, max_size=60),
    bounds=st.sampled_from([(4096, 100), (8192, 100), (2**20, 1), (2**20, 4), (2**20, 100)]),
    quotas=st.sampled_from([None, *SHARES]),
)
def test_it_is_never_wrong_nor_late_nor_too_large(
    steps: list[tuple[Any, ...]], bounds: tuple[int, int], quotas: dict[str, float] | None
) -> None:
    clock = Clock()
    layer = MemoryLayer(max_bytes=bounds[0], max_entries=bounds[1], quotas=quotas, clock=clock)
    roomy = bounds == (2**20, 100)
    model: dict[bytes, tuple[bytes, float, float, str]] = {}
    gets = sets = 0
    for number, (name, *told) in enumerate(steps):
        if name == "get":
            gets += 1
            data, set_at, expires_at, _ = model.get(slot(told[0]), (None, 0, 0, ""))
            expected = data if set_at <= clock.now_s < expires_at else None
            if expected is None:
                model.pop(slot(told[0]), None)
            answer = layer.get(slot(told[0]))
            assert answer == expected if roomy else answer in (expected, None)
        elif name == "set":
            sets += 1
            data, ttl_s, group = b"%d" % number + bytes(told[1]), told[2], told[3]
            kept = layer.set(slot(told[0]), data, ttl_s=ttl_s, group=group)
            model.pop(slot(told[0]), None)
            if kept:
                model[slot(told[0])] = (data, clock.now_s, clock.now_s + ttl_s, group)
            assert kept or ttl_s <= 0 or not roomy
        elif name == "delete":
            model.pop(slot(told[0]), None)
            layer.delete(slot(told[0]))
        elif name == "clear":
            model = {each: kept for each, kept in model.items() if told[0] not in (None, kept[3])}
            layer.clear(told[0])
        else:
            clock.now_s += told[0]
        sound(layer)
    stats = layer.stats()
    assert stats.hits + stats.misses == gets
    assert stats.sets + stats.rejected == sets


@given(
    sets=st.lists(st.tuples(group_name, st.booleans()), max_size=120),
    shares=st.sampled_from(SHARES),
    by_bytes=st.booleans(),
)
def test_nobody_loses_what_is_within_his_share_to_others(
    sets: list[tuple[str, bool]], shares: dict[str, float], by_bytes: bool
) -> None:
    room = 20
    layer = MemoryLayer(
        max_bytes=room * PLAIN_BYTES + 5 if by_bytes else 2**20,
        max_entries=10_000 if by_bytes else room,
        quotas=shares,
        clock=Clock(),
    )
    # what surely fits into each share: names take some bytes too
    each_bytes = size(max(GROUPS, key=len))
    least = {group: int(share * room + 1e-9) for group, share in shares.items()}
    least["rest"] = room - sum(least.values())
    if by_bytes:
        least = {group: count * PLAIN_BYTES // each_bytes for group, count in least.items()}
    numbers = {group: n for n, group in enumerate(GROUPS)}
    for count, (group, again) in enumerate(sets):
        mine = group if group in shares else "rest"
        before = {each: layer.held(each)[0] for each in least}
        # slots of one group are never those of another; groups without a share use the rest together
        own = numbers[mine if mine in shares else ""] * 1000 + (count // 2 if again else count)
        kept = layer.set(slot(own), b"x", ttl_s=60, group=group)
        after = {each: layer.held(each)[0] for each in least}
        for each in least:
            if each != mine:
                assert after[each] >= min(before[each], least[each])
        assert kept or least[mine] == 0, "only who has no share is refused room for one small entry"
        sound(layer)


# -- bounds --------------------------------------------------------------------------------


def test_what_is_larger_than_the_bound_is_refused_and_pushes_out_nothing() -> None:
    layer = MemoryLayer(max_bytes=8192)
    assert fill(layer, range(5)) == 5
    assert not layer.set(slot(9), bytes(8192 - ENTRY_BYTES - 3), ttl_s=60)
    assert found(layer, range(5)) == 5
    assert layer.stats().rejected == 1
    assert layer.set(slot(9), bytes(8192 - ENTRY_BYTES - 4), ttl_s=60)
    assert layer.stats()[4:] == (5, 0, 1, 8192)


@pytest.mark.parametrize(("spare", "fitting"), [(-1, 9), (0, 10), (1, 10)])
def test_the_last_byte_counts(spare: int, fitting: int) -> None:
    layer = MemoryLayer(max_bytes=10 * PLAIN_BYTES + spare)
    fill(layer, range(30))
    assert layer.stats().entries == fitting


def test_a_refused_one_takes_its_predecessor_with_it() -> None:
    layer = MemoryLayer(max_bytes=8192)
    layer.set(slot(1), b"old", ttl_s=60)
    assert not layer.set(slot(1), bytes(9000), ttl_s=60)
    assert layer.get(slot(1)) is None


def test_room_for_one() -> None:
    layer = MemoryLayer(max_entries=1)
    for n in range(5):
        assert layer.set(slot(n), b"x", ttl_s=60)
        assert layer.get(slot(n)) == b"x"
        assert layer.stats().entries == 1


@pytest.mark.parametrize("kind", ["new", "again", "deleted", "grouped"])
def test_what_it_says_it_takes_is_no_less_than_what_it_takes(kind: str) -> None:
    max_bytes = 4 * 2**20
    tracemalloc.start()
    try:
        layer = MemoryLayer(max_bytes=max_bytes, max_entries=10**6)
        for n in range(40_000):
            key = slot(n if kind in ("new", "grouped") or n < 8000 else n % 8000)
            layer.get(key)
            layer.set(key, bytes(10 + n % 50), ttl_s=60 + n, group=f"ä\u2200{n}" if kind == "grouped" else "")
            if kind == "deleted" and n % 3 == 0:
                layer.delete(slot(n * 7 % 8000))
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert layer.stats().bytes > 0.8 * max_bytes
    assert taken <= max_bytes
    assert taken >= 0.5 * max_bytes, "the account is far above what is taken: room is wasted"


def test_tables_grown_for_many_small_entries_are_given_up_for_large_ones() -> None:
    max_bytes = 16 * 2**20
    layer = MemoryLayer(max_bytes=max_bytes, max_entries=10**6)
    tracemalloc.start()
    try:
        layer = MemoryLayer(max_bytes=max_bytes, max_entries=10**6)
        fill(layer, range(40_000))
        for n in range(300):
            layer.set(slot(10**6 + n), bytes(2**20), ttl_s=60)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert layer.stats().entries < 16
    assert taken <= max_bytes


def test_one_key_set_again_and_again_piles_up_nothing() -> None:
    layer = MemoryLayer(max_entries=10)
    for _ in range(1000):
        fill(layer, range(3))
        sound(layer)


# -- what stays -----------------------------------------------------------------------------


def test_keys_that_come_once_push_out_only_each_other() -> None:
    layer = MemoryLayer(max_entries=100)
    fill(layer, range(100))
    for _ in range(3):
        assert found(layer, range(80)) == 80
    fill(layer, range(1000, 11_000))
    assert found(layer, range(80)) == 80
    sound(layer)


def test_a_scan_costs_the_hot_set_less_than_two_points() -> None:
    rng, sums = random.Random(5), list(accumulate((n + 1) ** -0.9 for n in range(50_000)))
    requests = rng.choices(range(50_000), cum_weights=sums, k=60_000)

    def hits(layer: MemoryLayer, numbers: list[int]) -> int:
        count = 0
        for n in numbers:
            if layer.get(slot(n)) is not None:
                count += 1
            else:
                layer.set(slot(n), b"x", ttl_s=60)
        return count

    scanned, undisturbed = MemoryLayer(max_entries=1000), MemoryLayer(max_entries=1000)
    for layer in (scanned, undisturbed):
        hits(layer, requests[:50_000])
    hits(scanned, list(range(10**6, 10**6 + 20_000)))
    before, after = hits(undisturbed, requests[50_000:]), hits(scanned, requests[50_000:])
    assert before > 4000
    assert (before - after) / 10_000 < 0.02


def test_what_comes_back_soon_after_it_was_dropped_stays() -> None:
    layer = MemoryLayer(max_entries=100)
    fill(layer, range(100))
    fill(layer, range(100, 150))  # the first fifty are gone
    assert layer.get(slot(0)) is None
    fill(layer, range(1))
    fill(layer, range(1000, 3000))
    assert layer.get(slot(0)) is not None


@pytest.mark.parametrize("how", ["again", "later", "expired"])
def test_a_hot_key_stays_hot_when_it_is_made_anew(how: str) -> None:
    clock = Clock()
    layer = MemoryLayer(max_entries=100, clock=clock)
    layer.set(slot(0), b"x", ttl_s=10)
    for _ in range(3):
        layer.get(slot(0))
    fill(layer, range(1, 100))
    if how == "later":
        fill(layer, range(500, 700))  # its hits have done their work
    if how == "expired":
        clock.now_s += 11
        assert layer.get(slot(0)) is None
    layer.set(slot(0), b"y", ttl_s=60)
    fill(layer, range(1000, 3000))
    assert layer.get(slot(0)) == b"y"


def test_what_was_hot_once_goes_in_the_end() -> None:
    layer = MemoryLayer(max_entries=50)
    fill(layer, range(50))
    for _ in range(9):
        found(layer, range(50))
    for start in range(1000, 4000, 50):  # a new hot set every fifty
        fill(layer, range(start, start + 50))
        for _ in range(3):
            found(layer, range(start, start + 50))
    assert found(layer, range(50)) == 0


def kept(share: Share, name: bytes, *, hits: int, proven: bool) -> None:
    entry = Kept(name, b"x", 0.0, 60.0, "", 100)
    entry.hits, entry.proven = hits, proven
    share.add(entry)


def test_each_hit_buys_one_more_round() -> None:
    share = Share(0, 0)
    for name, hits in ((b"a", 3), (b"b", 1), (b"d", 2), (b"c", 0)):
        kept(share, name, hits=hits, proven=True)
    assert [share.victim(1.0).slot for _ in range(4)] == [b"c", b"b", b"d", b"a"]


def test_hits_in_the_small_queue_buy_the_main_one_and_nothing_more() -> None:
    share = Share(0, 0)
    kept(share, b"a", hits=1, proven=True)
    kept(share, b"b", hits=3, proven=False)
    assert [share.victim(1.0).slot for _ in range(2)] == [b"b", b"a"]


def test_expired_ones_are_never_spared_and_count_as_expired() -> None:
    clock = Clock()
    layer = MemoryLayer(max_entries=50, clock=clock)
    fill(layer, range(50))
    for _ in range(3):
        found(layer, range(50))
    clock.now_s += 61
    fill(layer, range(100, 150))
    assert layer.stats()[4:7] == (0, 50, 50)


def test_no_caller_pays_for_all_the_hits_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = MemoryLayer(max_entries=5000)
    fill(layer, range(5000))
    for _ in range(3):
        found(layer, range(5000))
    looks = 0
    alive = Kept.alive

    def counted(self: Kept, now: float) -> bool:
        nonlocal looks
        looks += 1
        return alive(self, now)

    monkeypatch.setattr(admission.Kept, "alive", counted)
    assert layer.set(slot(9000), b"x", ttl_s=60)
    assert looks <= MOST_SPARED + 3


# -- shares ------------------------------------------------------------------------------------


def test_a_bronze_batch_takes_nothing_from_gold() -> None:
    layer = MemoryLayer(max_entries=100, quotas={"gold": 0.5})
    fill(layer, range(50), "gold")
    for _ in range(3):
        fill(layer, range(1000, 5000), "bronze")
        assert found(layer, range(1000, 5000)) == 50  # and hits do not help it
    assert found(layer, range(50)) == 50
    assert layer.held("gold")[0] == layer.held("bronze")[0] == 50


def test_room_that_is_not_used_is_lent_and_taken_back() -> None:
    layer = MemoryLayer(max_entries=100, quotas={"gold": 0.5})
    assert fill(layer, range(1000, 1100), "bronze") == 100
    assert layer.held("bronze")[0] == 100
    assert fill(layer, range(50), "gold") == 50
    assert (layer.held("gold")[0], layer.held("bronze")[0]) == (50, 50)
    assert fill(layer, range(50, 60), "gold") == 10  # it has had its share: from now on its own go
    assert (layer.held("gold")[0], layer.held("bronze")[0]) == (50, 50)


def test_who_is_furthest_above_his_share_gives() -> None:
    layer = MemoryLayer(max_entries=100, quotas={"gold": 0.5, "silver": 0.3, "bronze": 0})
    fill(layer, range(1000, 1060), "silver")
    fill(layer, range(2000, 2040), "bronze")
    fill(layer, range(20), "gold")  # silver has 30 too many, bronze 40
    assert layer.held("silver")[0] + layer.held("bronze")[0] == 80
    assert abs(layer.held("silver")[0] - 30 - layer.held("bronze")[0]) <= 1
    fill(layer, range(20, 50), "gold")
    fill(layer, range(3000, 3020))
    assert [layer.held(each)[0] for each in ("gold", "silver", "bronze", "")] == [50, 30, 0, 20]
    assert fill(layer, range(2000, 2010), "bronze") == 0, "nobody has room to lend"
    assert [layer.held(each)[0] for each in ("gold", "silver", "bronze", "")] == [50, 30, 0, 20]


def test_an_entry_that_would_need_the_share_of_others_is_refused_and_takes_nothing() -> None:
    layer = MemoryLayer(max_bytes=100 * PLAIN_BYTES, quotas={"gold": 0.5})
    fill(layer, range(40), "gold")
    fill(layer, range(1000, 1030), "bronze")
    before = layer.stats().entries
    assert not layer.set(slot(9999), bytes(70 * PLAIN_BYTES), ttl_s=60, group="bronze")
    assert layer.stats().entries == before
    assert layer.set(slot(9999), bytes(50 * PLAIN_BYTES), ttl_s=60, group="bronze")
    assert found(layer, range(40)) == 40


def test_a_share_too_small_for_an_entry_guarantees_none() -> None:
    layer = MemoryLayer(max_entries=10, quotas={"gold": 0.05})
    assert fill(layer, range(10)) == 10
    assert fill(layer, range(100, 105), "gold") == 0
    assert found(layer, range(10)) == 10


# -- clocks ---------------------------------------------------------------------------------------


def test_a_clock_set_back_forgets_what_comes_from_the_future() -> None:
    clock = Clock()
    layer = MemoryLayer(clock=clock)
    layer.set(slot(1), b"x", ttl_s=10)
    clock.now_s -= 500
    assert layer.get(slot(1)) is None
    layer.set(slot(2), b"y", ttl_s=10)
    clock.now_s += 505
    assert layer.get(slot(1)) is None
    assert layer.get(slot(2)) is None


def test_what_comes_from_the_future_is_not_spared_for_its_hits() -> None:
    clock = Clock()
    layer = MemoryLayer(clock=clock, max_entries=10)
    fill(layer, range(10))
    for _ in range(3):
        found(layer, range(10))
    clock.now_s -= 500
    fill(layer, range(100, 105))
    assert found(layer, range(100, 105)) == 5
    assert layer.stats()[4:6] == (0, 5)


def test_a_clock_put_forward_ends_everything() -> None:
    clock = Clock()
    layer = MemoryLayer(clock=clock, max_entries=10)
    fill(layer, range(10))
    clock.now_s += 1e12
    assert found(layer, range(10)) == 0
    assert fill(layer, range(10)) == found(layer, range(10)) == 10


def test_an_end_is_exact() -> None:
    clock = Clock()
    layer = MemoryLayer(clock=clock)
    layer.set(slot(1), b"x", ttl_s=10)
    clock.now_s += 9.999
    assert layer.get(slot(1)) == b"x"
    clock.now_s = 1010.0
    assert layer.get(slot(1)) is None


# -- threads, forks, interrupts -----------------------------------------------------------------------


@pytest.mark.parametrize("quotas", [None, {"g0": 0.4, "g1": 0.2}], ids=["alike", "shares"])
def test_threads_leave_the_books_in_order(quotas: dict[str, float] | None) -> None:
    layer = MemoryLayer(max_bytes=40_000, max_entries=60, quotas=quotas)
    start, wrong = threading.Barrier(8), []

    def run(number: int) -> None:
        rng = random.Random(number)
        start.wait()
        try:
            for _ in range(3000):
                key = slot(rng.randrange(200))
                if rng.random() < 0.4:
                    layer.set(
                        key,
                        key * rng.randrange(1, 100),
                        ttl_s=rng.choice((0.001, 60)),
                        group=f"g{number % 3}",
                    )
                elif rng.random() < 0.05:
                    layer.delete(key)
                elif rng.random() < 0.005:
                    layer.clear(f"g{number % 3}")
                else:
                    answer = layer.get(key)
                    if answer is not None and answer != key * (len(answer) // 4):
                        wrong.append(answer)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    sound(layer)
    stats = layer.stats()
    assert min(stats[:3]) > 100
    assert stats.sets >= stats.entries + stats.evictions + stats.expired


forks = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def in_child(check: Any) -> bool:
    child = os.fork()
    if not child:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


class TestForks:
    pytestmark = forks

    def test_a_child_goes_on_with_what_is_there_and_counts_for_itself(self) -> None:
        layer = MemoryLayer(max_entries=10)
        fill(layer, range(5))
        found(layer, range(5))

        def check() -> bool:
            return (
                layer.stats()[:3] == (0, 0, 0)
                and found(layer, range(5)) == 5
                and fill(layer, range(20)) == 20
            )

        assert in_child(check)
        assert found(layer, range(5)) == 5
        assert layer.stats()[:3] == (10, 0, 5)

    def test_a_child_of_a_fork_amid_a_change_begins_empty_and_works(self) -> None:
        layer = MemoryLayer(max_entries=10)
        fill(layer, range(5))

        def check() -> bool:
            return found(layer, range(5)) == 0 and fill(layer, range(5)) == 5 and layer.stats().entries == 5

        with layer._lock:  # as another thread may hold it
            assert in_child(check)
        assert found(layer, range(5)) == 5


@pytest.mark.parametrize("where", ["victim", "add", "remove"])
def test_an_interrupt_in_the_middle_leaves_it_empty_and_sound(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = MemoryLayer(max_entries=10, quotas={"gold": 0.5})
    fill(layer, range(10), "gold")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Share, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            if where == "remove":
                layer.delete(slot(1))
            else:
                layer.set(slot(20), b"x", ttl_s=60)
    assert layer.stats()[6:] == (0, 0)
    assert fill(layer, range(10)) == found(layer, range(10)) == 10
    sound(layer)


def test_it_tells_no_contents() -> None:
    layer = MemoryLayer(max_entries=10)
    layer.set(b"slot-of-somebody", b"words of somebody", ttl_s=60, group="acme")
    assert repr(layer) == f"MemoryLayer(1 of 10 entries, {ENTRY_BYTES + 16 + 17 + NAME_BYTES + 16} bytes)"


def test_closing_gives_the_memory_back() -> None:
    layer = MemoryLayer()
    fill(layer, range(100))
    layer.close()
    assert layer.stats()[6:] == (0, 0)


def test_evictions_of_a_steady_stream_are_one_for_one() -> None:
    layer = MemoryLayer(max_entries=10)
    counts = []
    for n in range(50):
        fill(layer, range(n, n + 1))
        counts.append(layer.stats().evictions)
    assert {later - earlier for earlier, later in pairwise(counts[9:])} == {1}
