"""Budgets in every form of a call: reserved before, settled after, whatever happened in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from client.far_store import FarStore
from client.forms import FORMS, Form, World, every_form
from tierllm import (
    Budget,
    Call,
    Chunk,
    Deployment,
    Price,
    Retry,
    Route,
    Tier,
    TieredClient,
    Usage,
    tiered,
)
from tierllm.cost.tokens import tokens_for
from tierllm.errors import (
    AllTiersFailedError,
    BudgetExceededError,
    ConfigError,
    ContentFilteredError,
    DeadlineExceededError,
    ProviderUnavailableError,
    StreamInterruptedError,
    TierLLMError,
)
from tierllm.events import (
    BudgetOverrun,
    BudgetPace,
    BudgetRefused,
    BudgetWarning,
    CallSettled,
    PriceUnknown,
)
from tierllm.providers import PlayedProvider
from tierllm.stores import MemoryStore
from tierllm.testing import Fail, FakeProvider, Reply

PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=2)
CHEAP = Price(input_usd_per_mtok="0.1", output_usd_per_mtok="0.2")
HELLO_MOST = tokens_for("g", "fake").bounds([{"role": "user", "content": "Hello"}], {}).upper
"""What "Hello" may take at most, for a model that nobody knows."""


def one(fake: FakeProvider, **gold: Any) -> list[Tier]:
    return [Tier("gold", [Deployment("g", fake, price=PRICE)], **gold)]


def two(fake: FakeProvider, silver: Price = CHEAP, **gold: Any) -> list[Tier]:
    return [
        Tier("gold", [Deployment("g", fake, price=PRICE)], **gold),
        Tier("silver", [Deployment("s", fake, price=silver)]),
    ]


TIGHT = Decimal(HELLO_MOST + 100) / 10**6
"""Dollars enough for "Hello" and fifty tokens more at gold; at silver for some five times that."""


def world(*budgets: Budget, tiers: Any = one, virtual: bool = False, **settings: Any) -> World:
    fake = settings.pop("fake", None) or FakeProvider()
    settings.setdefault("retry", Retry(3, base_s=0, max_s=0))
    return World(tiers(fake), fake=fake, budgets=budgets, virtual=virtual, **settings)


def left(w: World, unit: str = "usd", **who: Any) -> dict[str, Decimal]:
    """What is used, by bucket; and nothing is reserved."""
    found = [r for r in w.client.remaining(**who) if r.unit == unit]
    assert {r.reserved for r in found} <= {0}
    return {r.bucket: r.used for r in found}


def settled(w: World) -> list[tuple[str, int, bool]]:
    """Outcome, output tokens and whether they are a guess, of each call that was booked."""
    return [
        (e.entry.outcome, e.entry.output_tokens, e.entry.estimated)
        for e in w.events
        if isinstance(e, CallSettled)
    ]


# -- before and after ---------------------------------------------------------------------


@every_form
def test_the_worst_is_reserved_and_the_real_amount_settled(form: Form) -> None:
    seen: list[Decimal] = []
    w = world(Budget(hard_usd=1, per="user"))

    def look(call: Call) -> str:
        seen.extend(r.reserved for r in w.client.remaining(user="u"))
        return "four words are said"

    w.fake._answer = look
    response = form(w.client, user="u", max_tokens=100)
    usage = response.usage
    assert usage is not None
    cost = Decimal(usage.input_tokens + 2 * usage.output_tokens) / 10**6
    assert response.cost_usd == cost
    assert left(w, user="u") == {"user=u": cost}
    assert left(w, user="v") == {"user=v": 0}
    [reserved] = seen
    [event] = w.told(CallSettled)
    assert isinstance(event, CallSettled)
    assert reserved == event.entry.reserved_usd > Decimal(200) / 10**6
    assert event.entry.cost_usd == cost
    assert response.warnings == ()


@every_form
def test_what_does_not_fit_is_refused_before_it_is_sent(form: Form) -> None:
    w = world(Budget(hard_usd="0.0001", window="day"))
    with pytest.raises(BudgetExceededError) as caught:
        form(w.client, max_tokens=100)
    error = caught.value
    assert (error.budget, error.bucket, error.unit) == ("client-day", "client", "usd")
    assert (error.limit, error.left) == (Decimal("0.0001"), Decimal("0.0001"))
    assert error.asked is not None
    assert error.asked > Decimal("0.0002")
    assert error.resets_at == 86_400
    assert error.trace is not None
    assert error.trace.outcome == "rejected"
    assert w.fake.calls == 0
    assert left(w) == {"client": 0}
    [event] = w.told(BudgetRefused)
    assert isinstance(event, BudgetRefused)
    assert (event.mode, event.tier, event.deployment) == ("enforce", "gold", "g")
    assert w.client.status()["budgets"]["client-day"]["refused"] == 1
    ledger = w.client._setup.treasury.ledger
    assert ledger is not None
    assert [(r.outcome, r.budget) for r in ledger.entries()] == [("refused", "client-day")]


@every_form
def test_a_limit_of_nothing_refuses_everything_but_what_is_free(form: Form) -> None:
    for limits in ({"hard_usd": 0}, {"hard_tokens": 0}, {"hard_calls": 0}):
        with pytest.raises(BudgetExceededError):
            form(world(Budget(**limits)).client)
    fake = FakeProvider()
    free = World([Tier("gold", [Deployment("g", fake, price=Price.free())])], budgets=[Budget(hard_usd=0)])
    assert free.call().ok.cost_usd == 0


@every_form
def test_calls_and_tokens_are_counted_too(form: Form) -> None:
    w = world(Budget(hard_calls=2, hard_tokens=10_000, per="tag"))
    used = form(w.client, tags=["a", "b"]).usage
    assert used is not None
    assert left(w, "calls", tags=("a",)) == {"tag=a": 1}
    assert left(w, "tokens", tags=("b",)) == {"tag=b": used.total_tokens}
    form(w.client, tags=["b"])
    with pytest.raises(BudgetExceededError, match="tag=b"):
        form(w.client, tags=["a", "b"])
    assert left(w, "calls", tags=("a",)) == {"tag=a": 1}  # all or nothing
    form(w.client)
    assert left(w, "calls") == {"tag=": 1}


# -- retries and fallback --------------------------------------------------------------------


@every_form
def test_each_attempt_is_reserved_and_settled_by_itself(form: Form) -> None:
    w = world(Budget(hard_usd=1, hard_calls=10), tiers=two)
    w.fake.script("g", Fail.unavailable(), Fail.timeout(), Fail.rate_limited())
    response = form(w.client, max_tokens=100)
    assert response.tier == "silver"
    assert response.usage is not None
    rows = [e.entry for e in w.told(CallSettled) if isinstance(e, CallSettled)]
    assert [(r.tier, r.outcome, r.estimated) for r in rows] == [
        ("gold", "failed", True),
        ("silver", "ok", False),
    ]
    assert rows[0].cost_usd == rows[0].reserved_usd
    assert sum(r.cost_usd or 0 for r in rows) == left(w)["client"]
    assert left(w, "calls") == {"client": 2}
    assert len({r.trace_id for r in rows}) == 1


@every_form
def test_budgets_of_places_count_what_was_used_there(form: Form) -> None:
    w = world(Budget(hard_usd=1, per="tier"), Budget(hard_usd=1, per="deployment"), tiers=two)
    w.fake.down("g", Fail.timeout())
    form(w.client, max_tokens=10)
    used = left(w)
    assert used["tier=gold"] == used["deployment=gold/g"] > 0
    assert used["tier=silver"] == used["deployment=silver/s"] > 0


@every_form
def test_a_place_whose_budget_is_spent_is_passed_over(form: Form) -> None:
    w = world(Budget(hard_calls=1, per="tier", where={"tier": "gold"}), tiers=two)
    assert form(w.client).tier == "gold"
    response = form(w.client)
    assert response.tier == "silver"
    assert response.trace is not None
    assert [(c.tier, c.reason) for c in response.trace.candidates] == [("gold", "budget"), ("silver", None)]
    with pytest.raises(BudgetExceededError):
        form(w.client, min_tier="gold")
    with pytest.raises(BudgetExceededError):
        form(w.client, fallback=False)


def test_a_deployment_whose_budget_is_spent_leaves_the_tier_to_the_next() -> None:
    fake = FakeProvider()
    tiers = [Tier("gold", [Deployment("g1", fake, price=PRICE), Deployment("g2", fake, price=PRICE)])]
    w = World(tiers, fake=fake, budgets=[Budget(hard_calls=1, per="deployment")], virtual=False)
    assert [w.client.complete("Hi").deployment for _ in range(2)] == ["g1", "g2"]
    with pytest.raises(BudgetExceededError, match=r"deployment=gold/g1|deployment=gold/g2"):
        w.client.complete("Hi")


# -- what failures cost ------------------------------------------------------------------------

FREE = {
    "503": Fail.unavailable(),
    "429": Fail.rate_limited(),
    "401": Fail.unauthorized(),
    "400": Fail.invalid(),
    "filtered": Fail.filtered(),
}
UNTOLD = {
    "timeout": Fail.timeout(),
    "malformed": Fail.malformed(),
    "reset": Fail.error(ProviderUnavailableError("the connection was reset")),
    "own error": Fail.error(ValueError("what")),
}


@every_form
@pytest.mark.parametrize("fail", FREE.values(), ids=FREE)
def test_a_no_costs_nothing(form: Form, fail: Fail) -> None:
    w = world(Budget(hard_usd=1, hard_calls=9), retry=False)
    w.fake.down("g", fail)
    with pytest.raises(TierLLMError):
        form(w.client)
    assert (left(w), left(w, "calls")) == ({"client": 0}, {"client": 0})
    assert settled(w) == []


@every_form
@pytest.mark.parametrize("fail", UNTOLD.values(), ids=UNTOLD)
def test_what_nobody_knows_costs_what_was_reserved(form: Form, fail: Fail) -> None:
    w = world(Budget(hard_usd=1, hard_calls=9), retry=False)
    w.fake.down("g", fail)
    with pytest.raises((TierLLMError, ValueError)):
        form(w.client, max_tokens=100)
    [event] = w.told(CallSettled)
    assert isinstance(event, CallSettled)
    assert left(w) == {"client": event.entry.reserved_usd}
    assert left(w, "calls") == {"client": 1}
    assert settled(w) == [("failed", 100, True)]


@every_form
def test_an_answer_without_usage_costs_what_was_reserved(form: Form) -> None:
    class Silent(PlayedProvider):
        name = "silent"

        def play(self, call: Call, scope: Any) -> Iterator[Any]:
            yield Chunk("hi", finish_reason="stop")

    w = World(
        [Tier("gold", [Deployment("g", Silent(), price=PRICE)])], budgets=[Budget(hard_usd=1)], virtual=False
    )
    response = form(w.client, max_tokens=50)
    assert response.usage is None
    [event] = w.told(CallSettled)
    assert isinstance(event, CallSettled)
    assert (event.entry.outcome, event.entry.estimated) == ("ok", True)
    assert left(w) == {"client": event.entry.reserved_usd}


streams = pytest.mark.parametrize("form", [f for f in FORMS if f.streaming], ids=str)


@streams
@pytest.mark.parametrize(
    "fail", [Fail.cut_after(3), Fail.malformed(3), Fail.error_in_stream_after(3)], ids=str
)
def test_a_stream_that_breaks_costs_what_was_delivered(form: Form, fail: Fail) -> None:
    w = world(Budget(hard_usd=1))
    w.fake.script("g", fail)
    with pytest.raises(StreamInterruptedError):
        form(w.client, max_tokens=1000)
    [(outcome, output, estimated)] = settled(w)
    assert (outcome, estimated) == ("failed", True)
    assert 3 <= output <= 12
    assert Decimal(0) < left(w)["client"] < Decimal("0.0001")


@streams
def test_a_filtered_answer_with_usage_costs_what_was_reported(form: Form) -> None:
    class Filtering(PlayedProvider):
        name = "filtering"

        def play(self, call: Call, scope: Any) -> Iterator[Any]:
            yield Chunk(usage=Usage(input_tokens=10, output_tokens=20))
            raise ContentFilteredError("stopped", status=400)

    w = World([Tier("gold", [Deployment("g", Filtering(), price=PRICE)])], budgets=[Budget(hard_usd=1)])
    assert w.call(streaming=form.streaming).error is not None
    assert left(w) == {"client": Decimal("0.00005")}


def test_a_stream_that_is_closed_early_costs_what_was_delivered() -> None:
    for native in (False, True):
        w = world(Budget(hard_usd=1, hard_tokens=10_000))
        if native:
            asyncio.run(_leave_early(w.client))
        else:
            with w.client.stream("Hello", max_tokens=1000) as stream:
                next(iter(stream))
                [reserved] = [r.reserved for r in w.client.remaining() if r.unit == "tokens"]
                assert reserved > 1000
        [(outcome, output, estimated)] = settled(w)
        assert (outcome, estimated) == ("cancelled", True)
        assert 1 <= output <= 5
        [tokens] = left(w, "tokens").values()
        assert output < tokens < 30


async def _leave_early(client: TieredClient) -> None:
    async with client.astream("Hello", max_tokens=1000) as stream:
        async for _ in stream:
            break


# -- cancellation at every await -------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("native", [False, True], ids=["threads", "native"])
def test_cancelled_at_any_await_it_gives_back_or_settles_once(streaming: bool, native: bool) -> None:
    async def cancelled_after(steps: int) -> bool:
        store = FarStore(native=native)
        w = world(Budget(hard_tokens=10_000), store=store, virtual=False)

        async def call() -> None:
            if not streaming:
                await w.client.acomplete("Hello", max_tokens=100)
                return
            async with w.client.astream("Hello", max_tokens=100) as stream:
                async for _ in stream:
                    await asyncio.sleep(0)

        task = asyncio.ensure_future(call())
        for _ in range(steps):
            await asyncio.sleep(0)
        done = task.done()
        task.cancel()
        await asyncio.wait([task])
        await w.client.aclose()
        assert not store.outbox
        amount, reserved = store.told()
        assert reserved == 0
        rows = settled(w)
        assert len(rows) == (0 if w.fake.calls == 0 else 1), rows
        assert (amount > 0) == (w.fake.calls == 1)
        assert len([t for t in asyncio.all_tasks() if t is not asyncio.current_task()]) == 0
        return done

    async def all_of_them() -> None:
        ends = [await cancelled_after(steps) for steps in range(60)]
        assert not ends[0]
        assert native is False or ends[-1], "the last ones were not to be cancelled at all"

    asyncio.run(all_of_them())


def test_a_call_that_comes_too_late_settles_and_one_that_was_not_sent_does_not() -> None:
    w = world(Budget(hard_usd=1), virtual=True, tiers=lambda fake: one(fake, max_concurrency=1))
    w.fake.script("g", Fail.hang(), Fail.hang())
    first, second = w.begin(deadline_s=1.5, max_tokens=10), w.begin(deadline_s=1.0, max_tokens=10)
    w.time.run()
    assert isinstance(first.error, DeadlineExceededError)
    assert isinstance(second.error, DeadlineExceededError)
    assert w.fake.calls == 1
    assert [r[0] for r in settled(w)] == ["failed"]


# -- max_tokens is always sent ------------------------------------------------------------------------


def sent(w: World) -> list[Any]:
    return [entry.params.get("max_tokens") for entry in w.fake.journal]


@every_form
def test_a_hard_limit_always_sends_a_bound(form: Form) -> None:
    w = world(Budget(hard_usd=1))
    form(w.client)
    form(w.client, max_tokens=7)
    assert sent(w) == [4096, 7]
    assert "max_tokens" not in World(virtual=False).client._setup.lines["gold"].lines[0]._base
    for loose in (Budget(soft_usd=1), Budget(hard_calls=5), Budget(hard_usd=1, mode="observe")):
        w = world(loose)
        form(w.client)
        assert sent(w) == [None]


@every_form
def test_ceilings_and_dropped_parameters_are_minded(form: Form) -> None:
    w = world(Budget(hard_usd=1), tiers=lambda fake: one(fake, max_tokens=50))
    form(w.client)
    form(w.client, max_tokens=500)
    assert sent(w) == [50, 50]
    fake = FakeProvider()
    dropping = [Tier("gold", [Deployment("g", fake, price=PRICE, drop={"max_tokens"})])]
    w = World(dropping, fake=fake, budgets=[Budget(hard_usd=1)], virtual=False)
    with pytest.raises(ConfigError, match="max_output_tokens="):
        form(w.client, max_tokens=500)
    bounded = Deployment("g", fake, price=PRICE, drop={"max_tokens"}, max_output_tokens=9_000)
    w = World([Tier("gold", [bounded])], fake=fake, budgets=[Budget(hard_tokens=9_000)], virtual=False)
    with pytest.raises(BudgetExceededError) as caught:
        form(w.client, max_tokens=500)
    assert caught.value.asked is not None
    assert caught.value.asked > 9_000
    w = World([Tier("gold", [bounded])], fake=fake, budgets=[Budget(hard_tokens=10_000)], virtual=False)
    form(w.client, max_tokens=500)
    assert [entry.params for entry in fake.journal if "max_tokens" in (entry.params or {})] == []


@every_form
@pytest.mark.parametrize(
    ("extra", "output", "goes"),
    [({"n": 3}, 300, 100), ({"max_completion_tokens": 700}, 700, 100), ({"extra_body": {"n": 2}}, 200, 100)],
    ids=str,
)
def test_what_the_vendor_is_told_counts(form: Form, extra: Any, output: int, goes: int) -> None:
    w = world(Budget(hard_tokens=HELLO_MOST + 1000))
    reserved: list[Decimal] = []

    def look(call: Call) -> str:
        reserved.extend(r.reserved for r in w.client.remaining())
        return "ok"

    w.fake._answer = look
    form(w.client, max_tokens=100, extra={"fake": extra})
    assert reserved[0] == output + HELLO_MOST
    assert sent(w) == [goes]
    with pytest.raises(ConfigError, match="whole numbers"):
        form(w.client, extra={"fake": {"max_completion_tokens": None}})


def test_a_client_that_was_clamped_is_so_on_the_next_attempt_only_if_need_be() -> None:
    """The bound that is sent belongs to one attempt: the next one starts from what was asked."""
    w = world(Budget(hard_tokens=400, on_exceed="clamp"))
    w.fake.script("g", Fail.unavailable())
    w.client.complete("Hello", max_tokens=1000)
    assert sent(w)[0] == sent(w)[1] < 400


# -- what is done where too little is left --------------------------------------------------------------


@every_form
def test_clamping_lowers_the_bound_and_says_so(form: Form) -> None:
    w = world(Budget(hard_tokens=HELLO_MOST + 500, on_exceed="clamp", name="small"))
    response = form(w.client, max_tokens=1000)
    [most] = sent(w)
    assert most == 500
    assert response.warnings == (f"max_tokens was lowered from 1000 to {most} by budget 'small'",)
    assert response.trace is not None
    assert response.trace.warnings == response.warnings


@every_form
def test_an_answer_of_a_few_words_is_no_use(form: Form) -> None:
    w = world(Budget(hard_tokens=HELLO_MOST + 10, on_exceed="clamp"))
    with pytest.raises(BudgetExceededError):
        form(w.client, max_tokens=1000)


@every_form
def test_going_down_costs_less(form: Form) -> None:
    w = world(Budget(hard_usd="0.001", on_exceed="downgrade"), tiers=two)
    response = form(w.client, max_tokens=1000)
    assert response.tier == "silver"
    with pytest.raises(BudgetExceededError):
        form(w.client, max_tokens=1000, min_tier="gold")
    strict = world(Budget(hard_usd="0.001"), tiers=two)
    with pytest.raises(BudgetExceededError):
        form(strict.client, max_tokens=1000)
    assert strict.fake.calls == 0


@every_form
def test_down_first_and_clamped_at_the_bottom(form: Form) -> None:
    w = world(Budget(hard_usd=TIGHT, on_exceed=("downgrade", "clamp")), tiers=two)
    response = form(w.client, max_tokens=5000)
    assert response.tier == "silver"
    assert sent(w) == [int((TIGHT - Decimal(HELLO_MOST) / 10**7) * 10**7 / 2)]
    first = world(Budget(hard_usd=TIGHT, on_exceed=("clamp", "downgrade")), tiers=two)
    assert form(first.client, max_tokens=1000).tier == "gold"


@every_form
def test_one_budget_that_rejects_is_enough(form: Form) -> None:
    w = world(
        Budget(hard_usd="0.001", on_exceed="downgrade"), Budget(hard_usd="0.0005", name="strict"), tiers=two
    )
    with pytest.raises(BudgetExceededError) as caught:
        form(w.client, max_tokens=2000)
    assert caught.value.budget == "strict"
    assert w.fake.calls == 0


@every_form
def test_a_long_prompt_is_counted_before_it_is_refused(form: Form) -> None:
    fake = FakeProvider(answer=lambda call: Reply("ok", usage=Usage(input_tokens=1010, output_tokens=1)))
    tiers = [Tier("gold", [Deployment("gpt-5-mini", fake, price=PRICE)])]
    fake.name = "openai"
    w = World(tiers, fake=fake, budgets=[Budget(hard_tokens=1500)], virtual=False)
    prompt = "hello " * 1000  # six thousand bytes, a thousand tokens
    form(w.client, prompt, max_tokens=100)
    clamping = World(
        tiers, fake=fake, budgets=[Budget(hard_tokens=1500, on_exceed="clamp", name="c")], virtual=False
    )
    assert "lowered from 900" in form(clamping.client, prompt, max_tokens=900).warnings[0]


# -- max_cost_usd and per="call" ------------------------------------------------------------------------


@every_form
def test_a_calls_own_limit_bounds_all_its_attempts_together(form: Form) -> None:
    w = world(tiers=two)
    w.fake.down("g", Fail.timeout())
    once = Decimal(HELLO_MOST + 200) / 10**6  # the worst case of one attempt at gold
    response = form(w.client, max_tokens=100, max_cost_usd=once * Decimal("1.5"))
    assert response.tier == "silver"
    assert w.models() == ["g", "s"]  # a second try at gold would not have fitted
    with pytest.raises(BudgetExceededError) as caught:
        form(w.client, max_tokens=10_000, max_cost_usd=TIGHT)
    assert caught.value.budget == "max_cost_usd"
    # without max_tokens the answer is made to fit
    assert form(w.client, max_cost_usd=TIGHT).warnings[0].startswith("max_tokens was lowered from 4096")
    assert w.client.remaining() == []


@every_form
def test_a_budget_of_each_call(form: Form) -> None:
    w = world(Budget(hard_calls=2, per="call", where={"plan": "free"}), Budget(hard_calls=99), breaker=False)
    w.fake.script("g", Fail.timeout(), Fail.timeout(), Fail.timeout(), "fine")
    with pytest.raises((BudgetExceededError, AllTiersFailedError)):
        form(w.client, plan="free")
    assert w.fake.calls == 2
    form(w.client, plan="pro")
    assert w.fake.calls == 4
    assert form(w.client, plan="free").text


@every_form
@pytest.mark.parametrize("usd", [0, -1, "x", float("nan"), True], ids=repr)
def test_a_calls_own_limit_that_makes_no_sense(form: Form, usd: Any) -> None:
    if usd == 0 and not isinstance(usd, bool):
        with pytest.raises((ConfigError, BudgetExceededError)):
            form(world().client, max_cost_usd=usd)
        return
    with pytest.raises(ConfigError, match="max_cost_usd"):
        form(world().client, max_cost_usd=usd)


# -- soft limits, observing, and what is told --------------------------------------------------------------


@every_form
def test_a_soft_limit_warns_every_answer_and_tells_once(form: Form) -> None:
    w = world(Budget(soft_calls=1, per="user", window="day"))
    assert form(w.client, user="u").warnings == ()
    for _ in range(2):
        [warning] = form(w.client, user="u").warnings
        assert "budget 'user-day' (user=u)" in warning
        assert "over the soft limit of 1 calls" in warning
    assert form(w.client, user="v").warnings == ()
    [event] = w.told(BudgetWarning)
    assert isinstance(event, BudgetWarning)
    assert (event.bucket, event.used, event.limit, event.resets_at) == ("user=u", 2, 1, 86_400)
    w.clock.advance(86_400)
    for _ in range(2):
        form(w.client, user="u")
    assert len(w.told(BudgetWarning)) == 2


@every_form
def test_past_a_soft_limit_calls_start_lower_and_end_where_they_began(form: Form) -> None:
    w = world(Budget(soft_calls=1, on_soft="downgrade", per="user"), tiers=two)
    assert form(w.client, user="u").tier == "gold"
    response = form(w.client, user="u")
    assert response.tier == "silver"
    assert response.trace is not None
    assert [(c.tier, c.reason) for c in response.trace.candidates] == [("gold", "budget"), ("silver", None)]
    assert form(w.client, user="v").tier == "gold"
    assert form(w.client, user="u", min_tier="gold").tier == "gold"
    w.fake.down("s")
    assert form(w.client, user="u").tier == "gold"


@every_form
def test_observing_refuses_nothing_and_says_what_it_would_have(form: Form) -> None:
    w = world(
        Budget(hard_calls=1, mode="observe", per="user"), Budget(hard_usd=0, mode="observe", name="usd")
    )
    for told in (1, 2, 2):
        warnings = form(w.client, user="u").warnings
        assert len(warnings) == told
        assert all(warning.startswith("observed only: budget") for warning in warnings)
    assert sent(w) == [None] * 3
    events = [e for e in w.told(BudgetRefused) if isinstance(e, BudgetRefused)]
    assert {e.mode for e in events} == {"observe"}
    assert [e.error.budget for e in events].count("user-total") == 2
    assert [e.error.budget for e in events].count("usd") == 3
    assert left(w, "calls", user="u") == {"user=u": 3}
    assert w.client.status()["budgets"]["usd"]["refused"] == 3


@every_form
def test_a_pace_that_will_not_last_is_told_once(form: Form) -> None:
    w = world(Budget(hard_calls=10, window="day"))
    w.clock.advance(86_400 * 20_000 + 43_200 * 0.5)  # a quarter of the day is over
    for _ in range(2):
        form(w.client)
    assert w.told(BudgetPace) == []
    form(w.client)
    form(w.client)
    [event] = w.told(BudgetPace)
    assert isinstance(event, BudgetPace)
    assert (event.used, event.limit) == (3, 10)
    assert event.falls_at == pytest.approx(86_400 * 20_000 + 72_000)
    assert event.resets_at == 86_400 * 20_001


@every_form
def test_a_provider_that_reports_more_than_was_possible_is_booked_and_told(form: Form) -> None:
    w = world(Budget(hard_tokens=1000))
    w.fake.script("g", Reply("hi", usage=Usage(input_tokens=900, output_tokens=400)))
    form(w.client, max_tokens=100)
    [event] = w.told(BudgetOverrun)
    assert isinstance(event, BudgetOverrun)
    assert (event.unit, event.used) == ("tokens", 1300)
    assert event.reserved == HELLO_MOST + 100
    [remaining] = w.client.remaining()
    assert (remaining.used, remaining.left) == (1300, 0)
    with pytest.raises(BudgetExceededError):
        form(w.client, max_tokens=1)


@every_form
def test_usage_that_cannot_be_gives_nothing_back(form: Form) -> None:
    w = world(Budget(hard_tokens=1000))
    w.fake.script("g", Reply("hi", usage=Usage(input_tokens=-900, output_tokens=1)))
    form(w.client, max_tokens=100)
    assert left(w, "tokens") == {"client": HELLO_MOST + 100}


@every_form
def test_a_model_without_a_price_is_told_once_and_counts_as_free(form: Form) -> None:
    fake = FakeProvider()
    w = World([Tier("gold", [Deployment("g", fake)])], budgets=[Budget(soft_usd=1)], virtual=False)
    for _ in range(2):
        assert form(w.client).cost_usd is None
    assert len(w.told(PriceUnknown)) == 1
    assert left(w) == {"client": 0}


@pytest.mark.parametrize("per", ["user", "call", "run", "deployment"])
def test_a_model_without_a_price_cannot_be_under_a_hard_limit_in_dollars(per: str) -> None:
    tiers = [
        Tier("gold", [Deployment("g", FakeProvider())]),
        Tier("silver", [Deployment("s", FakeProvider())]),
    ]
    with pytest.raises(ConfigError, match=r"gold/g: no price is known for 'g'.*price=Price"):
        TieredClient(tiers, budgets=[Budget(hard_usd=1, per=per)])
    TieredClient(tiers, budgets=[Budget(hard_tokens=1, per=per)])
    TieredClient(tiers, budgets=[Budget(hard_usd=1, per=per, mode="observe")])
    with pytest.raises(ConfigError, match="there is no tier 'bronze'"):
        TieredClient(tiers, budgets=[Budget(hard_usd=1, per=per, where={"tier": "bronze"})])
    with pytest.raises(ConfigError, match="silver/s"):
        TieredClient(tiers, budgets=[Budget(hard_usd=1, per=per, where={"tier": "silver"})])


@every_form
def test_a_calls_own_limit_at_a_model_without_a_price(form: Form) -> None:
    client = TieredClient([Tier("gold", [Deployment("g", FakeProvider())])])
    with pytest.raises(ConfigError, match="no price is known"):
        form(client, max_cost_usd=1)


def test_two_budgets_of_one_name_are_told() -> None:
    with pytest.raises(ConfigError, match="two are called 'client-total'; give one a name="):
        TieredClient(one(FakeProvider()), budgets=[Budget(hard_calls=1), Budget(hard_usd=1)])


# -- where it is refused ---------------------------------------------------------------------------------


def test_a_certain_refusal_comes_before_the_queue() -> None:
    w = world(
        Budget(hard_calls=1), virtual=True, tiers=lambda fake: one(fake, max_concurrency=1, max_waiting=9)
    )
    w.call(user="u")
    w.fake.script("g", Reply("slow", latency_s=3))
    w2 = world(
        Budget(hard_calls=1, per="user"),
        virtual=True,
        tiers=lambda fake: one(fake, max_concurrency=1, max_waiting=9),
    )
    assert w2.call(user="poor").kind == "ok"
    w2.fake.script("g", Reply("slow", latency_s=3))
    busy = w2.begin(user="rich")
    w2.pass_s(1)
    refused = w2.begin(user="poor")
    w2.pass_s(0)
    assert refused.kind == "BudgetExceededError"
    assert refused.took_s == 0
    assert busy.ended_s is None
    waiting = w2.begin(user="third")
    w2.time.run()
    assert (busy.kind, waiting.kind) == ("ok", "ok")


# -- wrapped calls ------------------------------------------------------------------------------------------


def test_a_wrapped_call_needs_its_prompt_and_its_bound() -> None:
    w = world(Budget(hard_usd=1))
    routes: list[Route] = []

    @_decorated(w.client)
    def bare(question: str, *, route: Route = Route.INJECTED) -> str:
        return question

    with pytest.raises(ConfigError, match=r"has to know the prompt: give tiered.call\(prompt=...\)"):
        bare("Hello")

    @_decorated(w.client, prompt=lambda question, **_: question)
    def known(question: str, *, route: Route = Route.INJECTED) -> Any:
        routes.append(route)
        return Answered(Usage(input_tokens=3, output_tokens=2))

    known("Hello")
    assert routes[0].max_tokens == 4096
    assert left(w)["client"] > 0

    @_decorated(w.client, prompt=lambda question: question)
    def deaf(question: str) -> str:
        return question

    with pytest.raises(ConfigError, match="takes no max_tokens"):
        deaf("Hello")

    calls = world(Budget(hard_calls=1))

    @_decorated(calls.client)
    def counted() -> str:
        return "fine"

    assert counted() == "fine"
    with pytest.raises(BudgetExceededError):
        counted()


class Answered:
    """As an SDK's answer."""

    def __init__(self, usage: Usage) -> None:
        class Told:
            prompt_tokens = usage.input_tokens
            completion_tokens = usage.output_tokens

        self.usage = Told()


def _decorated(client: TieredClient, **options: Any) -> Any:
    return tiered.call(client=client, **options)


# -- stores -------------------------------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("native", [False, True], ids=["threads", "native"])
def test_a_store_out_of_reach_refuses_where_it_fails_closed(form: Form, native: bool) -> None:
    store = FarStore(native=native)
    w = world(Budget(hard_usd=1), store=store)
    form(w.client)
    store.down = True
    with pytest.raises(BudgetExceededError, match="its store cannot be reached, and it fails closed"):
        form(w.client)
    assert w.fake.calls == 1
    assert len(w.told(BudgetRefused)) == 1
    store.down = False
    form(w.client)
    assert store.flush()
    assert store.told()[1] == 0


@every_form
@pytest.mark.parametrize("native", [False, True], ids=["threads", "native"])
def test_a_store_out_of_reach_lets_go_where_it_fails_open(form: Form, native: bool) -> None:
    store = FarStore(native=native)
    w = world(Budget(hard_usd=1, fail="open"), Budget(soft_calls=9, name="soft"), store=store)
    store.down = True
    response = form(w.client, max_tokens=9)
    assert response.warnings == ("a budget's store could not be reached; the call went on without it",)
    assert sent(w) == [9]
    assert store.told() == (0, 0)
    store.down = False
    form(w.client)
    assert left(w, "calls") == {"client": 2}  # what was used meanwhile is booked, too


@every_form
@pytest.mark.parametrize("native", [False, True], ids=["threads", "native"])
def test_what_could_not_be_settled_is_settled_later_once(form: Form, native: bool) -> None:
    store = FarStore(native=native)
    w = world(Budget(hard_calls=9), store=store)

    def falls(call: Call) -> str:
        store.down = True
        return "fine"

    w.fake._answer = falls
    assert form(w.client).text == "fine"
    assert len(store.outbox) == 1
    store.down = False
    assert store.told() == (0, 1)
    w.fake._answer = None
    form(w.client)
    assert store.told() == (2, 0)
    assert not store.outbox


@every_form
def test_a_store_that_does_not_answer_is_told_again_and_counts_once(form: Form) -> None:
    store = FarStore()
    w = world(Budget(hard_calls=9, fail="open"), store=store)
    store.mute = True  # the reservation arrives, its answer does not
    form(w.client)
    assert store.told()[0] == 0
    store.mute = False
    assert store.flush()
    assert store.told() == (0, 0)

    def falls(call: Call) -> str:
        store.mute = True
        return "fine"

    w.fake._answer = falls
    form(w.client)
    assert store.told() == (1, 0)  # it arrived
    store.mute = False
    assert store.flush()
    assert store.told() == (1, 0)
    w.client.close()
    assert store.told() == (2, 0)  # the first one is booked in the end


@every_form
def test_budgets_in_two_stores_are_reserved_together_or_not_at_all(form: Form) -> None:
    one_store, other = FarStore(), MemoryStore()
    w = world(Budget(hard_calls=5, name="a", store=other), Budget(hard_calls=1, name="b"), store=one_store)
    form(w.client)
    with pytest.raises(BudgetExceededError) as caught:
        form(w.client)
    assert caught.value.budget == "b"
    one_store.flush()
    assert one_store.told() == (1, 0)
    assert left(w, "calls") == {"client": 1}
    assert [(r.budget, r.used, r.reserved) for r in w.client.remaining()] == [("a", 1, 0), ("b", 1, 0)]


def test_closing_a_client_settles_what_is_waiting() -> None:
    store = FarStore()
    w = world(Budget(hard_calls=5), store=store)
    w.fake._answer = lambda call: setattr(store, "down", True) or "fine"
    w.client.complete("Hello")
    store.down = False
    w.client.close()
    assert store.told() == (1, 0)
