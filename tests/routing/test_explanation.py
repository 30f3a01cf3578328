"""A call's account in plain words: from its trace, from its row, and whatever either may hold."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tierllm
from tierllm import errors
from tierllm.errors import (
    AllTiersFailedError,
    BudgetExceededError,
    CircuitOpenError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    RequestTooLargeError,
    ThrottledError,
)
from tierllm.routing.course import Course
from tierllm.routing.decision_log import DecisionLog
from tierllm.routing.decision_rows import DecisionRow, read_decisions, row_of
from tierllm.routing.difficulty import Choice
from tierllm.routing.explanation import explained
from tierllm.routing.words import ERRORS, NEXT, OBSERVED, PLACE_WORDS, TIER_WORDS, dollars, seconds
from tierllm.types import Attempt, Candidate, Request, Trace, Waited


def trace(**more: Any) -> Trace:
    given: dict[str, Any] = {"asked": "gold", "granted": "gold", "served": "gold", "deployment": "big"}
    given |= {"outcome": "ok", "duration_s": 1.8, **more}
    return Trace("t1", **given)


def tried(tier: str, deployment: str, error: BaseException | None = None, **more: Any) -> Attempt:
    outcome = "ok" if error is None else "rejected" if isinstance(error, errors.RejectedError) else "failed"
    return Attempt(tier, deployment, "m", **{"outcome": outcome, "error": error, **more})


def timed_out(phase: str) -> ProviderTimeoutError:
    error = ProviderTimeoutError("")
    error.phase = phase
    return error


TO_SILVER = {"served": "silver", "deployment": "mini"}
FAILED = {"served": None, "deployment": None, "outcome": "failed"}

STORIES: dict[str, tuple[Trace, str]] = {
    "open breaker": (
        trace(
            **TO_SILVER,
            plan="premium",
            candidates=[Candidate("gold", "gpt-5.2", "breaker"), Candidate("silver", "mini")],
            attempts=[
                tried("gold", "gpt-5.2", CircuitOpenError("", retry_after_s=12.0)),
                tried("silver", "mini", cost_usd=Decimal("0.0021")),
            ],
        ),
        "asked gold (plan premium); gold/gpt-5.2 open for 12 s; served by silver/mini; $0.0021; 1.8 s",
    ),
    "the plain case": (trace(), "asked gold; served by gold/big; 1.8 s"),
    "nothing asked": (
        trace(asked=None, contract="acme", rule="day"),
        "asked no tier in particular (contract acme); by rule 'day'; served by gold/big; 1.8 s",
    ),
    "clamped by the plan": (
        trace(
            **TO_SILVER,
            granted="silver",
            plan="free",
            candidates=[Candidate("gold", "*", "plan"), Candidate("silver", "mini")],
        ),
        "asked gold (plan free); gold not within its plan; granted silver; served by silver/mini; 1.8 s",
    ),
    "rate limit, retries": (
        trace(
            **TO_SILVER,
            candidates=[Candidate("gold", "big", "RateLimitError 429"), Candidate("silver", "mini")],
            attempts=[
                tried("gold", "big", ProviderUnavailableError("", status=503)),
                tried("gold", "big", RateLimitError("", status=429, retry_after_s=3.0)),
                tried("silver", "mini"),
            ],
            waits=[
                Waited("backoff", "gold/big", 0.25),
                Waited("pool", "gold", 1.0),
                Waited("pool", "gold", 0.5),
            ],
        ),
        "asked gold; gold/big was out of service (503), then was rate limited by its vendor (429), for 3 s; "
        "waited 0.25 s between tries, 1.5 s in the queue; served by silver/mini; 1.8 s",
    ),
    "a retry that helped": (
        trace(
            candidates=[Candidate("gold", "big")],
            attempts=[
                tried("gold", "big", timed_out("first_token")),
                tried("gold", "big"),
            ],
        ),
        "asked gold; gold/big gave no first token in time, and was tried again; served by gold/big; 1.8 s",
    ),
    "difficulty": (
        trace(
            **TO_SILVER,
            granted="silver",
            request_class="low",
            scores={"difficulty": 0.031},
            explored=0.965,
            candidates=[Candidate("gold", "*", "score"), Candidate("silver", "mini")],
        ),
        "asked gold; taken for low difficulty (difficulty 0.03); the choice of silver had a chance of "
        "96%; granted silver; gold not needed for its difficulty; served by silver/mini; 1.8 s",
    ),
    "load, shift, session, budget": (
        trace(
            **TO_SILVER,
            granted="silver",
            candidates=[
                Candidate("gold", "*", "load"),
                Candidate("platinum", "*", "load"),
                Candidate("gold", "*", "shift"),
                Candidate("gold", "*", "budget"),
                Candidate("silver", "a", "session"),
                Candidate("silver", "b", "shift"),
                Candidate("silver", "mini"),
            ],
        ),
        "asked gold; granted silver; gold and platinum about to be full; gold shedding calls, since its "
        "objective is not kept; gold left for last, since a soft limit of its budget is passed; silver/a not "
        "where its session is at home; silver/b avoided, since its objective is not kept; "
        "served by silver/mini; 1.8 s",
    ),
    "window, budget, deadline, labels": (
        trace(
            **TO_SILVER,
            candidates=[
                Candidate("gold", "a", "window"),
                Candidate("gold", "b", "budget"),
                Candidate("gold", "c", "deadline"),
                Candidate("gold", "d", "labels"),
                Candidate("gold", "e", "ThrottledError"),
                Candidate("silver", "mini"),
            ],
            attempts=[
                tried("gold", "a", RequestTooLargeError("")),
                tried("gold", "b", BudgetExceededError("", budget="daily")),
                tried("gold", "e", ThrottledError("", retry_after_s=4.0)),
                tried("silver", "mini"),
            ],
        ),
        "asked gold; gold/a has too small a context window; gold/b does not fit into the budget 'daily'; "
        "gold/c could not have answered before its deadline; gold/d lacks the labels it requires; "
        "gold/e full, room in 4 s; served by silver/mini; 1.8 s",
    ),
    "a race": (
        trace(
            candidates=[Candidate("gold", "big")],
            attempts=[tried("gold", "slow", outcome="cancelled"), tried("gold", "big", cost_usd=Decimal(1))],
        ),
        "asked gold; gold/slow was asked as well, and was slower; served by gold/big; $1.00; 1.8 s",
    ),
    "cascade": (
        trace(
            scores={"judge": 0.2},
            candidates=[
                Candidate("gold", "*", "cascade"),
                Candidate("silver", "mini", "judged 0.2"),
                Candidate("gold", "big"),
            ],
            attempts=[
                tried("silver", "mini", cost_usd=Decimal("0.001")),
                tried("gold", "big", cost_usd=Decimal("0.02")),
            ],
        ),
        "asked gold; scores: judge 0.20; gold kept for when the cheaper answer is not good enough; "
        "silver/mini answered, and was judged 0.2: not good enough; served by gold/big; "
        "$0.021 for 2 answers; 1.8 s",
    ),
    "observed": (
        trace(candidates=[Candidate("silver", "*", "observed: score"), Candidate("gold", "big")]),
        "asked gold; silver would have been chosen for its difficulty (only observed); served by gold/big; "
        "1.8 s",
    ),
    "cache": (
        trace(cache="hit", cache_layer="memory", duration_s=0.0004),
        "asked gold; answered from the cache (memory), an answer of gold/big; 0 ms",
    ),
    "stale": (
        trace(cache="stale", degraded=("stale",)),
        "asked gold; an old answer was served from the cache, an answer of gold/big; 1.8 s",
    ),
    "joined": (
        trace(cache="joined", led_by="t0"),
        "asked gold; shared the answer of call t0, which was under way, an answer of gold/big; 1.8 s",
    ),
    "degraded": (
        trace(degraded=("max_tokens", "brief"), warnings=("careful",)),
        "asked gold; served by gold/big; degraded: a shorter answer, brief; 1.8 s; note: careful",
    ),
    "simple reply": (
        trace(served=None, deployment=None, degraded=("simple_reply",)),
        "asked gold; answered with the application's own words; 1.8 s",
    ),
    "all failed": (
        trace(
            **FAILED,
            error="AllTiersFailedError",
            candidates=[
                Candidate("gold", "big", "breaker"),
                Candidate("silver", "mini", "RateLimitError 429"),
            ],
            attempts=[
                tried("gold", "big", CircuitOpenError("", retry_after_s=12.0)),
                tried("silver", "mini", RateLimitError("", status=429, retry_after_s=0.01)),
                tried("silver", "mini", RateLimitError("", status=429, retry_after_s=3.0), started_s=0.3),
            ],
        ),
        "asked gold; gold/big open for 12 s; silver/mini was rate limited by its vendor (429), for 3 s "
        "(twice tried); "
        "failed with AllTiersFailedError: every place it may go to was tried or passed over: try again in "
        "1.5 s at the soonest; a further tier, a stale answer or a simple reply would have answered; 1.8 s",
    ),
    "refused": (
        trace(**{**FAILED, "outcome": "rejected"}, error="BudgetExceededError"),
        "asked gold; refused with BudgetExceededError: its budget is spent: try again later, once the window "
        "begins anew, or raise it; 1.8 s",
    ),
    "larger than the whole limit": (
        trace(
            **{**FAILED, "outcome": "rejected"},
            error="BudgetExceededError",
            candidates=[Candidate("gold", "big", "budget")],
            attempts=[
                tried(
                    "gold",
                    "big",
                    BudgetExceededError("", budget="daily", asked=Decimal(2), limit=Decimal(1)),
                )
            ],
        ),
        "asked gold; gold/big needs more than the whole budget 'daily'; refused with BudgetExceededError: it "
        "may need more than the whole limit of its budget: ask for fewer tokens, or raise the limit; 1.8 s",
    ),
    "more than it may cost": (
        trace(
            **{**FAILED, "outcome": "rejected"},
            error="BudgetExceededError",
            candidates=[Candidate("gold", "big", "budget")],
            attempts=[
                tried(
                    "gold",
                    "big",
                    BudgetExceededError("", budget="max_cost_usd", asked=Decimal(2), limit=Decimal(1)),
                )
            ],
        ),
        "asked gold; gold/big may cost more than the call's own max_cost_usd; refused with "
        "BudgetExceededError: it may cost more than its own max_cost_usd: allow it more, or ask for fewer "
        "tokens; 1.8 s",
    ),
    "by hand": (
        trace(
            **TO_SILVER,
            candidates=[
                Candidate("gold", "*", "pinned"),
                Candidate("silver", "a", "pinned"),
                Candidate("silver", "mini"),
            ],
        ),
        "asked gold; gold left by hand; silver/a avoided, as told by hand; served by silver/mini; 1.8 s",
    ),
    "cut at the deadline": (
        trace(
            **FAILED,
            error="DeadlineExceededError",
            candidates=[Candidate("gold", "big", "deadline")],
            attempts=[tried("gold", "big", outcome="cancelled")],
        ),
        "asked gold; gold/big had not answered when its deadline passed; failed with DeadlineExceededError: "
        "allow it more time, or let it start in a faster tier; 1.8 s",
    ),
    "three failures": (
        trace(
            **TO_SILVER,
            candidates=[
                Candidate("gold", "big", "ProviderUnavailableError 503"),
                Candidate("silver", "mini"),
            ],
            attempts=[
                tried("gold", "big", RateLimitError("", status=429)),
                tried("gold", "big", timed_out("total")),
                tried("gold", "big", ProviderUnavailableError("", status=503)),
                tried("silver", "mini"),
            ],
        ),
        "asked gold; gold/big was rate limited by its vendor (429), then did not finish in time, then was "
        "out of service (503); served by silver/mini; 1.8 s",
    ),
    "cancelled while it was asked": (
        trace(
            **{**FAILED, "outcome": "cancelled"},
            candidates=[Candidate("gold", "big", "cancelled")],
            attempts=[tried("gold", "big", outcome="cancelled")],
        ),
        "asked gold; gold/big was left, since the call was cancelled; cancelled before it had its answer; "
        "1.8 s",
    ),
    "another was quicker": (
        trace(
            candidates=[Candidate("gold", "slow", "cancelled"), Candidate("gold", "big")],
            attempts=[tried("gold", "slow", outcome="cancelled"), tried("gold", "big")],
        ),
        "asked gold; gold/slow was left, since another was quicker; served by gold/big; 1.8 s",
    ),
    "lines in names": (
        trace(plan="a\nserved by nobody", warnings=("one\x1b[31m",)),
        "asked gold (plan a\\nserved by nobody); served by gold/big; 1.8 s; note: one\\u001b[31m",
    ),
    "chosen, and then sent down": (
        trace(
            **TO_SILVER,
            granted="silver",
            explored=0.3,
            candidates=[Candidate("gold", "*", "load"), Candidate("silver", "mini")],
        ),
        "asked gold; the choice of the model had a chance of 30%; granted silver; gold about to be full; "
        "served by silver/mini; 1.8 s",
    ),
    "cancelled": (
        trace(**{**FAILED, "outcome": "cancelled"}),
        "asked gold; cancelled before it had its answer; 1.8 s",
    ),
    "not needed": (
        trace(
            candidates=[
                *(Candidate("gold", name, name) for name in ("price", "quality", "slow", "weight")),
                Candidate("gold", "big"),
            ]
        ),
        "asked gold; gold/price not the cheapest of those that will do; gold/quality not expected to be good "
        "enough; gold/slow not expected to be quick enough; gold/weight not drawn this time; "
        "served by gold/big; 1.8 s",
    ),
    "unknown words": (
        trace(candidates=[Candidate("gold", "x", "the moon"), Candidate("gold", "y", "OddError 418")]),
        "asked gold; gold/x: the moon; gold/y failed: OddError (418); served by gold/big; 1.8 s",
    ),
}


@pytest.mark.parametrize("name", STORIES)
def test_a_trace_is_told_in_plain_words(name: str) -> None:
    told, words = STORIES[name]
    assert explained(told) == words


@pytest.mark.parametrize("name", STORIES)
def test_the_log_tells_the_same(tmp_path: Path, name: str) -> None:
    told, words = STORIES[name]
    log = DecisionLog(tmp_path / "log")
    log.note(told, Request(messages=()), None, None)
    (row,) = read_decisions(tmp_path / "log")
    assert explained(row) == explained(row.to_dict()) == words


def test_the_log_tells_which_model_was_chosen(tmp_path: Path) -> None:
    course = Course()
    course.choice = Choice("weak", 0.1, 0.035, explored=True)
    DecisionLog(tmp_path / "log").note(trace(), Request(messages=()), course, None)
    (row,) = read_decisions(tmp_path / "log")
    assert "sent to the weak model by chance, to learn from it, which had a chance of 4%" in explained(row)


def test_a_row_that_no_line_was_read_for_is_told_by_its_fields() -> None:
    row = DecisionRow(
        id="a",
        asked="gold",
        served="gold",
        deployment="m",
        outcome="ok",
        cost_usd=Decimal("0.01"),
        duration_s=2.0,
    )
    assert explained(row) == "asked gold; served by gold/m; $0.01; 2 s"


def test_a_trace_as_plain_data_is_told_alike() -> None:
    """But for how long a place is out, which plain data of an attempt does not have."""
    for told, words in STORIES.values():
        plain = json.loads(json.dumps(told.to_dict()))
        lost = ("retry_after_s", "budget", "phase")
        if not any(a.cost_usd or any(getattr(a.error, name, None) for name in lost) for a in told.attempts):
            assert explained(plain) == words


# -- whatever it holds -----------------------------------------------------------------

NAMES = st.one_of(st.sampled_from(["gold", "*", "", "gold/x"]), st.text(max_size=8))
REASONS = st.one_of(
    st.none(),
    st.sampled_from(
        [*TIER_WORDS, *PLACE_WORDS, *(f"observed: {word}" for word in OBSERVED), "judged", "judged 0.2"]
    ),
    st.sampled_from([*ERRORS]),
    st.text(max_size=12),
)
FAILURES = st.one_of(
    st.none(),
    st.builds(CircuitOpenError, st.text(), retry_after_s=st.one_of(st.none(), st.floats())),
    st.builds(
        RateLimitError, st.text(), status=st.one_of(st.none(), st.integers()), retry_after_s=st.floats()
    ),
    st.builds(BudgetExceededError, st.text(), budget=st.text(max_size=5)),
    st.builds(timed_out, st.sampled_from(["connect", "total", "odd"])),
    st.builds(KeyError, st.text()),
)
ATTEMPTS = st.builds(
    Attempt,
    NAMES,
    NAMES,
    outcome=st.sampled_from(["ok", "failed", "rejected", "cancelled", "running"]),
    error=FAILURES,
    latency_s=st.floats(),
    cost_usd=st.one_of(st.none(), st.decimals(allow_nan=True)),
)
TRACES = st.builds(
    Trace,
    st.text(max_size=5),
    asked=st.one_of(st.none(), NAMES),
    granted=st.one_of(st.none(), NAMES),
    served=st.one_of(st.none(), NAMES),
    deployment=st.one_of(st.none(), NAMES),
    duration_s=st.floats(),
    outcome=st.sampled_from(["ok", "failed", "rejected", "cancelled", "running"]),
    error=st.one_of(st.none(), st.sampled_from([*NEXT]), st.text(max_size=9)),
    candidates=st.lists(st.builds(Candidate, NAMES, NAMES, REASONS), max_size=6),
    attempts=st.lists(ATTEMPTS, max_size=5),
    waits=st.lists(st.builds(Waited, NAMES, NAMES, st.floats()), max_size=4),
    degraded=st.lists(NAMES, max_size=3).map(tuple),
    cache=st.one_of(st.none(), st.sampled_from(["hit", "stale", "joined", "miss", "off", "bypassed"])),
    scores=st.one_of(st.none(), st.dictionaries(NAMES, st.floats(), max_size=3)),
    explored=st.one_of(st.none(), st.floats()),
)


@given(TRACES)
def test_any_trace_can_be_told(told: Trace) -> None:
    assert explained(told).startswith("asked")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from([*trace().to_dict(), "cost_usd", "arm", "propensity", "explored", "session"])
ENTRIES = st.dictionaries(
    st.sampled_from(
        ["tier", "deployment", "reason", "error", "status", "retry_after_s", "kind", "seconds", "cost_usd"]
    ),
    st.one_of(JSON, NAMES, REASONS, st.sampled_from([*ERRORS])),
)


@given(st.dictionaries(FIELDS, st.one_of(JSON, NAMES, st.lists(ENTRIES, max_size=4))))
def test_any_plain_data_can_be_told(told: dict[str, Any]) -> None:
    assert explained(told).startswith("asked")
    row = row_of({"id": "x", **told}) if told.get("id") is None else row_of(told)
    if row is not None:
        assert explained(row).startswith("asked")


# -- there is a word for everything ------------------------------------------------------

SOURCE = Path(tierllm.__file__).parent


def reasons() -> Iterator[tuple[str, str]]:
    """The reasons that the source gives: ``Candidate(…, "load")``, ``_passed_over(…, "labels")``."""
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            reason = node.args[-1]
            if name not in ("Candidate", "_passed_over") or not isinstance(reason, ast.Constant):
                continue
            if isinstance(reason.value, str):
                whole = any(isinstance(a, ast.Constant) and a.value == "*" for a in node.args)
                yield reason.value, "*" if whole else "big"


def test_every_reason_in_the_source_has_words() -> None:
    found = sorted(set(reasons()))
    assert len(found) > 8
    for reason, deployment in found:
        told = explained(trace(candidates=[Candidate("gold", deployment, reason)]))
        either = explained(trace(candidates=[Candidate("gold", "*", reason)]))
        assert f": {reason}" not in told or f": {reason}" not in either, reason


def test_every_bound_of_a_plan_has_words() -> None:
    for reason in ("min_tier", "max_tier", "plan", "contract", "rule", "no fallback", "labels"):
        assert reason in TIER_WORDS


def test_every_error_has_words_and_says_what_to_do() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        if issubclass(kind, errors.ProviderError | errors.RejectedError):
            assert name in ERRORS or kind in (errors.RejectedError,), name
        if kind in (errors.TierLLMError, errors.ProviderError, errors.RejectedError, errors.UsageError):
            continue  # bases
        if kind is not errors.UnknownOptionError:
            assert name in NEXT, name
    assert AllTiersFailedError.__name__ in NEXT


@pytest.mark.parametrize(
    ("amount", "told"),
    [
        ("1e-40", "$1.0E-40"),
        ("0", "$0"),
        ("0.0021", "$0.0021"),
        ("0.00002149", "$0.000021"),
        ("0.5", "$0.50"),
        ("0.999", "$1.00"),
        ("0.02", "$0.02"),
        ("0.1", "$0.10"),
        ("12.345", "$12.34"),
        ("1234.5", "$1,234.50"),
    ],
)
def test_dollars(amount: str, told: str) -> None:
    assert dollars(Decimal(amount)) == told


@pytest.mark.parametrize(
    ("span_s", "told"),
    [
        (0.0004, "0 ms"),
        (0.042, "42 ms"),
        (0.1, "0.1 s"),
        (0.254, "0.25 s"),
        (1.84, "1.8 s"),
        (3.0, "3 s"),
        (9.97, "10 s"),
        (1234, "1,234 s"),
    ],
)
def test_seconds(span_s: float, told: str) -> None:
    assert seconds(span_s) == told
