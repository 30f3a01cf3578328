"""A cascade through a client: who is judged, who goes up, what it costs, and what nobody may see."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.forms import Form, World, every_form
from resilience.judged import COST, Cascaded, Judge, reasons, reply, tiers
from tierllm import (
    Budget,
    ResultCache,
    Router,
    StickySessions,
    Tier,
    TieredClient,
    tiered,
)
from tierllm.errors import (
    AllTiersFailedError,
    BudgetExceededError,
    ClientClosedError,
    ConfigError,
    InvalidRequestError,
    UsageError,
)
from tierllm.events import CascadeEscalated, SteppedDown, TierRestored
from tierllm.pipeline.effects import Gather
from tierllm.resilience.cascading import NOT_ESCALATED
from tierllm.resilience.fallback import FallbackChain
from tierllm.resilience.hedge import Hedge
from tierllm.resilience.judging import PoorAnswer
from tierllm.routing.ask import ask
from tierllm.routing.cascade import Cascade
from tierllm.routing.course import Course
from tierllm.routing.judges import Agreement
from tierllm.routing.plan import Plan
from tierllm.testing import Fail, FakeProvider, Reply
from tierllm.types import Call, Candidate, Request, Response, text_of

both_ways = pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])


# -- the way up ---------------------------------------------------------------------


@both_ways
def test_a_good_cheap_answer_is_served(streaming: bool) -> None:
    world = Cascaded()
    world.script(b="good enough")
    told = world.call(streaming=streaming)
    assert (told.ok.text, told.ok.tier, told.ok.degraded) == ("good enough", "bronze", ())
    assert world.models() == ["b"]
    assert told.ok.trace is not None
    assert told.ok.trace.scores == {"judge": 0.9}
    assert reasons(told.ok) == [("gold", "*", "cascade"), ("bronze", "b", None)]
    assert told.ok.trace.cost_usd == told.ok.cost_usd == COST["bronze"]
    assert world.told(CascadeEscalated) == []
    assert told.pieces == [], "held back; who drives the stream tells it as one, once it is judged"


@both_ways
def test_a_poor_one_is_seen_by_nobody_and_a_strong_one_answers(streaming: bool) -> None:
    world = Cascaded()
    world.script(b="poor", g="strong")
    told = world.call(streaming=streaming)
    assert (told.ok.text, told.ok.tier, told.ok.degraded, told.ok.warnings) == ("strong", "gold", (), ())
    assert world.models() == ["b", "g"]
    assert told.took_s == pytest.approx(2.0)
    trace = told.ok.trace
    assert trace is not None
    assert [(a.tier, a.outcome) for a in trace.attempts] == [("bronze", "ok"), ("gold", "ok")]
    assert reasons(told.ok) == [("gold", "*", "cascade"), ("bronze", "b", "judged 0.2"), ("gold", "g", None)]
    assert trace.scores == {"judge": 0.2}
    assert told.ok.cost_usd == COST["gold"]
    assert trace.cost_usd == COST["gold"] + COST["bronze"]
    (event,) = world.told(CascadeEscalated)
    assert isinstance(event, CascadeEscalated)
    assert (event.from_tier, event.to_tier, event.score, event.mode) == ("bronze", "gold", 0.2, "enforce")
    assert world.told(SteppedDown, TierRestored) == []
    if streaming:
        assert told.text == "strong"


@every_form
def test_every_form(form: Form) -> None:
    world = Cascaded(virtual=False, fake=FakeProvider())
    world.script(b=["good", "poor"], g="strong")
    assert form(world.client).text == "good"
    answer = form(world.client)
    assert (answer.text, answer.tier) == ("strong", "gold")


def test_a_stream_is_silent_until_the_verdict() -> None:
    world = Cascaded()
    world.script(b=reply("good piece by piece", first_token_s=0.5, between_s=0.5))
    told = world.begin(streaming=True)
    world.pass_s(5)
    assert (told.pieces, told.ok.text) == ([], "good piece by piece")


def test_an_accepted_answer_is_told_as_a_stream() -> None:
    world = Cascaded(virtual=False, fake=FakeProvider())
    world.script(b=["good one", "poor"], g="strong one")
    for text in ("good one", "strong one"):
        with world.client.stream("Hello") as stream:
            chunks = list(stream)
        assert "".join(chunk.text for chunk in chunks) == text
        assert chunks[-1].finish_reason == "stop"


async def test_an_accepted_answer_is_told_as_an_async_stream() -> None:
    world = Cascaded(virtual=False, fake=FakeProvider())
    world.script(b=["good one", "poor"], g="strong one")
    for text in ("good one", "strong one"):
        async with world.client.astream("Hello") as stream:
            assert "".join([chunk.text async for chunk in stream]) == text
    await world.client.aclose()


def test_the_strong_answer_streams_as_it_comes() -> None:
    world = Cascaded()
    world.script(b="poor", g=reply("one two three", first_token_s=0.5, between_s=0.5))
    told = world.begin(streaming=True)
    world.pass_s(1.6)
    assert told.pieces == ["one"]
    world.pass_s(5)
    assert told.text == "one two three"


@pytest.mark.parametrize(
    ("options", "models"),
    [
        ({"sla": "gold"}, ["g"]),
        ({"sla": "bronze"}, ["b"]),
        ({"fallback": False}, ["g"]),
        ({"min_tier": "gold"}, ["g"]),
        ({"min_tier": "silver"}, ["s", "g"]),
        ({"require": {"eu"}, "min_tier": "silver"}, ["g"]),
    ],
    ids=["named", "named-cheap", "no-fallback", "top-floor", "floor", "labels"],
)
def test_who_is_cascaded(options: dict[str, Any], models: list[str]) -> None:
    world = Cascaded()
    world.script(b="poor", s="poor", g="strong")
    assert world.call(**options).kind == "ok"
    assert world.models() == models


def test_a_tier_for_each_end() -> None:
    world = Cascaded(cheap="silver", strong="gold")
    world.script(s="poor", g="strong")
    assert world.call().ok.tier == "gold"
    assert world.models() == ["s", "g"]
    assert world.call(min_tier="gold").ok.tier == "gold"
    assert world.models(2) == ["g"]


def test_a_cheap_tier_that_fails_is_no_verdict() -> None:
    world = Cascaded()
    world.script(b=Fail.unavailable(), b2=Fail.unavailable(), g="strong")
    told = world.call()
    assert told.ok.tier == "gold"
    assert world.counts["judged"] == 0
    assert [type(e) for e in world.told(SteppedDown, CascadeEscalated)] == [SteppedDown]


def test_calls_that_may_be_made_once_are_not_cascaded() -> None:
    fake = FakeProvider()
    asked: list[str] = []
    client = TieredClient(tiers(fake), cascade=Cascade(Judge()))

    @tiered.call(client=client, repeatable=False)
    def answer(question: str) -> str:
        asked.append(question)
        return "poor"

    assert answer("once") == "poor"
    assert asked == ["once"]


def test_a_wrapped_call_goes_up_too() -> None:
    fake = FakeProvider()
    client = TieredClient(tiers(fake), cascade=Cascade(lambda request, response: response.raw == "good"))
    seen: list[str] = []

    @tiered.call(client=client)
    def answer(question: str, *, route: Any = tiered.__class__) -> str:
        seen.append("called")
        return "good" if len(seen) > 1 else "poor"

    assert answer("twice") == "good"
    assert len(seen) == 2


def test_a_function_that_does_not_hear_where_it_goes_is_called_once() -> None:
    client = TieredClient(tiers(FakeProvider()), cascade=Cascade(Judge()))
    called: list[str] = []

    @tiered.call(client=client)
    def answer(question: str) -> str:
        called.append(question)
        return "poor"

    assert answer("once") == "poor"
    assert called == ["once"]


# -- what the cheap tier will not have ----------------------------------------------


@both_ways
@pytest.mark.parametrize(
    "refusal",
    [Fail.invalid(), Fail.filtered(), Fail.too_long(), Fail.unauthorized()],
    ids=["invalid", "filtered", "too-long", "unauthorized"],
)
def test_what_the_cheap_tier_refuses_goes_up(refusal: Fail, streaming: bool) -> None:
    world = Cascaded(names=("gold", "bronze"))
    world.fake.script("b", refusal, forever=True)
    world.fake.script("b2", refusal, forever=True)
    world.script(g="strong")
    assert world.call(streaming=streaming).ok.text == "strong"


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_so_it_does_whatever_the_rules_for_stepping_down_say(mode: Any) -> None:
    world = Cascaded(fallback=FallbackChain(mode=mode))
    world.script(b=Fail.unavailable(), b2=Fail.unavailable(), g="strong")
    assert world.call().ok.text == "strong"


def test_but_the_application_may_have_decided_otherwise() -> None:
    world = Cascaded(fallback=FallbackChain(on=lambda error: False))
    world.script(b=Fail.invalid())
    assert isinstance(world.call().error, InvalidRequestError)


def test_a_request_that_no_tier_will_have_is_invalid_once_the_granted_one_says_so() -> None:
    world = Cascaded()
    world.script(b=Fail.invalid(), g=Fail.invalid())
    assert isinstance(world.call().error, InvalidRequestError)
    assert world.models() == ["b", "g"]


@pytest.mark.parametrize("on_exceed", ["reject", "downgrade"])
def test_a_budget_of_the_cheap_tier_that_is_spent_leads_up(on_exceed: Any) -> None:
    spent = Budget(hard_usd="0.000001", window="1d", where={"tier": "bronze"}, on_exceed=on_exceed)
    world = Cascaded(budgets=[spent])
    world.script(g="strong")
    assert world.call().ok.text == "strong"
    assert world.models() == ["g"]


@pytest.mark.parametrize("on_exceed", ["reject", "downgrade"])
def test_one_over_all_tiers_refuses_the_call(on_exceed: Any) -> None:
    world = Cascaded(budgets=[Budget(hard_usd="0.000001", window="1d", on_exceed=on_exceed)])
    assert isinstance(world.call().error, BudgetExceededError)
    assert world.models() == []


# -- nothing better -----------------------------------------------------------------


@both_ways
def test_where_everything_better_fails_the_poor_answer_is_served(streaming: bool) -> None:
    world = Cascaded()
    world.script(b="poor", g=Fail.unavailable(), s=Fail.unavailable())
    told = world.call(streaming=streaming)
    assert (told.ok.text, told.ok.tier, told.ok.degraded) == ("poor", "bronze", (NOT_ESCALATED,))
    assert "not judged to be good enough" in told.ok.warnings[0]
    assert world.models() == ["b", "g", "s"]
    assert told.ok.trace is not None
    assert told.ok.trace.degraded == (NOT_ESCALATED,)
    assert world.counts["served_anyway"] == 1


def test_not_where_text_was_delivered() -> None:
    world = Cascaded(names=("gold", "bronze"))
    world.script(b="poor")
    world.fake.script("g", Fail.cut_after(2))
    told = world.call(streaming=True)
    assert told.kind == "StreamInterruptedError"


def test_the_poor_answer_comes_before_a_tier_that_is_lower_still() -> None:
    world = Cascaded(cheap="silver")
    world.script(s="poor", g=Fail.unavailable(), b="never asked")
    told = world.call()
    assert (told.ok.text, told.ok.degraded) == ("poor", (NOT_ESCALATED,))
    assert world.models() == ["s", "g"]


def test_a_lower_tier_is_asked_where_the_cheap_one_was_not_to_be_had() -> None:
    world = Cascaded(cheap="silver")
    world.script(s=Fail.unavailable(), g=Fail.unavailable(), b="last resort")
    told = world.call()
    assert (told.ok.text, told.ok.tier, told.ok.degraded) == ("last resort", "bronze", ())


def test_all_of_them_down_is_an_error() -> None:
    world = Cascaded()
    for model in ("b", "b2", "g", "s"):
        world.fake.script(model, Fail.unavailable())
    told = world.call()
    assert isinstance(told.error, AllTiersFailedError)


def test_a_deadline_that_passes_at_the_strong_tier() -> None:
    world = Cascaded()
    world.script(b="poor")
    world.fake.script("g", Fail.hang())
    told = world.call(deadline_s=3)
    assert (told.ok.text, told.ok.degraded) == ("poor", (NOT_ESCALATED,))
    assert told.took_s == pytest.approx(3.0)


# -- uncertain goes up ----------------------------------------------------------------


@pytest.mark.parametrize(
    "judge",
    [
        lambda request, response: float("nan"),
        lambda request, response: 7,
        lambda request, response: -0.1,
        lambda request, response: None,
        lambda request, response: "good",
        lambda request, response: 1 / 0,
        lambda request, response: False,
    ],
    ids=["nan", "seven", "below", "none", "text", "raises", "false"],
)
def test_a_judge_that_says_nothing_sends_it_up(judge: Any, caplog: pytest.LogCaptureFixture) -> None:
    world = Cascaded(judge)
    world.script(b="the secret answer", g="strong")
    with caplog.at_level(logging.DEBUG, "tierllm"):
        told = world.call("a secret question")
    assert told.ok.tier == "gold"
    assert "secret" not in caplog.text


def test_its_words_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    def judge(request: Request, response: Response) -> float:
        raise ValueError(f"cannot read {request.text!r}: {response.text!r}")

    world = Cascaded(judge)
    world.script(b="secret answer", g="strong")
    with caplog.at_level(logging.DEBUG, "tierllm"):
        told = world.call("secret question")
    assert told.ok.tier == "gold"
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text
    assert world.counts["unsure"] == 1
    assert ("bronze", "b", "judge failed") in reasons(told.ok)
    assert told.ok.trace is not None
    assert told.ok.trace.scores is None


def test_a_score_that_is_just_enough() -> None:
    world = Cascaded(lambda request, response: 0.5, at_least=0.5)
    world.script(b="just")
    assert world.call().ok.tier == "bronze"


async def test_an_async_judge() -> None:
    seen: list[str] = []

    async def judge(request: Request, response: Response) -> float:
        await asyncio.sleep(0)
        seen.append(response.text)
        return 1.0 if response.text == "good" else 0.0

    fake = FakeProvider()
    fake.script("b", "poor", "good", "poor")
    client = TieredClient(tiers(fake), cascade=Cascade(judge))
    assert (await client.acomplete("one")).tier == "gold"
    assert (await client.acomplete("two")).tier == "bronze"
    async with client.astream("three") as stream:
        async for _ in stream:
            pass
        assert stream.response.tier == "gold"
    assert seen == ["poor", "good", "poor"]
    await client.aclose()


async def test_an_async_judge_that_takes_too_long_sends_it_up() -> None:
    cut: list[str] = []

    async def judge(request: Request, response: Response) -> float:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cut.append("cut")
            raise
        return 1.0

    client = TieredClient(tiers(FakeProvider()), cascade=Cascade(judge, max_judge_s=0.01))
    assert (await client.acomplete("Hello")).tier == "gold"
    assert cut == ["cut"]
    await client.aclose()


async def test_an_async_judge_does_not_outlast_the_deadline() -> None:
    async def judge(request: Request, response: Response) -> float:
        await asyncio.sleep(60)
        return 1.0

    client = TieredClient(tiers(FakeProvider()), cascade=Cascade(judge))
    answer = await client.acomplete("Hello", deadline_s=0.05)
    assert (answer.tier, answer.degraded) == ("bronze", (NOT_ESCALATED,))
    await client.aclose()


async def test_a_call_that_is_cancelled_takes_its_judge_along() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def judge(request: Request, response: Response) -> float:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return 1.0

    client = TieredClient(tiers(FakeProvider()), cascade=Cascade(judge))
    task = asyncio.create_task(client.acomplete("Hello"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(ended.wait(), 5)
    await client.aclose()


def test_an_async_judge_in_a_sync_call_says_so() -> None:
    async def judge(request: Request, response: Response) -> float:
        return 1.0

    client = TieredClient(tiers(FakeProvider()), cascade=Cascade(judge))
    with pytest.raises(UsageError, match="acomplete"):
        client.complete("Hello")


def test_a_blocking_judge_runs_off_the_event_loop() -> None:
    where: list[threading.Thread] = []

    class Slow:
        blocking = True

        def __call__(self, request: Request, response: Response) -> bool:
            where.append(threading.current_thread())
            return True

    client = TieredClient(tiers(FakeProvider()), cascade=Cascade(Slow()))
    assert client.complete("Hello").tier == "bronze"
    assert where == [threading.current_thread()]
    assert asyncio.run(client.acomplete("Hello")).tier == "bronze"
    assert where[1] is not threading.current_thread()


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_judge_that_misuses_the_library_says_nothing(mode: Any, caplog: pytest.LogCaptureFixture) -> None:
    def judge(request: Request, response: Response) -> float:
        raise UsageError("of its own")

    world = Cascaded(judge, mode=mode)
    world.script(g="strong")
    assert world.call().ok.text == "strong"
    if mode == "observe":
        world.script(b="poor", g=Fail.unavailable(), s=Fail.unavailable())
        assert world.call().ok.text == "poor"
    assert "a judge raised UsageError" in caplog.text


def test_an_async_judge_that_only_looks_on_does_no_harm() -> None:
    async def judge(request: Request, response: Response) -> float:
        return 1.0

    fake = FakeProvider()
    for model in ("g", "s"):
        fake.script(model, Fail.unavailable())
    client = TieredClient(tiers(fake), cascade=Cascade(judge, mode="observe"), retry=False)
    assert client.complete("Hello").tier == "bronze"
    client.close()


@pytest.mark.parametrize("max_judge_s", [None, 2.0])
async def test_an_async_judge_that_gives_up_sends_it_up(max_judge_s: float | None) -> None:
    async def judge(request: Request, response: Response) -> float:
        raise asyncio.CancelledError

    fake = FakeProvider()
    fake.script("g", reply("strong"))
    client = TieredClient(tiers(fake), cascade=Cascade(judge, max_judge_s=max_judge_s))
    assert (await client.acomplete("Hello")).text == "strong"
    await client.aclose()


def test_a_judge_that_asks_the_client_is_not_judged_itself() -> None:
    fake = FakeProvider()
    clients: list[TieredClient] = []
    asked: list[str | None] = []

    def judge(request: Request, response: Response) -> bool:
        verdict = clients[0].complete("Is this good?", max_tokens=1)
        asked.append(verdict.tier)
        return True

    clients.append(TieredClient(tiers(fake), cascade=Cascade(judge)))
    assert clients[0].complete("Hello").tier == "bronze"
    assert asked == ["gold"]


async def test_an_async_judge_that_asks_the_client_is_not_judged_itself() -> None:
    clients: list[TieredClient] = []
    asked: list[str | None] = []

    async def judge(request: Request, response: Response) -> bool:
        asked.append((await clients[0].acomplete("Is this good?")).tier)
        return True

    clients.append(TieredClient(tiers(FakeProvider()), cascade=Cascade(judge)))
    assert (await clients[0].acomplete("Hello")).tier == "bronze"
    assert asked == ["gold"]
    assert (await clients[0].acomplete("Hello again")).tier == "bronze"
    await clients[0].aclose()


async def test_closing_the_client_ends_an_async_judge() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def judge(request: Request, response: Response) -> float:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return 1.0

    client = TieredClient(tiers(FakeProvider()), cascade=Cascade(judge))
    call = asyncio.create_task(client.acomplete("Hello"))
    await begun.wait()
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await asyncio.wait_for(call, 5)
    await asyncio.wait_for(ended.wait(), 5)


# -- sessions and important calls ---------------------------------------------------------


@pytest.mark.parametrize(
    ("sla", "fixed", "prefer", "start", "way"),
    [
        (None, False, None, "gold", ("bronze", "gold")),
        (None, True, None, "gold", None),
        ("gold", True, ("gold", "g"), "gold", None),
        ("bronze", True, ("bronze", "b"), "bronze", None),
        (None, True, ("bronze", "b"), "bronze", None),
        (None, False, ("bronze", "b"), "gold", ("bronze", "gold")),
        (None, False, ("gold", "g"), "gold", None),
        (None, False, ("silver", "s"), "silver", None),
        (None, False, ("bronze", "b"), "bronze", ("bronze", "gold")),
    ],
    ids=[
        "free",
        "rule",
        "named",
        "named-cheap",
        "rule-cheap",
        "no home",
        "home-gold",
        "home-silver",
        "home-cheap",
    ],
)
def test_a_session_stays_at_home_and_is_judged_there(
    sla: str | None,
    fixed: bool,
    prefer: tuple[str, str] | None,
    start: str,
    way: tuple[str, str] | None,
) -> None:
    world = Cascaded()
    call = world.client.ready(ask("Hello", {} if sla is None else {"sla": sla})).call
    call.plan = Plan("gold", ("gold", "silver", "bronze")).starting_at(start)
    call.course = Course(fixed=fixed)
    call.course.prefer = prefer
    call.course.bound = bound = not fixed and prefer is not None and prefer[0] == start
    found = world.client._setup.cascading.ways.of(call)
    assert (None if found is None else found[:2]) == way
    if bound and way is not None:  # its deployment there is not to be had
        assert call.trace is not None
        call.course.prefer = None
        call.trace.candidates += [Candidate("gold", "*", "session"), Candidate("silver", "*", "session")]
        found = world.client._setup.cascading.ways.of(call)
        assert found is not None
        assert found[:2] == way
    call.course.important = True
    assert world.client._setup.cascading.ways.of(call) is None


@pytest.mark.parametrize("reason", ["budget", "load", "shift"])
def test_a_call_is_not_led_back_to_where_it_was_led_away_from(reason: str) -> None:
    world = Cascaded()
    call = world.client.ready(ask("Hello", {})).call
    assert call.trace is not None
    call.plan = Plan("gold", ("gold", "silver", "bronze")).starting_at("silver")
    call.trace.candidates.append(Candidate("gold", "*", reason))
    found = world.client._setup.cascading.ways.of(call)
    assert found is not None
    assert found.plan.tiers == ("bronze", "silver", "gold")


def test_a_call_that_its_difficulty_sent_to_the_strong_model_goes_there() -> None:
    world = Cascaded()
    call = world.client.ready(ask("Hello", {})).call
    call.course = Course()
    ways = world.client._setup.cascading.ways
    for arm, begins in (("weak", "bronze"), ("strong", None)):
        call.course.choice = Chosen(arm)  # type: ignore[assignment]
        found = ways.of(call)
        assert (None if found is None else found.cheap) == begins


def test_a_session_whose_home_is_cheap_is_judged_at_each_turn() -> None:
    world = Cascaded(sessions=StickySessions())
    world.script(b=["good", "good", "poor", "good"], g="strong")
    served = [world.call(f"turn {number}", session="s").ok for number in range(4)]
    assert [answer.tier for answer in served] == ["bronze", "bronze", "gold", "bronze"]
    assert world.judge.seen == ["good", "good", "poor", "good"]


def test_a_session_that_went_up_stays_there() -> None:
    world = Cascaded(sessions=StickySessions())
    world.script(b=["poor"], g=["strong", "strong"])
    served = [world.call(f"turn {number}", session="s").ok for number in range(2)]
    assert [answer.tier for answer in served] == ["gold", "gold"]
    assert world.models() == ["b", "g", "g"]


def test_difficulty_says_who_is_cascaded() -> None:
    router = Router(scorer=lambda text: float("hard" in text), balance=0.5, explore=0.0)
    world = Cascaded(router=router, names=("gold", "bronze"), fake=FakeProvider(answer=lambda call: "good"))
    for number in range(200):
        world.call(f"{'hard' if number % 2 else 'easy'} {number}")
    easy, hard = world.call("easy question").ok, world.call("hard question").ok
    assert (easy.tier, hard.tier) == ("bronze", "gold")
    assert easy.trace is not None
    assert set(easy.trace.scores or {}) == {"difficulty", "judge"}
    assert hard.trace is not None
    assert set(hard.trace.scores or {}) == {"difficulty"}


def test_important_calls_are_not_cascaded() -> None:
    world = Cascaded()
    assert world.call(importance="high").ok.tier == "gold"
    assert world.models() == ["g"]


class Chosen:
    def __init__(self, arm: str) -> None:
        self.arm = arm


# -- the cache, and calls alike ---------------------------------------------------------


def test_poor_answers_are_not_kept_and_good_ones_are() -> None:
    world = Cascaded(cache=ResultCache(ttl_s=600))
    world.script(b=["poor", "good"], g="strong")
    assert world.call("one").ok.text == "strong"
    again = world.call("one").ok
    assert (again.text, again.cached) == ("strong", True)
    assert world.call("two").ok.text == "good"
    again = world.call("two").ok
    assert (again.text, again.cached, again.tier) == ("good", True, "bronze")
    assert world.judge.seen == ["poor", "good"], "a known answer is not judged twice"
    assert world.models() == ["b", "g", "b"]


@pytest.mark.parametrize("scored", [False, True])
def test_no_cached_answer_goes_by_the_judge(scored: bool) -> None:
    router = Router(scorer=lambda text: 0.0, balance=0.5, explore=0.0) if scored else None
    world = Cascaded(cache=ResultCache(ttl_s=600), router=router)
    world.script(b=["poor", "poor"], g="strong")
    assert world.call("one", sla="bronze").ok.text == "poor"
    assert world.call("one").ok.text == "strong"
    assert world.judge.seen == ["poor"]


def test_a_stricter_cascade_judges_what_the_last_one_let_pass() -> None:
    def judge(request: Request, response: Response) -> float:
        return 0.6

    cache = ResultCache(ttl_s=600)
    before = Cascaded(judge, cache=cache)
    before.script(b="so-so")
    assert before.call("one").ok.tier == "bronze"
    after = Cascaded(judge, cache=cache, at_least=0.9)
    after.client._setup.cascading.inherit(before.client._setup.cascading)
    after.script(g="strong")
    assert after.call("one").ok.text == "strong"


class Twice:
    """A policy that asks twice at the same time."""

    async def __call__(self, call: Call, call_next: Any) -> Response:
        first, _ = await Gather(call_next(call.copy()), call_next(call.copy()))
        return first


def test_a_policy_that_asks_twice_leaves_nothing_behind() -> None:
    world = Cascaded(cache=ResultCache(ttl_s=600), policies=[Twice()])
    world.script(b=["poor", "good"], g=["strong", "strong"])
    world.call()
    assert len(world.client._setup.cascading.rising) == 0
    assert world.fake.in_flight == 0


def test_a_fork_while_a_call_goes_up() -> None:
    class Forks:
        async def __call__(self, call: Call, call_next: Any) -> Response:
            world.client._setup.cascading.renew()
            return await call_next(call)

    fake = FakeProvider()
    gold, *rest = tiers(fake)
    world = World(
        [Tier("gold", gold.deployments, policies=[Forks()]), *rest],
        fake=fake,
        cascade=Cascade(Judge()),
        cache=ResultCache(ttl_s=600),
    )
    fake.script("b", reply("poor"))
    fake.script("g", reply("strong"))
    assert world.call().ok.text == "strong"


def test_a_cached_answer_that_nobody_judged_is_judged() -> None:
    world = Cascaded(cache=ResultCache(ttl_s=600))
    world.script(b="poor", g="strong")
    assert world.call("one", sla="bronze").ok.text == "poor"
    assert world.call("one", sla="bronze").ok.cached
    told = world.call("one")
    assert (told.ok.text, told.ok.tier) == ("strong", "gold")
    assert world.judge.seen == ["poor"]
    assert world.models() == ["b", "g"]


@both_ways
def test_calls_alike_share_the_verdict_and_the_way_up(streaming: bool) -> None:
    world = Cascaded(cache=ResultCache(ttl_s=600))
    world.script(b="poor", g="strong")
    told = [world.begin("same", streaming=streaming) for _ in range(5)]
    world.pass_s(10)
    assert [each.ok.text for each in told] == ["strong"] * 5
    assert world.models() == ["b", "g"]
    assert world.judge.seen == ["poor"]
    assert (world.counts["poor"], world.counts["escalated"]) == (1, 5)
    assert len(world.told(CascadeEscalated)) == 5
    for each in told:
        assert each.ok.trace is not None
        assert each.ok.trace.scores == {"judge": 0.2}
        assert ("bronze", "b", "judged 0.2") in reasons(each.ok)
        assert each.text == ("strong" if streaming else "")


@both_ways
def test_calls_alike_share_a_good_answer(streaming: bool) -> None:
    world = Cascaded(cache=ResultCache(ttl_s=600))
    world.script(b="good")
    told = [world.begin("same", streaming=streaming) for _ in range(3)]
    world.pass_s(10)
    assert [each.ok.text for each in told] == ["good"] * 3
    assert world.models() == ["b"]
    assert world.judge.seen == ["good"]
    for each in told:
        assert each.ok.trace is not None
        assert each.ok.trace.scores == {"judge": 0.9}


def test_a_poor_answer_served_to_many_is_paid_by_one() -> None:
    world = Cascaded(cache=ResultCache(ttl_s=600))
    world.script(b="poor", g=Fail.unavailable(), s=Fail.unavailable())
    told = [world.begin("same") for _ in range(3)]
    world.pass_s(10)
    assert [each.ok.text for each in told] == ["poor"] * 3
    assert sorted(each.ok.cost_usd or 0 for each in told) == [0, 0, COST["bronze"]]
    assert [each.ok.degraded for each in told] == [(NOT_ESCALATED,)] * 3
    again = world.call("same", sla="bronze")
    assert not again.ok.cached, "a poor answer is in no cache"


def test_who_comes_while_the_strong_tier_works_goes_there_at_once() -> None:
    world = Cascaded(cache=ResultCache(ttl_s=600))
    world.script(b="poor", g="strong")
    first = world.begin("same")
    world.pass_s(1.5)
    second = world.begin("same", user="another")
    world.pass_s(10)
    assert world.models() == ["b", "g"]
    assert [each.ok.text for each in (first, second)] == ["strong", "strong"]
    assert second.took_s == pytest.approx(0.5)
    assert ("bronze", "b", "judged 0.2") in reasons(second.ok)
    assert second.ok.trace is not None
    assert second.ok.trace.scores == {"judge": 0.2}
    assert len(world.client._setup.cascading.rising) == 0


def test_what_it_heard_of_another_it_may_be_served_after_all() -> None:
    world = Cascaded(cache=ResultCache(ttl_s=600), names=("gold", "bronze"))
    world.script(b="poor", g=[Fail.unavailable(latency_s=2.0), Fail.unavailable()])
    first = world.begin("same")
    world.pass_s(1.5)
    second = world.begin("same")
    third = world.begin("same", cache="refresh")
    world.script(b="poor anew")
    world.pass_s(20)
    assert (first.ok.text, first.ok.cached, first.ok.cost_usd) == ("poor", False, COST["bronze"])
    assert (second.ok.text, second.ok.cached, second.ok.cost_usd) == ("poor", True, 0)
    assert third.ok.text == "poor anew", "who wants it fresh hears nothing of others"
    assert world.models().count("b") == 2
    assert len(world.client._setup.cascading.rising) == 0


def test_whoever_named_the_tier_does_not_join_those_that_are_judged() -> None:
    world = Cascaded(cache=ResultCache(ttl_s=600))
    world.script(b=["poor", "poor as asked for"], g="strong")
    judged, named = world.begin("same"), world.begin("same", sla="bronze")
    world.pass_s(10)
    assert judged.ok.text == "strong"
    assert (named.ok.text, named.ok.tier) == ("poor as asked for", "bronze")


# -- money and time ---------------------------------------------------------------------


def test_budgets_pay_for_both() -> None:
    world = Cascaded(budgets=[Budget(hard_usd=1, per="user")])
    world.script(b="poor", g="strong")
    assert world.call(user="u").ok.tier == "gold"
    (left,) = [r for r in world.client.remaining(user="u") if r.unit == "usd"]
    assert left.used == COST["gold"] + COST["bronze"]


def test_threads_that_share_a_budget_a_cache_and_verdicts() -> None:
    def says(call: Call) -> Reply:
        number = int(text_of(call.messages[-1]))
        return reply("good" if number % 3 or call.model == "g" else "poor", latency_s=0.001)

    fake = FakeProvider(answer=says)
    client = TieredClient(
        tiers(fake),
        cascade=Cascade(Judge()),
        cache=ResultCache(ttl_s=600),
        budgets=[Budget(hard_usd=100, per="client")],
    )
    served: list[Response] = []

    def work() -> None:
        served.extend([client.complete(str(number)) for number in range(40)])

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(served) == 240
    assert {answer.text for answer in served} == {"good"}
    models = [entry.model for entry in fake.journal]
    assert models.count("g") == 14, "one way up each"
    assert 40 <= models.count("b") <= 45, "one flight each, but for who looked just before the other's ended"
    (left,) = [each for each in client.remaining() if each.unit == "usd"]
    assert left.used == models.count("b") * COST["bronze"] + 14 * COST["gold"]
    assert len(client._setup.cascading.rising) == 0
    assert left.reserved == 0
    client.close()


@both_ways
def test_a_hedged_cheap_answer_is_judged_too(streaming: bool) -> None:
    world = Cascaded(hedge=Hedge(share=1.0, min_samples=10), max_concurrency=8)
    hedging = world.client._setup.lines["bronze"].hedge
    assert hedging is not None
    for lateness in hedging._lateness.values():
        for _ in range(50):
            lateness.whole.add(1.0)
            lateness.streamed.add(1.0)
            lateness._recent.append((0.0, False))
    for _ in range(5):
        hedging.bank.pay_in()
    world.script(b=Fail.hang(), b2="poor", g="strong")
    told = world.call(streaming=streaming)
    assert (told.ok.text, told.ok.tier) == ("strong", "gold")
    assert ("bronze", "b2", "judged 0.2") in reasons(told.ok)
    assert world.judge.seen == ["poor"]
    assert world.fake.in_flight == 0


def test_what_one_call_may_cost_covers_both_answers() -> None:
    fake = FakeProvider(latency_s=1.0)
    world = Cascaded(fake=fake, names=("gold", "bronze"))
    world.script(b="poor", g="strong")
    told = world.call(max_cost_usd="0.003", max_tokens=1000)
    assert (told.ok.text, told.ok.degraded) == ("poor", (NOT_ESCALATED,)), "no room for gold after bronze"
    assert world.models() == ["b"]


def test_breakers_and_counts_of_the_cheap_place_know_nothing_of_it() -> None:
    world = Cascaded()
    for _ in range(20):
        world.script(b="poor", g="strong")
        assert world.call().ok.tier == "gold"
    place = world.client.status()["tiers"]["bronze"]["deployments"]["b"]
    assert (place["served"], place["failed"], place["breaker"]["state"]) == (20, 0, "closed")


def slow(world: World, **seconds: float) -> None:
    for tier, s in seconds.items():
        for line in world.client._setup.lines[tier].lines:
            for _ in range(40):
                line.pace.history.add(s)


@pytest.mark.parametrize(
    ("deadline_s", "models"),
    [(9.9, ["g"]), (10.1, ["b"]), (None, ["b"])],
    ids=["no-room", "room", "no-deadline"],
)
def test_where_the_deadline_leaves_no_room_it_begins_at_the_strong_tier(
    deadline_s: float | None, models: list[str]
) -> None:
    world = Cascaded(max_judge_s=1.0, timeouts=None)
    slow(world, bronze=4.0, gold=5.0)
    world.script(b="good", g="strong")
    told = world.call(**({} if deadline_s is None else {"deadline_s": deadline_s}))
    assert world.models() == models
    late = models == ["g"]
    assert (("bronze", "*", "deadline") in reasons(told.ok)) is late
    assert world.counts["no_time"] == int(late)


def test_estimates_are_of_both_steps() -> None:
    world = Cascaded()
    slow(world, bronze=1.0, gold=3.0)
    question = {"prompt": "Hello", "max_tokens": 1000}
    cheap = world.client.estimate(**question, sla="bronze")
    strong = world.client.estimate(**question, sla="gold")
    both = world.client.estimate(**question)
    assert cheap.cost_usd is not None
    assert strong.cost_usd is not None
    assert both.cost_usd is not None
    assert both.tier == "bronze"
    assert both.cost_usd.max == cheap.cost_usd.max + strong.cost_usd.max
    assert set(both.tiers) == {"gold", "silver", "bronze"}
    assert cheap.cost_usd.mean < both.cost_usd.mean < both.cost_usd.max
    for _ in range(200):
        world.client._setup.cascading.verdicts.judged(0.9, good=True)
    seldom = world.client.estimate(**question)
    assert seldom.cost_usd is not None
    assert seldom.cost_usd.mean < both.cost_usd.mean
    assert seldom.cost_usd.p50 < both.cost_usd.p90
    assert world.models() == []


def test_a_question_before_sending_counts_both() -> None:
    shown: list[Decimal] = []

    def confirm(estimate: Any) -> bool:
        shown.append(estimate.cost_usd.max)
        return True

    world = Cascaded()
    world.script(b="good")
    world.call(max_tokens=1000, confirm=confirm, confirm_over_usd=0)
    both = world.client.estimate("Hello", max_tokens=1000)
    assert both.cost_usd is not None
    assert shown == [both.cost_usd.max]


def test_a_question_is_asked_where_only_both_together_cost_so_much() -> None:
    world = Cascaded()
    world.script(b=["good", "good"])
    ask_at = world.client.estimate("Hello", max_tokens=1000).tiers["gold"].cost_usd
    assert ask_at is not None
    asked: list[Any] = []

    def confirm(estimate: Any) -> bool:
        asked.append(estimate)
        return True

    options = {"max_tokens": 1000, "confirm": confirm, "confirm_over_usd": ask_at.max}
    world.call(**options)
    assert len(asked) == 1
    world.call(**options, sla="bronze")
    assert len(asked) == 1


def test_status_tells_what_was_saved() -> None:
    world = Cascaded()
    world.script(b=["good", "good", "poor"], g="strong")
    for _ in range(3):
        world.call()
    counts = world.counts
    assert (counts["begun"], counts["good"], counts["poor"], counts["escalated"]) == (3, 2, 1, 1)
    assert counts["escalation_rate"] == pytest.approx(1 / 3)
    assert counts["saved_usd"] == 2 * (COST["gold"] - COST["bronze"]) - COST["bronze"]


# -- agreement ------------------------------------------------------------------------------


@both_ways
def test_two_that_agree(streaming: bool) -> None:
    world = Cascaded(Agreement("bronze/b2"))
    world.script(b="It is 42.", b2="it is  42")
    told = world.call(streaming=streaming)
    assert (told.ok.text, told.ok.deployment) == ("It is 42.", "b")
    assert told.took_s == pytest.approx(1.0), "both are asked at once"
    assert sorted(world.models()) == ["b", "b2"]
    assert told.ok.trace is not None
    assert told.ok.trace.cost_usd == 2 * COST["bronze"]


@every_form
def test_two_that_agree_in_every_form(form: Form) -> None:
    world = Cascaded(Agreement("bronze/b2"), virtual=False, fake=FakeProvider())
    world.script(b=["4", "4"], b2=["4", "5"], g="strong")
    assert form(world.client).tier == "bronze"
    assert form(world.client).tier == "gold"


@pytest.mark.parametrize(
    "other",
    [reply("something else"), Fail.unavailable(), reply("cut", finish_reason="length")],
    ids=["differs", "fails", "cut"],
)
def test_two_that_do_not(other: Any) -> None:
    world = Cascaded(Agreement("bronze/b2"))
    world.script(b="cut", b2=other, g="strong")
    assert world.call().ok.tier == "gold"


def test_a_model_does_not_agree_with_itself() -> None:
    world = Cascaded(Agreement("bronze/b2"))
    world.script(b2="same", b=Fail.unavailable(), g="strong")
    world.script(b2="same")
    assert world.call().ok.tier == "gold"


def test_a_second_that_is_not_to_be_had_costs_nothing() -> None:
    world = Cascaded(Agreement("bronze/b2"))
    world.client._setup.lines["bronze"].lines[1].held_until = 100.0
    world.script(b="same", g="strong")
    assert world.call().ok.tier == "gold"
    assert world.models() == ["b", "g"]


def test_a_second_that_fails_is_not_asked_elsewhere() -> None:
    world = Cascaded(Agreement("bronze/b2"))
    world.script(b="same", b2=Fail.unavailable(), g="strong")
    assert world.call().ok.tier == "gold"
    assert sorted(world.models()) == ["b", "b2", "g"]


def test_another_tier_may_be_the_second_opinion() -> None:
    world = Cascaded(Agreement("silver"))
    world.script(b="same", s="same")
    assert world.call().ok.tier == "bronze"
    assert sorted(world.models()) == ["b", "s"]


def test_a_first_that_fails_takes_the_second_along() -> None:
    world = Cascaded(Agreement("bronze/b2"), fake=FakeProvider(latency_s={"b2": 9.0, "*": 1.0}))
    world.fake.script("b", Fail.invalid(latency_s=1.0))
    world.fake.script("g", Fail.invalid(), forever=True)
    told = world.call()
    assert told.error is not None
    assert [e.outcome for e in world.fake.journal if e.model == "b2"] == ["cancelled"]
    assert told.error.trace is not None  # type: ignore[attr-defined]
    assert ("b2", "cancelled") in [(a.deployment, a.outcome) for a in told.error.trace.attempts]  # type: ignore[attr-defined]


def test_both_take_a_place_in_the_pool() -> None:
    world = Cascaded(Agreement("bronze/b2"), max_concurrency=1)
    world.script(b="4", b2="4")
    told = world.call()
    assert told.ok.tier == "bronze"
    assert world.fake.peak_in_flight == 1
    assert told.took_s == pytest.approx(2.0)


# -- observing ------------------------------------------------------------------------------


@both_ways
def test_observing_changes_nothing(streaming: bool) -> None:
    world = Cascaded(mode="observe")
    world.script(g="strong", b="poor")
    told = world.call(streaming=streaming)
    assert (told.ok.text, told.ok.tier) == ("strong", "gold")
    assert world.models() == ["g"]
    assert ("bronze", "*", "observed: cascade would begin here") in reasons(told.ok)
    assert world.judge.seen == []


def test_observing_judges_what_the_cheap_tier_said_anyway() -> None:
    world = Cascaded(mode="observe")
    world.script(g=Fail.unavailable(), s=Fail.unavailable(), b="poor")
    told = world.call()
    assert (told.ok.text, told.ok.degraded) == ("poor", ())
    (event,) = world.told(CascadeEscalated)
    assert isinstance(event, CascadeEscalated)
    assert (event.mode, event.score) == ("observe", 0.2)
    assert told.ok.trace is not None
    assert told.ok.trace.scores == {"judge": 0.2}
    assert world.counts["escalated"] == 0


# -- settings and errors --------------------------------------------------------------------


def test_the_error_survives_pickling() -> None:
    error = PoorAnswer("bronze: poor", response=Response(text="poor"), score=0.2)
    twin = pickle.loads(pickle.dumps(error))
    assert (str(twin), twin.response.text, twin.score, twin.retryable) == ("bronze: poor", "poor", 0.2, False)


@pytest.mark.parametrize(
    ("cascade", "names", "told"),
    [
        (Cascade(Judge(), cheap="brnze"), ("gold", "bronze"), "did you mean 'bronze'"),
        (Cascade(Judge(), cheap="gold"), ("gold", "bronze"), "not the lower tier"),
        (Cascade(Judge()), ("gold",), "one tier"),
        (Cascade(Agreement("silvr/x")), ("gold", "silver"), "did you mean 'silver'"),
        (Cascade(Agreement("silver")), ("gold", "silver"), "name another deployment"),
    ],
    ids=["typo", "upside-down", "alone", "other", "itself"],
)
def test_tiers_that_do_not_fit(cascade: Cascade, names: Sequence[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        TieredClient(tiers(FakeProvider(), names), cascade=cascade)


# -- what must always hold ------------------------------------------------------------------

LEVEL = {"gold": 0, "silver": 1, "bronze": 2}
outcome = st.sampled_from(["good", "poor", "fail"])


@settings(max_examples=100, deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from([None, "bronze", "gold"]),
            st.booleans(),
            st.sampled_from([0.0, 0.5, 3.0]),
            st.sampled_from([None, 1.5, 2.5]),
        ),
        min_size=1,
        max_size=6,
    ),
    outcomes=st.fixed_dictionaries(
        {model: st.lists(outcome, min_size=6, max_size=6) for model in ("b", "b2", "s", "g")}
    ),
    two=st.booleans(),
    cached=st.booleans(),
    scored=st.booleans(),
)
def test_no_poor_answer_passes_for_a_good_one(
    calls: list[tuple[str | None, bool, float, float | None]],
    outcomes: dict[str, list[str]],
    two: bool,
    cached: bool,
    scored: bool,
) -> None:
    """Calls alike, at once and one after the other, some of which name the tier."""
    world = Cascaded(
        Agreement("bronze/b2", compare=agreed) if two else None,
        **({"cache": ResultCache(ttl_s=600)} if cached else {}),
        **({"router": Router(scorer=lambda text: 0.0, balance=0.5, explore=0.0)} if scored else {}),
    )
    for model, items in outcomes.items():
        world.fake.script(model, *(Fail.unavailable() if each == "fail" else reply(each) for each in items))
    told = []
    for sla, streaming, pause_s, deadline_s in calls:
        told.append((sla, world.begin("same", sla=sla, streaming=streaming, deadline_s=deadline_s)))
        world.pass_s(pause_s)
    world.pass_s(60)
    for sla, each in told:
        assert each.ends == 1
        if each.error is not None:
            assert not isinstance(each.error, PoorAnswer)
            continue
        answer = each.ok
        assert each.text in ("", answer.text)
        assert answer.trace is not None
        began = [attempt.tier for attempt in answer.trace.attempts][:1]
        stepped_down = began and began != ["bronze"]  # it began above, and was never to be judged
        if sla is None and answer.tier == "bronze" and answer.text == "poor" and not stepped_down:
            assert NOT_ESCALATED in answer.degraded
            assert not each.pieces
        if NOT_ESCALATED in answer.degraded:
            assert sla is None
        paid = [a.cost_usd for a in answer.trace.attempts if a.outcome == "ok"]
        assert answer.trace.cost_usd == (sum(paid, Decimal(0)) if paid else None)
    assert world.fake.in_flight == 0


def agreed(first: Response, second: Response) -> bool:
    return first.text == second.text == "good"


@settings(max_examples=150, deadline=None)
@given(
    floor=st.sampled_from([None, "gold", "silver", "bronze"]),
    sla=st.sampled_from([None, "gold", "silver", "bronze"]),
    cheap=st.sampled_from([None, "silver", "bronze"]),
    strong=st.sampled_from([None, "gold"]),
    other=st.sampled_from([None, "bronze/b2", "silver", "gold"]),
    eu=st.booleans(),
    streaming=st.booleans(),
    outcomes=st.fixed_dictionaries(dict.fromkeys(("b", "b2", "s", "g"), outcome)),
)
def test_never_below_the_floor_nor_across_labels(
    floor: str | None,
    sla: str | None,
    cheap: str | None,
    strong: str | None,
    other: str | None,
    eu: bool,
    streaming: bool,
    outcomes: dict[str, str],
) -> None:
    judge = None if other is None or other == cheap else Agreement(other, compare=agreed)
    world = Cascaded(judge, cheap=cheap, strong=strong, fake=FakeProvider())
    for model, what in outcomes.items():
        world.fake.script(model, Fail.unavailable() if what == "fail" else reply(what), forever=True)
    try:
        told = world.call(streaming=streaming, sla=sla, min_tier=floor, **({"require": {"eu"}} if eu else {}))
    except ConfigError:
        assert eu, "no place has the label"
        return
    asked = [entry.model for entry in world.fake.journal]
    tier_of = {"g": "gold", "s": "silver", "b": "bronze", "b2": "bronze"}
    for model in asked:
        assert LEVEL[tier_of[model]] <= LEVEL[floor or "bronze"]
        assert not (eu and model == "s")
    if told.error is None:
        answer = told.ok
        assert told.pieces == [] or told.text == answer.text
        assert answer.text in ("good", "poor")
        if NOT_ESCALATED in answer.degraded:
            better = [m for m in asked if LEVEL[tier_of[m]] < LEVEL[answer.tier or ""]]
            assert all(outcomes[m] == "fail" for m in better)
    else:
        assert all(outcomes[m] == "fail" for m in asked)
