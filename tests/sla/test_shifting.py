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

from tierllm import ConfigError, Deployment, Objective, Tier, TieredClient
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
        **how: Any,
    ) -> None:
        self.now = start_s
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
        if self.shifting.leaves_tier(key, self.now):
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


# -- the tier itself -------------------------------------------------------------------------


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
        scene._under_way = [(at + back_s, *rest) for at, *rest in scene._under_way]
        scene.times = [at + back_s for at in scene.times]
    for place in ("a", "b", None):
        turns = [
            at
            for at, event in zip(scene.times, scene.events, strict=True)
            if event.deployment == place and 1.0 in (event.share, event.before)
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
    scene._under_way = [(at - back_s, *rest) for at, *rest in scene._under_way]
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
