"""Deployments and tiers say what is wrong with what they are given, as a ``ConfigError``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tierllm import Admission, Deployment, Hours, RateLimit, Schedule, Tier, TieredClient
from tierllm.errors import ConfigError
from tierllm.events import CallThrottled, Event
from tierllm.testing import FakeClock, FakeProvider

any_: Any = lambda given: given  # noqa: E731  what no type checker would let pass


def tier(**options: Any) -> Tier:
    return Tier("gold", [Deployment("m", FakeProvider())], **options)


def night() -> Schedule:
    return Schedule([Hours("22:00-06:00", size=8)])


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "limits, one": (lambda: Deployment("m", limits=any_(RateLimit(rpm=1))), "give a list, [RateLimit(...)]"),
    "limits, a number": (lambda: Deployment("m", limits=any_(5)), "give a list, [RateLimit(...)]"),
    "limits, None": (lambda: Deployment("m", limits=any_(None)), "give a list, [RateLimit(...)]"),
    "limits, the class": (lambda: Deployment("m", limits=any_([RateLimit])), "the class RateLimit is not a"),
    "account, a name": (
        lambda: Deployment("m", account=any_("vendor")),
        "account=...): str is not a RateLimit",
    ),
    "account, the class": (lambda: Deployment("m", account=any_(RateLimit)), "the class RateLimit is not a"),
    "account, a user's": (
        lambda: Deployment("m", account=RateLimit(rpm=1, per="user")),
        "an account is one for all who call",
    ),
    "account, a tier's": (lambda: Deployment("m", account=RateLimit(rpm=1, per="tier")), "leave its per out"),
    "wait, a text": (lambda: tier(max_wait_s="5"), "max_wait_s='5'): give 0 or more seconds"),
    "wait, true": (lambda: tier(max_wait_s=True), "max_wait_s=True): give 0 or more seconds"),
    "wait, nan": (lambda: tier(max_wait_s=float("nan")), "give 0 or more seconds"),
    "temperature, a text": (lambda: tier(temperature="0"), "temperature='0'): give 0 or more"),
    "admission, true": (lambda: tier(admission=True), "give Admission(...)"),
    "weights, a set": (lambda: Admission(weights=any_({"acme"})), "weights by tenant, such as {'acme': 2}"),
    "weights, a text": (lambda: Admission(weights=any_({"acme": "2"})), "{'acme': '2'}): give a tenant's"),
    "weights, true": (lambda: Admission(weights={"acme": True}), "above 0"),
    "weights, nothing": (lambda: Admission(weights={"acme": 0}), "above 0"),
    "weights, a number": (lambda: Admission(weights=any_({5: 1})), "give a tenant's weight"),
    "schedule, the class": (lambda: Admission(schedule=any_(Schedule)), "give a Schedule"),
    "age, 0": (lambda: Admission(age_s=0), "None (false in a file) is no ageing"),
    "shedding, percent": (lambda: Admission(shed_at=90), "give 0.9 for 90 %"),
    "hours, size 0": (lambda: Hours("sat", size=0), "a schedule closes no pool"),
    "schedule, no size": (
        lambda: tier(admission=Admission(schedule=night())),
        "Tier('gold', admission=...): schedule: it says nothing of a pool without a size; "
        "set max_concurrency",
    ),
    "price, no size": (lambda: tier(admission=Admission(hourly_usd=2)), "hourly_usd: it says nothing"),
    "borrowing, no size": (lambda: tier(admission=Admission(borrow=0.5)), "borrow: it says nothing"),
    "schedule, alone": (
        lambda: Admission(schedule=night()).wrap(lambda: None),
        "schedule: it says nothing of a pool without a size",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told(case: str) -> None:
    make, words = WRONG[case]
    with pytest.raises(ConfigError, match=re.escape(words)):
        make()


def test_a_size_in_either_place_will_do() -> None:
    assert tier(max_concurrency=4, admission=Admission(schedule=night(), borrow=0.5, hourly_usd=1)).admission
    assert tier(admission=Admission(max_concurrency=4, schedule=night())).admission
    assert tier(admission=Admission(hourly_usd=0, borrow=0.0, shed_at=0.9, weights={"acme": 2})).admission


def test_a_deployment_s_further_limits_may_observe() -> None:
    heard: list[Event] = []
    fake = FakeProvider()
    limits = [RateLimit(rpm=1, mode="observe", per="deployment")]
    with TieredClient(
        [Tier("gold", [Deployment("m", fake, limits=limits)])], clock=FakeClock(), listeners=[heard.append]
    ) as client:
        for _ in range(3):
            client.complete("hi")
    assert len(fake.journal) == 3
    assert [event.mode for event in heard if isinstance(event, CallThrottled)] == ["observe", "observe"]


@pytest.mark.parametrize("name", ["a|b", "a,b", "the \\ one"])
def test_a_deployment_of_any_name_has_limits_of_its_own(name: str) -> None:
    deployment = Deployment("m", FakeProvider(), name=name, rpm=1)
    with TieredClient([Tier("gold", [deployment])], clock=FakeClock()) as client:
        assert client.complete("hi").deployment == name
