"""What a customer was promised, together with what the customer's plan says."""

from __future__ import annotations

import pickle
import threading
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.admission.consent import Consent, Consents
from tierllm.admission.plans import ServicePlan
from tierllm.errors import ConfigError
from tierllm.events import Event, PriorityLowered
from tierllm.sla.contract import Contract
from tierllm.sla.terms import ServiceTerms, Terms
from tierllm.types import Objective, Request

TIERS = ["gold", "silver", "bronze"]
TODAY = date(2026, 11, 2)
FAST = Objective(latency_p95_s=2.0)
SLOW = Objective(latency_p95_s=20.0)


def terms(*both: ServicePlan | Contract, **more: Any) -> ServiceTerms:
    plans = [each for each in both if isinstance(each, ServicePlan)]
    contracts = [each for each in both if isinstance(each, Contract)]
    return ServiceTerms(plans, contracts, tiers=TIERS, **more)


def call(**given: Any) -> Request:
    return Request(messages=(), **given)


# -- what it may say --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": ""}, "give the contract's name"),
        ({"tenants": "acme"}, "tenants='acme'): give a list of names, ['acme']"),
        ({"tenants": [""]}, "tenants=('',)"),
        ({"tenants": ["a", "a"]}, "one of them is there twice"),
        ({"tenants": None}, "tenants=None"),
        ({"plan": ""}, "plan=''"),
        ({"min_tier": 3}, "min_tier=3"),
        ({"max_priority": 1.5}, "max_priority=1.5"),
        ({"rpm": -1}, "rpm=-1"),
        ({"limit_per": "tier"}, "limit_per='tier'"),
        ({"objective": {}}, "objective={}"),
        ({"consent": [Consent("all", since=TODAY, tenant="a")]}, "leave plan, tenant and contract out"),
        ({"consent": [Consent("all", since=TODAY, contract="a")]}, "leave plan, tenant and contract out"),
        ({"shifts": 1}, "shifts=1"),
        ({"mode": "off"}, "mode='off'"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Contract(**{"name": "acme", **given})
    assert said in str(refused.value)


def test_it_is_frozen_and_equal_by_what_it_says() -> None:
    contract = Contract(
        "acme", tenants=["a"], rpm=1, limit_per=["user"], consent=[Consent("all", since=TODAY)]
    )
    assert pickle.loads(pickle.dumps(contract)) == contract
    with pytest.raises(AttributeError):
        contract.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("both", "said"),
    [
        ([Contract("a"), Contract("a")], "two are called 'a'"),
        ([ServicePlan("p"), ServicePlan("p")], "two are called 'p'"),
        ([Contract("a", min_tier="gould")], "min_tier='gould'): there is no such tier; did you mean 'gold'?"),
        ([ServicePlan("p", max_tier="x")], "the tiers are gold, silver, bronze"),
        ([ServicePlan("p", min_tier="gold", max_tier="bronze")], "min_tier is the floor"),
        ([Contract("a", min_tier="silver", max_tier="bronze")], "min_tier is the floor"),
        ([Contract("a", plan="pro")], "there is no such plan; add it to plans=[...]"),
        ([ServicePlan("pro"), Contract("a", plan="prp")], "did you mean 'pro'?"),
        ([Contract("a", tenants=["t"]), Contract("b", tenants=["t"])], "'t' has the contract 'a' already"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_does_not_go_together_is_refused(both: list[Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        terms(*both)
    assert said in str(refused.value)


def test_only_contracts_are_contracts() -> None:
    with pytest.raises(ConfigError, match="give Contract"):
        ServiceTerms([], [ServicePlan("p")], tiers=TIERS)  # type: ignore[list-item]


# -- whose call it is -------------------------------------------------------------------------


def test_a_call_has_the_contract_it_names_or_else_its_tenant_s() -> None:
    both = terms(Contract("acme", tenants=["a", "b"]), Contract("globex"))
    assert both.contract_of(call(tenant="b")) == "acme"
    assert both.contract_of(call(tenant="b", contract="globex")) == "globex"
    assert both.contract_of(call(tenant="c")) is None
    assert both.contract_of(call()) is None


def test_a_contract_that_there_is_not_is_an_error_and_no_lesser_promise() -> None:
    both = terms(Contract("acme"), Contract("globex"))
    with pytest.raises(
        ConfigError, match=r"contract='acmee': there is no such contract; did you mean 'acme'\?"
    ):
        both.terms_of(call(contract="acmee"))
    with pytest.raises(ConfigError, match="there are acme, globex"):
        both.filled(call(contract="zzz"))


def test_where_there_are_only_plans_a_contract_is_an_error_as_well() -> None:
    both = terms(ServicePlan("pro", max_tier="silver"))
    with pytest.raises(ConfigError, match="there are none: add it to contracts="):
        both.settled(call(contract="any"))


@pytest.mark.parametrize(("mode", "plan"), [("enforce", "pro"), ("observe", None)])
def test_a_contract_that_observes_fills_in_no_plan(mode: Any, plan: str | None) -> None:
    both = terms(
        ServicePlan("pro", max_tier="bronze", max_priority=1),
        Contract("acme", tenants=["a"], plan="pro", mode=mode),
    )
    request, found = both.settled(call(tenant="a", priority=5))
    assert (request.contract, request.plan) == ("acme", plan)
    held = found if mode == "enforce" else found.observed
    assert held is not None
    assert (held.max_tier, held.cap_by, held.plan) == ("bronze", "plan", "pro")
    if mode == "observe":
        assert (found.max_tier, found.plan) == (None, None)
        granted, (warning,) = both.priority_of(request, 5, 0.0)
        assert granted == 5
        assert "would be lowered to 1" in warning
        assert both.settled(call(tenant="a", plan="other"))[1].observed is None  # it names one itself


def test_whose_words_bounds_are_is_known() -> None:
    both = terms(
        ServicePlan("pro", min_tier="silver", max_tier="gold"),
        Contract("a", plan="pro", max_tier="silver"),
        Contract("b", plan="pro", min_tier="gold"),
        Contract("c", plan="pro", min_tier="silver"),
    )
    said = {name: both.terms_of(call(contract=name)) for name in "abc"}
    assert [(each.floor_by, each.cap_by) for each in said.values()] == [
        ("plan", "contract"),
        ("contract", "plan"),
        ("plan", "plan"),
    ]


def test_what_a_call_leaves_out_is_filled_in() -> None:
    both = terms(ServicePlan("pro"), ServicePlan("free"), Contract("acme", tenants=["a"], plan="pro"))
    filled = both.filled(call(tenant="a", user="u", priority=3))
    assert (filled.contract, filled.plan) == ("acme", "pro")
    assert (filled.tenant, filled.user, filled.priority) == ("a", "u", 3)
    assert both.filled(filled) is filled
    assert both.filled(call(tenant="a", plan="free")).plan == "free"
    request = call(tenant="other")
    assert both.filled(request) is request


# -- what holds -------------------------------------------------------------------------------


def test_of_two_bounds_the_stricter_one_holds() -> None:
    both = terms(
        ServicePlan("pro", min_tier="bronze", max_tier="gold", max_priority=5),
        Contract("acme", min_tier="silver", max_tier="silver", max_priority=3),
        Contract("globex", max_tier="gold", max_priority=9),
    )
    assert both.terms_of(call(plan="pro", contract="acme")) == Terms(
        *("silver", "silver", 3, True, "pro", "acme"), floor_by="contract", cap_by="contract"
    )
    assert both.terms_of(call(plan="pro", contract="globex")) == Terms(
        "bronze", "gold", 5, True, "pro", "globex"
    )
    assert both.terms_of(call()) == Terms()


def test_a_plan_that_is_not_listed_says_nothing() -> None:
    both = terms(ServicePlan("pro", max_tier="bronze"), Contract("acme", min_tier="silver"))
    assert both.terms_of(call(plan="pr", contract="acme")) == Terms(
        "silver", contract="acme", floor_by="contract"
    )


@pytest.mark.parametrize(
    ("plan", "contract", "shifts"),
    [(True, None, True), (False, None, False), (False, True, True), (True, False, False)],
    ids=str,
)
def test_the_contract_has_the_last_word_on_shifts(plan: bool, contract: bool | None, shifts: bool) -> None:
    both = terms(ServicePlan("pro", shifts=plan), Contract("acme", plan="pro", shifts=contract))
    assert both.terms_of(call(contract="acme")).shifts is shifts


def test_what_only_observes_is_told_apart() -> None:
    both = terms(
        ServicePlan("pro", max_tier="silver", mode="observe"), Contract("acme", plan="pro", min_tier="bronze")
    )
    found = both.terms_of(call(contract="acme"))
    would = Terms("bronze", "silver", plan="pro", contract="acme", floor_by="contract")
    assert found == Terms("bronze", None, plan="pro", contract="acme", observed=would, floor_by="contract")


@given(
    st.tuples(*[st.sampled_from([None, *TIERS])] * 4),
    st.tuples(*[st.none() | st.integers(-3, 3)] * 2),
    st.tuples(*[st.sampled_from(["enforce", "observe"])] * 2),
)
def test_no_bound_of_either_is_passed(
    bounds: tuple[str | None, ...], priorities: tuple[int | None, ...], modes: tuple[Any, ...]
) -> None:
    (low, high), (own_low, own_high) = bounds[:2], bounds[2:]
    for a, b in ((low, high), (own_low, own_high)):
        if a is not None and b is not None and TIERS.index(a) < TIERS.index(b):
            return
    both = terms(
        ServicePlan("pro", min_tier=low, max_tier=high, max_priority=priorities[0], mode=modes[0]),
        Contract("acme", min_tier=own_low, max_tier=own_high, max_priority=priorities[1], mode=modes[1]),
    )
    request = call(plan="pro", contract="acme")
    found = both.terms_of(request)
    said = [
        each
        for each, mode in zip([(low, high), (own_low, own_high)], modes, strict=True)
        if mode == "enforce"
    ]
    ranks = [TIERS.index(floor) for floor, _ in said if floor is not None]
    assert found.min_tier == (TIERS[min(ranks)] if ranks else None)
    ranks = [TIERS.index(cap) for _, cap in said if cap is not None]
    assert found.max_tier == (TIERS[max(ranks)] if ranks else None)
    granted, _ = both.priority_of(request, 2, 0.0)
    assert granted == (2 if found.max_priority is None else min(2, found.max_priority))


# -- priorities -------------------------------------------------------------------------------


def test_the_contract_s_ceiling_comes_before_the_plan_s_quota() -> None:
    heard: list[Event] = []
    both = terms(
        ServicePlan("pro", high_priority=5, high_priority_quota=1, weight=3),
        Contract("acme", tenants=["a"], plan="pro", max_priority=4),
        emit=heard.append,
    )
    request = both.filled(call(tenant="a", priority=9))
    assert both.priority_of(request, 9, 0.0, trace_id="t") == (
        4,
        ("contract 'acme': priority 9 was lowered to 4, the highest it allows",),
    )
    assert both.priority_of(call(plan="pro"), 9, 0.0) == (9, ())  # its quota is still there
    assert both.priority_of(call(plan="pro"), 9, 0.0)[0] == 4
    assert both.weight_of(request) == 3.0
    lowered = [event for event in heard if isinstance(event, PriorityLowered)]
    assert [(event.trace_id, event.claimed, event.granted) for event in lowered] == [("t", 9, 4), ("", 9, 4)]
    assert both.contracts_status()["acme"]["calls"] == 1
    assert both.contracts_status()["acme"]["above_max_priority"] == 1
    assert both.status(0.0)["pro"]["calls"] == 3


def test_a_contract_that_observes_lowers_nothing() -> None:
    both = terms(Contract("acme", max_priority=1, mode="observe"))
    granted, (warning,) = both.priority_of(call(contract="acme"), 5, 0.0)
    assert granted == 5
    assert warning.startswith("observed only: contract 'acme': priority 5 would be lowered to 1")


# -- limits, consent, objectives --------------------------------------------------------------


def test_limits_of_both_hold_and_are_made_once() -> None:
    both = terms(
        ServicePlan("pro", rpm=5), Contract("acme", tpm=900), Contract("globex", rpd=3, limit_per="user")
    )
    limits = both.rate_limits()
    assert [limit.name for limit in limits] == ["plan pro", "contract acme", "contract globex"]
    assert [limit.per for limit in limits] == [("tenant", "user"), ("contract",), ("user",)]
    assert all(one is other for one, other in zip(both.rate_limits(), limits, strict=True))
    acme = limits[1]
    request = call(contract="acme", user="u")
    assert acme.holds_for(request)
    assert not acme.holds_for(call(contract="globex"))
    assert acme.buckets(request, "gold", "m") == ["contract=acme"]


def test_consent_is_that_of_the_contract() -> None:
    both = terms(
        ServicePlan("pro", consent=[Consent(["short"], since=TODAY)]),
        Contract("acme", consent=[Consent(["old"], since=TODAY)]),
        Contract("globex", consent=[Consent(["old"], since=TODAY)], mode="observe"),
    )
    consents = Consents(both.consents(), ["short", "old"])
    now = 1_762_100_000.0 + 365 * 86_400
    assert consents.granted("pro", "a", now, "acme") == {"short", "old"}
    assert consents.granted("pro", "a", now) == {"short"}
    assert consents.granted(None, None, now, "acme") == {"old"}
    assert consents.granted(None, None, now, "globex") == frozenset()


def test_consent_of_several_kinds_is_that_of_those_who_are_all_of_it() -> None:
    both = Consent("all", since=TODAY, plan="pro", contract="acme")
    assert both.covers("short", plan="pro", tenant=None, contract="acme", on=TODAY)
    assert not both.covers("short", plan="pro", tenant=None, contract="globex", on=TODAY)
    assert not both.covers("short", plan="pro", tenant=None, on=TODAY)
    assert not both.covers("short", plan="free", tenant=None, contract="acme", on=TODAY)


def test_a_contract_promises_what_its_plan_does_unless_it_says_otherwise() -> None:
    both = terms(
        ServicePlan("pro", objective=SLOW),
        ServicePlan("free"),
        Contract("a", plan="pro"),
        Contract("b", plan="pro", objective=FAST),
        Contract("c", plan="free"),
        Contract("d"),
    )
    assert both.objectives() == {"a": SLOW, "b": FAST}
    assert both.plan_objectives() == {"pro": SLOW}
    assert [contract.name for contract in both.contracts] == ["a", "b", "c", "d"]


# -- a change of the configuration --------------------------------------------------------------


def test_what_was_claimed_and_taken_goes_on_after_a_change() -> None:
    plan = ServicePlan("pro", high_priority=5, high_priority_quota=1)
    older = terms(plan, Contract("a", rpm=5, max_priority=9), Contract("b", rpm=5))
    newer = terms(plan, Contract("a", rpm=5, max_priority=8), Contract("b", rpm=7), Contract("c"))
    older.priority_of(call(plan="pro", contract="a"), 9, 0.0)
    newer.inherit(older)
    assert newer.priority_of(call(plan="pro", contract="a"), 9, 1.0)[0] == 4
    assert newer.contracts_status()["a"]["calls"] == 2
    before, after = older.rate_limits(), newer.rate_limits()
    assert after[0] is before[0]
    assert after[1] is not before[1]
    assert after[1].rpm == 7


def test_threads_count_each_call_once_under_old_and_new() -> None:
    older, newer = terms(Contract("a")), terms(Contract("a"))
    newer.inherit(older)
    assert newer._lock is older._lock  # or they would miscount, if seldom

    def work(these: ServiceTerms) -> None:
        for _ in range(500):
            these.priority_of(call(contract="a"), 0, 0.0)

    threads = [threading.Thread(target=work, args=(these,)) for these in (older, newer) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert newer.contracts_status()["a"]["calls"] == 3000


def test_what_is_remembered_of_odd_plans_is_bounded() -> None:
    both = terms(Contract("acme", min_tier="silver"))
    for number in range(3000):
        assert both.terms_of(call(plan=f"p{number}", contract="acme")).min_tier == "silver"
    assert len(both._known) == 1


def test_a_forked_child_does_not_wait_for_the_parent_s_locks() -> None:
    both = terms(ServicePlan("pro"), Contract("acme"))
    with both._lock, both.plans._lock:
        both.renew()
        assert both.priority_of(call(plan="pro", contract="acme"), 1, 0.0) == (1, ())
