"""Estimates before sending, and totals of many."""

from __future__ import annotations

import copy
import math
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm import Price, Usage
from tierllm.cost.batch_estimate import total
from tierllm.cost.estimate import Cost, Estimate, Tokens
from tierllm.cost.estimator import CostEstimator
from tierllm.cost.place import Place
from tierllm.cost.prices import PriceBook
from tierllm.cost.tokens import tokens_for
from tierllm.errors import ConfigError

PRICE = Price(input_usd_per_mtok=2, output_usd_per_mtok=8)
PROMPT = "Summarise the minutes in three sentences, and name who agreed to do what. " * 5


def ask(text: str = PROMPT) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


def place(model: str = "gpt-5-mini", *, vendor: str | None = "openai", price: Price | None = PRICE) -> Place:
    return Place("gold", model, model, vendor=vendor, price=price, book=PriceBook({}))


def learnt(estimator: CostEstimator, where: Place, *lengths: int, **more: Any) -> None:
    for length in lengths:
        usage = Usage(input_tokens=100, output_tokens=length)
        estimator.observe(where, usage=usage, **{"finish_reason": "stop", **more})


# -- alone -----------------------------------------------------------------------


def test_in_a_notebook() -> None:
    estimator = CostEstimator()
    e = estimator.estimate(PROMPT, model="gpt-5-mini", max_tokens=400)
    assert e.input_tokens == tokens_for("gpt-5-mini").count(ask(), {})
    assert e.input_tokens.exact
    assert (e.output_tokens.p50, e.output_tokens.p90, e.output_tokens.max) == (400, 400, 400)
    assert e.latency_s is None
    found = PriceBook.bundled().find("gpt-5-mini")
    assert found is not None
    assert e.cost_usd is not None
    assert e.cost_usd.p50 == found.price.cost_usd(Usage(input_tokens=e.input_tokens, output_tokens=400))
    for length in range(1, 23):
        estimator.learn(
            Usage(input_tokens=int(e.input_tokens), output_tokens=length * 10),
            model="gpt-5-mini",
            estimate=e,
            finish_reason="stop",
            latency_s=0.5 + length * 0.1,
        )
    again = estimator.estimate(PROMPT, model="gpt-5-mini", max_tokens=400)
    assert (again.output_tokens.p50, again.output_tokens.p90, again.output_tokens.max) == (120, 210, 400)
    assert again.output_tokens.mean == 115
    assert again.latency_s is not None
    assert again.latency_s.p50 == pytest.approx(1.7, abs=0.1)
    assert again.cost_usd is not None
    assert again.cost_usd.mean < again.cost_usd.p90 < again.cost_usd.max == e.cost_usd.max
    batch = estimator.estimate_many((PROMPT for _ in range(40)), model="gpt-5-mini", max_tokens=400)
    assert batch.count == 40
    assert batch.input_tokens == 40 * e.input_tokens
    assert batch.cost_usd is not None
    assert batch.cost_usd.mean == 40 * again.cost_usd.mean
    assert batch.cost_usd.mean < batch.cost_usd.p90 < 40 * again.cost_usd.p90


def test_a_model_without_a_price() -> None:
    e = CostEstimator(prices=PriceBook({})).estimate("Hi", model="my-own", max_tokens=10)
    assert e.cost_usd is None
    assert e.output_tokens.max == 10
    own = CostEstimator(prices=PriceBook({"my-own": PRICE})).estimate("Hi", model="my-own", max_tokens=10)
    assert own.cost_usd is not None
    given = CostEstimator(prices=PriceBook({})).estimate("Hi", model="my-own", max_tokens=10, price=PRICE)
    assert given.cost_usd == own.cost_usd


@pytest.mark.parametrize("prompt", ["", "  ", [], ["hello"], None, 5, {"role": "user"}], ids=repr)
def test_what_is_no_prompt(prompt: Any) -> None:
    with pytest.raises(ConfigError, match="prompt"):
        CostEstimator().estimate(prompt, model="gpt-5-mini")


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "9", math.nan], ids=repr)
def test_what_is_no_number_of_tokens(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="max_tokens"):
        CostEstimator().estimate("Hi", model="gpt-5-mini", max_tokens=wrong)
    with pytest.raises(ConfigError, match="default_max_tokens"):
        CostEstimator(default_max_tokens=wrong)


def test_no_prompt_text_is_shown() -> None:
    e = CostEstimator().estimate("the secret", model="gpt-5-mini")
    assert "secret" not in repr(e)


# -- output ----------------------------------------------------------------------


def test_max_tokens_caps_what_was_learnt() -> None:
    estimator, where = CostEstimator(), place()
    learnt(estimator, where, *range(100, 200))
    e = estimator.quote(where, ask(), {"max_tokens": 150}).output_tokens
    assert (e.p50, e.p90, e.max) == (150, 150, 150)
    assert 100 < e.mean < 150
    free = estimator.quote(where, ask()).output_tokens
    assert (free.p50, free.p90, free.max) == (150, 190, 4096)


def test_the_models_own_limit_caps_max_tokens() -> None:
    where = place()
    assert where.price is not None  # looked up; from here on the limit is known
    where.max_output_tokens = 300
    estimator = CostEstimator()
    assert estimator.quote(where, ask(), {"max_tokens": 1000}).output_tokens.max == 300
    assert estimator.quote(where, ask()).output_tokens.max == 300


def test_long_answers_where_nothing_bounds_them() -> None:
    estimator, where = CostEstimator(default_max_tokens=500), place()
    learnt(estimator, where, *range(900, 1000))
    e = estimator.quote(where, ask()).output_tokens
    assert e.p50 <= e.p90 <= e.max
    assert e.p50 == 950


def test_few_answers_tell_the_middle_but_no_p90() -> None:
    estimator, where = CostEstimator(), place()
    learnt(estimator, where, 10, 20, 30)
    e = estimator.quote(where, ask(), {"max_tokens": 400}).output_tokens
    assert (e.p50, e.p90, e.max, e.mean, e.samples) == (20, 400, 400, 20, 0)


def test_routes_are_told_apart() -> None:
    estimator, where = CostEstimator(), place()
    learnt(estimator, where, *[5] * 40, route="classify")
    learnt(estimator, where, *[900] * 40, route="report")
    assert estimator.quote(where, ask(), route="classify").output_tokens.p90 == 5
    assert estimator.quote(where, ask(), route="report").output_tokens.p50 == 900
    other = Place("silver", "gpt-5-mini", "gpt-5-mini", price=PRICE, book=PriceBook({}))
    assert estimator.quote(other, ask(), {"max_tokens": 77}, route="report").output_tokens.p50 == 77


def test_several_choices() -> None:
    estimator, where = CostEstimator(), place()
    for _ in range(30):
        estimator.observe(where, usage=Usage(output_tokens=300), choices=3, finish_reason="stop")
    e = estimator.quote(where, ask(), {"max_tokens": 400, "n": 2}).output_tokens
    assert (e.p50, e.p90, e.max) == (200, 200, 800)


def test_answers_that_ended_for_their_length_were_longer() -> None:
    estimator, where = CostEstimator(), place()
    learnt(estimator, where, *[50] * 30, finish_reason="length")
    assert estimator.quote(where, ask(), {"max_tokens": 400}).output_tokens.p50 == 100
    assert estimator.quote(where, ask(), {"max_tokens": 50}).output_tokens.p50 == 50
    untold = CostEstimator()
    learnt(untold, where, *[50] * 30, finish_reason=None, max_tokens=50)
    assert untold.quote(where, ask(), {"max_tokens": 400}).output_tokens.p50 == 100


@pytest.mark.parametrize(
    ("usage", "more"),
    [
        (Usage(output_tokens=-5), {}),
        (Usage(output_tokens=True), {}),
        (Usage(output_tokens=math.nan), {}),  # type: ignore[arg-type]
        (Usage(output_tokens="9"), {}),  # type: ignore[arg-type]
        (Usage(output_tokens=10**12), {}),
        (Usage(output_tokens=9, estimated=True), {"finish_reason": None}),
        (Usage(), {}),
    ],
    ids=["negative", "bool", "nan", "text", "huge", "cut", "nothing"],
)
def test_reports_that_make_no_sense_teach_nothing(usage: Usage, more: dict[str, Any]) -> None:
    estimator, where = CostEstimator(min_samples=1), place()
    for _ in range(9):
        estimator.observe(where, usage=usage, **{"finish_reason": "stop", "latency_s": 1.0, **more})
    e = estimator.quote(where, ask(), {"max_tokens": 400})
    assert e.output_tokens.p50 == 400
    assert e.latency_s is None


@pytest.mark.parametrize("wrong", [math.nan, "5", True, -1, None], ids=repr)
def test_learning_never_raises(wrong: Any) -> None:
    estimator, where = CostEstimator(), place()
    estimator.observe(
        where,
        usage=Usage(input_tokens=wrong, output_tokens=10),
        estimated_input_tokens=wrong,
        max_tokens=wrong,
        choices=wrong,
        latency_s=wrong,
        first_token_s=wrong,
    )
    assert estimator.quote(where, ask(), {"max_tokens": 400}).output_tokens.p50 == 10


@pytest.mark.parametrize("latency_s", [math.nan, -1.0, math.inf, True, "1"], ids=repr)
def test_times_that_make_no_sense_teach_nothing(latency_s: Any) -> None:
    estimator, where = CostEstimator(), place()
    learnt(estimator, where, *[10] * 30, latency_s=latency_s, first_token_s=latency_s)
    assert estimator.quote(where, ask()).latency_s is None


def test_the_queue_is_in_the_latency() -> None:
    estimator, where = CostEstimator(), place()
    learnt(estimator, where, *[101] * 30, latency_s=2.5, first_token_s=0.5)
    at_once, queued = estimator.quote(where, ask()), estimator.quote(where, ask(), queue_s=3)
    assert at_once.latency_s is not None
    assert queued.latency_s is not None
    assert at_once.latency_s.p50 == pytest.approx(2.5)
    assert queued.latency_s.p95 == pytest.approx(at_once.latency_s.p95 + 3)


# -- input -----------------------------------------------------------------------


def test_a_guess_loads_no_tokenizer() -> None:
    code = (
        "import sys\n"
        "from tierllm.cost.estimator import CostEstimator\n"
        "e = CostEstimator().estimate('How are you today? ' * 50, model='gpt-5-mini', exact=False)\n"
        "assert 'tiktoken' not in sys.modules and not e.input_tokens.exact\n"
        "assert 200 < e.input_tokens < e.input_tokens.p90 < e.input_tokens.max < 1000, e.input_tokens\n"
        "CostEstimator().estimate('Hi', model='gpt-5-mini')\n"
        "assert 'tiktoken' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_long_texts_are_guessed_unless_told_otherwise() -> None:
    long = PROMPT * 400
    estimator, where = CostEstimator(), place()
    guessed = estimator.quote(where, ask(long)).input_tokens
    counted = estimator.quote(where, ask(long), exact=True).input_tokens
    assert counted.exact
    assert not guessed.exact
    assert guessed.p50 == pytest.approx(counted, rel=0.25)
    assert counted <= guessed.max


@pytest.mark.parametrize(
    "text",
    [
        PROMPT,
        "def total(rows):\n    return sum(r.cost for r in rows if r.ok)\n" * 8,
        '[{"id": 17, "name": "Ada", "active": true, "tags": ["a", "b"]}, ' * 8,
        "日本語の文章をいくつか書いて、トークン数を調べます。会議の要約を作成してください。" * 4,
        "Пожалуйста, кратко изложите содержание следующего совещания в трёх предложениях. " * 4,
        "3.14159 2.71828 1.41421 1.73205 0.57721 " * 8,
    ],
    ids=["english", "code", "json", "japanese", "russian", "digits"],
)
def test_guesses_come_close(text: str) -> None:
    estimator, where = CostEstimator(), place()
    guessed = estimator.quote(where, ask(text), exact=False).input_tokens
    counted = estimator.quote(where, ask(text), exact=True).input_tokens
    assert 0.6 < guessed.p50 / counted < 1.6
    assert counted <= guessed.max


@pytest.mark.parametrize("exact", [True, False], ids=["counted", "guessed"])
def test_what_a_deployment_reports_corrects_what_is_said_of_it(exact: bool) -> None:
    estimator, where = CostEstimator(), place("claude-sonnet-4-5", vendor="anthropic")
    first = estimator.quote(where, ask(), exact=exact).input_tokens
    reported = round(first.raw * 1.3)
    for _ in range(30):
        said = estimator.quote(where, ask(), exact=exact).input_tokens
        usage = Usage(input_tokens=reported, output_tokens=5)
        estimator.observe(where, usage=usage, estimated_input_tokens=said, finish_reason="stop")
    assert estimator.quote(where, ask(), exact=exact).input_tokens == pytest.approx(reported, abs=1)
    # the other way of telling is not touched by it
    other = CostEstimator().quote(where, ask(), exact=not exact).input_tokens
    assert estimator.quote(where, ask(), exact=not exact).input_tokens == other


def test_exact_counts_are_not_corrected() -> None:
    estimator, where = CostEstimator(), place()
    said = estimator.quote(where, ask()).input_tokens
    for _ in range(30):
        usage = Usage(input_tokens=3 * said, output_tokens=5)
        estimator.observe(where, usage=usage, estimated_input_tokens=said)
    assert estimator.quote(where, ask()).input_tokens == said


def test_tools_and_pictures_are_never_exact() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "Looks up", "parameters": {}}}]
    picture = [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    estimator, where = CostEstimator(), place("gpt-4o")
    plain = estimator.quote(where, ask()).input_tokens
    for exact in (True, False):
        with_tools = estimator.quote(where, ask(), {"tools": tools}, exact=exact).input_tokens
        assert not with_tools.exact
        assert plain < with_tools <= with_tools.max
        shown = estimator.quote(where, ({"role": "user", "content": picture},), exact=exact).input_tokens
        assert not shown.exact
        assert shown > 200


# -- money -----------------------------------------------------------------------

DEAR = Price(
    input_usd_per_mtok=2,
    output_usd_per_mtok=8,
    cached_input_usd_per_mtok="0.5",
    cache_write_usd_per_mtok="2.5",
    above={200: Price(input_usd_per_mtok=4, output_usd_per_mtok=12)},
    service={"flex": Price(input_usd_per_mtok=1, output_usd_per_mtok=4)},
)


@given(
    st.text(min_size=1, max_size=300),
    st.lists(st.integers(1, 3000), max_size=60),
    st.none() | st.integers(1, 5000),
    st.sampled_from(["gpt-5-mini", "claude-sonnet-4-5", "llama-3.3-70b"]),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, "flex", "priority"]),
    st.integers(1, 3),
)
def test_estimates_are_in_order_and_cost_what_their_tokens_cost(
    text: str, answers: list[int], max_tokens: int | None, model: str, exact: bool | None, tier: Any, n: int
) -> None:
    estimator, where = CostEstimator(), place(model, vendor=None, price=DEAR)
    learnt(estimator, where, *answers, latency_s=1.0)
    params: dict[str, Any] = {"max_tokens": max_tokens, "service_tier": tier, "n": n}
    e = estimator.quote(where, ask(text), {k: v for k, v in params.items() if v is not None}, exact=exact)
    asked, answer, cost = e.input_tokens, e.output_tokens, e.cost_usd
    assert cost is not None
    for tokens in (asked, answer):
        assert 1 <= tokens.p50 <= tokens.p90 <= tokens.max
        assert tokens == tokens.p50
        assert 0 < tokens.mean <= tokens.max
    assert 0 < cost.p50 <= cost.p90 <= cost.max
    assert cost.mean <= cost.max
    assert cost.p50 == DEAR.cost_usd(Usage(input_tokens=asked, output_tokens=answer, service_tier=tier))
    assert cost.max * 10**9 >= DEAR.worst_nano(asked.max, answer.max, tier)
    if max_tokens is not None:
        assert answer.max <= max_tokens * n
    if model == "gpt-5-mini":
        counted = tokens_for(model).count(ask(text), {})
        assert asked.exact == (exact is not False)
        assert counted <= asked.max
        assert asked.p50 == counted or not asked.exact
    if e.latency_s is not None:
        assert 0 <= e.latency_s.p50 <= e.latency_s.p90 <= e.latency_s.p95


def test_the_mean_of_short_answers_is_not_rounded_to_whole_tokens() -> None:
    estimator, where = CostEstimator(), place()
    learnt(estimator, where, *[1, 2, 2, 3, 4] * 8)
    cost = estimator.quote(where, ask()).cost_usd
    asked = estimator.quote(where, ask()).input_tokens
    assert cost is not None
    assert cost.mean == (Decimal("2.4") * 8 + 2 * asked) / 10**6


def test_the_callers_precision_does_not_matter() -> None:
    estimator, where = (
        CostEstimator(),
        place(price=Price(input_usd_per_mtok="1.23456", output_usd_per_mtok=7)),
    )
    learnt(estimator, where, *range(100, 150))
    exact = estimator.quote(where, ask())
    with localcontext(prec=2):
        assert estimator.quote(where, ask()) == exact
        batch = total([exact] * 7)
    assert batch == total([exact] * 7)
    assert batch.cost_usd is not None
    assert exact.cost_usd is not None
    assert batch.cost_usd.mean == 7 * exact.cost_usd.mean


# -- totals ----------------------------------------------------------------------


def one(
    p50: int, p90: int, most: int, *, mean: float, sd: float = 0.0, samples: int = 0, model: str = "m"
) -> Estimate:
    usd = [Decimal(tokens) / 1000 for tokens in (p50, p90, most)]
    cost = Cost(*usd, mean=Decimal(str(mean)) / 1000, sd=Decimal(str(sd)) / 1000)
    output = Tokens(p50, p90, most, mean=mean, sd=sd, samples=samples)
    return Estimate(model=model, input_tokens=Tokens(0), output_tokens=output, cost_usd=cost, tiers={})


def test_one_call_is_what_it_is() -> None:
    only = one(100, 300, 500, mean=140, sd=90, samples=256)
    batch = total([only])
    assert (batch.count, batch.output_tokens, batch.cost_usd) == (1, only.output_tokens, only.cost_usd)
    assert batch.output_tokens.p90 == 300


def test_nothing_costs_nothing() -> None:
    batch = total([])
    assert (batch.count, batch.input_tokens, batch.output_tokens.max, batch.cost_usd) == (0, 0, 0, None)


def test_calls_without_a_price_are_counted_apart() -> None:
    priced = one(100, 300, 500, mean=140)
    unpriced = Estimate(input_tokens=Tokens(7), output_tokens=Tokens(3), tiers={})
    batch = total([priced, unpriced, priced])
    assert (batch.count, batch.unpriced) == (3, 1)
    assert batch.cost_usd is not None
    assert batch.cost_usd.max == 2 * Decimal("0.5")
    assert total([unpriced, unpriced]).cost_usd is None


def test_what_nobody_knows_adds_up_in_full() -> None:
    batch = total([one(200, 400, 400, mean=200)] * 50)
    assert batch.output_tokens.p90 == batch.output_tokens.max == 50 * 400
    assert batch.cost_usd is not None
    assert batch.cost_usd.p90 == pytest.approx(Decimal(20))


def test_chance_evens_out_and_what_calls_share_does_not() -> None:
    call = {"mean": 140, "sd": 100, "samples": 256}
    alike = total([one(100, 300, 4096, **call)] * 400)  # type: ignore[arg-type]
    apart = total(
        one(100, 300, 4096, model=str(at), **call)  # type: ignore[arg-type]
        for at in range(400)
    )
    assert alike.output_tokens == apart.output_tokens == 400 * 140
    own, shared = 100 * math.sqrt(400), 400 * 100 / math.sqrt(256 / 4)
    assert alike.output_tokens.sd == pytest.approx(math.hypot(own, shared))
    assert apart.output_tokens.sd == pytest.approx(math.hypot(own, shared / math.sqrt(400)))
    assert apart.output_tokens.p90 < alike.output_tokens.p90 < 400 * 300
    assert alike.output_tokens.p90 == pytest.approx(400 * 140 + 1.2816 * alike.output_tokens.sd, abs=1)


def test_nine_in_ten_totals_stay_within_p90() -> None:
    rng = random.Random(7)
    within, batches = 0, 150
    for _ in range(batches):
        estimator, where = CostEstimator(), place()
        learnt(estimator, where, *[1 + int(rng.lognormvariate(5, 1)) for _ in range(256)])
        e = estimator.quote(where, ask(), {"max_tokens": 4096}, exact=False)
        said = total([e] * 300).output_tokens
        within += sum(1 + int(rng.lognormvariate(5, 1)) for _ in range(300)) <= said.p90
    assert 0.85 <= within / batches <= 1  # room for answers that resemble their neighbours


numbers = st.integers(0, 10**6)


@given(
    st.lists(
        st.tuples(st.lists(numbers, min_size=3, max_size=3).map(sorted), st.booleans(), st.floats(0, 1)),
        max_size=30,
    )
)
def test_totals_are_in_order_and_exact(calls: list[tuple[list[int], bool, float]]) -> None:
    estimates = [
        one(*spread, mean=round(spread[2] * share), sd=share * 100, samples=30 if known else 0)  # type: ignore[misc]
        for spread, known, share in calls
    ]
    batch = total(estimates)
    if not estimates:
        return
    assert batch.output_tokens.max == sum(e.output_tokens.max for e in estimates)
    assert batch.output_tokens.p50 <= batch.output_tokens.p90 <= batch.output_tokens.max
    cost = batch.cost_usd
    assert cost is not None
    assert cost.p50 <= cost.p90 <= cost.max == sum(e.cost_usd.max for e in estimates if e.cost_usd)
    if len(estimates) > 1:
        assert cost.mean == sum(e.cost_usd.mean for e in estimates if e.cost_usd)


# -- life ------------------------------------------------------------------------


def test_estimates_can_be_copied_and_pickled() -> None:
    estimator, where = CostEstimator(), place()
    learnt(estimator, where, *range(100, 150), latency_s=1.0)
    e = estimator.quote(where, ask(), exact=False)
    for twin in (copy.copy(e), copy.deepcopy(e), pickle.loads(pickle.dumps(e))):
        assert twin == e
        assert vars(twin.output_tokens) == vars(e.output_tokens)
        assert vars(twin.input_tokens) == vars(e.input_tokens)
    assert pickle.loads(pickle.dumps(total([e, e]))) == total([e, e])


def test_threads_learn_and_ask_at_once() -> None:
    estimator, where = CostEstimator(max_routes=5), place()
    failures: list[BaseException] = []

    def calls(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for at in range(800):
                route = f"r{rng.randrange(12)}"
                e = estimator.quote(where, ask(), {"max_tokens": 900}, route=route, exact=False)
                assert e.output_tokens.p50 <= e.output_tokens.p90 <= e.output_tokens.max == 900
                learnt(estimator, where, rng.randrange(1, 900), route=route, latency_s=0.1 + at / 1000)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=calls, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(estimator.histories) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_locks_of_its_own() -> None:
    estimator, where = CostEstimator(), place()
    learnt(estimator, where, *[10] * 30, route="r", latency_s=1.0)
    history = estimator.histories.of(where.name, "r")
    assert history is not None
    with estimator._lock, estimator.histories._lock, history._lock:
        child = os.fork()
        if not child:
            signal.alarm(10)
            try:
                learnt(estimator, where, 10, route="r", latency_s=1.0)
                told = estimator.quote(where, ask(), route="r", exact=False).output_tokens.p90
                os._exit(0 if told == 10 else 1)
            finally:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
