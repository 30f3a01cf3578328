"""Sizes by the hours of the week, as the clock on the wall shows them."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tierllm.admission.schedule import Hours, Schedule
from tierllm.errors import ConfigError

USUAL = 32
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, tz: str = "UTC", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz), fold=fold).timestamp()


def size(when: str, moment: str, tz: str = "UTC") -> int:
    return Schedule([Hours(when, size=8)], tz=tz).size_at(at(moment, tz), USUAL)


# 2026-06-01 is a Monday.
@pytest.mark.parametrize(
    ("when", "moment", "expected"),
    [
        ("22:00-06:00", "2026-06-01T21:59:59", USUAL),
        ("22:00-06:00", "2026-06-01T22:00", 8),
        ("22:00-06:00", "2026-06-02T00:00", 8),
        ("22:00-06:00", "2026-06-02T05:59:59", 8),
        ("22:00-06:00", "2026-06-02T06:00", USUAL),
        ("mon-fri 08:00-18:00", "2026-06-05T17:59", 8),
        ("mon-fri 08:00-18:00", "2026-06-05T18:00", USUAL),
        ("mon-fri 08:00-18:00", "2026-06-06T09:00", USUAL),
        ("sat-sun", "2026-06-05T23:59:59", USUAL),
        ("sat-sun", "2026-06-06T00:00", 8),
        ("sat-sun", "2026-06-07T23:59:59", 8),
        ("sat-sun", "2026-06-08T00:00", USUAL),
        ("sun", "2026-06-07T12:00", 8),
        ("sun", "2026-06-06T12:00", USUAL),
        ("fri-mon", "2026-06-01T12:00", 8),
        ("fri-mon", "2026-06-02T12:00", USUAL),
        ("fri-mon", "2026-06-06T12:00", 8),
        ("sat,wed 07:30-12:00", "2026-06-03T07:30", 8),
        ("sat,wed 07:30-12:00", "2026-06-04T07:30", USUAL),
        ("Mon, Wed - Thu 9:00 - 10:00", "2026-06-04T09:30", 8),
        ("fri 22:00-06:00", "2026-06-05T05:00", USUAL),  # the night begins on Friday
        ("fri 22:00-06:00", "2026-06-06T05:00", 8),
        ("fri 22:00-06:00", "2026-06-06T22:00", USUAL),
        ("sun 22:00-06:00", "2026-06-01T05:00", 8),  # from Sunday over to Monday
        ("20:00-24:00", "2026-06-01T23:59:59", 8),
        ("20:00-24:00", "2026-06-02T00:00", USUAL),
        ("20:00-00:00", "2026-06-01T23:59:59", 8),
        ("20:00-00:00", "2026-06-02T00:00", USUAL),
        ("00:00-24:00", "2026-06-02T13:00", 8),
        ("00:00-23:59", "2026-06-02T23:58", 8),
        ("00:00-23:59", "2026-06-02T23:59", USUAL),
    ],
)
def test_hours(when: str, moment: str, expected: int) -> None:
    assert size(when, moment) == expected


def test_the_first_that_holds_counts() -> None:
    schedule = Schedule([Hours("sat-sun", size=4), Hours("22:00-06:00", size=8)])
    assert schedule.size_at(at("2026-06-06T23:00"), USUAL) == 4
    assert schedule.size_at(at("2026-06-05T23:00"), USUAL) == 8
    assert schedule.size_at(at("2026-06-05T12:00"), USUAL) == USUAL
    assert schedule.largest(USUAL) == 32
    assert schedule.largest(2) == 8


def test_hours_are_those_of_the_zone() -> None:
    assert size("22:00-06:00", "2026-06-01T22:00", "Asia/Tokyo") == 8
    schedule = Schedule([Hours("22:00-06:00", size=8)], tz="Asia/Tokyo")
    assert schedule.size_at(at("2026-06-01T12:59"), USUAL) == USUAL
    assert schedule.size_at(at("2026-06-01T13:00"), USUAL) == 8


# -- days of 23 and 25 hours -------------------------------------------------------------


def held_s(when: str, first: str, hours: int) -> float:
    """For how long the hours hold from ``first`` on, in Berlin."""
    schedule, start = Schedule([Hours(when, size=8)], tz="Europe/Berlin"), at(first, "Europe/Berlin")
    return sum(60 for minute in range(hours * 60) if schedule.size_at(start + minute * 60, USUAL) == 8)


@pytest.mark.parametrize(
    ("when", "first", "hours_held"),
    [
        ("22:00-06:00", "2026-03-28T12:00", 7),  # an hour of that night is skipped
        ("22:00-06:00", "2026-10-24T12:00", 9),  # and one comes twice
        ("22:00-06:00", "2026-06-24T12:00", 8),
        ("02:00-03:00", "2026-03-28T12:00", 0),
        ("02:00-03:00", "2026-10-24T12:00", 2),
        ("sun", "2026-03-29T00:00", 23),
        ("sun", "2026-10-25T01:00", 23),
        ("08:00-18:00", "2026-03-29T01:00", 10),
        ("08:00-18:00", "2026-10-25T01:00", 10),
    ],
)
def test_the_hours_are_what_the_clock_shows_when_clocks_are_changed(
    when: str, first: str, hours_held: int
) -> None:
    assert held_s(when, first, 23) == hours_held * 3600


MOMENTS = st.integers(int(at("2026-01-01T00:00")), int(at("2027-01-01T00:00")))
ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Cairo"]
SPANS = [
    "02:30-06:00",
    "22:00-06:00",
    "mon-fri 08:00-18:00",
    "sat-sun",
    "02:15-02:45",
    "sun 01:00-04:00",
    "23:30-00:30",
]


@given(
    start=MOMENTS,
    steps=st.lists(st.integers(0, 40_000), min_size=1, max_size=30),
    tz=st.sampled_from(ZONES),
    spans=st.lists(st.sampled_from(SPANS), min_size=1, max_size=3),
)
@example(int(at("2026-10-24T23:00")), [600] * 30, "Europe/Berlin", ["02:15-02:45"])
@example(int(at("2026-03-28T23:00")), [600] * 30, "Europe/Berlin", ["02:15-02:45"])
@example(int(at("2026-04-04T14:00")), [300] * 30, "Australia/Lord_Howe", ["sun 01:00-04:00"])
def test_what_is_remembered_is_what_would_be_found_anew(
    start: int, steps: list[int], tz: str, spans: list[str]
) -> None:
    def hours() -> list[Hours]:
        return [Hours(span, size=n) for n, span in enumerate(spans, 1)]

    schedule, now, zone = Schedule(hours(), tz=tz), float(start), ZoneInfo(tz)
    for step in steps:
        now += step
        shown = datetime.fromtimestamp(now, zone)
        minute = shown.hour * 60 + shown.minute
        found = [each.size for each in hours() if each.hold_at(shown.weekday(), minute)]
        assert schedule.size_at(now, USUAL) == (found[0] if found else USUAL)
        assert schedule.changes_at(now) > now


@given(moment=MOMENTS, tz=st.sampled_from(ZONES), spans=st.lists(st.sampled_from(SPANS), min_size=1))
def test_nothing_changes_before_it_is_said_to(moment: int, tz: str, spans: list[str]) -> None:
    hours = [Hours(span, size=n) for n, span in enumerate(spans, 1)]
    schedule = Schedule(hours, tz=tz)
    until = schedule.changes_at(moment)
    first = schedule.size_at(moment, USUAL)
    assert moment < until <= moment + 26 * 3600
    for part in range(20):
        between = moment + (until - moment) * part / 20
        assert Schedule(hours, tz=tz).size_at(between, USUAL) == first


def test_what_changes_next() -> None:
    schedule = Schedule([Hours("mon-fri 08:00-18:00", size=8)], tz="Europe/Berlin")
    moments = [at("2026-06-01T06:00", "Europe/Berlin")]
    for _ in range(4):
        moments.append(schedule.changes_at(moments[-1]))
    told = [datetime.fromtimestamp(moment, BERLIN).strftime("%a %H:%M") for moment in moments]
    assert told == ["Mon 06:00", "Mon 08:00", "Mon 18:00", "Tue 00:00", "Tue 08:00"]


def test_clocks_that_are_changed_are_a_change() -> None:
    """When it is 02:00 it is 03:00: by the calendar alone the next change would be at 06:00."""
    schedule = Schedule([Hours("02:15-02:45", size=8), Hours("06:00-07:00", size=4)], tz="Europe/Berlin")
    before = at("2026-03-29T00:30", "Europe/Berlin")
    assert schedule.changes_at(before) <= at("2026-03-29T01:00:00") == before + 90 * 60
    ahead, sizes = before, []
    while ahead < at("2026-03-29T08:00", "Europe/Berlin"):
        sizes.append(schedule.size_at(ahead, USUAL))
        ahead = schedule.changes_at(ahead)
    assert [new for old, new in pairwise([0, *sizes]) if new != old] == [USUAL, 4, USUAL]


@pytest.mark.parametrize(
    ("night", "expected"),
    [
        ("2026-03-29T01:00", {"01:45": USUAL, "03:00": 8, "03:20": 8}),  # 02:30 never comes
        ("2026-10-25T01:00", {"02:45": 8, "02:10 again": USUAL, "02:30 again": 8}),
    ],
    ids=["spring", "autumn"],
)
def test_an_hour_that_begins_where_clocks_are_changed(night: str, expected: dict[str, int]) -> None:
    schedule = Schedule([Hours("02:30-06:00", size=8)], tz="Europe/Berlin")
    found, begun = {}, at(night, "Europe/Berlin")
    for minute in range(0, 4 * 60, 5):
        shown = datetime.fromtimestamp(begun + minute * 60, BERLIN)
        size_then = schedule.size_at(begun + minute * 60, USUAL)
        found[f"{shown:%H:%M}{' again' * shown.fold}"] = size_then
    assert {moment: found[moment] for moment in expected} == expected


def test_a_clock_set_back_is_followed() -> None:
    schedule = Schedule([Hours("22:00-06:00", size=8)])
    night, day = at("2026-06-01T23:00"), at("2026-06-01T12:00")
    assert [schedule.size_at(moment, USUAL) for moment in (night, day, night, day)] == [8, USUAL, 8, USUAL]


def test_threads_that_ask_for_different_times_get_their_own_answers() -> None:
    schedule, wrong = Schedule([Hours("22:00-06:00", size=8)]), list[float]()

    def work(moment: float, expected: int) -> None:
        for _ in range(2000):
            if schedule.size_at(moment, USUAL) != expected or not schedule.changes_at(moment) > moment:
                wrong.append(moment)

    asked = [(at("2026-06-01T23:00"), 8), (at("2026-06-01T12:00"), USUAL)] * 2
    threads = [threading.Thread(target=work, args=each) for each in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not wrong


def test_the_usual_size_is_not_remembered() -> None:
    schedule = Schedule([Hours("22:00-06:00", size=8)])
    noon = at("2026-06-01T12:00")
    assert (schedule.size_at(noon, 5), schedule.size_at(noon, 7)) == (5, 7)


def test_nineteen_seventy_has_hours_too() -> None:
    """A virtual clock may begin at 0."""
    schedule = Schedule([Hours("00:00-01:00", size=8)])
    assert (schedule.size_at(0.0, USUAL), schedule.changes_at(0.0)) == (8, 3600.0)
    assert datetime.fromtimestamp(0, UTC) + timedelta(hours=1) == datetime.fromtimestamp(3600, UTC)


# -- settings --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("", "such as '22:00-06:00'"),
        ("22-06", "such as '22:00-06:00'"),
        ("22:00", "such as '22:00-06:00'"),
        ("mon 22:00-06:00 fri", "such as '22:00-06:00'"),
        ("monday", "'monday' is no day; days are mon, tue"),
        ("mon-fry", "'fry' is no day"),
        ("mon,,fri", "'' is no day"),
        ("25:00-06:00", "there is no 25:00"),
        ("24:30-06:00", "there is no 24:30"),
        ("22:75-06:00", "there is no 22:75"),
        ("24:00-06:00", "the day begins at '00:00'"),
        ("08:00-08:00", "it ends as it begins"),
        (22, "such as '22:00-06:00'"),
    ],
)
def test_hours_that_cannot_be_read(when: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Hours(when, size=8)
    assert said in str(caught.value)


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "8"])
def test_sizes_are_whole_and_at_least_1(number: int) -> None:
    with pytest.raises(ConfigError, match="whole number of at least 1"):
        Hours("sun", size=number)


@pytest.mark.parametrize("hours", [[], "22:00-06:00", Hours("sun", size=1), ["sun"], None])
def test_a_schedule_is_a_list_of_hours(hours: list[Hours]) -> None:
    with pytest.raises(ConfigError, match="give a list"):
        Schedule(hours)


def test_a_zone_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="Europe/Berlin"):
        Schedule([Hours("sun", size=1)], tz="Europe/Atlantis")
