"""How late is late, and what may be spent on it: the pure state beneath hedging."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.errors import DeadlineExceededError, ProviderTimeoutError, ProviderUnavailableError
from tierllm.pipeline.effects import Ticket
from tierllm.pipeline.scope import Invocation, Scope
from tierllm.resilience.lane import Lane
from tierllm.resilience.lateness import FORGET_S, LEAST, RECENT, SIZE, Bank, FirstTokens, Lateness
from tierllm.testing import FakeClock
from tierllm.types import Call, Chunk, Request

# -- the bank ----------------------------------------------------------------------


@given(
    share=st.floats(0.001, 1.0),
    most=st.floats(1, 100),
    wishes=st.lists(st.sampled_from(["call", "hedge", "give back"]), max_size=400),
)
def test_hedges_are_never_more_than_their_share_of_the_calls(
    share: float, most: float, wishes: list[str]
) -> None:
    bank = Bank(share, most)
    for wish in wishes:
        if wish == "call":
            bank.pay_in()
        elif wish == "hedge":
            could = bank.balance >= 1
            assert bank.withdraw() is could
        elif bank.hedges:
            bank.give_back()
        assert bank.hedges <= share * bank.calls
        assert 0 <= bank.balance <= most


def test_the_bank_starts_empty_and_holds_so_much_at_most() -> None:
    bank = Bank(0.05, 2)
    assert [bank.pay_in() for _ in range(20)] == [False] * 19 + [True]
    for _ in range(1000):
        bank.pay_in()
    assert bank.balance == 2
    assert [bank.withdraw() for _ in range(3)] == [True, True, False]


def test_after_a_fork_the_child_has_saved_nothing() -> None:
    bank = Bank(0.5, 100)
    for _ in range(50):
        bank.pay_in()
    bank.renew()
    assert bank.balance == 0
    assert not bank.enough
    assert not bank.withdraw()
    assert [bank.pay_in(), bank.pay_in()] == [False, True]
    assert bank.enough


# -- what is usual -----------------------------------------------------------------


def test_late_is_above_the_quantile_of_the_latest() -> None:
    known = FirstTokens(0.98, 100)
    values = [n / 1000 for n in range(1, 1000)]
    Random(7).shuffle(values)
    for seconds in values[:99]:
        known.add(seconds)
    assert known.late_after_s is None
    known.add(values[99])
    assert known.late_after_s is not None
    for seconds in values:
        known.add(seconds)
    usual_s = sorted(values[-SIZE:])[251]  # rank 252 of 256: five of 257 lie at or above it
    assert known.late_after_s == pytest.approx(max(usual_s * 1.01, usual_s + 0.001))
    assert len(known) == SIZE


def test_what_always_takes_as_long_is_not_late() -> None:
    known = FirstTokens(0.98, 10)
    for _ in range(50):
        known.add(0.4)
    assert known.late_after_s is not None
    assert known.late_after_s > 0.4


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), min_size=150, max_size=600))
def test_waits_that_were_cut_short_never_lift_the_quantile_above_what_was_seen_whole(
    waits: list[tuple[float, bool]],
) -> None:
    known, whole = FirstTokens(0.98, 100), [0.3]
    for _ in range(100):
        known.add(0.3)
    for seconds, cut in waits:
        known.add(100 + seconds if cut else seconds, cut=cut)
        if not cut:
            whole.append(seconds)
        assert known.late_after_s is not None
        assert known.late_after_s <= max(max(whole) * 1.01, max(whole) + 0.001)


def test_waits_that_were_cut_short_keep_the_quantile_from_sinking() -> None:
    rng = Random(7)
    counted, dropped = FirstTokens(0.98, 100), FirstTokens(0.98, 100)
    late = [0, 0]
    for _ in range(20_000):
        seconds = rng.lognormvariate(-1.2, 0.5)
        for at, known in enumerate((counted, dropped)):
            bound_s = known.late_after_s
            if bound_s is None or seconds <= bound_s:
                known.add(seconds)
                continue
            late[at] += 1
            if seconds < bound_s + 0.2:  # it answered before the other could
                known.add(seconds)
            elif known is counted:
                known.add(bound_s + 0.2, cut=True)
    assert late[0] < 0.03 * 20_000
    assert late[1] > late[0]


# -- one place ---------------------------------------------------------------------


class Place:
    """A place whose calls take as long as they are told."""

    def __init__(self, min_samples: int = 10) -> None:
        self.clock = FakeClock()
        self.lateness = Lateness(0.98, min_samples)

    def begin(self, streaming: bool = True) -> Call:
        call = Call(Request(messages=()))
        self.lateness.began(call)
        call.progress = Invocation(call, Scope(self.clock), streaming)
        return call

    def takes(
        self,
        seconds: float,
        error: BaseException | None = None,
        *,
        speaks: bool = True,
        streaming: bool = True,
    ) -> None:
        call = self.begin(streaming)
        progress = call.progress
        assert progress is not None
        self.clock.advance(seconds)
        if speaks:
            progress.feed(Chunk("x"))
        progress.end()
        self.lateness.ended(call, error)


def test_streams_and_whole_answers_are_told_apart() -> None:
    place = Place()
    for _ in range(20):
        place.takes(0.2)
        place.takes(3.0, streaming=False)
    streamed_s, whole_s = place.lateness.late_after_s("stream"), place.lateness.late_after_s("sync")
    assert streamed_s is not None
    assert whole_s is not None
    assert 0.2 < streamed_s < 0.3 < 3 < whole_s
    assert place.lateness.late_after_s("async") == whole_s
    assert place.lateness.late_after_s("") == streamed_s


@pytest.mark.parametrize(
    ("error", "seconds", "counts"),
    [
        (ProviderUnavailableError("down"), 9.0, False),
        (ProviderTimeoutError("late"), 9.0, True),
        (DeadlineExceededError("late"), 9.0, True),
        (GeneratorExit(), 9.0, True),
        (GeneratorExit(), 0.1, False),
        (ProviderTimeoutError("late"), 0.1, False),
    ],
    ids=["failed", "timed-out", "deadline", "left-late", "left-early", "impatient"],
)
def test_silence_counts_where_it_was_longer_than_usual(
    error: BaseException, seconds: float, counts: bool
) -> None:
    place = Place()
    for _ in range(100):
        place.takes(0.2)
    before = len(place.lateness.streamed)
    place.takes(seconds, error, speaks=False)
    assert len(place.lateness.streamed) - before == counts
    assert (place.lateness.late_share(place.clock()) > 0) is counts


def test_a_call_that_reached_no_provider_teaches_nothing() -> None:
    place = Place()
    call = Call(Request(messages=()))
    place.lateness.began(call)
    place.lateness.ended(call, ProviderTimeoutError("x"))
    assert len(place.lateness.streamed) == len(place.lateness.whole) == 0


def test_a_place_is_mostly_late_while_its_calls_are_silent() -> None:
    place = Place()
    for _ in range(50):
        place.takes(0.2)
    now = place.clock
    assert not place.lateness.mostly_late(now(), 0.5)
    silent = [place.begin() for _ in range(RECENT // 2)]
    now.advance(1.0)
    assert not place.lateness.mostly_late(now(), 0.5)
    silent.append(place.begin())
    assert not place.lateness.mostly_late(now(), 0.5)
    now.advance(1.0)
    assert place.lateness.mostly_late(now(), 0.5)
    progress = silent.pop().progress
    assert progress is not None
    progress.feed(Chunk("x"))  # it speaks at last
    assert not place.lateness.mostly_late(now(), 0.5)


def test_a_place_that_was_slow_is_looked_at_again_after_a_minute() -> None:
    place = Place()
    for _ in range(100):
        place.takes(0.2)
    for _ in range(RECENT):
        place.takes(1.0, GeneratorExit(), speaks=False)
    assert place.lateness.mostly_late(place.clock(), 0.5)
    place.clock.advance(FORGET_S - RECENT)
    assert place.lateness.mostly_late(place.clock(), 0.5)
    assert place.lateness.late_share(place.clock()) == 1
    place.clock.advance(RECENT)
    assert not place.lateness.mostly_late(place.clock(), 0.5)
    assert place.lateness.late_share(place.clock()) == 0


def test_with_few_calls_known_no_place_is_slow() -> None:
    place = Place()
    for _ in range(10):
        place.takes(0.2)
    place.lateness._recent.clear()
    for _ in range(LEAST - 1):
        place.begin()
    place.clock.advance(5)
    assert not place.lateness.mostly_late(place.clock(), 0.5)
    place.begin()
    place.clock.advance(5)
    assert place.lateness.mostly_late(place.clock(), 0.5)


# -- the lanes of a race -----------------------------------------------------------


def test_no_place_is_asked_by_both_legs_at_once() -> None:
    first = Lane()
    second = first.against()
    a, b, c = "a", "b", "c"
    assert first.claim(a)  # type: ignore[arg-type]
    assert not second.claim(a, anew=True)  # type: ignore[arg-type]
    assert second.claim(b, anew=True)  # type: ignore[arg-type]
    assert not first.claim(b)  # type: ignore[arg-type]
    second.end()
    assert first.claim(b)  # type: ignore[arg-type]
    assert not second.claim(b, anew=True)  # type: ignore[arg-type]
    assert first.claim(c)  # type: ignore[arg-type]


def test_the_next_attempt_of_a_leg_wakes_whoever_waits_for_it() -> None:
    lane, call, woken = Lane(), Call(Request(messages=())), []
    call.lane = lane
    lane.asks("a", call)  # type: ignore[arg-type]
    assert lane.take([]) is lane
    lane.look()
    assert lane.take([]) is None
    assert not lane.enter(Ticket(lambda: woken.append(1) is None))
    call.again()
    assert woken == [1]
    assert call.attempt == 1


def test_a_lane_knows_what_was_sent_in_its_calls_stead() -> None:
    lane, call, clock = Lane(), Call(Request(messages=())), FakeClock()
    call.lane = lane
    trail = lane.asks("a", call)  # type: ignore[arg-type]
    assert trail.progress is None
    twin = call.copy().copy()  # as a policy of the place may make
    invocation = Invocation(twin, Scope(clock), True)
    assert twin.lane is lane
    twin.lane.reached(invocation)
    assert trail.progress is invocation
    assert trail.calls == [call, twin]
    assert not lane.spoke
    invocation.feed(Chunk("x"))
    assert lane.spoke
    call.again()
    assert trail.progress is None
    assert trail.asked == [invocation]
    assert trail.calls == [call]
    lane.let_go()
    assert lane.call is None
    lane.reached(invocation)  # nobody asks any more
