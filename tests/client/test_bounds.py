"""Floors and caps beyond the tiers that are asked: caches, old answers, accounts, and what errors say."""

from __future__ import annotations

from typing import Any

import pytest

from client.forms import World
from tierllm import (
    Budget,
    ConfigError,
    Contract,
    Deployment,
    FallbackChain,
    RateLimit,
    Response,
    ResultCache,
    Router,
    Rule,
    ServicePlan,
    StickySessions,
    Tier,
    TieredClient,
    UsageLedger,
)
from tierllm.testing import Fail, FakeProvider

NAMES = ("gold", "silver", "bronze")


def tiers(fake: FakeProvider, **gold: Any) -> list[Tier]:
    return [Tier(name, [Deployment(name, fake)], **(gold if name == "gold" else {})) for name in NAMES]


def world(*, gold: dict[str, Any] | None = None, **more: Any) -> World:
    fake = FakeProvider()
    return World(tiers(fake, **(gold or {})), fake=fake, **more)


# -- caches and old answers ----------------------------------------------------------------------


@pytest.mark.parametrize("serve_higher", [True, False])
@pytest.mark.parametrize(
    ("parts", "options"),
    [
        ({"plans": [ServicePlan("free", max_tier="bronze")]}, {"plan": "free"}),
        ({"contracts": [Contract("acme", tenants=["a"], max_tier="bronze")]}, {"tenant": "a"}),
        ({"router": Router([Rule(tag="cheap", max_tier="bronze")])}, {"tags": ["cheap"]}),
    ],
    ids=["plan", "contract", "rule"],
)
def test_no_cached_answer_is_above_the_cap(
    parts: dict[str, Any], options: dict[str, Any], serve_higher: bool
) -> None:
    here = world(cache=ResultCache(default="always", scope="shared", serve_higher=serve_higher), **parts)
    tiers_of = [here.call(**each).ok.tier for each in ({}, options, {}, options, {})]
    assert tiers_of == ["gold", "bronze", "gold", "bronze", "gold"]
    assert here.models() == ["gold", "bronze"]  # neither pushes the other's answer out


def test_what_the_caller_asks_for_is_no_cap() -> None:
    here = world(cache=ResultCache(default="always"))
    assert [here.call(**each).ok.tier for each in ({}, {"sla": "bronze"})] == ["gold", "gold"]


def test_a_floor_of_its_own_is_above_the_cap_in_the_cache_as_well() -> None:
    here = world(cache=ResultCache(default="always"), plans=[ServicePlan("free", max_tier="bronze")])
    answers = [here.call(plan="free", min_tier="silver").ok for _ in range(2)]
    assert [(each.tier, each.cached) for each in answers] == [("silver", False), ("silver", True)]


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize(
    ("parts", "served"),
    [
        ({"contracts": [Contract("acme", tenants=["a"], min_tier="gold")]}, False),
        ({"router": Router([Rule(min_tier="gold")])}, False),
        ({"plans": [ServicePlan("p", min_tier="silver")]}, False),
        ({"plans": [ServicePlan("p", max_tier="silver")]}, True),
        ({"router": Router([Rule(max_tier="bronze")])}, True),
        ({}, True),
    ],
    ids=["contract's floor", "rule's floor", "plan's floor", "plan's cap", "rule's cap", "none"],
)
def test_an_old_answer_of_unknown_origin_is_kept_from_those_with_a_floor(
    parts: dict[str, Any], served: bool, fallback: bool
) -> None:
    gold: dict[str, Any] = {} if fallback else {"fallback": False}
    here = world(gold=gold, stale=lambda request: Response(text="old"), **parts)
    for name in NAMES:
        here.fake.script(name, Fail.unavailable(), forever=True)
    told = here.call(tenant="a", plan="p")
    assert (told.kind == "ok" and told.ok.text == "old") is served


# -- accounts ------------------------------------------------------------------------------------


def test_what_is_left_for_a_tenant_is_what_is_left_of_its_contract() -> None:
    here = world(
        plans=[ServicePlan("pro")],
        contracts=[Contract("acme", tenants=["a"], plan="pro")],
        budgets=[Budget(hard_calls=5, per="contract", name="c"), Budget(hard_calls=5, per="plan", name="p")],
    )
    here.call(tenant="a")
    for who in ({"tenant": "a"}, {"contract": "acme"}, {"tenant": "a", "contract": "acme", "plan": "pro"}):
        assert [(each.budget, each.left) for each in here.client.remaining(**who)] == [("c", 4), ("p", 4)]
    with pytest.raises(ConfigError, match="did you mean 'acme'"):
        here.client.remaining(contract="acmee")


# -- what errors say -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "whose"),
    [
        ({"plans": [ServicePlan("p", max_tier="bronze")]}, "its plan keeps it out of gold, silver"),
        ({"contracts": [Contract("c", tenants=["a"], max_tier="bronze")]}, "its contract keeps it out"),
        ({"router": Router([Rule(max_tier="bronze")])}, "its rule keeps it out of gold, silver"),
        ({}, r"no deployment of gold, silver, bronze has these labels$"),
    ],
    ids=["plan", "contract", "rule", "nobody"],
)
def test_labels_that_are_out_of_bounds_say_whose(parts: dict[str, Any], whose: str) -> None:
    with pytest.raises(ConfigError, match=whose):
        world(**parts).call(tenant="a", plan="p", require={"eu"})


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"router": StickySessions()}, r"router=.*give Router\("),
        ({"router": FallbackChain()}, r"router=.*give Router\("),
        ({"router": Router}, r"router=.*give Router\("),
        ({"sessions": Router()}, r"sessions=.*give StickySessions\("),
        ({"sessions": StickySessions}, r"sessions=.*give StickySessions\("),
        (
            {
                "limits": [RateLimit(rpm=1, name="plan free", per="user")],
                "plans": [ServicePlan("free", rpm=1)],
            },
            "'plan free', as that of a plan or contract is",
        ),
    ],
    ids=["sessions for router", "fallback for router", "class", "router for sessions", "class too", "limit"],
)
def test_what_is_not_what_it_should_be(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        TieredClient(tiers(FakeProvider()), **parts)


@pytest.mark.parametrize("made", [ServicePlan, Contract])
def test_whose_limit_without_a_limit_says_nothing(made: Any) -> None:
    with pytest.raises(ConfigError, match="no limit that it could be for"):
        made("x", limit_per="user")
    assert made("x", limit_per="user", rpd=3).limit_per == ("user",)
    assert made("x", limit_per=made("y").limit_per)


def test_the_ledger_knows_the_contract() -> None:
    here = world(contracts=[Contract("acme", tenants=["a"])], ledger=UsageLedger())
    here.call(tenant="a")
    here.call()
    assert here.client.usage(contract="acme").calls == 1
    lines = here.client.usage(by=("contract",))
    assert {line.group["contract"]: line.calls for line in lines} == {None: 1, "acme": 1}
