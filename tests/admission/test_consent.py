"""Who has agreed to which steps, and on which days."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.admission.consent import Consent, Consents, day_of
from tierllm.errors import ConfigError

STEPS = ["short", "cheap", "old"]
SINCE = date(2026, 3, 1)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def granted(*consents: Consent, plan: str | None = None, tenant: str | None = None, now: str) -> set[str]:
    return set(Consents(consents, STEPS).granted(plan, tenant, at(now)))


@pytest.mark.parametrize(
    ("now", "agreed"),
    [
        ("2026-02-28T23:59:59", False),
        ("2026-03-01T00:00:00", True),
        ("2026-03-31T23:59:59", True),
        ("2026-04-01T00:00:00", False),
    ],
)
def test_it_holds_from_its_first_day_to_its_last_in_utc(now: str, agreed: bool) -> None:
    consent = Consent(["short"], since=SINCE, until=date(2026, 3, 31), plan="free")
    assert granted(consent, plan="free", now=now) == ({"short"} if agreed else set())


@pytest.mark.parametrize(
    ("plan", "tenant", "agreed"),
    [
        ("free", "acme", {"short", "cheap", "old"}),
        ("free", "other", {"short"}),
        ("pro", "acme", {"cheap"}),
        (None, "acme", {"cheap"}),
        ("free", None, {"short"}),
        ("pro", "other", set()),
        (None, None, set()),
    ],
)
def test_where_plan_and_tenant_are_given_both_must_match(
    plan: str | None, tenant: str | None, agreed: set[str]
) -> None:
    consents = [
        Consent(["short"], since=SINCE, plan="free"),
        Consent(["cheap"], since=SINCE, tenant="acme"),
        Consent(["old"], since=SINCE, plan="free", tenant="acme"),
    ]
    assert granted(*consents, plan=plan, tenant=tenant, now="2026-05-05") == agreed


def test_all_means_every_step_and_nobody_named_means_everybody() -> None:
    consent = Consent("all", since=SINCE)
    assert granted(consent, plan="any", tenant="one", now="2026-05-05") == set(STEPS)
    assert granted(consent, now="2026-05-05") == set(STEPS)


def test_a_day_that_passes_changes_what_holds() -> None:
    consents = Consents([Consent("all", since=SINCE, until=SINCE, plan="free")], STEPS)
    assert consents.granted("free", None, at("2026-03-01T12:00:00"))
    assert not consents.granted("free", None, at("2026-03-02T00:00:00"))
    assert consents.granted("free", None, at("2026-03-01T23:00:00"))  # a clock that was set back


Maybe = st.none() | st.sampled_from(["a", "b"])
Days = st.dates(date(2026, 1, 1), date(2026, 1, 9))


@given(
    consents=st.lists(
        st.builds(
            lambda steps, since, lasts, plan, tenant: Consent(
                steps,
                since=since,
                until=None if lasts is None else since + timedelta(days=lasts),
                plan=plan,
                tenant=tenant,
            ),
            st.just("all") | st.lists(st.sampled_from(STEPS), min_size=1),
            Days,
            st.none() | st.integers(0, 5),
            Maybe,
            Maybe,
        ),
        max_size=6,
    ),
    calls=st.lists(st.tuples(Maybe, Maybe, Days, st.floats(0, 86_399)), min_size=1, max_size=20),
)
def test_found_by_index_is_found_by_looking_at_each(consents: Any, calls: Any) -> None:
    index = Consents(consents, STEPS)
    for plan, tenant, day, second in calls:
        wall_s = (day - date(1970, 1, 1)).days * 86_400 + second
        expected = {
            step for step in STEPS for c in consents if c.covers(step, plan=plan, tenant=tenant, on=day)
        }
        assert index.granted(plan, tenant, wall_s) == expected


def test_many_tenants_are_not_all_remembered() -> None:
    consents = Consents([Consent("all", since=date(1970, 1, 1), tenant="t5")], STEPS)
    for number in range(10_000):
        assert bool(consents.granted(None, f"t{number}", 0.0)) == (number == 5)
    assert len(consents._known[1]) <= 4096
    assert consents.granted(None, "t5", 0.0)


@pytest.mark.parametrize(
    ("wall_s", "day"),
    [
        (0.0, date(1970, 1, 1)),
        (-1.0, date(1969, 12, 31)),
        (1e30, date.max),
        (-1e30, date.min),
        (float("nan"), date.min),
    ],
    ids=str,
)
def test_any_time_has_a_day(wall_s: float, day: date) -> None:
    assert day_of(wall_s) == day


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"steps": "short"}, r"\['short'\]"),
        ({"steps": []}, "names of steps"),
        ({"steps": 3}, "names of steps"),
        ({"steps": [""]}, "names of steps"),
        ({"since": "2026-01-01"}, "give a date"),
        ({"since": datetime(2026, 1, 1)}, "give a date"),
        ({"since": None}, "give a date"),
        ({"until": 5}, "give a date"),
        ({"until": date(2025, 1, 1)}, "ends before it begins"),
        ({"plan": ""}, "give a name"),
        ({"tenant": 3}, "give a name"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any], told: str) -> None:
    options: dict[str, Any] = {"steps": ["short"], "since": SINCE, **wrong}
    with pytest.raises(ConfigError, match=told):
        Consent(options.pop("steps"), **options)
