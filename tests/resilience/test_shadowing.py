"""A shadow through a client: who is sampled, who pays, who learns, and that nobody notices."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from client.forms import Form, World, every_form, held
from pipeline.drivers import eventually
from resilience.judged import COST, reply, tiers
from tierllm import (
    Budget,
    Deployment,
    Price,
    RateLimit,
    ResultCache,
    Router,
    Tier,
    TieredClient,
    UsageLedger,
    tiered,
)
from tierllm.errors import ConfigError
from tierllm.events import CallFinished, ShadowCompared
from tierllm.pipeline.effects import Handler
from tierllm.routing.cascade import Cascade
from tierllm.routing.shadow import Shadow
from tierllm.stores import DiskStore
from tierllm.testing import Fail, FakeProvider
from tierllm.types import Call, Request, Response

TOOLS = [{"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}]


def judge(request: Request, response: Response) -> float:
    return 0.9 if response.text.startswith("good") else 0.2


class Shadowed(World):
    """Calls go to gold; each is sampled for bronze unless it says otherwise."""

    def __init__(self, to: str = "bronze/b", **more: Any) -> None:
        rules = {
            key: more.pop(key)
            for key in ("share", "hard_usd", "judge", "learn", "mode", "per", "skip_tags")
            if key in more
        }
        fake = more.pop("fake", None) or FakeProvider(latency_s=1.0)
        bronze = {key: more.pop(key) for key in ("max_concurrency",) if key in more}
        shadow = Shadow(to, **{"share": 1.0, "judge": judge, **rules})
        super().__init__(tiers(fake, **bronze), fake=fake, shadow=shadow, **{"retry": False, **more})

    def script(self, **answers: Any) -> None:
        for model, answer in answers.items():
            items = answer if isinstance(answer, list) else [answer]
            self.fake.script(model, *(reply(each) if isinstance(each, str) else each for each in items))

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.status()["shadow"]
        return found

    @property
    def compared(self) -> list[ShadowCompared]:
        return [event for event in self.events if isinstance(event, ShadowCompared)]


# -- what it does ---------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "stream"])
def test_the_second_answer_comes_behind_the_callers_back(streaming: bool) -> None:
    world = Shadowed()
    world.script(g="good", b="poor")
    told = world.call(streaming=streaming)
    assert (told.ok.text, told.ok.tier, told.took_s) == ("good", "gold", pytest.approx(1.0))
    assert told.ok.trace is not None
    assert [a.tier for a in told.ok.trace.attempts] == ["gold"]
    world.pass_s(5)
    assert world.models() == ["g", "b"]
    (event,) = world.compared
    assert (event.trace_id, event.tier, event.deployment) == (told.ok.trace.id, "bronze", "b")
    assert (event.served_score, event.shadow_score) == (0.9, 0.2)
    assert (event.cost_usd, event.latency_s) == (COST["bronze"], pytest.approx(1.0))
    assert [a.tier for a in told.ok.trace.attempts] == ["gold"]
    assert len(world.told(CallFinished)) == 1
    assert world.status["counts"] == {"sampled": 1, "compared": 1, "worse": 1}
    assert world.status["spent_usd"] == COST["bronze"]
    assert world.status["quality"] == {
        "gold/g": {"count": 1, "mean": 0.9},
        "bronze/b": {"count": 1, "mean": 0.2},
    }


@every_form
def test_every_form(form: Form) -> None:
    compared: list[ShadowCompared] = []
    fake = FakeProvider()
    client = TieredClient(
        tiers(fake),
        shadow=Shadow("bronze", share=1.0, judge=judge),
        listeners=[lambda event: compared.append(event) if isinstance(event, ShadowCompared) else None],
    )

    async def awaited() -> None:
        assert (await form._awaited(client, "Hello", {})).tier == "gold"
        for _ in range(200):
            await asyncio.sleep(0.01)
            if compared:
                return

    if form.asynchronous:
        asyncio.run(awaited())
    else:
        assert form(client).tier == "gold"
        eventually(lambda: bool(compared))
    assert compared[0].deployment == "b"
    client.close()


async def test_an_async_judge() -> None:
    async def slow(request: Request, response: Response) -> float:
        await asyncio.sleep(0)
        return 1.0

    client = TieredClient(tiers(FakeProvider()), shadow=Shadow("bronze", share=1.0, judge=slow))
    await client.acomplete("Hello")
    for _ in range(200):
        await asyncio.sleep(0.01)
        if client.status()["shadow"]["counts"].get("compared"):
            break
    assert client.status()["shadow"]["counts"]["equal"] == 1
    await client.aclose()


async def test_a_judge_does_not_hold_up_the_event_loop() -> None:
    where: list[threading.Thread] = []

    def slow(request: Request, response: Response) -> float:
        where.append(threading.current_thread())
        return 1.0

    client = TieredClient(tiers(FakeProvider()), shadow=Shadow("bronze", share=1.0, judge=slow))
    await client.acomplete("Hello")
    for _ in range(200):
        await asyncio.sleep(0.01)
        if len(where) == 2:
            break
    assert len(where) == 2
    assert threading.current_thread() not in where
    await client.aclose()


def test_what_came_out_is_taught() -> None:
    lessons: list[tuple[str, float, float]] = []

    def learn(text: str, *, weak: float, strong: float) -> None:
        lessons.append((text, weak, strong))

    world = Shadowed(learn=learn)
    world.script(g=["good"], b=["poor", "good"])
    world.call("one")
    world.pass_s(5)
    world.script(s="poor")
    world = Shadowed("gold", learn=learn)
    world.script(g="good", s="poor")
    world.call("two", sla="silver")
    world.pass_s(5)
    assert lessons == [("one", 0.2, 0.9), ("two", 0.2, 0.9)]


@pytest.mark.parametrize(("sla", "taught"), [("gold", 1), ("silver", 0)])
def test_only_what_the_router_chooses_between_is_taught(sla: str, taught: int) -> None:
    said: list[str] = []
    router = Router(scorer=lambda text: 0.5, weak="bronze", strong="gold", explore=0.0)
    world = Shadowed(learn=lambda text, *, weak, strong: said.append(text), router=router)
    world.script(g="good", s="good", b="poor")
    world.call(sla=sla)
    world.pass_s(5)
    assert len(said) == taught
    assert world.status["counts"]["worse"] == 1


def test_what_came_out_is_written_down() -> None:
    rows: list[tuple[Any, ...]] = []

    def compared(trace_id: str, **found: Any) -> None:
        rows.append((trace_id, found))

    world = Shadowed()
    world.client._setup.shadowing._compared_to = compared  # type: ignore[union-attr]
    world.script(g="good", b="poor")
    told = world.call()
    world.pass_s(5)
    assert told.ok.trace is not None
    usd = {"weak_usd": COST["bronze"], "strong_usd": COST["gold"]}
    assert rows == [(told.ok.trace.id, {"weak": 0.2, "strong": 0.9, **usd})]


def test_within_a_tier_nothing_is_taught_but_the_table_is_kept() -> None:
    lessons: list[str] = []
    world = Shadowed("bronze/b2", learn=lambda text, **scores: lessons.append(text))
    world.script(b="good", b2="poor")
    world.call(sla="bronze")
    world.pass_s(5)
    assert lessons == []
    assert set(world.status["quality"]) == {"bronze/b", "bronze/b2"}


def test_without_a_judge_costs_and_seconds_are_compared() -> None:
    world = Shadowed(judge=None)
    world.script(g="good", b="poor")
    world.call()
    world.pass_s(5)
    (event,) = world.compared
    assert (event.served_score, event.shadow_score, event.cost_usd) == (None, None, COST["bronze"])
    assert world.status["quality"] == {}


def test_a_share_of_the_calls() -> None:
    world = Shadowed(share=0.1, hard_usd=100, fake=FakeProvider())
    for _ in range(1000):
        world.call()
        world.pass_s(1)
    assert 70 <= world.status["counts"]["sampled"] <= 130
    assert world.status["counts"]["compared"] == world.status["counts"]["sampled"]


# -- who is left out ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tags": ["confidential"]}, "tagged"),
        ({"require": {"eu"}, "to": "silver"}, "labels"),
        ({"tools": TOOLS}, "tools"),
        ({"sla": "bronze"}, "same_place"),
        ({"repeat": True}, "not_repeatable"),
        ({"long": True}, "no_room"),
    ],
    ids=["confidential", "labels", "tools", "itself", "once", "long"],
)
def test_who_is_never_sampled(options: dict[str, Any], why: str) -> None:
    to = options.pop("to", "bronze/b")
    world = Shadowed(to, cache=ResultCache(ttl_s=60))
    prompt = "Hello" * 30_000 if options.pop("long", False) else "Hello"
    if options.pop("repeat", False):

        @tiered.call(client=world.client)
        def answer(question: str) -> str:
            return question

        assert answer("Hello") == "Hello"
    else:
        world.call(prompt, **options)
    world.pass_s(10)
    assert world.status["counts"].get(why) == 1
    assert world.status["counts"].get("compared", 0) == 0


def test_answers_from_the_cache_and_simple_ones_are_no_measure() -> None:
    world = Shadowed(simple_reply="sorry", cache=ResultCache(ttl_s=60))
    for _ in range(2):
        world.call()
        world.pass_s(5)
    assert world.status["counts"]["sampled"] == 1
    for model in ("g", "s", "b", "b2"):
        world.fake.script(model, Fail.unavailable(), forever=True)
    assert world.call("something else").ok.text == "sorry"
    assert world.status["counts"]["sampled"] == 1


def test_an_answer_that_is_degraded_is_no_measure() -> None:
    world = Shadowed(cascade=Cascade(judge))
    world.script(b="poor", g=Fail.unavailable(), s=Fail.unavailable())
    assert world.call().ok.degraded == ("not_escalated",)
    assert world.status["counts"] == {"not_fresh": 1}


def test_an_answer_that_others_wait_for_is_sampled_once() -> None:
    world = Shadowed(cache=ResultCache(ttl_s=60))
    for told in [world.begin("same") for _ in range(3)]:
        world.pass_s(2)
        assert told.ok.tier == "gold"
    assert world.status["counts"]["sampled"] == 1


class Redacting:
    """A policy of the application's own, which keeps a word to itself."""

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        own = call.copy()
        own.messages = tuple(
            {**message, "content": message["content"].replace("SECRET", "[...]")} for message in call.messages
        )
        return await call_next(own)


@pytest.mark.parametrize("where", ["client", "tier", "deployment"])
def test_what_a_policy_takes_out_of_a_prompt_is_not_sent(where: str) -> None:
    fake, shown = FakeProvider(), []

    def looks(request: Request, response: Response) -> float:
        shown.append(request.text)
        return 1.0

    price = Price(input_usd_per_mtok=1, output_usd_per_mtok=1)
    hidden = {"policies": [Redacting()]}
    silver = Deployment("s", fake, price=price, **(hidden if where == "deployment" else {}))
    client = TieredClient(
        [
            Tier("gold", [Deployment("g", fake, price=price)]),
            Tier("silver", [silver], **(hidden if where == "tier" else {})),
        ],
        shadow=Shadow("silver", share=1.0, judge=looks),
        **(hidden if where == "client" else {}),
    )
    client.complete("my SECRET")
    eventually(lambda: client.status()["shadow"]["counts"].get("compared") == 1)
    (asked,) = [entry for entry in fake.journal if entry.model == "s"]
    assert asked.messages[-1]["content"] == "my [...]"
    if where == "client":
        assert shown == ["my [...]"] * 2
    client.close()


def test_no_more_than_eight_are_under_way() -> None:
    world = Shadowed(hard_usd=100)
    told = [world.begin(f"Hello {number}") for number in range(30)]
    world.pass_s(1.5)
    assert all(each.ok.tier == "gold" for each in told)
    assert world.status["running"] == 8
    assert world.status["counts"] == {"sampled": 8, "no_room": 22}
    world.pass_s(10)
    assert world.status["running"] == 0
    assert world.status["counts"]["compared"] == 8


def test_a_floor_does_not_matter_since_nobody_is_served() -> None:
    world = Shadowed()
    assert world.call(min_tier="gold").ok.tier == "gold"
    world.pass_s(5)
    assert world.status["counts"]["compared"] == 1


# -- what it may not do --------------------------------------------------------------------


def test_a_full_pool_is_left_alone() -> None:
    fake = FakeProvider(latency_s={"b": 3.0, "*": 1.0})
    world = Shadowed(max_concurrency=1, fake=fake)
    world.begin(sla="bronze")
    world.pass_s(0.5)
    world.call()
    world.pass_s(10)
    assert world.status["counts"]["no_room"] == 1
    assert world.status["counts"].get("compared") is None
    assert world.models() == ["b", "g"]
    assert held(world.client)["bronze"] == (0, 0)


def test_it_is_tried_once_and_falls_back_to_nothing() -> None:
    world = Shadowed("bronze")
    world.script(g="good", b=Fail.unavailable())
    assert world.call().ok.text == "good"
    world.pass_s(60)
    assert world.models() == ["g", "b"]
    assert world.status["counts"] == {"sampled": 1, "failed": 1}
    assert world.status["running"] == 0


def test_its_budget_is_hard_and_comes_back() -> None:
    world = Shadowed(hard_usd=0.03, per="1h")
    for _ in range(30):
        world.script(g="good", b="good")
        world.call(max_tokens=1000)
        world.pass_s(5)
    counts = world.status["counts"]
    assert counts["compared"] >= 5
    assert counts["no_money"] == 30 - counts["compared"]
    assert world.status["spent_usd"] <= Decimal("0.03")
    world.pass_s(3700)
    world.script(g="good", b="good")
    world.call(max_tokens=1000)
    world.pass_s(5)
    assert world.status["counts"]["compared"] == counts["compared"] + 1


def test_what_another_process_has_spent_of_it_is_no_failure(tmp_path: Path) -> None:
    def client() -> TieredClient:
        fake = FakeProvider()
        for model in ("g", "b"):
            fake.script(model, reply("good"), forever=True)
        shadow = Shadow("bronze/b", share=1.0, hard_usd=0.002)
        return TieredClient(tiers(fake), shadow=shadow, store=DiskStore(tmp_path), retry=False)

    found = []
    for each in (client(), client()):
        each.complete("Hello", max_tokens=1000)
        eventually(lambda each=each: sum(each.status()["shadow"]["counts"].values()) == 2)
        found.append(each.status()["shadow"]["counts"])
        each.close()
    assert found == [{"sampled": 1, "compared": 1}, {"sampled": 1, "no_money": 1}]


def test_budgets_of_users_do_not_pay_and_those_over_all_calls_do() -> None:
    everybody = Budget(hard_usd=1, per="client", name="all")
    world = Shadowed(budgets=[Budget(hard_usd=1, per="user", name="users"), everybody])
    world.script(g="good", b="good")
    world.call(user="u")
    world.pass_s(5)
    used = {r.budget: r.used for r in world.client.remaining(user="u")}
    assert used == {"users": COST["gold"], "all": COST["gold"] + COST["bronze"]}


def test_a_hard_budget_over_all_calls_may_refuse_it() -> None:
    world = Shadowed(budgets=[Budget(hard_usd=0.0202, per="client")])
    world.script(g="good", b="good")
    assert world.call(max_tokens=1500).ok.text == "good"
    world.pass_s(5)
    assert world.status["counts"] == {"sampled": 1, "no_money": 1}


def test_limits_of_users_do_not_count_it() -> None:
    world = Shadowed(limits=[RateLimit(rpm=1, per="user", name="each")])
    world.script(g="good", b="good")
    world.call(user="u")
    world.pass_s(5)
    assert world.status["counts"]["compared"] == 1


def test_it_stands_in_the_ledger_under_its_own_name() -> None:
    world = Shadowed(ledger=UsageLedger())
    world.script(g="good", b="good")
    world.call(user="u", tenant="t")
    world.pass_s(5)
    assert world.client.usage(user="u").cost_usd == COST["gold"]
    assert world.client.usage(user="shadow").cost_usd == COST["bronze"]


def test_observing_sends_nothing() -> None:
    world = Shadowed(mode="observe")
    world.call()
    world.pass_s(5)
    assert world.models() == ["g"]
    assert world.status["counts"] == {"observed": 1}


def test_nothing_of_the_prompt_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def angry(request: Request, response: Response) -> float:
        raise ValueError(request.text + response.text)

    def learn(text: str, **scores: float) -> None:
        raise ValueError(text)

    with caplog.at_level(logging.DEBUG, "tierllm"):
        for settings in ({"judge": angry}, {"learn": learn}):
            world = Shadowed(**settings)
            world.script(g="good secret", b="good secret")
            assert world.call("secret").ok.tier == "gold"
            world.pass_s(5)
            assert world.status["counts"]["compared"] == 1
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_closing_the_client_ends_it() -> None:
    fake = FakeProvider(latency_s={"b": 60.0, "*": 0.0})
    client = TieredClient(tiers(fake), shadow=Shadow("bronze/b", share=1.0))
    client.complete("Hello")
    eventually(lambda: "b" in [entry.model for entry in fake.journal])
    began = time.monotonic()
    client.close()
    eventually(lambda: fake.in_flight == 0)
    assert time.monotonic() - began < 30
    eventually(lambda: client.status()["shadow"]["running"] == 0)


def test_another_configuration_goes_on_with_the_counts() -> None:
    world, after = Shadowed(), Shadowed()
    old, new = world.client._setup.shadowing, after.client._setup.shadowing
    assert old is not None
    assert new is not None
    world.script(g="good", b="poor")
    world.call()
    new.inherit(old)
    assert after.status["running"] == 1, "it is still under way"
    after.script(g="good", b="poor")
    after.call()
    for each in (world, after):
        each.pass_s(5)
    assert after.status["counts"] == {"sampled": 2, "compared": 2, "worse": 2}
    assert after.status["running"] == 0
    assert after.status["quality"]["gold/g"] == {"count": 2, "mean": 0.9}
    assert after.status["spent_usd"] == 2 * COST["bronze"]


def test_after_a_fork_nothing_of_the_parents_is_under_way() -> None:
    world = Shadowed()
    world.call()
    shadowing = world.client._setup.shadowing
    shadowing._running = 3
    shadowing.renew()
    assert world.status["running"] == 0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: TieredClient(tiers(FakeProvider()), shadow=Shadow("slver")), "did you mean 'silver'"),
        (lambda: TieredClient(tiers(FakeProvider()), shadow=Shadow("silver/x")), "no such deployment"),
        (
            lambda: TieredClient(
                [Tier("gold", [Deployment("unheard-of", FakeProvider())])], shadow=Shadow("gold")
            ),
            "no price is known",
        ),
    ],
    ids=["tier", "place", "price"],
)
def test_places_that_it_cannot_go_to(make: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()
