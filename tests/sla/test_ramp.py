"""Leaving and coming back by degrees, shedding by steps, and how often any of it may happen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.sla.ramp import HOUR_S, Quota, Ramp, rank
from tierllm.sla.shedding import Shedding

# -- ranks -----------------------------------------------------------------------------------


def test_ranks_are_the_same_in_every_process_and_release() -> None:
    assert rank("gold/a", "s:acme\0one") == pytest.approx(0.0565748537)
    assert rank("gold/b", "s:acme\0one") != rank("gold/a", "s:acme\0one")
    assert 0 <= rank("", "\ud800") < 1  # half a character, as JSON lets through


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_ranks_are_spread_evenly(share: float) -> None:
    below = sum(rank("gold/a", f"s:\0{number}") < share for number in range(20_000))
    assert below / 20_000 == pytest.approx(share, rel=0.15)


# -- the hour --------------------------------------------------------------------------------


@given(
    most=st.integers(1, 6),
    steps=st.lists(st.integers(-4000, 5000), min_size=1, max_size=100),
)
def test_no_hour_holds_more_than_most(most: int, steps: list[int]) -> None:
    quota, now = Quota(most), 0
    used: list[int] = []
    for step_s in steps:
        if step_s < 0:  # the clock is set back, and everything with it
            now += step_s
            quota.set_back(-step_s)
            used = [at + step_s for at in used]
        else:
            now += step_s
        while quota.room(1, now):
            quota.use(now)
            used.append(now)
            if len(used) > 500:
                break
    for end in used:
        assert sum(end - HOUR_S <= at <= end for at in used) <= most


# -- ramps -----------------------------------------------------------------------------------


def ramp() -> Ramp:
    return Ramp((0.01, 0.1, 0.5), dwell_s=60, max_dwell_s=200, stage_s=15)


def test_the_way_back() -> None:
    one = ramp()
    assert (one.share, one.home) == (1.0, True)
    one.leave(1000.0)
    assert (one.share, one.home, one.next_share) == (0.0, False, 0.01)
    assert not one.due(1059.9)
    assert one.due(1060.0)
    shares = []
    for now in (1060.0, 1080.0, 1100.0, 1120.0):
        one.forward(now)
        shares.append(one.share)
        assert not one.due(now + 14)
        assert one.due(now + 15) or one.home
    assert shares == [0.01, 0.1, 0.5, 1.0]
    assert one.home


def test_each_bad_stage_makes_the_next_try_later() -> None:
    one = ramp()
    one.leave(0.0)
    waits = []
    for now in (100.0, 300.0, 600.0, 900.0):
        one.forward(now)
        one.leave(now + 10)
        waits.append(one.dwell_s)
    assert waits == [120, 200, 200, 200]


@pytest.mark.parametrize(("home_for_s", "dwell_s"), [(59.0, 120.0), (61.0, 60.0)])
def test_leaving_again_soon_takes_longer(home_for_s: float, dwell_s: float) -> None:
    one = ramp()
    one.leave(0.0)
    for now in (100.0, 200.0, 300.0, 400.0):
        one.forward(now)
    one.leave(400.0 + home_for_s)
    assert one.dwell_s == dwell_s


def test_a_ramp_with_a_last_stage_of_all() -> None:
    one = Ramp((0.5, 1.0), dwell_s=60, max_dwell_s=200, stage_s=15)
    one.leave(0.0)
    one.forward(60.0)
    one.forward(80.0)
    assert one.home


# -- shedding --------------------------------------------------------------------------------


def shedding(most: int = 6) -> Shedding:
    return Shedding((0.1, 0.5, 0.9), every_s=20, dwell_s=60, max_dwell_s=200, quota=Quota(most))


def shares(one: Shedding, seconds: range, distress: bool, calm: bool) -> dict[int, float]:
    """When the share changed, and to what."""
    return {now: one.share for now in seconds if one.look(distress, calm, True, float(now))}


def test_it_grows_as_long_as_it_has_to_and_shrinks_more_slowly() -> None:
    one = shedding()
    assert shares(one, range(100), True, False) == {0: 0.1, 20: 0.5, 40: 0.9}
    assert shares(one, range(100, 160), False, True) == {}
    assert shares(one, range(160, 400), False, True) == {160: 0.5, 221: 0.1, 282: 0.0}


def test_between_the_thresholds_it_stays() -> None:
    one = shedding()
    shares(one, range(30), True, False)
    assert shares(one, range(30, 1000), False, False) == {}
    assert one.share == 0.5


def test_a_step_back_that_was_too_early_makes_the_next_one_later() -> None:
    one = shedding()
    shares(one, range(30), True, False)
    assert shares(one, range(30, 100), False, True) == {90: 0.1}
    assert shares(one, range(111, 112), True, False) == {111: 0.5}
    assert shares(one, range(112, 300), False, True) == {232: 0.1}
    assert one.dwell_s == 120


def test_ending_waits_for_room_to_begin_again() -> None:
    one = shedding(most=2)
    shares(one, range(10), True, False)
    assert shares(one, range(10, 3600), False, True) == {}
    assert shares(one, range(3600, 3700), False, True) == {3601: 0.0}


Looks = st.lists(
    st.tuples(
        st.booleans(),
        st.booleans(),
        st.sampled_from([True, True, True, False]),
        st.one_of(st.floats(0, 30), st.floats(0, 2000)),
    ),
    max_size=300,
)


@given(Looks, st.integers(2, 6))
def test_no_key_changes_tier_more_often_than_the_hour_allows(
    looks: list[tuple[bool, bool, bool, float]], most: int
) -> None:
    one, now = shedding(most=most), 0.0
    turned: dict[float, list[float]] = {at: [] for at in (0.05, 0.3, 0.7)}
    for distress, calm, room, later_s in looks:
        now += later_s
        before = one.share
        one.look(distress, calm, room, now)
        for at, turns in turned.items():
            if (at < before) != (at < one.share):
                turns.append(now)
        assert 0 <= one.share <= 0.9
    for turns in turned.values():
        for end in turns:
            assert sum(end - HOUR_S <= at <= end for at in turns) <= most


def test_where_the_next_tier_has_no_room_it_gives_way() -> None:
    one = shedding()
    shares(one, range(25), True, False)
    assert one.share == 0.5
    full = [(at, one.share) for at in range(25, 100) if one.look(True, False, False, float(at))]
    assert full == [(40, 0.1), (60, 0.0)]
    # there is room again: not at once, and later still the next time
    assert shares(one, range(100, 140), True, False) == {120: 0.1}
    assert one.dwell_s == 120
    assert [at for at in range(140, 200) if one.look(True, False, False, float(at))] == [140]
    assert shares(one, range(200, 270), True, False) == {260: 0.1}


def test_where_there_is_no_room_it_does_not_begin() -> None:
    one = shedding()
    assert not any(one.look(True, False, False, float(at)) for at in range(100))
    assert one.look(True, False, True, 100.0)
