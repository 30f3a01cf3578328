"""``tierllm usage``."""

from __future__ import annotations

import csv
import io
import json
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tierllm.cli.usage_arguments import moment, resolved
from tierllm.cost.ledger import Entry, UsageLedger

T0 = datetime(2026, 11, 20, 10, tzinfo=UTC).timestamp()


def write(path: Path, *entries: Entry) -> str:
    ledger = UsageLedger(path)
    for one in entries:
        ledger.post(one)
    ledger.close()
    return str(path)


def entry(number: int, **fields: object) -> Entry:
    return Entry(**{"id": f"e{number}", "trace_id": "t", "at": T0 + number, **fields})  # type: ignore[arg-type]


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    return write(
        tmp_path / "usage.db",
        entry(
            1, user="ann", tenant="acme", tier="gold", model="gpt", cost_usd=Decimal("1.5"), input_tokens=10
        ),
        entry(2, user="=1+1", tenant="acme", tier="gold", model="gpt", cost_usd=Decimal("0.0000001")),
        entry(3, user="ann", tier="silver", model="mini", tags=("a", "b"), cost_usd=Decimal("0.25")),
        entry(4, outcome="refused", budget="daily"),
        entry(5 + 86_400, model="new", output_tokens=3),
    )


TABLE = """\
user   calls  refused  failed  cached  input_tokens  output_tokens  cost_usd  saved_usd
ann        2        0       0       0            10              0  1.750000   0.000000
=1+1       1        0       0       0             0              0  0.000000   0.000000
-          1        1       0       0             0              3  0.000000   0.000000
total      4        1       0       0            10              3  1.750000   0.000000

calls without a known price, and so not in the sum: 1
"""


def test_by_user_as_a_table(tierllm, ledger):
    ran = tierllm("usage", ledger)
    assert (ran.code, ran.out, ran.err) == (0, TABLE, "")
    assert tierllm("usage", ledger).out == ran.out


def test_as_csv_nothing_is_a_formula_and_amounts_are_exact(tierllm, ledger):
    ran = tierllm("usage", ledger, "--by", "user,tier", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert [(row["user"], row["tier"], row["cost_usd"]) for row in rows] == [
        ("ann", "gold", "1.5"),
        ("ann", "silver", "0.25"),
        ("'=1+1", "gold", "0.0000001"),
        ("", "", "0"),
    ]


def test_as_json_with_a_total_that_counts_each_call_once(tierllm, ledger):
    told = json.loads(tierllm("usage", ledger, "--by", "tag", "--format", "json").out)
    assert told["by"] == ["tag"]
    assert [(line["tag"], line["cost_usd"]) for line in told["lines"]] == [
        (None, "1.5000001"),
        ("a", "0.25"),
        ("b", "0.25"),
    ]
    assert (told["total"]["calls"], told["total"]["cost_usd"]) == (4, "1.7500001")


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        (("--since", "2026-11-21"), 1),
        (("--until", "2026-11-21"), 3),
        (("--since", "2026-11-20T10:00:02", "--until", "2026-11-20T10:00:03+00:00"), 1),
        (("--since", "2026-11-20T19:00:02", "--tz", "Asia/Tokyo"), 3),
        (("--where", "user=ann"), 2),
        (("--where", "user=ann", "--where", "tier=gold"), 1),
        (("--where", "user="), 1),
        (("--where", "tag=a"), 1),
    ],
    ids=["since", "until", "times", "zone", "user", "two", "unset", "tag"],
)
def test_rows_are_chosen(tierllm, ledger, arguments, calls):
    told = json.loads(tierllm("usage", ledger, "--format", "json", *arguments).out)
    assert told["total"]["calls"] == calls


def test_days_of_a_time_zone(tierllm, ledger):
    ran = tierllm("usage", ledger, "--by", "day", "--format", "csv", "--tz", "Pacific/Auckland")
    assert [line.split(",")[0] for line in ran.out.splitlines()] == ["day", "2026-11-20", "2026-11-21"]


def test_since_some_time_ago(tierllm, tmp_path):
    now = time.time()
    path = write(tmp_path / "l.db", *(entry(n, at=now - 3_600 * n) for n in range(0, 60, 10)))
    for since, calls in (("15h", 2), ("2d", 5), ("1w", 6), ("601m", 2)):
        told = json.loads(tierllm("usage", path, "--since", since, "--format", "json").out)
        assert told["total"]["calls"] == calls


NIGHT = [
    ("2026-03-29T01:10", "30m", "2026-03-29T00:40"),
    ("2026-10-25T09:00", "12h", "2026-10-24T21:00"),
    ("2026-10-25T01:30", "30m", "2026-10-25T01:00"),
    ("2026-10-25T09:00", "1d", "2026-10-24T08:00"),
    ("2026-03-30T09:00", "1w", "2026-03-23T10:00"),
]


@pytest.mark.parametrize(("now", "ago", "expected"), NIGHT, ids=["spring", "hours", "autumn", "day", "week"])
def test_ago_where_clocks_are_changed(now, ago, expected):
    """Minutes and hours are as long as ever; a day ago is the same time of day."""
    at = datetime.fromisoformat(f"{now}+00:00").astimezone(ZoneInfo("Europe/Berlin"))
    found = resolved(moment(ago), at)
    assert found is not None
    assert found.timestamp() == datetime.fromisoformat(f"{expected}+00:00").timestamp()


def test_names_that_a_terminal_would_obey(tierllm, tmp_path):
    names = ["a\x1b[31mred", "a\u202eb", "a\x9b31m", "\udcff", "x" * 3_000, "ü ok"]
    path = write(tmp_path / "l.db", *(entry(n, user=name, tenant=name) for n, name in enumerate(names)))
    for arguments in ((), ("--format", "csv"), ("--format", "json"), ("--statement", "tenant=a\x1b[31mred")):
        ran = tierllm("usage", path, *arguments)
        assert ran.code == 0
        assert all(sign == "\n" or sign.isprintable() for sign in ran.out)
    told = json.loads(tierllm("usage", path, "--format", "json").out)
    assert {line["user"] for line in told["lines"]} == {*names[:3], "\\udcff", *names[4:]}
    assert "ü ok" in tierllm("usage", path, "--format", "json").out
    assert max(map(len, tierllm("usage", path).out.splitlines())) < 160


def test_a_name_that_is_no_utf_8_can_be_asked_for(tierllm, tmp_path):
    path = write(tmp_path / "l.db", entry(1, user="\udcff"), entry(2))
    told = json.loads(tierllm("usage", path, "--where", "user=\udcff", "--format", "json").out)
    assert told["total"]["calls"] == 1


STATEMENT = """\
Usage of tenant acme, from 2026-11-01 until 2026-12-01

tier   model  user  calls  input_tokens  output_tokens   cost_usd  cost_eur
gold   gpt    ann       1            10              0        1.5      1.38
gold   gpt    =1+1      1             0              0  0.0000001      0.00
total                   2            10              0  1.5000001      1.38

1 USD = 0.92 EUR
"""


def test_a_statement(tierllm, ledger):
    asked = ("usage", ledger, "--statement", "tenant=acme", "--currency", "EUR", "--rate", "0.92")
    asked = (*asked, "--since", "2026-11-01", "--until", "2026-12-01")
    assert tierllm(*asked).out == STATEMENT
    assert tierllm(*asked, "--format", "csv").out.splitlines()[2].startswith("gold,gpt,'=1+1,1,")
    assert json.loads(tierllm(*asked, "--format", "json").out)["total"]["amount"] == "1.38"
    by = tierllm("usage", ledger, "--statement", "tag=a", "--by", "model").out
    assert "mini" in by


def spender(path: Path, days: int, usd: str) -> str:
    """So much on each of the last ``days`` whole days."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    noons = [today - timedelta(days=n + 1) + timedelta(hours=12) for n in range(days)]
    return write(
        path, *(entry(n, at=noon.timestamp(), cost_usd=Decimal(usd)) for n, noon in enumerate(noons))
    )


def test_a_forecast(tierllm, tmp_path):
    path = spender(tmp_path / "l.db", 40, "10")
    ran = tierllm("usage", path, "--forecast", "--limit-usd", "100000")
    assert ran.code == 0
    assert "judged by 40 whole days, like weekdays\n" in ran.out
    assert ran.out.endswith("$100,000.00 is not expected to be reached\n")
    told = json.loads(tierllm("usage", path, "--limit-usd", "0.01", "--format", "json").out)
    assert (told["method"], told["confident"]) == ("weekday", True)
    assert told["falls_on"] is not None
    assert 0 <= Decimal(told["spent_usd"]) <= Decimal(told["expected_usd"]) <= 310


def test_a_forecast_from_too_little_says_so(tierllm, tmp_path):
    assert "too few to rely on" in tierllm("usage", spender(tmp_path / "3.db", 3, "1"), "--forecast").out
    empty = tierllm("usage", write(tmp_path / "0.db"), "--forecast", "--limit-usd", "5")
    assert "unknown, there is no whole day to judge by" in empty.out
    assert "reached" not in empty.out


def test_advice(tierllm, ledger):
    ran = tierllm("usage", ledger, "--advice")
    assert ran.out == "new: calls at no known price, counted as free: 1; give its deployment a price\n"
    told = json.loads(tierllm("usage", ledger, "--advice", "--format", "json").out)
    assert told["suggestions"][0]["kind"] == "unpriced"
    assert tierllm("usage", ledger, "--advice", "--until", "2026-11-21").out == "nothing to suggest\n"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--since", "yesterday"), 2, "'yesterday': give 7d"),
        (("--since", "2026-13-01"), 2, "give 7d"),
        (("--since", "999999w"), 1, "too long ago"),
        (("--tz", "Mars/Olympus"), 2, "no such time zone"),
        (("--by", "colour"), 1, "grouped by 'colour'"),
        (("--by", "user,"), 2, "commas"),
        (("--where", "user"), 2, "NAME=VALUE"),
        (("--where", "colour=red"), 1, "no 'colour'"),
        (("--where", "user=a", "--where", "user=b"), 1, "twice"),
        (("--statement", "user=a"), 1, "tenant=NAME"),
        (("--statement", "tenant=a", "--rate", "0"), 2, "above 0"),
        (("--statement", "tenant=a", "--rate", "2"), 1, "a dollar is a dollar"),
        (("--statement", "tenant=a", "--currency", "usd", "--rate", "2"), 1, "a dollar is a dollar"),
        (("--statement", "tenant=a", "--currency", "EUR", "--rate", "1e40"), 1, "EUR for a dollar"),
        (("--statement", "tenant=a", "--currency", "=X()", "--rate", "2"), 1, "give its code"),
        (("--rate", "2"), 1, "--rate does not go"),
        (("--forecast", "--since", "7d"), 1, "--since does not go"),
        (("--advice", "--format", "csv"), 1, "csv does not go"),
        (("--advice", "--forecast"), 2, "not allowed with"),
    ],
    ids=lambda value: "-".join(value).replace("--", "") if isinstance(value, tuple) else "",
)
def test_what_makes_no_sense(tierllm, ledger, arguments, code, told):
    ran = tierllm("usage", ledger, *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert told in ran.err
    assert "Traceback" not in ran.err


def test_a_file_that_is_not_there_is_not_made(tierllm, tmp_path):
    ran = tierllm("usage", str(tmp_path / "no.db"))
    assert (ran.code, ran.out) == (1, "")
    assert "there is no usage ledger at" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_something_else(tierllm, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no database at all\n" * 200)
    ran = tierllm("usage", str(path))
    assert (ran.code, ran.out) == (1, "")
    assert "not a database" in ran.err


def test_a_ledger_that_is_being_written_can_be_read(tierllm, tmp_path):
    writer = UsageLedger(tmp_path / "l.db")
    writer.post(entry(1, user="ann"))
    assert writer.flush()
    assert "ann" in tierllm("usage", str(tmp_path / "l.db")).out
    writer.post(entry(2, user="bob"))
    assert writer.flush()
    assert "bob" in tierllm("usage", str(tmp_path / "l.db")).out
    writer.close()
