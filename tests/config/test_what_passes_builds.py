"""A file that passes can be built, whatever stands in it; one that cannot is told of with its key."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tierllm import ConfigError, TieredClient
from tierllm.config import Config, check

NAMES = st.sampled_from(
    ["gold", "silver", "vendor", "free", "a|b", "a,b", "big's own", "x", "Ω", "two words"]
)
NUMBERS = st.sampled_from([0, 1, 2, 0.3, 0.9, 1.2, 8, 60, 100, 5000, -1, 1e9])
COUNTS = st.sampled_from([1, 2, 5, 100, 100_000])
MODES = st.sampled_from(["enforce", "observe"])


def some(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A table with any of these keys."""
    return st.fixed_dictionaries({}, optional=keys)


RATES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("rpm", "tpm", "input_tpm", "output_tpm", "rpd", "tpd", "max_concurrency"), COUNTS),
    "tokens": st.sampled_from(["p90", "max"]),
    "pacing": st.sampled_from([True, False, 3]),
    "headers": st.booleans(),
    "fail": st.sampled_from(["open", "closed"]),
    "mode": MODES,
}
WHOSE: dict[str, st.SearchStrategy[Any]] = {
    "per": st.sampled_from(["account", "user", "tier", "deployment", ["user", "plan"], ["tag", "route"], []]),
    "where": some(plan=NAMES, tier=NAMES, deployment=NAMES, model=NAMES),
    "name": NAMES,
}
RESERVE = st.dictionaries(NAMES, st.sampled_from([0.2, 0.5, 0.7]), max_size=2)
HOURS = st.fixed_dictionaries(
    {
        "when": st.sampled_from(
            ["22:00-06:00", "sat-sun", "fri 22:00-24:00", "sat,mon-tue 00:00-01:00", "never"]
        ),
        "size": COUNTS,
    }
)
ADMISSION = some(
    max_concurrency=COUNTS,
    max_waiting=NUMBERS,
    max_wait_s=NUMBERS,
    on_full=st.sampled_from(["wait", "step_down", "refuse"]),
    borrow=NUMBERS,
    schedule=some(hours=st.lists(HOURS, max_size=3), tz=st.sampled_from(["UTC", "Asia/Kathmandu", "Mars"])),
    age_s=st.sampled_from([0, 5, False, 1e9]),
    weights=st.dictionaries(NAMES, NUMBERS, max_size=2),
    hourly_usd=st.sampled_from([0, 2, "2.50", "x", 1e12]),
    defer_at=NUMBERS,
    max_defer_s=NUMBERS,
    shed_at=NUMBERS,
    shed_below=st.integers(-3, 3),
    mode=MODES,
)
STEP = st.fixed_dictionaries(
    {"name": NAMES, "at": NUMBERS},
    optional={
        "leave": NUMBERS,
        "max_tokens": COUNTS,
        "temperature": NUMBERS,
        "single": st.booleans(),
        "reasoning_effort": st.sampled_from(["none", "low", "xhigh"]),
        "cheaper": st.booleans(),
        "cached": st.booleans(),
        "defer_below": st.integers(-3, 3),
        "refuse_below": st.integers(-3, 3),
    },
)
CONSENT = st.fixed_dictionaries(
    {"steps": st.just("all") | st.lists(NAMES, max_size=2), "since": st.just("2026-11-01")},
    optional={"until": st.sampled_from(["2026-12-01", "2020-01-01"]), "plan": NAMES, "tenant": NAMES},
)
SAMPLING = st.fixed_dictionaries(
    {"steps": st.lists(STEP, min_size=1, max_size=2)},
    optional={
        "consent": st.lists(CONSENT, max_size=2),
        "dwell_s": NUMBERS,
        "max_changes_per_hour": st.integers(0, 6),
        "emergencies": st.dictionaries(NAMES | st.just("a\nb"), st.lists(NAMES, max_size=2), max_size=2),
        "mode": MODES,
    },
)
TIERS = st.sampled_from(["gold", "silver", "bronze"])
SHARES = st.sampled_from([0, 0.2, 0.5, 1, 1.5, -1])
OBJECTIVE = some(latency_p95_s=NUMBERS, first_token_p99_s=NUMBERS, availability=NUMBERS, cost_usd=NUMBERS)
OWN_CONSENT = st.fixed_dictionaries(
    {"steps": st.just("all") | st.lists(NAMES, max_size=2), "since": st.just("2026-11-01")}
)
PROMISE: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("rpm", "tpm", "rpd", "tpd", "max_concurrency"), COUNTS),
    "min_tier": TIERS,
    "max_tier": TIERS,
    "limit_per": st.sampled_from(["user", "tenant", "contract", ["tenant", "user"], [], "tier"]),
    "objective": OBJECTIVE,
    "consent": st.lists(OWN_CONSENT, max_size=1),
    "shifts": st.booleans(),
}
CONTRACT = some(
    **PROMISE,
    tenants=st.lists(NAMES, max_size=2),
    plan=NAMES,
    max_priority=st.integers(-3, 9),
    mode=MODES,
)
SPAN = st.sampled_from([[1, 5], [5, 1], [1], {"least": 3}, {"most": 0}, {}, {"least": 5, "most": 2}])
RULE = some(
    name=NAMES,
    plan=NAMES | st.lists(NAMES, max_size=2),
    contract=NAMES,
    tag=st.lists(NAMES, max_size=2),
    importance=st.sampled_from(["low", "high", ["normal", "high"]]),
    request_class=st.sampled_from(["low", "high", ["medium"]]),
    priority=st.integers(-3, 9) | SPAN,
    tokens=SPAN,
    tools=st.booleans(),
    hours=st.sampled_from(["mon-fri 08:00-18:00", "never", "sat"]),
    tz=st.sampled_from(["UTC", "Mars"]),
    load=NUMBERS,
    below_forecast=NUMBERS,
    of=TIERS,
    budget_left=SHARES,
    tier=TIERS,
    min_tier=TIERS,
    max_tier=TIERS,
    balance=SHARES,
    set_class=st.sampled_from(["low", "high"]),
)
SCORER = st.sampled_from(
    ["rules", "learned", {"kind": "rules", "base": -1.0}, {"kind": "learned", "buckets": 1024}]
)
ROUTER = some(
    scorer=SCORER,
    file=st.just("nowhere.json"),
    weak=TIERS,
    strong=TIERS,
    balance=SHARES,
    classes=st.lists(NUMBERS, max_size=3),
    explore=SHARES,
    mode=MODES,
)
SESSIONS = some(
    per=st.sampled_from(["session", "user", "session only"]),
    ttl_s=NUMBERS,
    max_sessions=COUNTS,
    return_after_s=NUMBERS,
    cache_ttl_s=NUMBERS,
    shared=st.booleans(),
    mode=MODES,
)
JUDGE = st.sampled_from(
    [
        "format",
        "learned",
        {"kind": "format", "json": True, "pattern": "^a"},
        {"kind": "format", "pattern": "("},
        {"kind": "agreement", "other": "silver"},
        {"kind": "agreement", "other": "gold/x", "compare": "words"},
        {"kind": "agreement", "other": "bronze/y"},
    ]
)
CASCADE = some(judge=JUDGE, cheap=TIERS, strong=TIERS, at_least=SHARES, max_judge_s=NUMBERS, mode=MODES)
SHADOW = st.fixed_dictionaries(
    {"to": st.sampled_from(["silver", "gold", "gold/x", "gold/y", "bronze"])},
    optional={
        "share": SHARES,
        "hard_usd": st.sampled_from([0, 1, "0.5", "x"]),
        "per": st.sampled_from(["1d", "day", "call", "x"]),
        "judge": st.sampled_from(["format", {"kind": "format", "min_chars": 3}]),
        "learn": st.booleans(),
        "skip_tags": st.lists(NAMES, max_size=2),
        "mode": MODES,
    },
)
SHIFT = some(
    latency_s=NUMBERS,
    error_rate=SHARES,
    burn=NUMBERS,
    calm=NUMBERS,
    min_calls=COUNTS,
    dwell_s=NUMBERS,
    stages=st.sampled_from([[0.1, 0.5], [], [0.5, 0.1], [2.0]]),
    load=NUMBERS | st.just(False),
    shed=st.booleans(),
    max_shifts_per_hour=st.integers(0, 6),
    mode=MODES,
)
PLAN = some(
    **PROMISE,
    max_priority=st.integers(-3, 9),
    high_priority=st.integers(-3, 9),
    high_priority_quota=st.integers(-1, 20_000),
    quota_window_s=NUMBERS,
    weight=NUMBERS,
    mode=MODES,
)
ADAPTIVE = some(start=COUNTS, least=COUNTS, most=COUNTS, backoff=NUMBERS, caution=COUNTS, mode=MODES)
THROTTLE = some(k=NUMBERS, window_s=NUMBERS, min_calls=COUNTS, most=NUMBERS, mode=MODES)
HEDGE = some(
    share=NUMBERS, bank=NUMBERS, quantile=NUMBERS, min_samples=COUNTS, slow_share=NUMBERS, mode=MODES
)
DEPLOYMENT = some(
    name=NAMES,
    account=NAMES,
    limits=st.lists(some(**RATES, **WHOSE), max_size=2),
    adaptive=st.booleans() | ADAPTIVE,
    throttle=st.booleans() | THROTTLE,
    **dict.fromkeys(("rpm", "tpm", "input_tpm", "output_tpm", "rpd", "max_concurrency"), COUNTS),
)
TIER = some(
    max_concurrency=COUNTS,
    max_waiting=NUMBERS,
    max_wait_s=NUMBERS,
    admission=ADMISSION,
    sampling=SAMPLING,
    hedge=st.booleans() | HEDGE,
    shift=st.booleans() | SHIFT,
    objective=OBJECTIVE,
    choose=st.sampled_from(["ordered", "weighted", "cheapest"]),
    min_quality=SHARES,
    purpose=NAMES,
)
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "accounts": st.dictionaries(NAMES, some(**RATES, reserve=RESERVE), max_size=2),
    "limits": st.lists(some(**RATES, **WHOSE, reserve=RESERVE), max_size=2),
    "plans": st.dictionaries(NAMES, PLAN, max_size=2),
    "deployment": DEPLOYMENT,
    "tier": TIER,
    "admission": st.fixed_dictionaries({"max_concurrency": COUNTS, "admission": ADMISSION}),
    "sampling": st.fixed_dictionaries({"sampling": SAMPLING}),
    "shift": st.fixed_dictionaries({"shift": st.booleans() | SHIFT, "objective": OBJECTIVE}),
    "contracts": st.dictionaries(NAMES, CONTRACT, max_size=2),
    "rules": st.lists(RULE, max_size=3),
    "router": ROUTER,
    "sessions": SESSIONS,
    "cascade": CASCADE,
    "shadow": SHADOW,
}

PRICE = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 2}
SOUND: dict[str, Any] = {
    "accounts": {"vendor": {"rpm": 500}},
    "tiers": [
        {
            "name": "gold",
            "deployments": [
                {"model": "big", "provider": "fake", "account": "vendor"},
                {"model": "big", "name": "x", "provider": "fake"},
            ],
        },
        {
            "name": "silver",
            "max_concurrency": 8,
            "deployments": [{"model": "small", "provider": "fake", "price": PRICE}],
        },
    ],
}


KEYS = (
    "accounts",
    "limits",
    "plans",
    "tiers",
    "contracts",
    "rules",
    "router",
    "sessions",
    "cascade",
    "shadow",
)
CLASSES = ("RateLimit", "Admission", "Step", "Consent", "ServicePlan", "Hours", "Tier", "Contract", "Rule")
CLASSES += ("Router", "Shift", "Shadow", "Cascade", "StickySessions", "FormatCheck", "Agreement")
INSIDE = ("deployment", "tier", "admission", "sampling", "shift")
"""Parts that stand in a tier."""


def judge(data: dict[str, Any]) -> bool:
    """Whether the file passes: it builds then, and is told of with its keys otherwise."""
    try:
        config = Config.parse(data)
    except ConfigError as error:
        said = str(error)
        assert re.search(rf"(^the configuration: |\n  )({'|'.join(KEYS)})\b", said), said
        assert "Error" not in said, said
        assert "Input should" not in said, said
        assert not re.search(rf"\b({'|'.join(CLASSES)})\(", said), said
        return False
    doubts = [doubt for doubt in check(config, {}) if doubt.severity == "error"]
    try:
        TieredClient.from_config(config).close()
    except ConfigError as error:  # what is known only where it is built: prices, files
        if not doubts and "nowhere.json" not in str(error):
            raise
        return False
    return True


def changed(part: str, drawn: Any) -> dict[str, Any]:
    data = copy.deepcopy(SOUND)
    if part == "accounts":
        data["accounts"] |= drawn
    elif part == "deployment":
        data["tiers"][0]["deployments"][0] |= drawn
    elif part in INSIDE:
        data["tiers"][0] |= drawn
    else:
        data[part] = drawn
    return data


@pytest.mark.parametrize("part", PARTS)
def test_what_passes_can_be_built(part: str) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(drawn=PARTS[part])
    def holds(drawn: Any) -> None:
        judge(changed(part, drawn))

    holds()


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_so_does_a_file_of_several_parts(data: st.DataObject) -> None:
    file = copy.deepcopy(SOUND)
    for part in data.draw(st.lists(st.sampled_from(sorted(PARTS)), unique=True, max_size=3)):
        drawn = changed(part, data.draw(PARTS[part]))
        own = {
            "deployment": "tiers",
            "tier": "tiers",
            "admission": "tiers",
            "sampling": "tiers",
            "shift": "tiers",
        }.get(part, part)
        if own == "tiers":
            for old, new in zip(file["tiers"], drawn["tiers"], strict=True):
                old |= {k: v for k, v in new.items() if k != "deployments" or part == "deployment"}
        else:
            file[own] = drawn[own]
    judge(file)


def test_the_sound_one_passes() -> None:
    assert judge(copy.deepcopy(SOUND))


@pytest.mark.parametrize("name", ["a|b", "Ω", "two words", "a,b"])
def test_a_deployment_of_any_name_can_have_limits(name: str) -> None:
    assert judge(changed("deployment", {"name": name, "rpm": 5}))
