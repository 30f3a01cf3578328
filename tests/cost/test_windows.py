"""Windows: by the calendar of a zone, rolling, and for all time."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierllm.cost.windows import SLOTS, Window
from tierllm.errors import ConfigError

HOUR = 3600.0
DAY = 24 * HOUR


def at(text: str, zone: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


# -- calendar days ------------------------------------------------------------------

DAYS = [
    ("UTC", "2026-11-20", 24),
    ("Asia/Kolkata", "2026-11-20", 24),
    ("America/New_York", "2026-03-08", 23),
    ("America/New_York", "2026-11-01", 25),
    ("Europe/Berlin", "2026-03-29", 23),
    ("Europe/Berlin", "2026-10-25", 25),
    ("Australia/Lord_Howe", "2026-04-05", 24.5),
    ("Australia/Lord_Howe", "2026-10-04", 23.5),
    # the clock changes at midnight: the day begins at one, or has its last hour twice
    ("America/Havana", "2026-03-08", 23),
    ("America/Havana", "2026-11-01", 25),
    ("Asia/Beirut", "2026-03-29", 23),
    ("Asia/Beirut", "2026-10-24", 25),
    ("America/Sao_Paulo", "2018-11-04", 23),
    ("America/Sao_Paulo", "2018-02-17", 25),
]


@pytest.mark.parametrize(("zone", "day", "hours"), DAYS, ids=[f"{d[0]}-{d[1]}" for d in DAYS])
def test_a_day_is_as_long_as_the_zone_says(zone: str, day: str, hours: float) -> None:
    window = Window("day", zone)
    span = window.at(at(f"{day}T12:00", zone))
    assert span.id == day
    assert (span.slot, span.oldest) == (0, 0)
    assert span.begins_at is not None
    assert span.resets_at is not None
    assert span.resets_at - span.begins_at == hours * HOUR
    assert span.expires_at == span.resets_at
    # every quarter of an hour of it is that day; the moments around it are not
    moment = span.begins_at
    while moment < span.resets_at:
        assert Window("day", zone).at(moment) == span
        moment += HOUR / 4
    before, after = Window("day", zone).at(span.begins_at - 1), Window("day", zone).at(span.resets_at)
    assert before.id == str(datetime.fromisoformat(day).date() - timedelta(days=1))
    assert before.resets_at == span.begins_at
    assert after.id == str(datetime.fromisoformat(day).date() + timedelta(days=1))
    assert after.begins_at == span.resets_at


def test_a_day_that_was_left_out_is_nobodys() -> None:
    """Samoa went from the 29th of December 2011 to the 31st."""
    window = Window("day", "Pacific/Apia")
    span = window.at(at("2011-12-29T12:00", "Pacific/Apia"))
    assert span.resets_at is not None
    assert (span.id, window.at(span.resets_at).id) == ("2011-12-29", "2011-12-31")


WEEKS = [
    ("2026-01-01T00:00", "2026-W01", "2025-12-29"),
    ("2027-01-01T00:00", "2026-W53", "2026-12-28"),
    ("2024-12-31T12:00", "2025-W01", "2024-12-30"),
    ("2026-11-22T23:59", "2026-W47", "2026-11-16"),
    ("2026-11-23T00:00", "2026-W48", "2026-11-23"),
]


@pytest.mark.parametrize(("moment", "name", "monday"), WEEKS, ids=[w[0] for w in WEEKS])
def test_a_week_begins_on_monday_across_the_years_end(moment: str, name: str, monday: str) -> None:
    span = Window("week").at(at(moment))
    assert (span.id, span.begins_at) == (name, at(monday))
    assert span.resets_at == at(monday) + 7 * DAY


def test_a_week_with_a_change_of_the_clock() -> None:
    span = Window("week", "Europe/Berlin").at(at("2026-03-27T12:00", "Europe/Berlin"))
    assert span.begins_at is not None
    assert span.resets_at is not None
    assert span.resets_at - span.begins_at == 7 * DAY - HOUR


MONTHS = [("2026-02-28T23:59:59", "2026-02", 28), ("2028-02-29T12:00", "2028-02", 29)]
MONTHS += [("2026-12-31T23:59", "2026-12", 31), ("2026-01-31T00:00", "2026-01", 31)]


@pytest.mark.parametrize(("moment", "name", "days"), MONTHS, ids=[m[1] for m in MONTHS])
def test_a_month_is_as_long_as_it_is(moment: str, name: str, days: int) -> None:
    span = Window("month").at(at(moment))
    assert span.begins_at is not None
    assert span.resets_at is not None
    assert (span.id, span.resets_at - span.begins_at) == (name, days * DAY)


def test_the_zone_decides_which_day_it_is() -> None:
    now = at("2026-11-20T23:30")
    assert Window("day", "Asia/Tokyo").at(now).id == "2026-11-21"
    assert Window("day", "America/Los_Angeles").at(now).id == "2026-11-20"


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["day", "week", "month"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Havana", "Asia/Beirut", "Australia/Lord_Howe"]),
    st.lists(st.floats(1.2e9, 2.5e9), min_size=1, max_size=8),
)
def test_every_moment_is_in_its_window_whichever_way_the_clock_was_set(
    spec: str, zone: str, moments: list[float]
) -> None:
    window = Window(spec, zone)  # it remembers the last span
    for now in moments:
        span = window.at(now)
        assert span == Window(spec, zone).at(now)
        assert span.begins_at is not None
        assert span.resets_at is not None
        assert span.begins_at <= now < span.resets_at
        assert window.frees_at(span, None) == span.resets_at


# -- rolling and total -----------------------------------------------------------------


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(
        [("1s", 1), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1d", 86_400), ("2w", 1_209_600)]
    ),
    st.floats(1.0e9, 2.5e9),
    st.floats(0, 1),
    st.lists(st.floats(0, 2), max_size=3),
)
def test_a_rolling_window_never_forgets_too_early(
    spec: tuple[str, int], spent_at: float, share: float, between: list[float]
) -> None:
    """Up to a microsecond, which is what a clock's number holds."""
    word, seconds = spec
    window = Window(word)
    slot = window.at(spent_at).slot
    for step in between:
        window.at(spent_at + step * seconds)
    now = spent_at + share * seconds - 1e-6
    assert window.at(max(spent_at, now)).oldest <= slot
    # and it forgets when the slot that it fell into is over
    late = spent_at + seconds * (1 + 1 / SLOTS) + 1e-3
    assert window.at(late).oldest > slot
    assert window.at(late).expires_at > late


def test_rolling_room_comes_back_when_the_oldest_slot_is_over() -> None:
    window = Window("1h")
    span = window.at(7200.0)
    frees_at = window.frees_at(span, span.slot - 10)
    assert frees_at == 7200.0 - 10 * 60 + 60 + 3600
    assert window.at(frees_at - 1).oldest <= span.slot - 10 < window.at(frees_at).oldest
    assert window.frees_at(span, None) == 7200.0 + 60 + 3600


def test_a_rolling_window_has_no_slots_before_the_beginning_of_time() -> None:
    assert Window("1d").at(0.0).oldest == 0


def test_a_total_window_is_for_ever() -> None:
    window = Window("total")
    assert window.at(0.0) == window.at(4e9)
    assert window.frees_at(window.at(0.0), None) is None
    assert window.at(0.0).expires_at > datetime(9999, 12, 31, tzinfo=UTC).timestamp()


# -- what makes no sense ------------------------------------------------------------------

BAD = [
    "",
    "days",
    "1",
    "d",
    "-1d",
    "0h",
    "1y",
    "1h30m",
    "999999w",
    "nan",
    "inf d",
    None,
    3600,
    ["day"],
    "1e3s",
]


@pytest.mark.parametrize("spec", BAD, ids=repr)
def test_a_window_that_makes_no_sense(spec: object) -> None:
    with pytest.raises(ConfigError, match="give 'day', 'week', 'month', 'total', or a rolling one"):
        Window(spec)  # type: ignore[arg-type]


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../etc/passwd", None, 3, "Europe"], ids=repr)
def test_a_zone_that_makes_no_sense(zone: object) -> None:
    with pytest.raises(ConfigError, match="give the name of a time zone, such as 'Europe/Berlin'"):
        Window("day", zone)  # type: ignore[arg-type]


def test_windows_tell_what_they_are() -> None:
    assert repr(Window("day", "Asia/Tokyo")) == "Window('day', tz='Asia/Tokyo')"
    assert math.isclose(Window("1h").width_s * SLOTS, 3600)
