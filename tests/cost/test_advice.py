"""What a ledger suggests, and that it keeps quiet where there is too little to go by."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tierllm.cost.advice import BudgetUse, advice_on, suggestions
from tierllm.cost.ledger import Entry, UsageLedger
from tierllm.cost.ledger_summary import UsageLine


def line(calls: int = 0, *, group: dict[str, str | None] | None = None, **sums: object) -> UsageLine:
    return UsageLine(group=group or {}, calls=calls, **sums)  # type: ignore[arg-type]


def told(**summaries: object) -> list[tuple[str, str]]:
    found = suggestions(**({"total": line(1_000, cost_usd=Decimal(100))} | summaries))  # type: ignore[arg-type]
    return [(one.kind, one.subject) for one in found]


def test_nothing_is_said_about_an_empty_ledger():
    assert advice_on(UsageLedger()) == []
    assert suggestions(total=line()) == []


@pytest.mark.parametrize(
    ("calls", "peak", "refused", "expected"),
    [
        (100, "4.99", 0, [("limit_loose", "daily")]),
        (100, "5", 0, []),
        (99, "1", 0, []),
        (100, "1", 1, []),
    ],
    ids=["loose", "half-used", "too-few-calls", "it-refused"],
)
def test_limits_that_are_never_reached(calls, peak, refused, expected):
    budget = BudgetUse("daily", Decimal(10), Decimal(peak))
    refusals = [line(group={"budget": "daily"}, refused=refused)]
    assert told(total=line(calls), budgets=[budget], refusals=refusals) == expected


@pytest.mark.parametrize(
    ("calls", "refused", "expected"),
    [
        (180, 20, [("limit_tight", "daily")]),
        (181, 20, []),
        (0, 100, [("limit_tight", "daily")]),
        (30, 19, []),
    ],
    ids=["a-tenth", "less", "all", "too-few"],
)
def test_limits_that_are_always_reached(calls, refused, expected):
    refusals = [line(group={"budget": "daily"}, refused=refused)]
    assert told(total=line(calls, refused=refused), refusals=refusals) == expected


def tier(name: str, usd: str, tokens: int = 1_000) -> UsageLine:
    return line(100, group={"tier": name}, cost_usd=Decimal(usd), output_tokens=tokens)


def route(calls: int = 100, *, output: int = 100, usd: str = "10", unpriced: int = 0) -> UsageLine:
    return line(
        calls,
        group={"route": "classify", "tier": "gold"},
        input_tokens=0,
        output_tokens=calls * output,
        cost_usd=Decimal(usd),
        unpriced=unpriced,
    )


TIERS = [tier("gold", "1.00"), tier("silver", "0.20"), tier("bronze", "0.01")]


@pytest.mark.parametrize(
    ("one", "tiers", "expected"),
    [
        (route(), TIERS, [("cheaper_tier", "classify")]),
        (route(output=101), TIERS, []),
        (route(99), TIERS, []),
        (route(usd="4.99"), TIERS, []),
        (route(unpriced=1), TIERS, []),
        (route(), [tier("gold", "1.00"), tier("silver", "0.60")], []),
        (route(), [tier("gold", "1.00")], []),
    ],
    ids=["short", "long", "few", "cheap-already", "price-unknown", "hardly-cheaper", "no-other"],
)
def test_routes_that_could_use_a_cheaper_tier(one, tiers, expected):
    assert told(routes=[one], tiers=tiers) == expected


def test_the_step_proposed_is_the_smallest_that_helps_and_its_saving_is_reckoned():
    (found,) = suggestions(total=line(1_000, cost_usd=Decimal(100)), routes=[route()], tiers=TIERS)
    assert "in silver" in found.text
    assert found.saves_usd == Decimal(10) - Decimal("0.0002") * 10_000
    assert "$8.00" in found.text
    assert "(100 tokens" in found.text


PRICE = (Decimal("1E-6"), Decimal("8E-6"))


def used(tier: str, route: str, each_input: int, each_output: int, share: str = "1") -> list[Entry]:
    usd = (PRICE[0] * each_input + PRICE[1] * each_output) * Decimal(share)
    return [
        Entry(
            id=f"{tier}-{route}-{n}",
            trace_id="t",
            at=float(n),
            tier=tier,
            route=route,
            input_tokens=each_input,
            output_tokens=each_output,
            cost_usd=usd,
        )
        for n in range(200)
    ]


@pytest.mark.parametrize("share", ["1", "0.1"], ids=["same-price", "cheaper"])
def test_tokens_are_compared_by_their_kinds(share):
    """Input is cheaper than output: a tier of long prompts is not a cheaper tier for that."""
    ledger = UsageLedger()
    for one in (*used("gold", "yesno", 10, 90), *used("silver", "rag", 10_000, 90, share)):
        ledger.post(one)
    found = [one for one in advice_on(ledger) if one.kind == "cheaper_tier"]
    assert found == []  # nobody knows what so much output would have cost there
    for one in used("silver", "short", 20, 90, share):
        ledger.post(one)
    found = [one for one in advice_on(ledger) if one.kind == "cheaper_tier" and one.subject == "yesno"]
    assert len(found) == (share == "0.1")
    for one in found:  # never more than is sure: 90 tokens of output in each, and half the input
        assert one.saves_usd is not None
        assert 0 < one.saves_usd <= 200 * (10 * PRICE[0] + 90 * PRICE[1]) * Decimal("0.9")


def test_what_a_cache_took_off_is_not_taken_for_a_low_price():
    costs = {"cost_usd": Decimal("0.01"), "list_usd": Decimal("1.00")}
    cached = line(100, group={"tier": "silver"}, output_tokens=1_000, **costs)
    assert told(routes=[route()], tiers=[TIERS[0], cached]) == []


def test_what_caches_saved():
    (found,) = suggestions(total=line(200, cached=50, saved_usd=Decimal("1234.5")))
    assert (found.kind, found.saves_usd) == ("cache_saved", Decimal("1234.5"))
    assert "$1,234.50" in found.text
    assert "50 of 200 calls (25%)" in found.text
    assert told(total=line(99, saved_usd=Decimal(5))) == []
    assert told(total=line(200, saved_usd=Decimal(-5))) == []


@pytest.mark.parametrize(
    ("compared", "error", "way"),
    [(30, "2", "20% too high"), (30, "-5", "50% too low"), (29, "9", None), (30, "1.9", None)],
    ids=["high", "low", "too-few", "near"],
)
def test_models_whose_estimates_are_off(compared, error, way):
    one = line(group={"model": "m"}, compared=compared, compared_usd=Decimal(10), error_usd=Decimal(error))
    found = suggestions(total=line(), models=[one])
    assert [text.text for text in found if way and way in text.text] == [text.text for text in found]
    assert len(found) == (way is not None)


def test_degraded_calls():
    assert told(total=line(200, degraded=10)) == [("degraded", "service")]
    assert told(total=line(200, degraded=9)) == []
    assert told(total=line(99, degraded=99)) == []


def test_models_without_a_price():
    assert told(models=[line(group={"model": "new"}, unpriced=1)]) == [("unpriced", "new")]


def test_from_a_ledger_dearest_first():
    ledger = UsageLedger()
    for number in range(400):
        gold = number % 2 == 0
        ledger.post(
            Entry(
                id=str(number),
                trace_id="t",
                at=float(number),
                outcome="refused" if number % 4 == 3 else "ok",
                budget="plan" if number % 4 == 3 else None,
                route="classify",
                tier="gold" if gold else "silver",
                model="big" if gold else "small",
                input_tokens=100,
                output_tokens=10,
                cost_usd=Decimal("0.10") if gold else Decimal("0.01"),
                list_usd=Decimal("0.11") if gold else Decimal("0.01"),
                estimate_usd=Decimal("0.10") if gold else Decimal("0.02"),
            )
        )
    found = advice_on(ledger)
    assert [(one.kind, one.subject) for one in found] == [
        ("cheaper_tier", "classify"),
        ("cache_saved", "caching"),
        ("estimate_off", "small"),
        ("limit_tight", "plan"),
    ]
    assert found[0].saves_usd == 200 * Decimal("0.09")
    assert found[1].saves_usd == 2
