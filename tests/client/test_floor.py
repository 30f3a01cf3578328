"""Nothing takes a call below its floor, above its cap, nor across its labels: all mechanisms together, in
virtual time.

Rules, plans, contracts, difficulty, sessions, shifts, pins, cascade, shadow, choices by price, soft budgets,
shedding, degradation, fallback, caches and old answers all want to send calls elsewhere. Whatever they agree
on, an answer comes from a place that the call may be served by, and every place that was asked was one of
those.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from client.forms import QUICK, Told, World
from tierllm import (
    AdaptiveSampling,
    Admission,
    Agreement,
    Budget,
    Cascade,
    Consent,
    Contract,
    Deployment,
    LearnedScorer,
    Objective,
    Price,
    Request,
    Response,
    ResultCache,
    Router,
    Rule,
    RuleScorer,
    ServicePlan,
    Shadow,
    Shift,
    Step,
    StickySessions,
    Tier,
)
from tierllm.errors import ConfigError, TierLLMError
from tierllm.routing.ask import ask
from tierllm.testing import Fail, FakeProvider, Reply
from tierllm.types import Trace

NAMES = ("gold", "silver", "bronze")
RANK = {name: rank for rank, name in enumerate(NAMES)}
PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=4)
CHEAP = Price(input_usd_per_mtok="0.1", output_usd_per_mtok="0.4")
EASY, HARD = (
    "What time is it?",
    "Prove step by step that the algorithm terminates, and analyse its complexity.",
)
FAILS = ("unavailable", "limited", "cut", "hang", "filtered", "slow")

TIER = st.none() | st.sampled_from(NAMES)
PLANS = st.dictionaries(
    st.sampled_from(["free", "pro"]),
    st.fixed_dictionaries(
        {"min_tier": TIER, "max_tier": TIER, "mode": st.sampled_from(["enforce", "observe"])}
    ),
    max_size=2,
)
CONTRACTS = st.dictionaries(
    st.sampled_from(["acme", "umbrella"]),
    st.fixed_dictionaries(
        {
            "min_tier": TIER,
            "max_tier": TIER,
            "plan": st.sampled_from([None, "free", "pro"]),
            "mode": st.sampled_from(["enforce", "observe"]),
        }
    ),
    max_size=2,
)
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "plan": st.sampled_from(["free", "pro"]),
        "tenant": st.sampled_from(["acme", "other"]),
        "importance": st.sampled_from(["low", "high"]),
        "request_class": st.sampled_from(["low", "medium", "high"]),
        "tag": st.sampled_from(["a", "b"]),
        "load": st.sampled_from([0.0, 0.5]),
        "budget_left": st.sampled_from([0.3, 1.0]),
    },
)
OUTCOMES = st.one_of(
    st.fixed_dictionaries({"tier": st.sampled_from(NAMES)}),
    st.fixed_dictionaries({"min_tier": st.sampled_from(NAMES)}),
    st.fixed_dictionaries({"max_tier": st.sampled_from(NAMES)}),
    st.fixed_dictionaries({"balance": st.sampled_from([0.0, 0.5, 1.0])}),
    st.fixed_dictionaries({"set_class": st.sampled_from(["low", "high"])}),
)
RULES = st.lists(st.tuples(CONDITIONS, OUTCOMES), max_size=4)
TROUBLE = st.tuples(st.sampled_from("abcdef"), st.sampled_from(FAILS), st.integers(1, 6))
WORLDS = st.fixed_dictionaries(
    {
        "plans": PLANS,
        "contracts": CONTRACTS,
        "rules": RULES,
        "scorer": st.sampled_from([None, "rules", "learned", "hard", "broken"]),
        "router": st.sampled_from(["enforce", "observe"]),
        "sessions": st.sampled_from([None, "enforce", "observe"]),
        "cascade": st.sampled_from([None, 0.0, 1.0, "broken", "silver/d", "bronze/f", "silver/c", "bronze"]),
        "explore": st.sampled_from([0.0, 0.5, 1.0]),
        "shadow": st.sampled_from([None, None, "bronze", "silver/c"]),
        "choose": st.sampled_from(["ordered", "cheapest"]),
        "pins": st.lists(
            st.tuples(
                st.integers(0, 5),
                st.sampled_from(
                    [("gold", "a"), ("silver", "c"), ("bronze", "e"), ("gold", None), ("silver", None)]
                ),
                st.sampled_from([True, False, None]),
            ),
            max_size=3,
        ),
        "shift": st.booleans(),
        "shed": st.booleans(),
        "steps": st.booleans(),
        "budget": st.booleans(),
        "cache": st.booleans(),
        "stale": st.sampled_from([None, "gold", "bronze", "unknown"]),
        "hedge": st.booleans(),
        "no_fallback": TIER,
        "trouble": st.lists(
            st.tuples(st.sampled_from("abcdef"), st.sampled_from(FAILS), st.integers(1, 6)), max_size=6
        ),
        "down": st.sampled_from(["", "", "abcd", "abcdef"]),
        "seed": st.integers(0, 3),
    }
)
CALLS = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.sampled_from([EASY, HARD]), "wait_s": st.sampled_from([0.0, 0.0, 0.5, 3.0, 40.0])},
        optional={
            "sla": st.sampled_from(NAMES),
            "min_tier": st.sampled_from(NAMES),
            "require": st.sampled_from([{"eu"}, {"eu", "private"}]),
            "plan": st.sampled_from(["free", "pro", "unknown"]),
            "tenant": st.sampled_from(["acme", "umbrella", "other"]),
            "session": st.sampled_from(["s1", "s2"]),
            "user": st.sampled_from(["ann", "bob"]),
            "tags": st.sampled_from([["a"], ["b"], ["a", "b"]]),
            "importance": st.sampled_from(["low", "normal", "high"]),
            "request_class": st.sampled_from(["low", "medium", "high"]),
            "priority": st.integers(0, 3),
            "fallback": st.booleans(),
            "deadline_s": st.sampled_from([0.4, 5.0]),
            "cache": st.sampled_from(["always", "off", "refresh"]),
            "streaming": st.booleans(),
        },
    ),
    min_size=1,
    max_size=12,
)


class Broken:
    """A scorer, or a judge, that fails."""

    def score(self, text: str) -> float:
        raise RuntimeError("no idea")

    def __call__(self, request: Request, response: Response) -> float:
        raise RuntimeError("no idea")


def scorer_of(kind: str | None) -> Any:
    if kind == "hard":
        return lambda text: 1.0 if "Prove" in text else -1.0
    return {None: None, "rules": RuleScorer(), "learned": LearnedScorer(), "broken": Broken()}[kind]


def tiers_of(world: dict[str, Any], fake: FakeProvider) -> list[Tier]:
    """Six places, a to f; two of them in Europe, one of these private."""
    options: dict[str, Any] = {}
    if world["shift"]:
        options["shift"] = Shift(min_calls=2, stage_calls=1, dwell_s=1, stage_s=1, probe_s=2)
    if world["steps"]:
        options["sampling"] = AdaptiveSampling(
            [Step("short", at=0.01, max_tokens=5), Step("cheaper", at=0.02, cheaper=True)],
            consent=[Consent("all", since=date(1970, 1, 1))],
            dwell_s=1,
        )

    def tier(name: str, *places: tuple[str, set[str]]) -> Tier:
        return Tier(
            name,
            [
                Deployment(model, fake, labels=labels, price=PRICE if name == "gold" else CHEAP)
                for model, labels in places
            ],
            objective=Objective(latency_p95_s=1, availability=0.9),
            max_concurrency=2,
            admission=Admission(shed_at=0.01, shed_below=2) if world["shed"] else None,
            fallback=name != world["no_fallback"],
            hedge=world["hedge"],
            choose=world["choose"],
            **options,
        )

    return [
        tier("gold", ("a", set()), ("b", {"eu"})),
        tier("silver", ("c", {"eu", "private"}), ("d", set())),
        tier("bronze", ("e", set()), ("f", {"eu"})),
    ]


def rules_of(world: dict[str, Any]) -> list[Rule]:
    without = world["scorer"] is None
    return [
        Rule(**condition, **outcome)
        for condition, outcome in world["rules"]
        if not (without and "balance" in outcome)
    ]


def settings_of(world: dict[str, Any]) -> dict[str, Any]:
    scorer = scorer_of(world["scorer"])
    balance = None if scorer is None else 0.4
    found: dict[str, Any] = {
        "plans": [ServicePlan(name, **said) for name, said in plans_of(world).items()],
        "contracts": [Contract(name, tenants=[name], **said) for name, said in contracts_of(world).items()],
        "router": Router(
            rules_of(world), scorer=scorer, balance=balance, mode=world["router"], explore=world["explore"]
        ),
    }
    if world["sessions"] is not None:
        found["sessions"] = StickySessions(
            mode=world["sessions"], return_after_s=1, return_up_after_s=1, cache_ttl_s=1
        )
    judge = world["cascade"]
    if judge is not None:
        found["cascade"] = cascade_of(judge)
    if world["shadow"] is not None:
        found["shadow"] = Shadow(world["shadow"], share=1.0, judge=lambda request, response: 0.5)
    if world["budget"]:
        soft = {"soft_usd": "0.00002", "on_soft": "downgrade"}
        found["budgets"] = [Budget(hard_usd=1, per="user", window="1d", **soft)]
    if world["cache"]:
        found["cache"] = ResultCache(ttl_s=5, default="always", stale_while_revalidate_s=60)
    if world["stale"]:
        tier = None if world["stale"] == "unknown" else world["stale"]
        found["stale"] = lambda request: Response(text="old", tier=tier)
    return found


def cascade_of(judge: Any) -> Cascade:
    """One whose judge fails, agrees with a place, or says the same of every answer."""
    if isinstance(judge, str) and judge != "broken":
        return Cascade(Agreement(judge), cheap="silver" if judge == "bronze" else "bronze")
    return Cascade(Broken() if judge == "broken" else lambda request, response: judge)


def plans_of(world: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: said for name, said in world["plans"].items() if ordered(said)}


def contracts_of(world: dict[str, Any]) -> dict[str, dict[str, Any]]:
    there = plans_of(world)
    return {
        name: {**said, "plan": said["plan"] if said["plan"] in there else None}
        for name, said in world["contracts"].items()
        if ordered(said)
    }


def only_enforced(world: dict[str, Any]) -> dict[str, Any]:
    """The world without all that only observes: there it has to be the same."""
    plans, contracts = plans_of(world), contracts_of(world)
    held = {name for name, said in plans.items() if said["mode"] == "enforce"}
    return {
        **world,
        "plans": {name: plans[name] for name in held},
        "contracts": {name: said for name, said in contracts.items() if said["mode"] == "enforce"},
        "rules": world["rules"] if world["router"] == "enforce" else [],
    }


def ordered(said: dict[str, Any]) -> bool:
    low, high = said["min_tier"], said["max_tier"]
    return low is None or high is None or RANK[low] >= RANK[high]


def script(fake: FakeProvider, trouble: Sequence[tuple[str, str, int]]) -> None:
    for model, kind, times in trouble:
        fake.script(
            model,
            {
                "unavailable": Fail.unavailable(),
                "limited": Fail.rate_limited(retry_after_s=2),
                "cut": Fail.cut_after(2),
                "hang": Fail.hang(),
                "filtered": Fail.filtered(),
                "slow": Reply("late", latency_s=1.5),
            }[kind],
            repeat=times,
        )


class Within(NamedTuple):
    """The ranks that a call may be served by, and whether anybody named a floor."""

    best: int
    worst: int
    floored: bool


def bounds_of(options: dict[str, Any], world: dict[str, Any], trace: Trace) -> Within:
    """What the call's own word, its plan, its contract and its rule allow."""
    held = only_enforced(world)
    contract = held["contracts"].get(options.get("tenant"), {})
    plan = held["plans"].get(options.get("plan") or contract.get("plan"), {})
    said = [each for each in (plan, contract) if each]
    floors = [options.get("min_tier"), *(each["min_tier"] for each in said)]
    caps = [each["max_tier"] for each in said]
    lifts: list[str | None] = []  # rules for difficult calls lift those of which nobody knows
    if world["router"] == "enforce":
        rules = rules_of(world)
        lifts = [rule.min_tier for rule in rules if rule.request_class is not None]
        if trace.rule is not None:
            rule = rules[int(trace.rule.removeprefix("rules[").removesuffix("]"))]
            floors.append(rule.min_tier)
            caps.append(rule.max_tier)
    worst = min((RANK[floor] for floor in floors if floor is not None), default=len(NAMES) - 1)
    cap = max((RANK[cap] for cap in caps if cap is not None), default=0)
    best = min(cap, worst, *(RANK[lift] for lift in lifts if lift is not None))
    return Within(best, worst, any(floors))


LABELS = {"a": set(), "b": {"eu"}, "c": {"eu", "private"}, "d": set(), "e": set(), "f": {"eu"}}


def check(told: Told, trace: Trace, options: dict[str, Any], within: Within) -> None:
    required = options.get("require", set())
    for attempt in trace.attempts:
        if attempt.deployment:
            assert within.best <= RANK[attempt.tier] <= within.worst, (attempt, trace)
            assert required <= LABELS[attempt.deployment], (attempt, trace)
    response = told.response
    if response is not None and response.tier is None:
        assert "stale" in response.degraded, trace
        assert not within.floored, trace
    if response is not None and response.tier is not None:
        assert within.best <= RANK[response.tier] <= within.worst, trace
        if response.deployment is not None:
            assert required <= LABELS[response.deployment], trace


def pin(here: World, world: dict[str, Any], number: int) -> None:
    """Before the call of that number: places are avoided by hand, or taken back."""
    for at, (tier, deployment), away in world["pins"]:
        if at == number:
            try:
                here.client.shift(tier, deployment, away=away)
            except ConfigError as error:
                assert not world["shift"] or "takes its calls" in str(error)  # noqa: PT017


def in_vain(prompt: str, options: dict[str, Any], world: dict[str, Any]) -> bool:
    """Whether it is refused, too, where there is nothing that only observes."""
    fake = FakeProvider()
    held = only_enforced(world)
    client = World(tiers_of(world, fake), fake=fake, **settings_of(held)).client
    try:
        client.ready(ask(prompt, options))
    except ConfigError:
        return True
    finally:
        client.close()
    return False


@pytest.mark.timeout(300)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(world=WORLDS, calls=CALLS)
def test_nothing_leads_below_the_floor(world: dict[str, Any], calls: list[dict[str, Any]]) -> None:
    fake = FakeProvider(latency_s=0.2, seed=world["seed"])
    here = World(tiers_of(world, fake), fake=fake, seed=world["seed"], timeouts=QUICK, **settings_of(world))
    script(fake, world["trouble"])
    for model in world["down"]:
        fake.script(model, Fail.unavailable(), forever=True)
    under_way: list[tuple[Told, Trace, dict[str, Any], Within]] = []
    for number, call in enumerate(calls):
        pin(here, world, number)
        options = dict(call)
        prompt, streaming = options.pop("prompt"), options.pop("streaming", False)
        here.pass_s(options.pop("wait_s"))
        try:
            told = here.begin(prompt, streaming=streaming, **options)
        except ConfigError as error:
            assert "labels" in str(error)  # noqa: PT017 - the one thing that such calls can ask in vain
            assert in_vain(prompt, options, world), (options, world)
            continue
        assert told.run is not None
        trace = here.traces[-1]
        under_way.append((told, trace, options, bounds_of(options, world, trace)))
    here.pass_s(400)
    for told, trace, options, within in under_way:
        assert told.ends == 1
        event(told.kind)
        if isinstance(told.error, TierLLMError) or told.error is None:
            check(told, trace, options, within)
    here.client.close()
