"""Budgets where rooms meet: prices that change, soft limits by tier, stores with and without journeys."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal, Inexact, localcontext
from pathlib import Path
from types import FrameType

import pytest

from client.forms import World
from tierllm import (
    Budget,
    BudgetExceededError,
    Call,
    ClientClosedError,
    ConfigError,
    Deployment,
    DiskStore,
    Estimate,
    NotConfirmedError,
    Price,
    RequestTooLargeError,
    Response,
    StoreUnavailableError,
    Tier,
    TieredClient,
    Usage,
    UsageLedger,
    scope,
)
from tierllm.cost import alerts, arrears, bookkeeping, last_seen, purchase, spending, treasury
from tierllm.cost.tokens import ModelTokens, tokens_for
from tierllm.pipeline.compose import compose, invoking
from tierllm.pipeline.effects import Handler
from tierllm.pipeline.scope import Invocation
from tierllm.providers import BaseProvider, Function
from tierllm.stores import Hold, MemoryStore, Verdict
from tierllm.testing import Fail, FakeClock, FakeProvider, Reply
from tierllm.types import Message

CHEAP = Price(input_usd_per_mtok=2, output_usd_per_mtok=8)


def test_a_price_that_changes_meanwhile_settles_as_it_was_reserved() -> None:
    fake = FakeProvider()
    w = World(
        [Tier("gold", [Deployment("g", fake, price=CHEAP)])], budgets=[Budget(hard_usd="0.01")], fake=fake
    )
    w.fake.script("g", Reply("hi", usage=Usage(input_tokens=10, output_tokens=100)))
    line = w.client._setup.lines["gold"].lines[0]
    place = line.place

    class Meanwhile:
        async def __call__(self, call: Call, call_next: Handler) -> Response:
            response = await call_next(call)
            place._price = Price(input_usd_per_mtok=9000, output_usd_per_mtok=9000)
            return response

    line._metered = compose([line.spending, Meanwhile()], invoking(w.fake))
    response = w.call("Hello", max_tokens=100).ok
    assert response.cost_usd == CHEAP.cost_usd(Usage(input_tokens=10, output_tokens=100))
    (left_over,) = w.client.remaining()
    assert left_over.used == CHEAP.cost_usd(Usage(input_tokens=10, output_tokens=100))


def test_soft_limits_of_tiers_lead_down_as_far_as_they_must() -> None:
    fake = FakeProvider()
    tiers = [Tier(name, [Deployment(name, fake)]) for name in ("gold", "silver", "bronze")]
    client = TieredClient(tiers, budgets=[Budget(soft_calls=2, per="tier", on_soft="downgrade")])
    served = [client.complete("Hello").tier for _ in range(7)]
    assert served == ["gold"] * 2 + ["silver"] * 2 + ["bronze"] * 3


def test_a_soft_limit_of_a_user_leads_one_tier_down() -> None:
    fake = FakeProvider()
    tiers = [Tier(name, [Deployment(name, fake)]) for name in ("gold", "silver", "bronze")]
    client = TieredClient(tiers, budgets=[Budget(soft_calls=2, per="user", on_soft="downgrade")])
    assert [client.complete("Hello", user="u").tier for _ in range(4)] == ["gold"] * 2 + ["silver"] * 2


def test_a_rolling_soft_limit_in_a_shared_store_leads_down(tmp_path: Path) -> None:
    fake = FakeProvider()
    tiers = [Tier(name, [Deployment(name, fake)]) for name in ("gold", "silver")]
    soft = Budget(soft_calls=2, window="1h", on_soft="downgrade")
    with TieredClient(tiers, budgets=[soft], store=DiskStore(tmp_path / "state")) as client:
        assert [client.complete("Hello").tier for _ in range(4)] == ["gold"] * 2 + ["silver"] * 2


def test_openai_is_told_that_the_standard_service_was_reserved_for() -> None:
    seen: list[object] = []
    fake = FakeProvider(
        name="openai", answer=lambda call: seen.append(call.params.get("service_tier")) or "hi"
    )
    with TieredClient([Tier("gold", [Deployment("gpt-5", fake)])], budgets=[Budget(hard_usd=1)]) as client:
        client.complete("Hello")
    with TieredClient([Tier("gold", [Deployment("gpt-5", fake)])], budgets=[Budget(hard_calls=1)]) as client:
        client.complete("Hello")
    assert seen == ["default", None]


def test_the_ledger_tells_what_the_caller_did_not_get() -> None:
    fake = FakeProvider()
    fake.script("g", Fail.unavailable())
    tiers = [Tier("gold", [Deployment("g", fake)], retry=False), Tier("silver", [Deployment("s", fake)])]
    with TieredClient(tiers, budgets=[Budget(hard_tokens=600, on_exceed="clamp")]) as client:
        client.complete("Hello", max_tokens=1000)
        assert [e.degraded for e in client.ledger.entries(outcome="ok")] == [("tier", "max_tokens")]


def test_a_ledger_that_is_read_only_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    with TieredClient([Tier("gold", [Deployment("g", FakeProvider())])], ledger=path) as client:
        client.complete("Hello")
    with pytest.raises(ConfigError, match="read only"):
        TieredClient(client.tiers, ledger=UsageLedger(path, read_only=True))


def test_a_stores_own_limit_says_no_before_a_shared_one_is_asked(tmp_path: Path) -> None:
    asked: list[Hold] = []

    class Watched(DiskStore):
        def reserve(self, hold: Hold) -> Verdict:
            asked.append(hold)
            return super().reserve(hold)

    price = Price(input_usd_per_mtok=1, output_usd_per_mtok=1000)
    tiers = [Tier("gold", [Deployment("g", FakeProvider(), price=price)])]
    client = TieredClient(tiers, budgets=[Budget(hard_usd=1)], store=Watched(tmp_path / "state"))
    with client, pytest.raises(BudgetExceededError, match="max_cost_usd"):
        client.complete("Hello", max_tokens=500, max_cost_usd="0.01")
    assert asked == []


GPT4 = Deployment("gpt-4", FakeProvider(name="openai"))  # a window of 8,192 tokens, by the price list


@pytest.mark.parametrize(
    ("tier", "prompt", "options"),
    [
        (Tier("gold", [GPT4]), "\N{GRINNING FACE}" * 7_900, {}),
        (Tier("gold", [GPT4]), "short", {"max_tokens": 20_000}),
        (
            Tier("gold", [GPT4]),
            "short",
            {"tools": [{"type": "function", "function": {"name": "f", "description": "word " * 20_000}}]},
        ),
        (Tier("gold", [GPT4], prompt="word " * 20_000), "short", {}),
        (Tier("gold", [GPT4], prompt=lambda messages: "word " * 20_000), "short", {}),
        (Tier("gold", [GPT4], max_tokens=20_000), "short", {}),
    ],
    ids=["emoji", "max_tokens", "tools", "prompt", "made prompt", "ceiling"],
)
def test_whatever_makes_a_request_too_large_is_seen_before_sending(
    tier: Tier, prompt: str, options: dict[str, object]
) -> None:
    with TieredClient([tier]) as client:
        assert client.complete("short", max_tokens=10).text if tier.prompt is None else True
        with pytest.raises(RequestTooLargeError) as caught:
            client.complete(prompt, **options)  # type: ignore[arg-type]
    assert caught.value.window == 8_192
    assert (caught.value.input_tokens or 0) + (caught.value.output_tokens or 0) > 8_192


def test_an_estimate_that_need_not_be_exact_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = type(tokens_for("gpt-4", "openai"))

    def count(*_: object) -> int:
        raise AssertionError("counted")

    monkeypatch.setattr(tokens, "count", count)
    monkeypatch.setattr(tokens, "worst", count)
    with TieredClient([Tier("gold", [GPT4])]) as client:
        told = client.estimate("word " * 5_000, exact=False)
    assert 4_000 < told.input_tokens < 12_000


def test_very_long_prompts_are_counted_once_off_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    tokens = type(tokens_for("gpt-4", "openai"))
    count = tokens.count

    def watched(self: ModelTokens, messages: Sequence[Message], params: Mapping[str, object]) -> int:
        counted.append(threading.get_ident())
        return count(self, messages, params)

    monkeypatch.setattr(tokens, "count", watched)
    small = Deployment("gpt-4", FakeProvider(name="openai"), context_window=1_000, name="small")
    large = Deployment("gpt-4", FakeProvider(name="openai"), context_window=100_000, name="large")
    with TieredClient([Tier("gold", [small, large])]) as client:
        answer = asyncio.run(client.acomplete("a b c d " * 20_000, max_tokens=10))
    assert answer.deployment == "large"
    assert len(counted) == 1
    assert threading.get_ident() not in counted


@pytest.mark.parametrize("where", ["params", "defaults", "extra"])
def test_what_a_body_asks_for_is_reserved_wherever_it_stands(where: str) -> None:
    body = {"extra_body": {"max_tokens": 5_000, "n": 3}}
    fake = FakeProvider()
    deployment = Deployment("g", fake, price=CHEAP, params=body if where == "params" else None)
    tier = Tier("gold", [deployment], defaults=body if where == "defaults" else None)
    client = TieredClient([tier], budgets=[Budget(hard_usd="0.1")])
    with client, pytest.raises(BudgetExceededError) as caught:
        client.complete("Hello", **({"extra": {"fake": body}} if where == "extra" else {}))
    assert caught.value.asked is not None
    assert caught.value.asked >= 15_000 * CHEAP.cost_usd(Usage(output_tokens=1))


def test_a_function_that_takes_no_bound_cannot_be_under_a_hard_limit() -> None:
    def deaf(messages: list[dict[str, object]]) -> str:
        return "word " * 10_000

    def heeds(messages: list[dict[str, object]], max_tokens: int | None = None) -> str:
        return f"at most {max_tokens}"

    def client(fn: object) -> TieredClient:
        deployment = Deployment("f", Function(fn), price=CHEAP)  # type: ignore[arg-type]
        return TieredClient([Tier("gold", [deployment])], budgets=[Budget(hard_usd=1)])

    assert client(heeds).complete("Hello").text == "at most 4096"
    with pytest.raises(ConfigError, match="takes no max_tokens"):
        client(deaf).complete("Hello")
    said = client(deaf)
    said.complete("Hello", max_tokens=100)  # the caller's word for it, which does not hold
    (left_over,) = said.remaining()
    assert left_over.used > CHEAP.cost_usd(Usage(output_tokens=9_000))


def test_usage_of_nothing_beside_a_text_is_no_usage() -> None:
    fake = FakeProvider()
    fake.script("g", Reply("a long answer", usage=Usage()))
    tiers = [Tier("gold", [Deployment("g", fake)])]
    with TieredClient(tiers, budgets=[Budget(hard_tokens=10_000)]) as client:
        client.complete("Hello", max_tokens=1_000)
        (left_over,) = client.remaining()
    assert left_over.used > 1_000


@pytest.mark.parametrize("name", ["0.05", 5])
def test_a_run_whose_limit_was_taken_for_its_name_is_refused(name: object) -> None:
    client = TieredClient([Tier("gold", [Deployment("g", FakeProvider())])])
    with client, pytest.raises(ConfigError, match="say hard_usd="):
        client.run(name)  # type: ignore[arg-type]


def test_only_true_confirms() -> None:
    async def asked(_: Estimate) -> bool:
        return True

    with TieredClient([Tier("gold", [Deployment("g", FakeProvider(), price=CHEAP)])]) as client:
        for answer in ("n", "yes", 1, None, False):
            with pytest.raises(NotConfirmedError):
                client.complete("Hello", confirm=lambda _, answer=answer: answer)
        assert client.complete("Hello", confirm=lambda _: True).text
        assert client.complete("Hello", confirm=lambda estimate: asked(estimate)).text
        with pytest.raises(ConfigError, match="give confirm="):
            client.complete("Hello", confirm_over_usd=0)


def test_what_remains_is_told_for_whom_the_scope_says() -> None:
    tiers = [Tier("gold", [Deployment("g", FakeProvider())])]
    with TieredClient(tiers, budgets=[Budget(hard_calls=5, per="user")]) as client, scope(user="u"):
        client.complete("Hello")
        assert [(r.bucket, r.left) for r in client.remaining()] == [("user=u", 4)]
        assert [(r.bucket, r.left) for r in client.remaining(user="v")] == [("user=v", 5)]


def test_an_estimate_refuses_just_what_the_call_would_be_refused() -> None:
    agreed = {True: 0, False: 0}
    for nano in range(100, 60_000, 1_300):
        tiers = [Tier("gold", [Deployment("g", FakeProvider(), price=CHEAP)])]
        with TieredClient(tiers, budgets=[Budget(hard_usd=f"{nano}e-6")]) as client:
            refused = client.estimate("word " * 50, max_tokens=4_000).refused is not None
            try:
                client.complete("word " * 50, max_tokens=4_000)
                assert not refused
            except BudgetExceededError:
                assert refused
            agreed[refused] += 1
    assert all(agreed.values())


def test_interrupts_at_any_moment_leave_nothing_reserved() -> None:
    """Ctrl-C may come between any two steps."""
    tiers = [Tier("gold", [Deployment("g", FakeProvider(), price=CHEAP)])]
    client = TieredClient(tiers, budgets=[Budget(hard_usd=10), Budget(hard_calls=10**6, per="user")])
    client.complete("Hello", user="u")
    own = {
        module.__file__ for module in (spending, purchase, treasury, last_seen, arrears, bookkeeping, alerts)
    }
    steps = 0
    at = 0

    def interrupting(frame: FrameType, event: str, arg: object) -> object:
        nonlocal steps
        if event == "call":
            return interrupting if frame.f_code.co_filename in own else None
        if event == "line":
            steps += 1
            if steps == at:
                raise KeyboardInterrupt
        return interrupting

    interrupted = 0
    for at in range(1, 400):
        steps = 0
        before = sys.gettrace()
        sys.settrace(interrupting)
        try:
            client.complete("Hello", user="u")
        except KeyboardInterrupt:
            interrupted += 1
        finally:
            sys.settrace(before)
        assert [r.reserved for r in client.remaining(user="u")] == [0, 0], at
    assert interrupted > 150
    assert client.remaining(user="u")[1].used <= 400


def test_a_client_closed_under_a_call_books_what_the_call_cost(tmp_path: Path) -> None:
    begun, done = threading.Event(), threading.Event()

    class Stubborn(BaseProvider):
        def complete(self, call: Call, scope: Invocation) -> Response:
            begun.set()
            done.wait(10)
            return Response("hi", finish_reason="stop", usage=Usage(input_tokens=1, output_tokens=2))

    client = TieredClient(
        [Tier("gold", [Deployment("g", Stubborn())])],
        budgets=[Budget(hard_tokens=1_000)],
        store=DiskStore(tmp_path / "state"),
    )

    def call() -> None:
        with pytest.raises(ClientClosedError):
            client.complete("Hello", max_tokens=100)

    thread = threading.Thread(target=call)
    thread.start()
    assert begun.wait(10)
    client.close()
    done.set()
    thread.join(10)
    budget = Budget(hard_tokens=1_000, store=DiskStore(tmp_path / "state"))
    for _ in range(100):
        (left_over,) = budget.remaining()
        if not left_over.reserved:
            break
        time.sleep(0.05)
    assert left_over.reserved == 0
    assert left_over.used > 0


def test_a_client_sent_down_by_a_soft_limit_is_not_sent_up_by_a_hard_one() -> None:
    fake = FakeProvider()
    tiers = [Tier(name, [Deployment(name, fake)]) for name in ("gold", "silver")]
    budgets = [
        Budget(soft_calls=0, per="user", on_soft="downgrade"),
        Budget(hard_calls=1, where={"tier": "silver"}, on_exceed="downgrade"),
    ]
    with TieredClient(tiers, budgets=budgets) as client:
        assert client.complete("Hello", user="u").tier == "silver"
        with pytest.raises(BudgetExceededError):
            client.complete("Hello", user="u")


def test_where_all_else_fails_a_call_sent_down_comes_back_up() -> None:
    fake = FakeProvider()
    fake.script("silver", Fail.unavailable(), forever=True)
    tiers = [Tier(name, [Deployment(name, fake)], retry=False) for name in ("gold", "silver")]
    with TieredClient(tiers, budgets=[Budget(soft_calls=0, per="user", on_soft="downgrade")]) as client:
        assert client.complete("Hello", user="u").tier == "gold"


def test_a_runs_soft_limit_is_for_whom_it_says() -> None:
    fake = FakeProvider()
    tiers = [Tier(name, [Deployment(name, fake)]) for name in ("gold", "silver")]
    with TieredClient(tiers) as client, client.run(soft_calls=0, on_soft="downgrade", where={"user": "bob"}):
        assert client.complete("Hello", user="alice").tier == "gold"
        assert client.complete("Hello", user="bob").tier == "silver"


def test_waiting_is_not_advised_where_it_does_not_help() -> None:
    with (
        TieredClient(
            [Tier("gold", [Deployment("g", FakeProvider(), price=CHEAP)])],
            budgets=[Budget(hard_usd="0.001", window="day")],
        ) as client,
        pytest.raises(BudgetExceededError) as caught,
    ):
        client.complete("Hello", max_tokens=10_000)
    assert caught.value.retry_after_s is None
    assert caught.value.resets_at is not None


def test_confirming_looks_at_the_dearest_place() -> None:
    fake = FakeProvider()
    dear = Price(input_usd_per_mtok=100, output_usd_per_mtok=1_000)
    places = [Deployment("g", fake, price=CHEAP), Deployment("dear", fake, price=dear)]
    asked: list[Estimate] = []

    def ask(estimate: Estimate) -> bool:
        asked.append(estimate)
        return True

    with TieredClient([Tier("gold", places)], confirm=ask, confirm_over_usd="0.01") as client:
        client.complete("Hello", max_tokens=100)
    assert len(asked) == 1


@pytest.mark.parametrize("tokens", [10**30, -5, None, 1.5])
def test_usage_that_cannot_be_is_no_usage_and_loses_no_answer(tokens: object) -> None:
    fake = FakeProvider()
    fake.script("g", Reply("hi", usage=Usage(input_tokens=1, output_tokens=tokens)))  # type: ignore[arg-type]
    tiers = [Tier("gold", [Deployment("g", fake, price=CHEAP)])]
    with TieredClient(tiers, budgets=[Budget(hard_tokens=10_000)]) as client:
        answer = client.complete("Hello", max_tokens=1_000)
        (left_over,) = client.remaining()
    assert (answer.text, answer.cost_usd) == ("hi", None)
    assert 1_000 < left_over.used < 1_400


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hard_calls": 1, "per": "run", "store": MemoryStore()}, "lives in memory"),
        ({"soft_calls": 1, "per": "deployment", "on_soft": "downgrade"}, "matter of tiers"),
        ({"soft_calls": 1, "where": {"model": "g"}, "on_soft": "downgrade"}, "matter of tiers"),
    ],
    ids=["store of a run", "per deployment", "where model"],
)
def test_what_a_budget_cannot_do_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Budget(**settings)  # type: ignore[arg-type]


def test_a_calls_own_limit_has_its_name_for_itself() -> None:
    with pytest.raises(ConfigError, match="own limit"):
        TieredClient(
            [Tier("gold", [Deployment("g", FakeProvider())])],
            budgets=[Budget(hard_calls=1, name="max_cost_usd")],
        )


def test_accounts_seen_lately_are_kept_and_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(last_seen, "KEPT", 20)
    tiers = [Tier("gold", [Deployment("g", FakeProvider())])]
    soft = Budget(soft_calls=10**6, per="user")
    with TieredClient(tiers, budgets=[soft], store=DiskStore(tmp_path / "state"), ledger=False) as client:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: client.complete("Hello", user=f"u{n % 60}"), range(240)))
        assert len(client._setup.treasury._seen._known) == 20


def test_a_runs_account_is_exact_whatever_precision_the_application_likes() -> None:
    fake = FakeProvider()
    fake.script("*", Reply("hi", usage=Usage(input_tokens=111, output_tokens=233)), forever=True)
    client = TieredClient([Tier("gold", [Deployment("g", fake, price=CHEAP)])])
    with client, client.run() as run, localcontext() as context:
        context.prec = 2
        context.traps[Inexact] = True
        for _ in range(3):
            client.complete("Hello")
        assert "0.006258" in run.statement()
    assert run.spent_usd == Decimal("0.006258")


def test_a_bound_that_reaches_nobody_cannot_be_lowered() -> None:
    dropping = Deployment("g", FakeProvider(), price=CHEAP, drop={"max_tokens"}, max_output_tokens=4_000)
    budget = Budget(hard_tokens=3_000, on_exceed="clamp")
    with TieredClient([Tier("gold", [dropping])], budgets=[budget]) as client:
        with pytest.raises(BudgetExceededError):
            client.complete("Hello")
        with pytest.raises(BudgetExceededError):
            client.complete("Hello", max_cost_usd="0.001")


def test_a_rolling_soft_limit_lets_calls_back_up(tmp_path: Path) -> None:
    clock = FakeClock(1_800_000_000)
    fake = FakeProvider()
    tiers = [Tier(name, [Deployment(name, fake)]) for name in ("gold", "silver")]
    soft = Budget(soft_calls=2, per="tier", window="1h", on_soft="downgrade", where={"tier": "gold"})
    store = DiskStore(tmp_path / "state", wall_clock=clock)
    with TieredClient(tiers, budgets=[soft], store=store, clock=clock) as client:
        assert [client.complete("Hello").tier for _ in range(3)] == ["gold", "gold", "silver"]
        clock.advance(3_700)
        assert client.complete("Hello").tier == "gold"


def test_a_call_sent_two_tiers_down_finds_the_one_between() -> None:
    fake = FakeProvider()
    fake.script("bronze", Fail.unavailable(), forever=True)
    tiers = [Tier(name, [Deployment(name, fake)], retry=False) for name in ("gold", "silver", "bronze")]
    budgets = [
        Budget(soft_calls=0, per="tier", where={"tier": ["gold", "silver"]}, on_soft="downgrade"),
        Budget(hard_calls=0, where={"tier": "gold"}, on_exceed="downgrade", name="none of gold"),
    ]
    with TieredClient(tiers, budgets=budgets) as client:
        assert client.complete("Hello").tier == "silver"


def test_what_tools_weigh_at_one_place_is_not_held_against_another() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "word " * 20_000}}]
    heavy = Deployment("gpt-4", FakeProvider(name="openai"), params={"tools": tools}, name="heavy")
    light = Deployment("gpt-4", FakeProvider(name="openai"), name="light")
    with TieredClient([Tier("gold", [heavy, light])]) as client:
        assert client.complete("word " * 1_500, max_tokens=10).deployment == "light"


def test_one_store_that_is_away_does_not_keep_another_from_being_paid(tmp_path: Path) -> None:
    class Away(DiskStore):
        away = True

        def reserve(self, hold: Hold) -> Verdict:
            if self.away:
                raise StoreUnavailableError("away")
            return super().reserve(hold)

    first, second = Away(tmp_path / "first"), Away(tmp_path / "second")
    budgets = [
        Budget(hard_calls=9, name="first", store=first, fail="open"),
        Budget(hard_calls=9, name="second", store=second, fail="open"),
    ]
    with TieredClient([Tier("gold", [Deployment("g", FakeProvider())])], budgets=budgets) as client:
        assert len(client.complete("Hello").warnings) == 1
        client.complete("Hello")
        second.away = False
        client._setup.treasury.pay()
        assert [int(left_over.used) for left_over in client.remaining()] == [0, 2]
        first.away = False
        assert [int(left_over.used) for left_over in client.remaining()] == [2, 2]


def test_a_debt_is_owed_once_however_often_the_call_is_weighed(tmp_path: Path) -> None:
    class Away(DiskStore):
        def reserve(self, hold: Hold) -> Verdict:
            raise StoreUnavailableError("away")

    budgets = [
        Budget(hard_calls=9, name="away", store=Away(tmp_path / "away"), fail="open"),
        Budget(hard_tokens=400, name="short", on_exceed="clamp", store=DiskStore(tmp_path / "here")),
    ]
    client = TieredClient([Tier("gold", [Deployment("g", FakeProvider())])], budgets=budgets)
    warnings = client.complete("Hello", max_tokens=5_000).warnings
    assert sum("could not be reached" in warning for warning in warnings) == 1
    assert len(client._setup.treasury.arrears) == 1
    client.close()


def test_a_budget_for_a_place_has_to_be_told_the_place() -> None:
    budget = Budget(hard_usd=1, where={"model": "big"})
    with pytest.raises(ConfigError, match="say model="), budget.spend(usd=500):
        raise AssertionError("it ran")
    with pytest.raises(BudgetExceededError), budget.spend(usd=500, model="big"):
        raise AssertionError("it ran")


def test_the_ledger_tells_who_was_sent_down() -> None:
    fake = FakeProvider()
    tiers = [Tier(name, [Deployment(name, fake)], retry=False) for name in ("gold", "silver")]
    with TieredClient(tiers, budgets=[Budget(soft_calls=0, per="user", on_soft="downgrade")]) as client:
        client.complete("Hello", user="u")
        fake.script("silver", Fail.unavailable())
        client.complete("Hello", user="u")
        rows = [(row.tier, row.degraded) for row in client.ledger.entries(outcome="ok")]
    assert sorted(rows) == [("gold", ()), ("silver", ("tier",))]
