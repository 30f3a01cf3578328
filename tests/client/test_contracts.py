"""Rules, plans and contracts through a client, in every form of a call."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import pytest

from client.forms import FORMS, Form
from tierllm import (
    AdaptiveSampling,
    Admission,
    Budget,
    BudgetExceededError,
    ConfigError,
    Consent,
    Contract,
    Deployment,
    Objective,
    Price,
    Router,
    Rule,
    ServicePlan,
    Step,
    ThrottledError,
    Tier,
    TieredClient,
    scope,
)
from tierllm.testing import FakeClock, FakeProvider

pytestmark = pytest.mark.parametrize("form", FORMS, ids=str)

AT_ONCE = Admission(on_full="refuse")
PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=1)


def client(rules: Sequence[Rule] = (), **more: Any) -> TieredClient:
    fake, clock = FakeProvider(), FakeClock()
    router = more.pop("router", Router(rules) if rules else None)
    names = more.pop("names", ["gold", "silver", "bronze"])
    sampling = more.pop("sampling", None)
    tiers = [
        Tier(name, [Deployment(f"{name}-1", fake, price=PRICE)], admission=AT_ONCE, sampling=sampling)
        for name in names
    ]
    return TieredClient(tiers, router=router, clock=clock, **more)


def test_the_first_rule_that_matches_says_where_it_goes(form: Form) -> None:
    with client(
        [Rule("vip", tag="vip", tier="silver"), Rule("rest", min_tier="silver", max_tier="silver")]
    ) as c:
        response = form(c, tags=["vip"])
        assert (response.tier, response.trace.rule) == ("silver", "vip")
        assert form(c).trace.rule == "rest"
        assert form(c, sla="gold").tier == "silver"  # bounds hold for those, too, who name a tier
        assert form(c, sla="gold", tags=["vip"]).tier == "gold"  # but a rule's tier does not


def test_a_call_s_own_floor_is_above_every_cap(form: Form) -> None:
    plans = [ServicePlan("free", max_tier="bronze")]
    with client([Rule(max_tier="bronze")], plans=plans) as c:
        assert form(c, plan="free", min_tier="gold").tier == "gold"
        assert form(c, plan="free", min_tier="silver").tier == "silver"
        assert form(c, plan="free", sla="gold").tier == "bronze"


def test_a_tenant_has_its_contract_and_that_its_plan(form: Form) -> None:
    plans = [ServicePlan("pro", max_tier="silver")]
    contracts = [Contract("acme", tenants=["a"], plan="pro", min_tier="silver")]
    with client(plans=plans, contracts=contracts) as c:
        response = form(c, tenant="a")
        assert (response.tier, response.trace.plan, response.trace.contract) == ("silver", "pro", "acme")
        with scope(tenant="a"):
            assert form(c).trace.contract == "acme"
        assert form(c, tenant="b").tier == "gold"


def test_a_contract_that_there_is_not_is_refused_before_anything_is_sent(form: Form) -> None:
    with client(contracts=[Contract("acme")]) as c, pytest.raises(ConfigError, match="did you mean 'acme'"):
        form(c, contract="acm")


def test_rules_may_be_about_contracts_that_were_filled_in(form: Form) -> None:
    contracts = [Contract("acme", tenants=["a"])]
    with client([Rule(contract="acme", tier="silver"), Rule(tier="bronze")], contracts=contracts) as c:
        assert form(c, tenant="a").tier == "silver"
        assert form(c, tenant="b").tier == "bronze"


def test_a_priority_that_is_not_granted_meets_no_condition(form: Form) -> None:
    plans = [ServicePlan("free", max_priority=0)]
    with client([Rule(priority=5, tier="gold"), Rule(tier="bronze")], plans=plans) as c:
        assert form(c, priority=5).tier == "gold"
        assert form(c, priority=5, plan="free").tier == "bronze"


def test_a_contract_s_limit_is_for_all_its_calls_and_a_plan_s_for_each_user(form: Form) -> None:
    plans = [ServicePlan("free", rpm=2)]
    contracts = [Contract("acme", tenants=["a", "b"], rpm=3)]
    with client(names=["gold"], plans=plans, contracts=contracts) as c:
        for tenant in ("a", "b", "a"):
            form(c, tenant=tenant, user="u")
        with pytest.raises(ThrottledError, match="contract acme") as refused:
            form(c, tenant="b", user="v")
        assert 0 < refused.value.retry_after_s <= 60
        for user in ("u", "v", "u", "v"):
            form(c, plan="free", user=user)
        with pytest.raises(ThrottledError, match="plan free"):
            form(c, plan="free", user="u")


def test_a_contract_that_observes_refuses_nothing(form: Form) -> None:
    contracts = [Contract("acme", rpm=1, max_tier="bronze", mode="observe")]
    with client(contracts=contracts) as c:
        assert [form(c, contract="acme").tier for _ in range(3)] == ["gold"] * 3


def test_a_router_that_observes_moves_nothing(form: Form) -> None:
    with client(router=Router([Rule("all", tier="bronze")], mode="observe")) as c:
        response = form(c)
        assert response.tier == "gold"
        assert ("bronze", "observed: rule") in [(x.tier, x.reason) for x in response.trace.candidates]


def test_a_budget_may_be_for_contracts(form: Form) -> None:
    budgets = [Budget(hard_calls=1, per="contract")]
    contracts = [Contract("acme", tenants=["a"]), Contract("globex", tenants=["g"])]
    with client(names=["gold"], contracts=contracts, budgets=budgets) as c:
        form(c, tenant="a")
        form(c, tenant="g")
        with pytest.raises(BudgetExceededError):
            form(c, contract="acme")


def test_what_is_left_of_a_budget_is_a_condition(form: Form) -> None:
    budgets = [Budget(hard_calls=4, per="user")]
    with client([Rule(budget_left=0.5, tier="bronze")], budgets=budgets) as c:
        assert [form(c, user="u").tier for _ in range(4)] == ["gold", "gold", "bronze", "bronze"]


def test_consent_of_a_contract_lets_its_answers_be_shortened(form: Form) -> None:
    sampling = AdaptiveSampling([Step("short", at=9.0, max_tokens=5)], emergencies={"fire": ["short"]})
    contracts = [Contract("acme", consent=[Consent("all", since=date(1970, 1, 1))]), Contract("globex")]
    with client(names=["gold"], sampling=sampling, contracts=contracts) as c:
        c.emergency("fire")
        assert form(c, contract="acme", max_tokens=50).degraded == ("short",)
        assert form(c, contract="globex", max_tokens=50).degraded == ()


def test_a_misspelt_plan_is_no_way_out_of_a_contract_and_is_told(form: Form) -> None:
    fake = FakeProvider()
    tiers = [Tier("gold", [Deployment("g", fake)]), Tier("bronze", [Deployment("b", fake)])]
    contracts = [Contract("acme", tenants=["acme"], plan="pro")]
    with TieredClient(tiers, plans=[ServicePlan("pro", min_tier="gold")], contracts=contracts) as client:
        response = form(client, "Hello", tenant="acme", plan="Pro", sla="bronze")
        assert response.tier == "gold"
        assert response.warnings == ("plan 'Pro' is not listed: no plan's bounds hold",)
        assert form(client, "Hello", tenant="acme", sla="bronze").warnings == ()


def test_what_a_plan_promises_is_watched(form: Form) -> None:
    fake = FakeProvider()
    plans = [ServicePlan("pro", objective=Objective(latency_p95_s=60)), ServicePlan("free")]
    with TieredClient([Tier("gold", [Deployment("g", fake)])], plans=plans) as client:
        form(client, "Hello", plan="pro")
        form(client, "Hello", plan="free")
        report = client.attainment(plan="pro")
        assert (report.answered, report.goals["latency_p95_s"].within) == (1, 1.0)
        assert list(client.status()["objectives"]["plans"]) == ["pro"]
        with pytest.raises(ConfigError, match="free"):
            client.attainment(plan="free")
