"""What a step takes from a call, and what counts as having been taken."""

from __future__ import annotations

import copy
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.admission.consent import Consent
from tierllm.admission.sampling import AdaptiveSampling
from tierllm.admission.steps import EFFORTS, Degraded, Step
from tierllm.errors import ConfigError


def short(max_tokens: int = 300, name: str = "short") -> Step:
    return Step(name, at=1.2, max_tokens=max_tokens)


@pytest.mark.parametrize(
    ("step", "asked", "sent"),
    [
        ({"max_tokens": 300}, {}, {"max_tokens": 300}),
        ({"max_tokens": 300}, {"max_tokens": 900}, {"max_tokens": 300}),
        ({"max_tokens": 300}, {"max_tokens": None}, {"max_tokens": 300}),
        ({"max_tokens": 300}, {"max_completion_tokens": 900}, {"max_completion_tokens": 300}),
        ({"temperature": 0.2}, {"temperature": 1.0}, {"temperature": 0.2}),
        ({"max_tokens": 300}, {"max_tokens": 0}, {"max_tokens": 300}),
        ({"max_tokens": 300}, {"max_output_tokens": -1}, {"max_output_tokens": 300}),
        ({"temperature": 0.2}, {"temperature": "hot"}, {"temperature": 0.2}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "xhigh"}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "utmost"}, {"reasoning_effort": "low"}),
        (
            {"reasoning_effort": "low"},
            {"reasoning": {"effort": "high", "summary": "auto"}},
            {"reasoning": {"effort": "low", "summary": "auto"}},
        ),
        (
            {"max_tokens": 300, "temperature": 0, "reasoning_effort": "low", "single": True},
            {
                "max_tokens": 10,
                "extra_body": {
                    "max_completion_tokens": 900,
                    "temperature": 1,
                    "n": 2,
                    "reasoning_effort": "high",
                    "reasoning": {"effort": "medium"},
                    "seed": 1,
                },
            },
            {
                "max_tokens": 10,
                "extra_body": {
                    "max_completion_tokens": 300,
                    "temperature": 0,
                    "reasoning_effort": "low",
                    "reasoning": {"effort": "low"},
                    "seed": 1,
                },
            },
        ),
        ({"single": True}, {"n": 4, "best_of": 8, "seed": 1}, {"seed": 1}),
    ],
    ids=str,
)
def test_what_it_changes_it_says(step: dict[str, Any], asked: dict[str, Any], sent: dict[str, Any]) -> None:
    degraded, was = Degraded([Step("s", at=1, **step)]), copy.deepcopy(asked)
    degraded.apply(params := dict(asked))
    assert params == sent
    assert degraded.names == ("s",)
    assert asked == was  # what is nested in it, too


@pytest.mark.parametrize(
    ("step", "asked"),
    [
        ({"max_tokens": 300}, {"max_tokens": 300}),
        ({"max_tokens": 300}, {"max_completion_tokens": 12}),
        ({"temperature": 0.2}, {"temperature": 0}),
        ({"temperature": 0.2}, {}),  # what is open is left to the model: setting it might raise it
        ({"temperature": 0.2}, {"temperature": None}),
        ({"reasoning_effort": "low"}, {}),
        ({"reasoning_effort": "low"}, {"reasoning": {"effort": "low"}}),
        ({"reasoning_effort": "low"}, {"reasoning": {"summary": "auto"}}),
        ({"max_tokens": 300}, {"max_tokens": 1, "extra_body": {"max_tokens": 300}}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "minimal"}),
        ({"single": True}, {"n": 1, "best_of": None}),
        ({"cached": True}, {"max_tokens": 300}),
    ],
    ids=str,
)
def test_what_it_leaves_as_it_is_is_not_degraded(step: dict[str, Any], asked: dict[str, Any]) -> None:
    degraded = Degraded([Step("s", at=1, **step)])
    degraded.apply(params := dict(asked))
    assert params == asked
    assert degraded.names == ()


@pytest.mark.parametrize(
    ("dropped", "step"),
    [
        ("max_tokens", {"max_tokens": 9}),
        ("temperature", {"temperature": 0}),
        ("reasoning_effort", {"reasoning_effort": "low"}),
    ],
)
def test_what_a_model_cannot_take_it_is_not_given(dropped: str, step: dict[str, Any]) -> None:
    degraded = Degraded([Step("s", at=1, **step)])
    degraded.apply(params := {"seed": 1}, drop={dropped})
    assert params == {"seed": 1}
    assert degraded.names == ()


def test_each_step_that_takes_more_is_named() -> None:
    degraded = Degraded([short(400, "short"), short(200, "shorter"), short(300, "no more")])
    degraded.apply(params := {"max_tokens": 1000})
    assert params == {"max_tokens": 200}
    assert degraded.names == ("short", "shorter")
    degraded = Degraded([short(400, "short"), short(200, "shorter")])
    degraded.apply({"max_tokens": 300})
    assert degraded.names == ("shorter",)


def test_all_that_was_taken_at_a_place_is_told() -> None:
    degraded = Degraded([short(), Step("cool", at=1, temperature=0.1)])
    degraded.apply({"max_tokens": 100, "temperature": 0.0})
    assert degraded.names == ()
    degraded.apply({"max_tokens": 100, "temperature": 1.0})
    degraded.apply({"max_tokens": 500, "temperature": 0.0})
    assert degraded.names == ("short", "cool")


def test_a_callers_own_options_are_under_the_same_ceilings() -> None:
    degraded = Degraded([short(), Step("one", at=1, single=True), Step("cool", at=1, temperature=0.1)])
    given_ = {"max_completion_tokens": 900, "n": 3, "verbosity": "low"}
    assert degraded.options(given_) == {"max_completion_tokens": 300, "verbosity": "low"}
    assert given_["n"] == 3  # the request is what was asked
    assert degraded.names == ("short", "one")
    assert Degraded([short()]).options({"verbosity": "low"}) == {"verbosity": "low"}


def test_cheapest_first_keeps_the_order_of_equals_and_puts_the_unknown_last() -> None:
    prices = {"a": None, "b": 2.0, "c": 1.0, "d": 2.0}
    degraded = Degraded([Step("cheap", at=1, cheaper=True)])
    assert degraded.cheaper
    assert degraded.cheapest_first(list("abcd"), prices.get) == list("cbda")
    assert degraded.names == ()  # who answers, decides
    degraded.spared()
    assert degraded.names == ("cheap",)


def test_an_answer_is_degraded_by_what_was_taken_at_the_place_that_gave_it() -> None:
    degraded = Degraded([short(), Step("cool", at=1, temperature=0.1)])
    failed, answered = degraded.here(), degraded.here()
    failed.apply({"max_tokens": 900})
    answered.apply({"max_tokens": 100, "temperature": 1.0})
    degraded.took(failed, answered=False)
    assert (degraded.names, degraded.lost) == ((), ("short",))
    degraded.took(answered, answered=True)
    assert degraded.names == ("cool",)


Params = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.none() | st.integers(1, 5000),
        "max_completion_tokens": st.integers(1, 5000),
        "temperature": st.none() | st.floats(0, 2),
        "reasoning_effort": st.sampled_from([*EFFORTS, "other"]),
        "n": st.integers(1, 5),
        "best_of": st.integers(1, 5),
        "extra_body": st.fixed_dictionaries({}, optional={"max_tokens": st.integers(-1, 5000)}),
        "seed": st.integers(),
    },
)
Steps = st.builds(
    Step,
    st.just("s"),
    at=st.just(1.0),
    max_tokens=st.none() | st.integers(1, 5000),
    temperature=st.none() | st.floats(0, 2),
    reasoning_effort=st.none() | st.sampled_from(EFFORTS),
    single=st.booleans(),
    cached=st.just(True),
)


@given(step=Steps, asked=Params)
def test_a_step_only_ever_takes_and_tells_the_truth(step: Step, asked: dict[str, Any]) -> None:
    params = dict(asked)
    assert step.apply(params) == (params != asked)
    for name in ("max_tokens", "max_completion_tokens"):
        if params.get(name) is not None and step.max_tokens is not None:
            assert params[name] <= step.max_tokens
        if asked.get(name) is not None:
            assert params[name] <= asked[name]
    if asked.get("temperature") is not None:
        assert params["temperature"] <= asked["temperature"]
    if asked.get("reasoning_effort") in EFFORTS:
        assert EFFORTS.index(params["reasoning_effort"]) <= EFFORTS.index(asked["reasoning_effort"])
    assert params.get("seed") == asked.get("seed")
    again = dict(params)
    assert not step.apply(again)  # there is nothing left to take
    assert again == params


# -- settings ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"at": 0}, "at=0"),
        ({"at": "1"}, "at='1'"),
        ({"at": float("inf")}, "at=inf"),
        ({"leave": 1.2}, "below 1.2"),
        ({"leave": -1}, "below 1.2"),
        ({"max_tokens": 0}, "at least 1"),
        ({"max_tokens": True}, "at least 1"),
        ({"max_tokens": 1.5}, "at least 1"),
        ({"temperature": 3}, "from 0 to 2"),
        ({"reasoning_effort": "tiny"}, "one of none, minimal"),
        ({"single": 1}, "True or False"),
        ({"defer_below": "low"}, "give a priority"),
        ({"refuse_below": 0.5}, "give a priority"),
    ],
    ids=str,
)
def test_steps_that_make_no_sense_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Step("s", **{"at": 1.2, "cached": True, **wrong})


def test_a_step_has_a_name_and_does_something() -> None:
    with pytest.raises(ConfigError, match="give a name"):
        Step("", at=1.2, cached=True)
    with pytest.raises(ConfigError, match="does nothing"):
        Step("idle", at=1.2)
    assert Step("zero", at=1.2, temperature=0, defer_below=0).leave_at == pytest.approx(0.96)


SINCE = date(2026, 1, 1)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"steps": []}, "at least one Step"),
        ({"steps": [short(), short(5)]}, "two steps are called 'short'"),
        ({"steps": ["short"]}, "give a list"),
        ({"steps": short()}, "give a list"),
        ({"consent": Consent("all", since=SINCE)}, "give a list"),
        ({"consent": [Consent(["long"], since=SINCE)]}, "no such step; there are short"),
        ({"dwell_s": -1}, "dwell_s"),
        ({"dwell_s": True}, "dwell_s"),
        ({"max_changes_per_hour": 1}, "at least 2"),
        ({"emergencies": {"disaster": ["long"]}}, "'long', which is no step"),
        ({"emergencies": {"disaster": "short"}}, "a list of steps"),
        ({"emergencies": {"disaster": []}}, "a list of steps"),
        ({"emergencies": {"": ["short"]}}, "give a name"),
        ({"emergencies": ["disaster"]}, "give the steps of each"),
        ({"mode": "on"}, "'enforce' or 'observe'"),
    ],
    ids=str,
)
def test_sampling_that_makes_no_sense_is_refused(wrong: dict[str, Any], told: str) -> None:
    options: dict[str, Any] = {"steps": [short()], **wrong}
    with pytest.raises(ConfigError, match=told):
        AdaptiveSampling(options.pop("steps"), **options)
