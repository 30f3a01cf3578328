"""What vendors' headers say, and what is made of it."""

from __future__ import annotations

import pytest

from tierllm.admission.limit_headers import Told, told_by
from tierllm.admission.limit_vendor import VendorView

NOW = 1_800_000_000.0


def openai(**given: str) -> dict[str, str]:
    return {f"x-ratelimit-{name.replace('_', '-')}": value for name, value in given.items()}


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1s", 1.0),
        ("1h2m3s", 3723.0),
        ("17.5s", 17.5),
        ("59", 59.0),
        ("1m30.5s", 90.5),
        ("0s", 0.0),
    ],
)
def test_openais_resets(said: str, seconds: float) -> None:
    headers = openai(limit_requests="60", remaining_requests="59", reset_requests=said)
    assert told_by(headers, NOW) == [Told(0, 60, 59, pytest.approx(seconds))]


def test_anthropics_limits_in_any_case() -> None:
    headers = {
        "Anthropic-Ratelimit-Requests-Limit": "50",
        "Anthropic-Ratelimit-Requests-Remaining": "49",
        "Anthropic-Ratelimit-Requests-Reset": "2027-01-15T08:00:30Z",
        "anthropic-ratelimit-input-tokens-limit": "40000",
        "anthropic-ratelimit-input-tokens-remaining": "39000",
        "anthropic-ratelimit-input-tokens-reset": "2027-01-15T08:00:01+00:00",
        "anthropic-ratelimit-output-tokens-limit": "8000",
        "anthropic-ratelimit-output-tokens-remaining": "8000",
        "anthropic-ratelimit-output-tokens-reset": "2027-01-15T07:00:00Z",
        "retry-after": "3",
    }
    assert told_by(headers, NOW) == [
        Told(0, 50, 49, 30.0, is_moment=True),
        Told(2, 40_000, 39_000, 1.0, is_moment=True),
        Told(3, 8000, 8000, 0.0, is_moment=True),
    ]


GARBAGE = [
    {},
    openai(limit_requests="many", remaining_requests="few", reset_requests="soon"),
    openai(limit_requests="-5", remaining_requests="-1", reset_requests="-1s"),
    openai(limit_requests="0", remaining_requests="3"),
    openai(remaining_requests="5"),
    openai(remaining_requests="5", reset_requests="nan"),
    openai(remaining_requests="5", reset_requests="inf"),
    openai(remaining_requests="5", reset_requests="1e9"),
    openai(remaining_requests="5", reset_requests="99999d"),
    openai(remaining_requests="5", reset_requests="s" * 1000),
    openai(remaining_requests="9" * 40, reset_requests="1s"),
    openai(remaining_requests="٣", reset_requests="1s"),
    openai(remaining_tokens="5", reset_tokens="2027-01-15T08:00:30"),
    {"x-ratelimit-remaining-requests": None, 7: "x"},
    {"x-ratelimit-remaining-requests": 5, "x-ratelimit-reset-requests": 1},
]


@pytest.mark.parametrize("headers", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_says_nothing(headers: dict[str, str]) -> None:
    assert told_by(headers, NOW) == []


def test_more_left_than_there_is_counts_for_nothing() -> None:
    headers = openai(limit_tokens="100", remaining_tokens="200", reset_tokens="1s")
    assert told_by(headers, NOW) == [Told(1, 100, None, None)]


# -- held against what was sent ------------------------------------------------------


def hear(view: VendorView, told: Told, booked: int, at: float) -> bool:
    view.booked = (booked, 0, 0, 0)
    return view.hear([told], view.booked, at, at)


def frees_at(view: VendorView, booked: int, now: float) -> float | None:
    view.booked = (booked, 0, 0, 0)
    found = view.lack(1, 0, 0, now)
    return None if found is None else found.frees_at


def test_what_was_sent_since_is_not_in_remaining() -> None:
    view = VendorView()
    hear(view, Told(0, None, 3, 30.0), 10, 100.0)
    assert frees_at(view, 12, 101.0) is None  # 2 were sent since: one is left
    assert frees_at(view, 13, 101.0) == 130.0
    assert frees_at(view, 99, 130.0) is None


def test_an_answer_to_an_earlier_request_is_old_news() -> None:
    view = VendorView()
    assert hear(view, Told(0, None, 0, 30.0), 10, 100.0)
    assert not hear(view, Told(0, None, 50, 30.0), 9, 99.0)
    assert frees_at(view, 10, 101.0) == 130.0
    assert hear(view, Told(0, None, 50, 30.0), 11, 102.0)
    assert frees_at(view, 11, 103.0) is None


def test_a_bucket_that_is_refilled_evenly_is_believed_to_be() -> None:
    view = VendorView()
    hear(view, Told(0, 60, 0, 60.0), 10, 100.0)
    assert frees_at(view, 10, 100.0) == pytest.approx(101.0)
    assert frees_at(view, 10, 101.5) is None
    assert frees_at(view, 12, 101.5) == pytest.approx(103.0)


def test_a_window_that_is_reset_at_once_is_waited_for() -> None:
    view = VendorView()
    hear(view, Told(0, 60, 0, 20.0), 10, 100.0)  # 60 in 20 s is no rate of this limit
    assert frees_at(view, 10, 119.0) == 120.0
    assert frees_at(view, 10, 120.0) is None


def test_a_span_counts_from_the_request_and_a_moment_from_now() -> None:
    for is_moment, frees in ((False, 130.0), (True, 150.0)):
        view = VendorView()
        view.hear([Told(0, None, 0, 30.0, is_moment)], (10, 0, 0, 0), 100.0, 120.0)
        assert frees_at(view, 10, 121.0) == frees


def test_a_limit_of_a_day_is_none_of_a_minute() -> None:
    view = VendorView()
    hear(view, Told(0, 10_000, 9_999, 8.64), 1, 0.0)
    assert view.limits[0] is None
    hear(view, Told(0, 500, 499, 0.12), 2, 0.0)
    assert view.limits[0] == 500
    hear(view, Told(0, 500, None, None), 3, 1.0)
    assert view.limits[0] == 500
    hear(view, Told(0, 900, None, None), 4, 1.0)  # no longer that, and who knows in what time
    assert view.limits[0] is None
