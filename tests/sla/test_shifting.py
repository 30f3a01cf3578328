"""Calls leave a place that does badly, and come back: in made-up time, with made-up places."""

from __future__ import annotations

import heapq
import itertools
import os
import random
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierllm import ConfigError, Deployment, Objective, ProviderUnavailableError, Tier, TieredClient
from tierllm.events import Event, ShiftChanged
from tierllm.pipeline.virtual import VirtualTime
from tierllm.routing.ask import ask
from tierllm.sla.ramp import HOUR_S, rank
from tierllm.sla.shift import Shift
from tierllm.sla.shifting import Shifting
from tierllm.testing import FakeProvider, Reply
from tierllm.types import Call, Outcome

GOOD_S, SLOW_S = 1.0, 9.0
Answer = Callable[[str, float], tuple[Outcome, float]]
"""What comes of a call to a place that begins now, and after how many seconds."""


def good(place: str, now: float) -> tuple[Outcome, float]:
    return "ok", GOOD_S


def slow_at(places: Sequence[str], until_s: float = 1e9) -> Answer:
    return lambda place, now: ("ok", SLOW_S if place in places and now < until_s else GOOD_S)


class Scene:
    """A tier, and calls to it that go where they are told to."""

    def __init__(
        self,
        places: Sequence[str] = ("a", "b"),
        *,
        weighted: bool = False,
        objective: Objective | None = None,
        reading: Callable[[], tuple[float, float]] | None = None,
        start_s: float = 10_000.0,
        leads_down: bool = True,
        closed: Sequence[str] = (),
        room: Callable[[], bool] | None = None,
        **how: Any,
    ) -> None:
        self.now = start_s
        self.closed = closed
        self.retried = False
        """Whether calls that fail at one place are answered all the same."""
        self.room = room
        self.events: list[ShiftChanged] = []
        self.times: list[float] = []
        self.calls: list[tuple[str, str | None]] = []
        self._under_way: list[tuple[float, int, str, Outcome, float]] = []
        self._places = tuple(places)
        self._rng = random.Random(3)
        self._weighted = weighted
        self.shifting = Shift(**how).bound(
            tier="gold",
            places=places,
            objective=objective or Objective(latency_p95_s=4.0, availability=0.99),
            load=reading,
            closed=lambda: self.closed,
            clock=lambda: self.now,
            emit=self._heard,
            rng=random.Random(1),
            leads_down=leads_down,
        )

    def _heard(self, event: Event) -> None:
        assert isinstance(event, ShiftChanged)
        self.events.append(event)
        self.times.append(self.now)

    def call(self, key: str, answer: Answer) -> None:
        if self.shifting.leaves_tier(key, self.now, self.room):
            self.calls.append((key, None))
            return
        avoided = self.shifting.avoided(key, self.now)
        order = list(self._places)
        if self._weighted:
            self._rng.shuffle(order)
        place = min(order, key=lambda each: each in avoided)
        self.calls.append((key, place))
        number = self.shifting.begun(place, self.now)
        outcome, takes_s = answer(place, self.now)
        heapq.heappush(self._under_way, (self.now + takes_s, number, place, outcome, takes_s))

    def play(self, seconds: float, answer: Answer = good, *, per_s: int = 4, keys: int = 400) -> None:
        until = self.now + seconds
        while self.now < until:
            while self._under_way and self._under_way[0][0] <= self.now:
                at, number, place, outcome, took_s = heapq.heappop(self._under_way)
                self.shifting.ended(place, number, max(at, self.now), outcome, took_s, None)
                if outcome == "failed" and not self.retried:
                    self.shifting.failed(self.now, ProviderUnavailableError("down"))
            self.call(f"s:\0{self._rng.randrange(keys)}", answer)
            self.now += 1 / per_s

    def shares(self, deployment: str | None = "a") -> list[float]:
        return [event.share for event in self.events if event.deployment == deployment]

    def avoid(self, key: str = "s:x") -> list[str]:
        return sorted(self.shifting.avoided(key, self.now))


# -- leaving and coming back -----------------------------------------------------------------


def test_a_slow_place_is_left_and_taken_back_by_degrees() -> None:
    scene = Scene()
    scene.play(300)
    assert scene.events == []
    began = scene.now
    scene.play(50, slow_at("a"))
    assert scene.shares() == [0.0]
    assert scene.times[0] - began <= 20
    (left,) = scene.events
    assert (left.tier, left.before, left.pinned, left.mode) == ("gold", 1.0, False, "enforce")
    assert "over 4 s" in left.cause
    assert "times what the objective allows" in left.cause
    assert {place for _, place in scene.calls[-80:]} == {"b"}
    scene.play(600)
    assert scene.shares() == [0.0, 0.01, 0.1, 0.5, 1.0]
    assert scene.times[1] - scene.times[0] >= 60
    assert all(after - before >= 15 for before, after in pairwise(scene.times[1:]))
    assert scene.avoid() == []
    scene.play(1200)
    assert len(scene.events) == 5


def test_a_place_that_stays_slow_is_asked_more_and_more_seldom() -> None:
    scene = Scene(dwell_s=60, max_dwell_s=480)
    scene.play(2 * 3600, slow_at("a"), per_s=3)
    assert max(scene.shares()) <= 0.1
    assert scene.shifting.status()["shifts_last_hour"] == 0
    tries = [at for at, event in zip(scene.times, scene.events, strict=True) if event.share == 0.01]
    waits = [after - before for before, after in pairwise(tries)]
    assert waits[0] < 400
    assert min(waits[3:]) >= 480
    late = sum(place == "a" for _, place in scene.calls[200:])
    assert late <= 0.01 * len(scene.calls)


def test_failures_are_left_too() -> None:
    scene = Scene()
    scene.play(60)
    scene.play(30, lambda place, _: ("failed" if place == "a" else "ok", 0.2))
    assert scene.shares() == [0.0]
    assert "failed" in scene.events[0].cause


def test_cancelled_and_refused_calls_move_nobody() -> None:
    scene = Scene()
    rng = random.Random(2)
    scene.play(600, lambda place, _: (rng.choice(("cancelled", "rejected")), 0.2))
    assert scene.events == []


def test_few_calls_move_nobody() -> None:
    scene = Scene()
    for _ in range(9):
        scene.call("s:x", slow_at("a"))
        scene.now += 1.0
    assert scene.avoid() == []
    assert scene.events == []


def test_without_traffic_it_comes_back_all_the_same() -> None:
    scene = Scene()
    scene.play(40, slow_at("a"))
    for _ in range(100):  # somebody looks now and then, and nobody calls
        scene.avoid()
        scene.now += 10
    assert scene.shares() == [0.0, 0.01, 0.1, 0.5, 1.0]
    assert "no call came within 12" in scene.events[2].cause


def test_keys_are_nested_and_those_without_are_drawn() -> None:
    scene = Scene()
    scene.play(40, slow_at("a"))
    home: set[str] = set()
    keys = [f"s:{number}" for number in range(2000)]
    for share in (0.0, 0.01, 0.1, 0.5, 1.0):
        while scene.shares()[-1] < share:
            scene.play(5)
        now = {key for key in keys if not scene.avoid(key)}
        assert home <= now
        assert len(now) / len(keys) == pytest.approx(share, abs=0.03)
        drawn = sum(not scene.avoid("") for _ in range(2000))
        assert drawn / 2000 == pytest.approx(share, abs=0.03)
        home = now


def test_a_third_place_takes_over() -> None:
    scene = Scene(("a", "b", "c"))
    scene.play(200, slow_at("ab"))
    assert scene.shares("a")[0] == scene.shares("b")[0] == 0.0
    assert scene.shares("c") == scene.shares(None) == []


def test_no_more_places_are_left_than_the_hour_allows() -> None:
    scene = Scene(("a", "b", "c", "d"), max_shifts_per_hour=2, dwell_s=60)
    scene.play(300, slow_at("abc"))
    assert [scene.shares(place)[:1] for place in "abc"] == [[0.0], [0.0], []]
    assert scene.shares(None)  # who cannot go past it is sent on
    scene.play(1500)
    assert max(scene.shares("a")) == max(scene.shares("b")) == 0.5  # the way back has to wait
    scene.play(3600)
    assert scene.shares("a")[-1] == 1.0


def test_calls_that_hung_before_it_was_left_say_nothing_of_it_afterwards() -> None:
    scene = Scene()
    scene.play(60)
    scene.play(20, lambda place, now: ("failed", 300.0) if place == "a" else ("ok", GOOD_S))
    scene.play(1800)
    assert scene.shares() == [0.0, 0.01, 0.1, 0.5, 1.0]


@pytest.mark.parametrize("gap_s", [6.0, 30.0])
def test_a_process_that_stood_still_is_no_slow_place(gap_s: float) -> None:
    scene = Scene()
    scene.play(300, per_s=12)
    scene.now += gap_s
    scene._under_way = [
        (at + gap_s, number, place, outcome, took_s + gap_s)
        for at, number, place, outcome, took_s in scene._under_way
    ]
    scene.play(60, per_s=12)
    assert scene.events == []


def test_one_caller_who_waits_for_a_slow_place_is_no_process_that_stands_still() -> None:
    scene = Scene()
    for takes_s in [1.0] * 100 + [SLOW_S] * 60:
        place = next(each for each in "ab" if each not in scene.avoid())
        number = scene.shifting.begun(place, scene.now)
        scene.now += takes_s if place == "a" else 1.0
        scene.shifting.ended(place, number, scene.now, "ok", takes_s if place == "a" else 1.0, None)
    assert scene.shares()[0] == 0.0


def test_a_probe_goes_on_with_as_many_bad_calls_as_may_be() -> None:
    rng = random.Random(5)
    scene = Scene(objective=Objective(latency_p50_s=2.0))
    scene.play(60)
    scene.play(60, slow_at("a"))
    until = scene.now + 6 * 3600
    while scene.now < until:  # a call now and then, 45 % of them over the bound: that keeps a median
        scene.play(0.1, lambda place, now: ("ok", 3.0 if rng.random() < 0.45 else 1.0), per_s=4)
        scene.now += 8
    assert scene.shares()[-1] == 1.0


def test_a_place_that_would_not_serve_does_no_better() -> None:
    scene = Scene(closed=["b"])
    scene.play(60)
    scene.play(60, slow_at("a"))
    assert scene.shares("a") == []
    assert scene.shares(None)[0] == pytest.approx(0.9)
    scene.closed = []
    scene.play(10, slow_at("a"))
    assert scene.shares("a") == [0.0]


def test_where_the_one_that_was_left_still_serves_everybody_the_tier_sheds() -> None:
    scene = Scene()
    scene.play(60)
    scene.play(25, slow_at("a"))
    assert scene.shares("a") == [0.0]
    assert scene.shares(None) == []
    for _ in range(200):  # b refuses: its breaker is open
        scene.play(0.01, slow_at("ab"))
        scene.closed = ["b"]
        number = scene.shifting.begun("a", scene.now)
        heapq.heappush(scene._under_way, (scene.now + SLOW_S, number, "a", "ok", SLOW_S))
        scene.now += 0.2
    assert scene.shares(None)


def test_a_place_that_does_well_in_its_last_stage_comes_home_when_it_is_needed() -> None:
    scene = Scene(weighted=True)
    scene.play(60)
    scene.play(40, slow_at("b"))
    while scene.shares("b")[-1:] != [0.5]:
        scene.play(1)
    scene.play(25, slow_at("a"))
    assert scene.shares("b")[-1] == 1.0
    assert scene.shares("a") == [0.0]
    assert scene.shares(None) == []


def test_what_garbage_collection_ends_in_the_midst_of_a_look() -> None:
    scene = Scene()
    scene.play(60)
    shifting = scene.shifting
    numbers = [shifting.begun("a", scene.now) for _ in range(3)]

    class Collects:  # whatever is looked at may let garbage collection run
        patience_s = 1.0

        @property
        def progress(self) -> None:
            if numbers:
                shifting.ended("a", numbers.pop(), scene.now, "cancelled", 9.0, None)

    last = shifting.begun("a", scene.now, Collects())
    scene.now += 6.0
    free: list[bool] = []

    def look() -> None:
        free.append(shifting._lock.acquire(timeout=5))
        shifting._lock.release()

    def heard(event: Event) -> None:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    shifting._emit = heard
    shifting.avoided("s:x", scene.now)
    shifting.ended("a", last, scene.now, "ok", 6.0, None)
    shifting.pin("b", away=True)
    assert len(numbers) < 3
    assert free == [True]
    assert shifting.status()["places"]["a"]["under_way"] == len(numbers) + len(scene._under_way)


# -- the tier itself -------------------------------------------------------------------------


def test_attempts_that_are_made_good_shed_nobody() -> None:
    rng = random.Random(4)
    scene = Scene(("a",), objective=Objective(availability=0.999))
    scene.retried = True

    def answer(place: str, now: float) -> tuple[Outcome, float]:
        return "failed" if rng.random() < 0.02 else "ok", GOOD_S

    scene.play(1800, answer)
    assert scene.events == []
    scene.retried = False
    scene.play(600, answer)
    assert scene.shares(None)
    assert "failed" in scene.events[0].cause


def test_the_next_tier_takes_no_more_than_it_has_room_for() -> None:
    room = False
    scene = Scene(("a",), room=lambda: room)
    scene.play(120, slow_at("a"))
    assert scene.events == []
    room = True
    scene.play(50, slow_at("a"))
    assert scene.shares(None) == pytest.approx([0.9, 0.75, 0.5])
    room = False
    scene.play(90, slow_at("a"))
    assert scene.shares(None)[-1] == 1.0
    assert "no room for more" in scene.events[-1].cause


def test_a_load_that_answers_to_shedding_makes_no_key_change_tier_too_often() -> None:
    level = 1.5
    scene = Scene(reading=lambda: (level, level))
    for _ in range(2 * 720):  # too much where little is sent on, calm where much is
        level = 1.5 if scene.shifting.status()["share"] > 0.4 else 0.5
        scene.play(5)
    steps = [(at, each) for at, each in zip(scene.times, scene.events, strict=True) if not each.deployment]
    for rank_of in (0.05, 0.2, 0.4, 0.6, 0.8):
        turns = [at for at, each in steps if (1 - each.share > rank_of) != (1 - each.before > rank_of)]
        assert all(sum(end - HOUR_S <= at <= end for at in turns) <= 6 for end in turns)
    assert len(steps) > 8


def test_where_all_places_are_slow_alike_the_tier_sheds() -> None:
    scene = Scene(weighted=True, dwell_s=60)
    scene.play(60)
    scene.play(120, slow_at("ab"))
    assert scene.shares("a") == scene.shares("b") == []
    shed = scene.shares(None)
    assert shed[:3] == pytest.approx([0.9, 0.75, 0.5])
    assert "no other deployment does better" in scene.events[0].cause
    gone = sum(place is None for _, place in scene.calls[-40:])
    assert gone >= 20
    scene.play(900)
    assert scene.shares(None)[-1] == 1.0
    assert scene.calls[-1][1] is not None


def test_one_place_has_nowhere_to_go_but_down() -> None:
    scene = Scene(("a",))
    scene.play(60, slow_at("a"))
    assert scene.shares("a") == []
    assert scene.shares(None)[0] == pytest.approx(0.9)
    for unshed in (Scene(("a",), shed=False), Scene(("a",), leads_down=False)):
        unshed.play(60, slow_at("a"))
        assert unshed.events == []


def test_an_overloaded_tier_sheds_whom_no_session_holds() -> None:
    level = 1.5
    scene = Scene(reading=lambda: (level, level))
    scene.play(200)
    assert scene.shares(None) == pytest.approx([0.9, 0.75, 0.5, 0.25, 0.1])
    assert "load is 1.50" in scene.events[0].cause
    left = {
        who: sum(
            scene.shifting.leaves_tier(f"{who}{number}" if who else "", scene.now) for number in range(500)
        )
        for who in ("s:", "u:", "")
    }
    assert left["s:"] == 0
    assert left["u:"] / 500 == pytest.approx(0.9, abs=0.05)
    assert left[""] / 500 == pytest.approx(0.9, abs=0.05)
    level = 1.0  # between the thresholds
    scene.play(300)
    assert len(scene.shares(None)) == 5
    level = 0.5
    scene.play(600)
    assert scene.shares(None)[-1] == 1.0


def test_a_load_that_nobody_asked_to_heed() -> None:
    scene = Scene(reading=lambda: (9.0, 9.0), load=None)
    scene.play(60)
    assert scene.events == []


# -- observing, and by hand ------------------------------------------------------------------


def test_observing_changes_nothing() -> None:
    scene = Scene(mode="observe", reading=lambda: (2.0, 2.0))
    scene.play(100, slow_at("a"))
    assert {place for _, place in scene.calls} == {"a"}
    assert {event.mode for event in scene.events} == {"observe"}
    assert {event.deployment for event in scene.events} == {"a", None}
    assert scene.avoid() == []
    assert not scene.shifting.leaves_tier("", scene.now)
    assert scene.shifting.status()["places"]["a"]["share"] == 0.0
    scene.shifting.pin("a", away=True)
    assert scene.avoid() == ["a"]


def test_pinned_away_and_here() -> None:
    scene = Scene()
    scene.play(10)
    scene.shifting.pin("b", away=True, until=scene.now + 100)
    assert scene.avoid() == ["b"]
    scene.play(50, slow_at("a"))  # nowhere to go: pinned places take nobody
    assert scene.shares("a") == []
    assert scene.shifting.status()["places"]["b"]["pinned"] == {"away": True, "for_s": pytest.approx(50)}
    scene.shifting.pin("a", away=False)
    scene.play(60, slow_at("a"))
    assert scene.avoid() == []
    assert scene.shares("b") == [0.0, 1.0]
    scene.play(60, slow_at("a"))
    assert scene.shares("a") == [1.0]  # pinned here, it is not left
    said = [(event.deployment, event.cause, event.pinned) for event in scene.events if event.pinned]
    assert said == [
        ("b", "pinned away by hand for 100 s", True),
        ("a", "pinned here by hand", True),
        ("b", "the pin has run out", True),
    ]
    scene.shifting.pin("a", away=None)
    scene.play(5, slow_at("a"))
    assert scene.shares("a") == [1.0, 1.0]  # from a clean state: it takes new calls to tell
    scene.play(30, slow_at("a"))
    assert scene.shares("a")[-1] == 0.0


def test_a_pin_ends_what_was_automatic() -> None:
    scene = Scene()
    scene.play(60, slow_at("a"))
    assert scene.avoid() == ["a"]
    scene.shifting.pin("a", away=False)
    scene.shifting.pin("a", away=None)
    assert scene.avoid() == []
    assert scene.shifting.status()["places"]["a"]["dwell_s"] == 60
    scene.shifting.pin("a", away=None)  # nothing to take off
    assert len([event for event in scene.events if event.pinned]) == 2


def test_the_tier_pinned() -> None:
    scene = Scene(reading=lambda: (2.0, 2.0))
    scene.shifting.pin(None, away=True, until=scene.now + 30)
    assert scene.shifting.leaves_tier("s:x", scene.now)
    assert scene.shifting.status()["share"] == 0.0
    scene.shifting.pin(None, away=False, until=scene.now + 60)
    scene.play(59)
    assert not any(scene.shifting.leaves_tier("", scene.now) for _ in range(200))
    scene.play(60)
    assert any(scene.shifting.leaves_tier("", scene.now) for _ in range(200))


@pytest.mark.parametrize("until", [float("nan"), float("inf"), "tomorrow"])
def test_pins_that_make_no_sense(until: Any) -> None:
    scene = Scene()
    with pytest.raises(ConfigError, match="until="):
        scene.shifting.pin("a", away=True, until=until)
    with pytest.raises(ConfigError, match="no deployment 'z' to pin; there are a, b"):
        scene.shifting.pin("z", away=True)


def test_the_lowest_tier_has_nowhere_to_send_its_calls() -> None:
    scene = Scene(leads_down=False)
    with pytest.raises(ConfigError, match="no tier below it"):
        scene.shifting.pin(None, away=True)
    scene.shifting.pin(None, away=False)
    Scene(shed=False).shifting.pin(None, away=True)  # by hand it may be


# -- bounds ----------------------------------------------------------------------------------

Phases = st.lists(
    st.tuples(
        st.sampled_from(["good", "a", "b", "ab", "fails", "mixed"]),
        st.integers(5, 400),
        st.sampled_from([0, -30, -4000]),
    ),
    min_size=1,
    max_size=14,
)


@given(phases=Phases, most=st.integers(2, 6), weighted=st.booleans(), seed=st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_shifts_an_hour_are_bounded_and_keys_go_and_come_once(
    phases: list[tuple[str, int, int]], most: int, weighted: bool, seed: int
) -> None:
    scene = Scene(weighted=weighted, dwell_s=20, max_dwell_s=60, probe_s=20, max_shifts_per_hour=most)
    rng = random.Random(seed)
    behaviour: dict[str, Answer] = {
        "good": good,
        "a": slow_at("a"),
        "b": slow_at("b"),
        "ab": slow_at("ab"),
        "fails": lambda place, _: ("failed" if place == "a" else "ok", 0.2),
        "mixed": lambda place, _: (rng.choice(("ok", "failed", "cancelled")), rng.choice((0.5, 3.0, 8.0))),
    }
    ranks = (0.0, 0.005, 0.05, 0.3, 0.7)
    for what, seconds, back_s in phases:
        scene.play(seconds, behaviour[what], per_s=3)
        scene.now += back_s  # a clock set back: what is under way then ends later
        scene._under_way = [(each[0] + back_s, *each[1:]) for each in scene._under_way]
        scene.times = [at + back_s for at in scene.times]
    for places in (("a", "b"), (None,)):
        turns = [
            at
            for at, event in zip(scene.times, scene.events, strict=True)
            if event.deployment in places and 1.0 in (event.share, event.before)
        ]
        assert all(sum(end - HOUR_S <= at <= end for at in turns) <= most for end in turns)
    for place in ("a", "b"):
        here = [event for event in scene.events if event.deployment == place]
        assert all(before.share == after.before for before, after in pairwise(here))
        cycles = sum(event.share == 0.0 for event in here)
        for at in ranks:
            sides = [event.share > at for event in here]
            changes = sum(now != before for before, now in zip([True, *sides], sides, strict=False))
            assert changes <= 2 * cycles
        for first, last in pairwise(here):
            assert last.share > first.share or last.share == 0.0  # up by degrees, down at once


def test_a_flapping_place_does_not_make_calls_flap() -> None:
    scene = Scene()
    scene.play(2.5 * 3600, lambda place, now: ("ok", SLOW_S if place == "a" and now % 240 < 60 else GOOD_S))
    turns = [
        at for at, event in zip(scene.times, scene.events, strict=True) if 1.0 in (event.share, event.before)
    ]
    assert turns
    assert all(sum(end - HOUR_S <= at <= end for at in turns) <= 6 for end in turns)


@pytest.mark.parametrize("back_s", [5.0, 3600.0, 100_000.0])
def test_a_clock_set_back_moves_nobody(back_s: float) -> None:
    scene = Scene(start_s=200_000.0)
    scene.play(60, slow_at("a"))
    assert scene.shares() == [0.0]
    scene.now -= back_s
    scene._under_way = [(each[0] - back_s, *each[1:]) for each in scene._under_way]
    left_for_s = scene.now + back_s - scene.times[0]
    scene.play(55 - left_for_s)
    assert scene.shares() == [0.0]
    assert scene.avoid() == ["a"]
    scene.play(10)
    assert scene.shares() == [0.0, 0.01]  # it takes as long as it would have taken
    scene.play(600)
    assert scene.shares() == [0.0, 0.01, 0.1, 0.5, 1.0]


def test_a_thread_that_stood_still_is_no_clock_set_back() -> None:
    scene = Scene()
    scene.play(60, slow_at("a"))
    left_at = scene.times[0]
    for _ in range(100):  # it asked for the time a while ago
        number = scene.shifting.begun("b", scene.now - 40)
        scene.shifting.ended("b", number, scene.now - 39, "ok", 1.0, None)
    while scene.shares()[-1] == 0.0:
        scene.play(1)
    assert scene.times[1] - left_at == pytest.approx(60, abs=2)


# -- another configuration -------------------------------------------------------------------


def succeeded(scene: Scene, *, same: Sequence[str] | None = None, **made: Any) -> Scene:
    """The scene under another configuration."""
    after = Scene(**made)
    after.shifting.inherit(scene.shifting, same)
    after.now, after._under_way = scene.now, []
    return after


def test_a_reload_goes_on_with_what_was_left() -> None:
    scene = Scene()
    scene.play(60, slow_at("a"))
    assert scene.shares() == [0.0]
    after = succeeded(scene, places=("a", "b", "c"))
    assert after.avoid() == ["a"]
    after.play(400)
    assert after.shares() == [0.01, 0.1, 0.5, 1.0]
    assert after.shifting.status()["shifts_last_hour"] == 2
    events = len(scene.events)
    scene.now = after.now
    scene.play(60, slow_at("b"))  # calls that began before: they are counted, and decide nothing
    assert len(scene.events) == events
    assert after.shifting.status()["places"]["b"]["windows"]["latency_p95_s"]["300s"]["bad"] > 0


def test_calls_that_end_after_a_reload_count_in_the_new_one() -> None:
    scene = Scene()
    number = scene.shifting.begun("a", scene.now)
    after = succeeded(scene)
    other = after.shifting.begun("a", after.now)
    assert other != number
    after.now = scene.now = scene.now + 9
    scene.shifting.ended("a", number, scene.now, "ok", SLOW_S, None)
    status = after.shifting.status()["places"]["a"]
    assert status["windows"]["latency_p95_s"]["20s"] == {"calls": 2, "bad": 2}
    assert status["under_way"] == 1


def test_other_settings_begin_anew_but_for_pins_and_the_hour() -> None:
    scene = Scene()
    scene.play(60, slow_at("a"))
    scene.shifting.pin("b", away=True)
    after = succeeded(scene, dwell_s=30)
    assert after.avoid() == ["b"]
    assert after.shifting.status()["shifts_last_hour"] == 1
    assert succeeded(after, same=["a"], dwell_s=30).avoid() == []
    scene = Scene()
    scene.shifting.pin(None, away=True)
    assert not succeeded(scene, leads_down=False).shifting.leaves_tier("s:x", scene.now)


# -- threads, processes ----------------------------------------------------------------------


def test_threads() -> None:
    scene = Scene()
    shifting, failed, ticks = scene.shifting, [], itertools.count()

    def work(number: int) -> None:
        try:
            for at in range(2000):
                scene.now = now = 10_000.0 + next(ticks) / 400
                shifting.avoided(f"s:{number}", now)
                attempt = shifting.begun("ab"[at % 2], now)
                shifting.ended("ab"[at % 2], attempt, now, "ok", 1.0, None)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    scene.now = 10_040.0
    status = shifting.status()
    assert failed == []
    assert (
        sum(each["windows"]["latency_p95_s"]["60s"]["calls"] for each in status["places"].values()) == 16_000
    )
    assert [each["under_way"] for each in status["places"].values()] == [0, 0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_lets_go_of_the_parents_calls() -> None:
    scene = Scene()
    for _ in range(20):
        scene.call("s:x", slow_at("a"))
    with scene.shifting._lock:
        child = os.fork()
        if child == 0:
            try:
                status = scene.shifting.status()
                os._exit(0 if status["places"]["a"]["under_way"] == 0 else 1)
            except BaseException:
                os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert scene.shifting.status()["places"]["a"]["under_way"] == 20


def test_status_is_plain_data() -> None:
    scene = Scene()
    scene.play(60, slow_at("a"))
    status = scene.shifting.status()
    assert status["mode"] == "enforce"
    assert status["share"] == 1.0
    assert status["shifts_last_hour"] == 1
    assert status["max_shifts_per_hour"] == 6
    first = status["places"]["a"]
    assert first["share"] == 0.0
    assert first["cause"] == scene.events[-1].cause
    assert set(first["windows"]) == {"latency_p95_s", "availability"}
    assert set(first["windows"]["availability"]) == {"20s", "60s", "300s"}


# -- in a client -----------------------------------------------------------------------------


def test_a_client_goes_past_a_slow_deployment() -> None:
    world = VirtualTime()
    slow = {"first": False}
    fake = FakeProvider(
        answer=lambda call: Reply("fine", latency_s=SLOW_S if slow.get(call.model) else GOOD_S)
    )
    heard: list[Event] = []
    client = TieredClient(
        [
            Tier(
                "gold",
                [Deployment(name, fake, name=name) for name in ("first", "second")],
                objective=Objective(latency_p95_s=4.0),
                shift=Shift(dwell_s=60),
            ),
            Tier("silver", [Deployment("third", fake, name="third")]),
        ],
        clock=world.clock,
        listeners=[heard.append],
    )
    calls: list[tuple[float, Call]] = []

    def come(number: int) -> None:
        ready = client.ready(ask("hello", {"sla": "gold", "session": f"session {number % 40}"}))
        ready.host.begin(ready.scope)
        calls.append((world.now, ready.call))
        world.start(
            ready.flow(), ready.host, scope=ready.scope, on_end=lambda run: ready.host.end(ready.scope)
        )
        if number < 2400:
            world.after(0.25, lambda: come(number + 1))

    world.after(100.0, lambda: slow.update(first=True))
    world.after(150.0, lambda: slow.update(first=False))
    world.after(0.0, lambda: come(0))
    began = world.now
    world.run()
    shifts = [event for event in heard if isinstance(event, ShiftChanged)]
    assert [event.share for event in shifts] == [0.0, 0.01, 0.1, 0.5, 1.0]
    traces = [(at - began, call.trace) for at, call in calls if call.trace is not None]
    away = [trace for at, trace in traces if 121 < at < 175]
    assert {trace.deployment for trace in away} == {"second"}
    assert ("first", "shift") in [(each.deployment, each.reason) for each in away[0].candidates]
    assert {trace.deployment for at, trace in traces if at > 560} == {"first"}
    tiers = client.status()["tiers"]
    assert tiers["gold"]["shift"]["places"]["first"]["share"] == 1.0
    assert tiers["silver"]["shift"] is None


def test_the_rank_decides() -> None:
    scene = Scene()
    scene.play(40, slow_at("a"))
    while scene.shares()[-1] < 0.1:
        scene.play(5)
    for number in range(300):
        key = f"s:{number}"
        assert (scene.avoid(key) == []) == (rank("gold/a", key) < 0.1)
    assert isinstance(scene.shifting, Shifting)
