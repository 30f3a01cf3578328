"""The usage ledger, in memory and in a file: rows, sums, groups."""

from __future__ import annotations

import decimal
import json
import random
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tierllm.cost.ledger import Entry, UsageLedger
from tierllm.cost.ledger_row import atto, strings, usd
from tierllm.cost.ledger_statement import csv_cell
from tierllm.errors import ConfigError, UsageError

T0 = datetime(2026, 11, 20, tzinfo=UTC).timestamp()


def entry(number: int = 0, **fields: object) -> Entry:
    return Entry(**{"id": f"e{number}", "trace_id": f"t{number}", "at": T0 + number, **fields})  # type: ignore[arg-type]


@pytest.fixture(params=["memory", "file"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path):
    made = UsageLedger(tmp_path / "l.db" if request.param == "file" else None, clock=lambda: T0)
    yield made
    made.close()


def filled(ledger: UsageLedger, *entries: Entry) -> UsageLedger:
    for one in entries:
        ledger.post(one)
    return ledger


FULL = Entry(
    id="e1",
    trace_id="t1",
    at=T0 + 0.25,
    outcome="cancelled",
    user="ü-42",
    tenant="acme",
    plan="free",
    tags=("a", 'q"uote', "line\nfeed", "back\\", ""),
    route="chat",
    run="r1",
    tier="gold",
    deployment="gpt-eu",
    model="gpt",
    input_tokens=1,
    output_tokens=2,
    cached_input_tokens=3,
    cache_write_tokens=4,
    reasoning_tokens=5,
    service_tier="flex",
    estimated=True,
    cost_usd=Decimal("0.000001234567890123"),
    estimate_usd=Decimal("-3.5"),
    reserved_usd=Decimal(0),
    list_usd=Decimal("345678.9"),
    price_as_of="2026-11-01",
    cached=True,
    degraded=("prompt", "tier"),
    request_id="req_1",
    latency_s=1.5,
    budget="daily",
)


def test_a_row_comes_back_as_it_was_posted(ledger):
    plain = entry(2)
    filled(ledger, FULL, plain)
    assert list(ledger.entries()) == [FULL, plain]


def test_rows_come_in_order_of_time_within_bounds(ledger):
    filled(ledger, *(entry(n) for n in (5, 1, 3, 2, 4)))
    assert [e.id for e in ledger.entries()] == ["e1", "e2", "e3", "e4", "e5"]
    assert [e.id for e in ledger.entries(T0 + 2, T0 + 4)] == ["e2", "e3"]
    since = datetime.fromtimestamp(T0 + 4, ZoneInfo("Asia/Tokyo"))
    assert [e.id for e in ledger.entries(since=since)] == ["e4", "e5"]


@pytest.mark.parametrize("name", ["user", "tenant", "plan", "route", "run", "request_id", "budget"])
def test_rows_can_be_chosen_by_what_may_be_unset(ledger, name):
    filled(ledger, entry(1, **{name: "x"}), entry(2, **{name: "y"}), entry(3))
    assert [e.id for e in ledger.entries(**{name: "x"})] == ["e1"]
    assert [e.id for e in ledger.entries(**{name: None})] == ["e3"]
    assert ledger.total(**{name: "y"}).calls == 1
    assert [(line.group[name], line.calls) for line in ledger.usage((name,))] == [
        (None, 1),
        ("x", 1),
        ("y", 1),
    ]


@pytest.mark.parametrize("name", ["tier", "deployment", "model", "trace_id", "outcome"])
def test_rows_can_be_chosen_by_what_is_always_set(ledger, name):
    filled(ledger, entry(1, **{name: "failed"}), entry(2, **{name: "ok"}))
    assert [e.id for e in ledger.entries(**{name: "failed"})] == ["e1"]
    assert {line.group[name] for line in ledger.usage((name,))} == {"failed", "ok"}


TAGS = ['"', "\\", '\\"', ",", "\n", '","', '"\n"', "a", "aa", "", "é", "\x1f", "\x00"]


@pytest.mark.parametrize("tag", TAGS, ids=[f"tag{n}" for n in range(len(TAGS))])
def test_a_tag_is_found_whatever_stands_in_it_and_nothing_else_is(ledger, tag):
    others = tuple(other for other in TAGS if other != tag)
    filled(ledger, entry(1, tags=(*others, tag)), entry(2, tags=others), entry(3, tags=(tag,)), entry(4))
    assert [e.id for e in ledger.entries(tag=tag)] == ["e1", "e3"]
    assert [e.id for e in ledger.entries(tag=None)] == ["e4"]


def test_a_call_counts_for_each_of_its_tags_and_once_in_the_total(ledger):
    cost = {"cost_usd": Decimal(1), "input_tokens": 10}
    filled(
        ledger,
        entry(1, tags=("a", "b"), user="u", **cost),
        entry(2, tags=("a", "a"), user="u", **cost),
        entry(3, **cost),
    )
    lines = ledger.usage(("tag",))
    assert [(line.group["tag"], line.calls, line.cost_usd) for line in lines] == [
        ("a", 2, 2),
        (None, 1, 1),
        ("b", 1, 1),
    ]
    assert ledger.total().cost_usd == 3
    assert [(line.group, line.calls) for line in ledger.usage(("user", "tag"), tag="b")] == [
        ({"user": "u", "tag": "b"}, 1),
    ]


def test_what_is_counted(ledger):
    one = Decimal(1)
    filled(
        ledger,
        entry(1, cost_usd=one, estimate_usd=3 * one, list_usd=2 * one, output_tokens=7, degraded=("tier",)),
        entry(2, cost_usd=3 * one, estimate_usd=one),
        entry(3, cost_usd=one, estimate_usd=9 * one, estimated=True),  # not compared: nothing was reported
        entry(4, outcome="failed", cost_usd=one, estimate_usd=9 * one),
        entry(5, outcome="cancelled", cost_usd=one),
        entry(6, outcome="refused", estimate_usd=one, budget="daily"),
        entry(7, outcome="cached", cached=True, cost_usd=Decimal(0), list_usd=5 * one),
        entry(8, input_tokens=4),  # no price
        entry(9, outcome="failed"),  # no price, and nothing used
    )
    total = ledger.total()
    assert (total.calls, total.refused, total.failed, total.cancelled) == (8, 1, 2, 1)
    assert (total.cached, total.degraded, total.unpriced) == (1, 1, 1)
    assert (total.cost_usd, total.list_usd, total.estimate_usd, total.saved_usd) == (7, 7, 23, 6)
    assert (total.compared, total.compared_usd, total.error_usd, total.abs_error_usd) == (2, 4, 0, 4)
    assert (total.mean_error_usd, total.mean_abs_error_usd, total.error_share) == (0, 2, 0)


def test_nothing_is_one_line_of_zeros_in_total_and_no_groups(ledger):
    total = ledger.total(since=0)
    assert (total.group, total.calls, total.cost_usd, total.mean_error_usd) == ({}, 0, 0, None)
    assert ledger.usage() == []
    assert ledger.estimate_error() == []
    assert list(ledger.entries()) == []


def test_the_dearest_group_is_first_and_times_are_in_order(ledger):
    filled(
        ledger,
        entry(1, user="cheap", cost_usd=Decimal(1)),
        entry(2, user="dear", cost_usd=Decimal(5)),
        entry(3 + 86_400, user="cheap", cost_usd=Decimal(9)),
    )
    assert [line.group["user"] for line in ledger.usage()] == ["cheap", "dear"]
    assert [tuple(line.group.values()) for line in ledger.usage(("user", "day"))] == [
        ("dear", "2026-11-20"),
        ("cheap", "2026-11-20"),
        ("cheap", "2026-11-21"),
    ]


@pytest.mark.parametrize(
    ("zone", "by", "expected"),
    [
        (None, "day", {"2026-10-24": 2, "2026-10-25": 24, "2026-10-26": 1}),
        (None, "month", {"2026-10": 27}),
        ("Europe/Berlin", "day", {"2026-10-25": 25, "2026-10-26": 2}),
        ("Asia/Kathmandu", "day", {"2026-10-25": 21, "2026-10-26": 6}),
    ],
    ids=["utc-day", "utc-month", "a-day-of-25-hours", "quarter-hours"],
)
def test_days_are_those_of_a_time_zone(ledger, zone, by, expected):
    first = datetime(2026, 10, 24, 22, tzinfo=UTC).timestamp()  # midnight in Berlin, before clocks go back
    hours = [entry(n, at=first + 3600 * n) for n in range(27)]
    filled(ledger, *hours)
    lines = ledger.usage((by,), tz=None if zone is None else ZoneInfo(zone))
    assert {line.group[by]: line.calls for line in lines} == expected


def test_the_last_moment_of_a_day_is_that_days(ledger):
    import math

    midnight = datetime(2026, 11, 21, tzinfo=UTC).timestamp()
    filled(ledger, entry(1, at=math.nextafter(midnight, 0)), entry(2, at=midnight))
    assert [line.group["day"] for line in ledger.usage(("day",))] == ["2026-11-20", "2026-11-21"]


def test_an_hour_that_comes_twice_is_two_hours(ledger):
    at = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
    filled(ledger, entry(1, at=at), entry(2, at=at + 3600))
    lines = ledger.usage(("hour",), tz=ZoneInfo("Europe/Berlin"))
    assert {line.group["hour"] for line in lines} == {"2026-10-25 02:00+0200", "2026-10-25 02:00+0100"}


def test_hours_of_an_autumn_night_are_in_the_order_of_time(ledger):
    late = datetime(2026, 10, 24, 23, 30, tzinfo=UTC).timestamp()
    filled(ledger, *(entry(n, at=late + 3_600 * n) for n in range(4)))
    hours = [line.group["hour"] for line in ledger.usage(("hour",), tz=ZoneInfo("Europe/Berlin"))]
    assert [hour[11:] for hour in hours] == ["01:00+0200", "02:00+0200", "02:00+0100", "03:00+0100"]


def test_sums_are_exact_whatever_the_decimal_context(ledger):
    costs = [Decimal("789456.000000000000000001"), Decimal("0.000000000000000001"), Decimal("1E-18")]
    with decimal.localcontext(prec=6):
        filled(ledger, *(entry(n, cost_usd=cost) for n, cost in enumerate(costs)))
        assert str(ledger.total().cost_usd) == "789456.000000000000000003"


def test_a_row_counts_once_however_often_it_comes(ledger):
    for _ in range(3):
        filled(ledger, entry(1, cost_usd=Decimal(1)), entry(1, cost_usd=Decimal(1)))
        assert ledger.flush()
    assert ledger.total().cost_usd == 1


BAD = {
    "nan": {"cost_usd": Decimal("NaN")},
    "signalling": {"estimate_usd": Decimal("sNaN")},
    "infinite": {"list_usd": Decimal("Infinity")},
    "huge": {"reserved_usd": Decimal("1E30")},
    "no-time": {"at": float("nan")},
    "tokens": {"input_tokens": 10**30},
    "milliseconds": {"at": T0 * 1000},
    "no-id": {"id": ""},
    "not-money": {"cost_usd": "1"},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_row_that_cannot_be_kept_is_left_out_and_told_of(ledger, bad):
    events = []
    ledger.emit = events.append
    filled(ledger, entry(1), entry(2, **bad), entry(3))
    assert ledger.flush()
    assert [e.id for e in ledger.entries()] == ["e1", "e3"]
    assert len(events) == 1
    assert (events[0].store, events[0].ok) == ("ledger", False)
    assert "left out" in events[0].text


def test_half_a_surrogate_pair_and_a_number_for_a_name_do_no_harm(ledger):
    filled(ledger, entry(1, user="\ud800", tags=("\udfff",)), entry(2, user=42), entry(3, user="42"))
    assert len(list(ledger.entries())) == 3
    assert ledger.total().calls == 3
    assert ledger.total(user="\ud800").calls == 1
    assert ledger.total(tag="\udfff").calls == 1
    assert [(line.group["user"], line.calls) for line in ledger.usage()] == [("42", 2), ("\\ud800", 1)]
    assert [one.user for one in ledger.entries(user="42")] == ["42", "42"]


def test_a_list_of_tags_is_as_good_as_a_tuple(ledger):
    filled(ledger, entry(1, tags=["a", 7, "\ud800"], degraded=["tier"]), entry(2, tags=None))
    assert [one.tags for one in ledger.entries()] == [("a", "7", "\\ud800"), ()]
    assert {line.group["tag"] for line in ledger.usage(("tag",))} == {"a", "7", "\\ud800", None}


class Poison:
    """What an application may have put into a field by mistake."""

    def __str__(self) -> str:
        raise RuntimeError("do not tell: secret")


@pytest.mark.parametrize("field", ["user", "id", "tags"])
def test_a_row_that_blows_up_is_left_out_counted_and_told_of(ledger, field):
    events = []
    ledger.emit = events.append
    poison = (Poison(),) if field == "tags" else Poison()
    filled(ledger, entry(1), entry(2, **{field: poison}), entry(3))
    assert ledger.flush()
    assert [e.id for e in ledger.entries()] == ["e1", "e3"]
    assert (ledger.unfit, ledger.lost, ledger.waiting) == (1, 0, 0)
    assert "RuntimeError" in events[0].text
    assert "secret" not in events[0].text


def test_the_dearest_calls_there_are_can_be_added_up(ledger):
    filled(ledger, *(entry(n, cost_usd=Decimal(1_000_000), input_tokens=10**9) for n in range(1_000)))
    assert ledger.total().cost_usd == 10**9
    filled(ledger, entry(5_000, cost_usd=Decimal("1000000.01")))
    assert ledger.flush()
    assert ledger.unfit == 1


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (lambda x: x.usage(("colour",)), "grouped by 'colour'"),
        (lambda x: x.usage(("user", "user")), "twice"),
        (lambda x: x.total(colour="red"), "'colour'"),
        (lambda x: x.entries(since=datetime(2026, 1, 1)), "time zone"),
        (lambda x: x.total(since=float("nan")), "since=nan"),
        (lambda x: x.statement(), "tenant="),
        (lambda x: x.statement(tenant="a", tag="b"), "one of them"),
        (lambda x: x.statement(tenant="a", currency="EUR", rate=0.92), "exactly"),
        (lambda x: x.statement(tenant="a", rate=2), "a dollar is a dollar"),
        (lambda x: x.statement(tenant="a", currency="EUR", rate="-1"), "EUR for a dollar"),
        (lambda x: x.statement(tenant="a", currency="EUR", rate="1e40"), "EUR for a dollar"),
        (lambda x: x.statement(tenant="a", currency="=X()", rate="2"), "give its code"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_questions_that_make_no_sense(ledger, asked, told):
    with pytest.raises(ConfigError, match=told):
        asked(ledger)


@pytest.mark.parametrize("option", ["retention_days", "max_rows", "max_waiting"])
def test_settings_are_above_zero(option):
    with pytest.raises(ConfigError, match=option):
        UsageLedger(**{option: 0})


def test_memory_keeps_the_last_rows_only():
    ledger = UsageLedger(max_rows=3)
    filled(ledger, *(entry(n) for n in range(10)))
    assert [e.id for e in ledger.entries()] == ["e7", "e8", "e9"]


def test_memory_forgets_what_is_too_old():
    ledger = UsageLedger(retention_days=1, clock=lambda: T0 + 86_400)
    filled(ledger, entry(-5), entry(-1), entry(0), entry(1))
    assert [e.id for e in ledger.entries()] == ["e0", "e1"]


def test_estimate_errors_by_model_worst_first(ledger):
    def call(number: int, model: str, estimate: str) -> Entry:
        return entry(number, model=model, cost_usd=Decimal("0.10"), estimate_usd=Decimal(estimate))

    filled(
        ledger,
        call(1, "good", "0.11"),
        call(2, "bad", "0.30"),
        call(3, "low", "0.05"),
        entry(4, model="none"),
    )
    lines = ledger.estimate_error()
    assert [(line.group["model"], round(line.error_share, 3)) for line in lines] == [
        ("bad", 2.0),
        ("low", -0.5),
        ("good", 0.1),
    ]
    assert lines[1].mean_error_usd == Decimal("-0.05")
    assert lines[1].mean_abs_error_usd == Decimal("0.05")


# -- statements ----------------------------------------------------------------------


def test_a_statement(ledger):
    filled(
        ledger,
        entry(1, tenant="acme", tier="gold", model="gpt", user="=cmd()", cost_usd=Decimal("1.005")),
        entry(2, tenant="acme", tier="gold", model="gpt", user="ann", cost_usd=Decimal("2")),
        entry(3, tenant="acme", outcome="refused"),
        entry(4, tenant="else", cost_usd=Decimal("100")),
        entry(5, tenant="acme", tier="gold", model="new", user="ann", input_tokens=1),
    )
    made = ledger.statement(tenant="acme", since=T0, until=T0 + 86_400, currency="EUR", rate=Decimal("0.92"))
    assert made.total.cost_usd == Decimal("3.005")
    assert made.as_text() == (
        "Usage of tenant acme, from 2026-11-20 until 2026-11-21\n"
        "\n"
        "tier   model  user    calls  input_tokens  output_tokens  cost_usd  cost_eur\n"
        "gold   gpt    ann         1             0              0         2      1.84\n"
        "gold   gpt    =cmd()      1             0              0     1.005      0.92\n"
        "gold   new    ann         1             1              0         0      0.00\n"
        "total                     3             1              0     3.005      2.76\n"
        "\n"
        "1 USD = 0.92 EUR\n"
        "calls without a known price, and so not in the sum: 1\n"
    )
    assert made.to_csv().splitlines()[2] == "gold,gpt,'=cmd(),1,0,0,1.005,0.92"
    told = json.loads(json.dumps(made.to_dict()))
    assert (told["total"]["cost_usd"], told["total"]["amount"], told["rate"]) == ("3.005", "2.76", "0.92")
    assert told["since"] == "2026-11-20T00:00:00+00:00"


def test_a_statement_by_tag_in_dollars_may_be_empty(ledger):
    made = ledger.statement(tag="nobody")
    assert made.lines == ()
    assert "Usage of tag nobody" in made.as_text()
    assert made.to_csv() == "calls,input_tokens,output_tokens,cost_usd\n0,0,0,0\n"


def test_a_statement_by_tag_bills_a_call_once(ledger):
    filled(ledger, entry(1, tags=("x", "y"), cost_usd=Decimal(1)), entry(2, tags=("x",), cost_usd=Decimal(2)))
    made = ledger.statement(tag="x", by=("tag",))
    assert [(line.group["tag"], line.cost_usd) for line in made.lines] == [("x", 3)]
    assert made.total.cost_usd == 3


@pytest.mark.parametrize("rate", ["1E12", "1E-12", "0.92"])
def test_amounts_do_not_depend_on_the_decimal_context(ledger, rate):
    filled(ledger, entry(1, tenant="a", cost_usd=Decimal("123456.789")))
    with decimal.localcontext(prec=6):
        made = ledger.statement(tenant="a", currency="EUR", rate=rate)
        text = made.as_text()
    assert f"{(Decimal('123456.789') * Decimal(rate)).quantize(Decimal('0.01')):f}" in text


def test_a_dollar_is_a_dollar_however_it_is_written(ledger):
    filled(ledger, entry(1, tenant="a", cost_usd=Decimal(2)))
    with pytest.raises(ConfigError, match="a dollar is a dollar"):
        ledger.statement(tenant="a", currency="usd", rate="2")
    assert "cost_usd\n" in ledger.statement(tenant="a", currency="usd").to_csv()


def test_names_cannot_break_a_statement(ledger):
    filled(ledger, entry(1, tenant="a", user="x\n\x1b[31mtotal", cost_usd=Decimal(1)))
    made = ledger.statement(tenant="a")
    for text in (made.as_text(), made.to_csv()):
        assert "\x1b" not in text
        assert "x\\n\\x1b[31mtotal" in text
    assert len(made.as_text().splitlines()) == 5
    assert len(made.to_csv().splitlines()) == 3


@pytest.mark.parametrize("name", ["=1+1", "  =1+1", "\t=1", "\uff1d1+1", "\u00a0@x", "-1"])
def test_no_name_is_a_formula(name):
    assert csv_cell(name).startswith("'")


def test_a_very_long_name_is_cut_in_tables_only(ledger):
    filled(ledger, entry(1, tenant="a", user="x" * 3_000))
    made = ledger.statement(tenant="a")
    assert max(map(len, made.as_text().splitlines())) < 200
    assert "x" * 3_000 in made.to_csv()


# -- promises ------------------------------------------------------------------------

money = st.none() | st.decimals(-1000, 1000, places=18) | st.decimals(0, 1, places=9)
names = st.sampled_from([None, "a", "b"])
rows = st.builds(
    Entry,
    id=st.integers(0, 30).map(str),
    trace_id=st.just("t"),
    at=st.floats(T0, T0 + 3 * 86_400),
    outcome=st.sampled_from(["ok", "failed", "cancelled", "refused", "cached"]),
    user=names,
    tenant=names,
    tags=st.lists(st.sampled_from(["x", "y", "z"]), max_size=3).map(tuple),
    tier=st.sampled_from(["gold", "silver"]),
    input_tokens=st.integers(0, 10**9),
    output_tokens=st.integers(0, 10**9),
    estimated=st.booleans(),
    cost_usd=money,
    estimate_usd=money,
    list_usd=money,
    cached=st.booleans(),
)
steps = st.lists(st.sampled_from(["flush", "reopen"]) | rows, max_size=40)
questions = st.lists(
    st.sampled_from(["user", "tenant", "tag", "tier", "outcome", "day"]), unique=True, max_size=3
)


def expected(kept: list[Entry], by: list[str]) -> dict[tuple[str | None, ...], dict[str, object]]:
    """Groups and their sums, the plain way."""

    def keys(one: Entry) -> list[tuple[str | None, ...]]:
        found: list[tuple[str | None, ...]] = [()]
        for name in by:
            if name == "tag":
                values = sorted(set(one.tags)) or [None]
            elif name == "day":
                values = [f"{datetime.fromtimestamp(int(one.at), UTC):%Y-%m-%d}"]
            else:
                values = [getattr(one, name)]
            found = [(*key, value) for key in found for value in values]
        return found

    groups: dict[tuple[str | None, ...], list[Entry]] = {} if by else {(): []}
    for one in kept:
        for key in keys(one):
            groups.setdefault(key, []).append(one)

    def total(amounts) -> Decimal:
        with decimal.localcontext(prec=100):
            return sum(amounts, Decimal(0))

    told = {}
    for key, members in groups.items():
        both = [e for e in members if e.cost_usd is not None and e.list_usd is not None]
        compared = [
            e
            for e in members
            if e.outcome == "ok"
            and not e.cached
            and not e.estimated
            and e.cost_usd is not None
            and e.estimate_usd is not None
        ]
        told[key] = {
            "calls": sum(e.outcome != "refused" for e in members),
            "refused": sum(e.outcome == "refused" for e in members),
            "cached": sum(e.cached or e.outcome == "cached" for e in members),
            "input_tokens": sum(e.input_tokens for e in members),
            "output_tokens": sum(e.output_tokens for e in members),
            "cost_usd": total(e.cost_usd for e in members if e.cost_usd is not None),
            "list_usd": total(e.list_usd for e in members if e.list_usd is not None),
            "estimate_usd": total(e.estimate_usd for e in members if e.estimate_usd is not None),
            "saved_usd": total(e.list_usd - e.cost_usd for e in both),
            "compared": len(compared),
            "compared_usd": total(e.cost_usd for e in compared),
            "error_usd": total(e.estimate_usd - e.cost_usd for e in compared),
            "abs_error_usd": total(abs(e.estimate_usd - e.cost_usd) for e in compared),
        }
    return told


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps, by=questions, since=st.none() | st.floats(T0, T0 + 86_400), user=names)
def test_sums_are_those_of_the_rows_in_any_order_of_events(tmp_path_factory, steps, by, since, user):
    path = tmp_path_factory.mktemp("ledger") / "l.db"
    file, memory = UsageLedger(path), UsageLedger()
    kept: dict[str, Entry] = {}
    for step in steps:
        if step == "flush":
            assert file.flush()
            assert memory.flush()
        elif step == "reopen":
            file.close()
            file = UsageLedger(path)
        else:
            file.post(step)
            memory.post(step)
            kept.setdefault(step.id, step)
    where = {} if user is None else {"user": user}
    wanted = [
        e for e in kept.values() if (since is None or e.at >= since) and (user is None or e.user == user)
    ]
    model = expected(wanted, by)
    for ledger in (file, memory):
        lines = ledger.usage(by, since, **where)
        found = {
            tuple(line.group.values()): {name: getattr(line, name) for name in next(iter(model.values()))}
            for line in lines
        }
        assert found == model
        assert len(list(ledger.entries(since, **where))) == len(wanted)
    assert file.usage(by, since, **where) == memory.usage(by, since, **where)
    file.close()


@given(st.decimals(-(10**9), 10**9, allow_nan=False, allow_infinity=False))
def test_money_is_the_nearest_that_can_be_kept(amount):
    kept = usd(atto(amount))
    with decimal.localcontext(prec=200):
        assert abs(kept - amount) * 2 <= Decimal("1E-18")
    assert atto(kept) == atto(amount)


@given(st.lists(st.text(), max_size=5))
def test_joined_strings_come_apart_again(texts):
    from tierllm.cost.ledger_row import _joined

    assert strings(_joined(tuple(texts))) == texts


def test_a_read_only_ledger_takes_no_rows(tmp_path):
    with pytest.raises(ConfigError, match="which file"):
        UsageLedger(read_only=True)
    filled(UsageLedger(tmp_path / "l.db"), entry(1)).close()
    reader = UsageLedger(tmp_path / "l.db", read_only=True)
    with pytest.raises(UsageError, match="read_only"):
        reader.post(entry(2))
    assert reader.total().calls == 1
    reader.close()


def test_the_same_rows_in_any_order_give_the_same_lines(tmp_path):
    rng = random.Random(5)
    posted = [
        entry(n, user=rng.choice("abc"), tier=rng.choice("gs"), cost_usd=Decimal(rng.randrange(5)))
        for n in range(60)
    ]
    told = []
    for turn in range(3):
        rng.shuffle(posted)
        ledger = filled(UsageLedger(tmp_path / f"{turn}.db"), *posted)
        told.append(ledger.usage(("user", "tier")))
        ledger.close()
    assert told[0] == told[1] == told[2]


def test_reprs_and_events_hold_no_rows(ledger):
    filled(ledger, FULL)
    assert "acme" not in repr(ledger)


@pytest.mark.parametrize(
    ("amount", "kept"),
    [("0.5", 0), ("1.5", 2), ("2.5", 2), ("-0.5", 0), ("-1.5", -2), ("0.51", 1), ("-0.51", -1)],
    ids=str,
)
def test_halves_are_rounded_to_even(amount, kept):
    assert atto(Decimal(f"{amount}E-18")) == kept
