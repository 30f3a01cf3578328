"""Adaptive sampling: who is touched by which step, and how that is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import pytest

from client.forms import Form, every_form
from tierllm import Deployment, Tier, TieredClient
from tierllm.admission.consent import Consent
from tierllm.admission.emergency import Emergencies
from tierllm.admission.load import LoadMeter
from tierllm.admission.sampler import Sampler
from tierllm.admission.sampling import AdaptiveSampling
from tierllm.admission.steps import Step
from tierllm.errors import DeadlineExceededError, ProviderUnavailableError, ThrottledError
from tierllm.events import CallThrottled, DegradationChanged, Event
from tierllm.pipeline.effects import Blocking, Handler
from tierllm.stores import MemoryStore
from tierllm.testing import FakeClock, FakeProvider
from tierllm.types import Call, Request, Response, Trace, Waited

SINCE = date(1970, 1, 1)
FREE = Consent("all", since=SINCE, plan="free")
SHORT = Step("short", at=1.2, max_tokens=300)
CHEAP = Step("cheap", at=1.5, cheaper=True)
LATER = Step("later", at=1.2, defer_below=5)
NOT_NOW = Step("not now", at=1.2, refuse_below=5)
OLD = Step("old", at=1.2, cached=True)


class Ground:
    """A sampler of a tier whose load is set by hand."""

    def __init__(
        self,
        steps: Sequence[Step] = (SHORT,),
        *,
        consent: Sequence[Consent] = (FREE,),
        stale: Callable[[Call], Response | None] | None = None,
        **settings: Any,
    ) -> None:
        self.clock = FakeClock()
        self.level = self.forecast = 0.0
        self.events: list[Event] = []
        self.meter = LoadMeter(clock=self.clock)
        self.store = MemoryStore(clock=self.clock)
        self.emergencies = Emergencies(self.store, clock=self.clock, wall=self.clock)
        self.sampler: Sampler = AdaptiveSampling(steps, consent=consent, **settings).bound(
            tier="gold",
            load=lambda: (self.level, self.forecast),
            clock=self.clock,
            wall=self.clock,
            emit=self.events.append,
            stale=stale,
            emergencies=self.emergencies,
            meter=self.meter,
        )

    def call(self, inside: Handler | None = None, **options: Any) -> Response:
        self.sent: dict[str, Any] | None = None
        self.last = Call(Request(messages=(), **{"plan": "free", **options}), trace=Trace("t"))

        async def sending(call: Call) -> Response:
            self.sent = dict(call.request.params)
            if call.degrade is not None:
                call.degrade.apply(self.sent)
            return Response(text="hi")

        flow = self.sampler(self.last, inside or sending)
        try:
            effect = flow.send(None)
            while True:
                assert isinstance(effect, Blocking)
                try:
                    result = effect.fn()
                except Exception as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as stop:
            response: Response = stop.value
            assert self.last.degrade is None
            return response

    def told(self) -> list[tuple[str, bool]]:
        return [(e.step, e.on) for e in self.events if isinstance(e, DegradationChanged)]

    def step(self, name: str = "short") -> dict[str, Any]:
        found: dict[str, Any] = self.sampler.status()["steps"][name]
        return found


# -- who is touched ------------------------------------------------------------------


def test_below_the_threshold_nothing_is_touched() -> None:
    ground = Ground()
    ground.level = 1.19
    assert ground.call(params={"max_tokens": 900}).degraded == ()
    assert ground.sent == {"max_tokens": 900}
    assert ground.told() == []


def test_above_it_a_call_gets_less_and_its_answer_says_so() -> None:
    ground = Ground()
    ground.level = 1.2
    assert ground.call(params={"max_tokens": 900}).degraded == ("short",)
    assert ground.sent == {"max_tokens": 300}
    assert ground.last.trace is not None
    assert ground.last.trace.degraded == ("short",)
    assert ground.told() == [("short", True)]
    assert ground.call(params={"max_tokens": 100}).degraded == ()  # nothing was taken from this one
    assert ground.step()["calls"] == 1


def test_the_forecast_alone_is_enough_to_enter() -> None:
    ground = Ground()
    ground.level, ground.forecast = 0.9, 1.3
    assert ground.call().degraded == ("short",)
    (event,) = ground.events
    assert isinstance(event, DegradationChanged)
    assert event.reason == "load 0.9, forecast 1.3 reached 1.2"


@pytest.mark.parametrize(
    "who",
    [{"plan": "pro"}, {"plan": None}, {"plan": None, "tenant": "free"}],
    ids=["other-plan", "no-plan", "tenant-of-that-name"],
)
def test_who_has_not_agreed_is_passed_over(who: dict[str, Any]) -> None:
    ground = Ground([SHORT, NOT_NOW, LATER, OLD], stale=lambda call: Response(text="old"))
    ground.level = 9.0
    assert ground.call(params={"max_tokens": 900}, **who).text == "hi"
    assert ground.sent == {"max_tokens": 900}
    for name in ("short", "not now", "later", "old"):
        assert ground.step(name)["passed_over"] == 1
        assert ground.step(name)["calls"] == 0


def test_without_consent_nothing_is_changed() -> None:
    ground = Ground(consent=())
    ground.level = 9.0
    assert ground.call(params={"max_tokens": 900}).degraded == ()
    assert ground.sent == {"max_tokens": 900}


def test_consent_is_step_by_step() -> None:
    ground = Ground(
        [SHORT, Step("cool", at=1.2, temperature=0)], consent=[Consent(["cool"], since=SINCE, plan="free")]
    )
    ground.level = 9.0
    assert ground.call(params={"max_tokens": 900, "temperature": 1.0}).degraded == ("cool",)
    assert ground.sent == {"max_tokens": 900, "temperature": 0}
    assert ground.step()["passed_over"] == 1


def test_consent_begins_on_its_day() -> None:
    ground = Ground(consent=[Consent("all", since=date(1970, 1, 2), plan="free")])
    ground.level = 9.0
    ground.clock.advance(86_399)
    assert ground.call().degraded == ()
    ground.clock.advance(1)
    assert ground.call().degraded == ("short",)


# -- entering and leaving --------------------------------------------------------------


def test_each_step_has_its_own_threshold() -> None:
    ground = Ground([SHORT, CHEAP, Step("little", at=2.0, max_tokens=50)])
    for level, on in ((1.3, ["short"]), (1.6, ["short", "cheap"]), (2.5, ["short", "cheap", "little"])):
        ground.level = level
        assert [step.name for step in ground.sampler.look()] == on
    ground.level = 1.5  # at or below what "little" is left at, 1.6, and above what the others are
    ground.sampler.look()
    ground.clock.advance(59)
    assert len(ground.sampler.look()) == 3
    ground.clock.advance(1)
    assert [step.name for step in ground.sampler.look()] == ["short", "cheap"]


def test_left_once_load_and_forecast_were_low_for_the_dwell() -> None:
    ground = Ground()
    ground.level = 2.0
    ground.call()
    ground.level, ground.forecast = 0.5, 1.0
    for _ in range(100):
        ground.clock.advance(1)
        ground.sampler.look()
    assert ground.step()["on"]
    ground.forecast = 0.9
    for _ in range(61):
        ground.clock.advance(1)
        ground.sampler.look()
    assert not ground.step()["on"]
    assert ground.told() == [("short", True), ("short", False)]
    event = ground.events[-1]
    assert isinstance(event, DegradationChanged)
    assert event.reason == "load no higher than 0.96 for 60 s"


def test_a_call_that_comes_while_nothing_changes_is_seen_at_once() -> None:
    ground = Ground()
    ground.call()
    ground.level = 2.0  # at the same moment
    assert ground.call().degraded == ("short",)


def test_observing_changes_nothing_and_says_what_it_would_have_done() -> None:
    ground = Ground([SHORT, NOT_NOW, LATER, OLD], mode="observe", stale=lambda call: Response(text="old"))
    ground.level = 2.0
    answer = ground.call(params={"max_tokens": 900})
    assert (answer.text, answer.degraded) == ("hi", ())
    assert ground.sent == {"max_tokens": 900}
    assert not ground.last.turn.defer
    assert ground.step()["calls"] == 1
    changes = [e for e in ground.events if isinstance(e, DegradationChanged)]
    assert {(e.step, e.mode) for e in changes} == {
        (name, "observe") for name in ("short", "not now", "later", "old")
    }
    (refused,) = [e for e in ground.events if isinstance(e, CallThrottled)]
    assert (refused.by, refused.mode) == ("not now", "observe")


# -- what else steps do ------------------------------------------------------------------


def test_low_priorities_are_refused_with_a_time_to_come_back() -> None:
    ground = Ground([NOT_NOW])
    ground.level = ground.forecast = 2.0
    with pytest.raises(ThrottledError, match="priority below 5") as caught:
        ground.call(priority=4)
    error = caught.value
    assert ground.sent is None
    assert error.steps_down
    assert not error.waitable
    assert error.retry_after_s is not None
    assert 60 <= error.retry_after_s <= 120
    assert ground.call(priority=5).text == "hi"
    (event,) = [e for e in ground.events if isinstance(e, CallThrottled)]
    assert (event.tier, event.by, event.mode, event.error) == ("gold", "not now", "enforce", error)


def test_who_is_refused_still_belongs_to_the_load() -> None:
    ground = Ground([NOT_NOW])
    ground.level = 2.0
    for _ in range(50):
        with pytest.raises(ThrottledError):
            ground.call()
    ground.meter.measure(1.0, in_flight=0, waiting=0, size=1, rate_per_s=1.0)
    assert ground.meter.level > 1
    assert ground.meter.reading().refused_per_s > 1


@pytest.mark.parametrize(
    ("level", "forecast", "least_s", "most_s"),
    [(2.0, 2.5, 90, 90), (1.5, 0.6, 77, 79), (0.5, 0.5, 60, 60), (900.0, 899.9, 3600, 3600)],
    ids=["rising", "falling", "low already", "far above"],
)
def test_the_time_to_come_back_is_what_the_forecast_says(
    level: float, forecast: float, least_s: float, most_s: float
) -> None:
    ground = Ground([NOT_NOW])
    ground.level = 2.0
    (step,) = ground.sampler.look()
    ground.level, ground.forecast = level, forecast
    ground.sampler.look()
    assert least_s <= ground.sampler.retry_after_s(step) <= most_s


def test_an_old_answer_is_served_where_there_is_one() -> None:
    kept: list[Response | None] = [Response(text="old", cached=True, age_s=90.0), None]
    ground = Ground([OLD, SHORT], stale=lambda call: kept.pop(0))
    ground.level = 2.0
    answer = ground.call()
    assert (answer.text, answer.degraded) == ("old", ("old",))
    assert ground.sent is None
    answer = ground.call(params={"max_tokens": 900})
    assert (answer.text, answer.degraded) == ("hi", ("short",))
    assert ground.step("old")["calls"] == 1


def test_where_looking_for_an_old_answer_fails_a_new_one_is_made(caplog: pytest.LogCaptureFixture) -> None:
    def failing(call: Call) -> Response | None:
        raise RuntimeError("the secret prompt")

    ground = Ground([OLD], stale=failing)
    ground.level = 2.0
    assert ground.call().text == "hi"
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_a_deadline_that_passes_while_it_looks_for_an_old_answer_is_told() -> None:
    def late(call: Call) -> Response | None:
        raise DeadlineExceededError("too late")

    ground = Ground([OLD], stale=late)
    ground.level = 2.0
    with pytest.raises(DeadlineExceededError):
        ground.call()
    assert ground.sent is None


@pytest.mark.parametrize(
    ("priority", "deferred", "waited", "named"),
    [(4, True, "deferred", True), (4, True, "pool", False), (5, False, "deferred", False)],
)
def test_low_priorities_are_deferred_and_named_where_they_were_put_off(
    priority: int, deferred: bool, waited: str, named: bool
) -> None:
    ground = Ground([LATER])
    ground.level = 2.0
    seen: list[bool] = []

    async def inside(call: Call) -> Response:
        seen.append(call.turn.defer)
        assert call.trace is not None
        call.trace.waits.append(Waited(waited, "gold", 3.0))
        return Response(text="hi")

    answer = ground.call(inside, priority=priority)
    assert seen == [deferred]
    assert not ground.last.turn.defer  # another tier decides for itself
    assert answer.degraded == (("later",) if named else ())


def test_who_was_to_be_deferred_and_did_not_wait_lost_nothing() -> None:
    ground = Ground([LATER])
    ground.level = 2.0
    assert ground.call().degraded == ()


def test_who_asked_to_be_deferred_is_not_degraded_by_it() -> None:
    ground = Ground([LATER])
    ground.level = 2.0

    async def inside(call: Call) -> Response:
        assert call.trace is not None
        call.trace.waits.append(Waited("deferred", "gold", 3.0))
        return Response(text="hi")

    call_was = Call(Request(messages=(), plan="free", defer_ok=True), trace=Trace("t"))
    with pytest.raises(StopIteration) as stop:
        ground.sampler(call_was, inside).send(None)
    assert stop.value.value.degraded == ()
    assert call_was.turn.defer


@pytest.mark.parametrize("error", [ProviderUnavailableError, KeyboardInterrupt, GeneratorExit])
def test_however_a_call_ends_nothing_of_it_is_left(error: type[BaseException]) -> None:
    ground = Ground([SHORT, LATER])
    ground.level = 2.0

    async def failing(call: Call) -> Response:
        assert call.degrade is not None
        call.degrade.apply({})
        raise error()

    with pytest.raises(error):
        ground.call(failing)
    assert ground.last.degrade is None
    assert not ground.last.turn.defer
    assert ground.last.trace is not None
    assert ground.last.trace.degraded == ("short",)  # the trace of a failed call says it, too


def test_what_an_answer_was_degraded_by_before_stays() -> None:
    ground = Ground()
    ground.level = 2.0

    async def inside(call: Call) -> Response:
        assert call.degrade is not None
        call.degrade.apply({})
        return Response(text="hi", degraded=("stale",))

    assert ground.call(inside).degraded == ("stale", "short")


# -- emergencies ---------------------------------------------------------------------------


def test_an_emergency_forces_its_steps_on_until_it_is_over() -> None:
    ground = Ground([SHORT, CHEAP, NOT_NOW], emergencies={"disaster": ["short", "cheap"]})
    ground.emergencies.declare("disaster", for_s=600)
    ground.clock.advance(1)
    assert [step.name for step in ground.sampler.look()] == ["short", "cheap"]
    assert ground.call().degraded == ("short",)
    assert ground.call(plan="pro").degraded == ()  # consent is needed all the same
    assert ground.step()["emergency"] == "disaster"
    assert ground.step()["changes_last_hour"] == 0
    event = ground.events[0]
    assert isinstance(event, DegradationChanged)
    assert event.reason == "emergency 'disaster'"
    ground.clock.advance(600)
    assert ground.sampler.look() == ()
    event = ground.events[-1]
    assert isinstance(event, DegradationChanged)
    assert event.reason == "emergency 'disaster' is over"
    assert ground.told() == [("short", True), ("cheap", True), ("short", False), ("cheap", False)]


def test_status_says_how_things_are_though_nobody_has_called() -> None:
    ground = Ground(emergencies={"disaster": ["short"]})
    ground.emergencies.declare("disaster", for_s=600)
    assert ground.step()["on"]
    ground.clock.advance(601)
    assert not ground.step()["on"]
    assert ground.told() == [("short", True), ("short", False)]


def test_a_clock_that_was_set_back_keeps_no_step_on() -> None:
    ground = Ground(dwell_s=60)
    ground.clock.advance(1_000_000)
    ground.level = 2.0
    assert ground.sampler.look()
    ground.level = 0.0
    ground.sampler.look()
    ground.clock._now = 1.0
    for _ in range(70):
        ground.clock.advance(1)
        ground.sampler.look()
    assert ground.told() == [("short", True), ("short", False)]


def test_a_step_that_load_and_emergency_call_for_stays_for_either() -> None:
    ground = Ground(emergencies={"disaster": ["short"]})
    ground.level = 2.0
    ground.sampler.look()
    ground.emergencies.declare("disaster", for_s=600)
    ground.level = 0.0
    for _ in range(599):
        ground.clock.advance(1)
        ground.sampler.look()
    assert ground.told() == [("short", True)]
    ground.clock.advance(2)
    ground.sampler.look()
    assert ground.told() == [("short", True), ("short", False)]


def test_under_an_emergency_the_time_to_come_back_is_its_end() -> None:
    ground = Ground([NOT_NOW], emergencies={"disaster": ["not now"]})
    ground.emergencies.declare("disaster", for_s=600)
    with pytest.raises(ThrottledError) as caught:
        ground.call()
    assert caught.value.retry_after_s == pytest.approx(600)


def test_emergencies_that_no_step_answers_to_are_none_of_its_business() -> None:
    ground = Ground(emergencies={"disaster": ["short"]})
    ground.emergencies.declare("flood")
    assert ground.sampler.look() == ()
    assert Ground().sampler._emergencies is None  # nothing to ask for where none is named


# -- in a client ---------------------------------------------------------------------------


@every_form
def test_every_form_of_call_says_what_was_taken_from_it(form: Form) -> None:
    clock, fake = FakeClock(), FakeProvider()
    level = [2.0]
    sampler = AdaptiveSampling([SHORT], consent=[FREE]).bound(
        tier="gold", load=lambda: (level[0], 0.0), clock=clock, wall=clock
    )
    tiers = [Tier("gold", [Deployment("g", fake)], policies=[sampler])]
    with TieredClient(tiers, clock=clock) as client:
        answer = form(client, plan="free", max_tokens=900)
        assert answer.degraded == ("short",)
        assert answer.trace is not None
        assert answer.trace.degraded == ("short",)
        assert fake.journal[-1].params["max_tokens"] == 300
        level[0] = 0.0
        clock.advance(60)
        assert form(client, plan="free", max_tokens=900).degraded == ()
        assert fake.journal[-1].params["max_tokens"] == 900


@every_form
def test_every_form_of_call_may_get_an_old_answer_or_a_refusal(form: Form) -> None:
    clock, fake = FakeClock(), FakeProvider()
    sampler = AdaptiveSampling([OLD, Step("not now", at=1.0, refuse_below=0)], consent=[FREE]).bound(
        tier="gold",
        load=lambda: (2.0, 0.0),
        clock=clock,
        wall=clock,
        stale=lambda call: Response(text="old", finish_reason="stop"),
    )
    tiers = [Tier("gold", [Deployment("g", fake)], policies=[sampler])]
    with TieredClient(tiers, clock=clock) as client:
        answer = form(client, plan="free")
        assert (answer.text, answer.degraded) == ("old", ("old",))
        with pytest.raises(ThrottledError) as caught:
            form(client, plan="free", priority=-1)
        assert caught.value.retry_after_s is not None
    assert len(fake.journal) == 0
