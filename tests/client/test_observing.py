"""What only observes: it says what it would have done, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.forms import World
from tierllm import (
    Budget,
    Cascade,
    Contract,
    Deployment,
    ResultCache,
    Router,
    Rule,
    ServicePlan,
    StickySessions,
    Tier,
)
from tierllm.testing import FakeProvider
from tierllm.types import Trace

LABELS = {"gold": {"eu"}, "silver": set[str](), "bronze": set[str]()}


def tiers(fake: FakeProvider) -> list[Tier]:
    return [Tier(name, [Deployment(name, fake, labels=labels)]) for name, labels in LABELS.items()]


def world(**more: Any) -> World:
    fake = FakeProvider()
    return World(tiers(fake), fake=fake, **more)


def router(*rules: Rule, **more: Any) -> Router:
    return Router(rules, mode="observe", **more)


def told(trace: Trace) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    reasons = [(c.tier, c.reason) for c in trace.candidates if c.reason and c.reason.startswith("observed")]
    return reasons, trace.warnings


def traced(here: World, **options: Any) -> Trace:
    trace = here.call(**options).ok.trace
    assert trace is not None
    assert trace.served == "gold"
    return trace


REFUSED = "observed only: it would be refused: no tier within its bounds has the labels it requires"


@pytest.mark.parametrize(
    "parts",
    [
        {"router": router(Rule(max_tier="bronze"))},
        {"plans": [ServicePlan("free", max_tier="bronze", mode="observe")]},
        {"contracts": [Contract("acme", tenants=["a"], max_tier="bronze", mode="observe")]},
    ],
    ids=["rule", "plan", "contract"],
)
def test_what_would_be_refused_is_served_and_told(parts: dict[str, Any]) -> None:
    here = world(**parts)
    options = {"plan": "free"} if "plans" in parts else {}
    trace = traced(here, require={"eu"}, tenant="a", **options)
    assert told(trace) == ([], (REFUSED,))


def test_a_contract_s_plan_is_only_observed_with_it() -> None:
    here = world(
        plans=[ServicePlan("free", max_tier="bronze", max_priority=0)],
        contracts=[Contract("acme", tenants=["a"], plan="free", mode="observe")],
    )
    trace = traced(here, tenant="a", priority=3)
    reasons, (warning,) = told(trace)
    assert reasons == [("bronze", "observed: plan")]
    assert "contract 'acme': priority 3 would be lowered to 0" in warning


def plan(**said: Any) -> dict[str, Any]:
    return {"plans": [ServicePlan("p", mode="observe", **said)]}


CAPPED = {"contracts": [Contract("c", tenants=["a"], max_tier="silver", mode="observe")]}


@pytest.mark.parametrize(
    ("parts", "reasons", "warnings"),
    [
        ({"router": router(Rule(min_tier="gold"))}, [], ("its rule would keep it out of silver, bronze",)),
        (plan(min_tier="silver"), [], ("its plan would keep it out of bronze",)),
        (plan(max_tier="silver"), [("silver", "observed: plan")], ()),
        (CAPPED, [("silver", "observed: contract")], ()),
        ({"router": router(Rule(tier="bronze"))}, [("bronze", "observed: rule")], ()),
        ({"router": router(Rule(max_tier="gold"))}, [], ()),
    ],
    ids=["rule's floor", "plan's floor", "plan's cap", "contract's cap", "rule's tier", "nothing"],
)
def test_whose_word_would_have_changed_what(
    parts: dict[str, Any], reasons: list[tuple[str, str]], warnings: tuple[str, ...]
) -> None:
    here = world(**parts)
    found = told(traced(here, tenant="a", plan="p"))
    assert found == (reasons, tuple(f"observed only: {each}" for each in warnings))


def test_a_rule_that_only_observes_is_explained_as_such() -> None:
    here = world(router=router(Rule("down", max_tier="bronze")))
    said = here.client.explain(traced(here))
    assert (
        "by rule 'down' (only observed); bronze would have been granted by its rule (only observed)" in said
    )
    here = world(router=router(Rule("kept", min_tier="gold")))
    assert "by rule 'kept' (only observed)" in here.client.explain(traced(here))


RULES = st.lists(
    st.sampled_from(
        [
            Rule(route="x", set_class="high"),
            Rule(request_class="low", tier="bronze"),
            Rule(request_class="high", tier="gold"),
            Rule(importance="high", min_tier="silver"),
            Rule(balance=0.0),
            Rule(max_tier="silver"),
        ]
    ),
    max_size=4,
)
CALLS = st.lists(
    st.fixed_dictionaries(
        {"prompt": st.sampled_from(["easy", "hard"])},
        optional={
            "route": st.just("x"),
            "session": st.sampled_from(["s1", "s2"]),
            "importance": st.sampled_from(["normal", "high"]),
            "request_class": st.sampled_from(["low", "high"]),
            "require": st.just({"eu"}),
            "tenant": st.just("a"),
            "plan": st.just("p"),
            "sla": st.just("gold"),
        },
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rules=RULES,
    calls=CALLS,
    sessions=st.booleans(),
    cascade=st.sampled_from([None, 0.0, 1.0]),
    cache=st.booleans(),
)
def test_with_it_calls_go_where_they_go_without_it(
    rules: list[Rule], calls: list[dict[str, Any]], sessions: bool, cascade: float | None, cache: bool
) -> None:
    def places(**observing: Any) -> list[Any]:
        parts: dict[str, Any] = {}
        if sessions:
            parts["sessions"] = StickySessions()
        if cascade is not None:
            parts["cascade"] = Cascade(lambda request, response: cascade)
        if cache:
            parts["cache"] = ResultCache(default="always")
        here = world(**parts, **observing)
        done = [here.call(**call) for call in calls]
        here.client.close()
        return [
            (each.kind, each.response and (each.response.tier, each.response.cached)) for each in done
        ] + here.models()

    observing = {
        "router": router(*rules, scorer=lambda text: 1.0 if text == "hard" else -1.0, explore=0.3),
        "plans": [ServicePlan("p", max_tier="silver", mode="observe")],
        "contracts": [Contract("c", tenants=["a"], min_tier="silver", plan="p", mode="observe")],
    }
    assert places(**observing) == places()


def test_limits_that_only_observe_and_those_of_some_places_move_nobody() -> None:
    fake = FakeProvider()
    for budget in (
        Budget(hard_calls=1, per="user", mode="observe"),
        Budget(hard_calls=2, per="user", where={"tier": "gold"}),
        Budget(hard_calls=2, per="user", where={"deployment": "gold"}),
        Budget(hard_calls=2, per="user", where={"model": "gold"}),
    ):
        here = World(
            tiers(fake), fake=fake, budgets=[budget], router=Router([Rule(budget_left=0.6, tier="bronze")])
        )
        assert [here.call(user="u").ok.tier for _ in range(2)] == ["gold", "gold"]
        here.client.close()
    here = World(
        tiers(fake),
        fake=fake,
        budgets=[Budget(hard_calls=2, per="user")],
        router=Router([Rule(budget_left=0.6, tier="bronze")]),
    )
    assert [here.call(user="u").ok.tier for _ in range(2)] == ["gold", "bronze"]
