"""What a cascade remembers, and what two steps cost together."""

from __future__ import annotations

from decimal import Decimal
from random import Random
from statistics import NormalDist, quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.cost.estimate import Cost, Latency
from tierllm.resilience.either import either_cost, either_latency
from tierllm.resilience.verdicts import KNOWN, RECENT, Verdicts


def test_the_rate_is_that_of_the_last_verdicts() -> None:
    verdicts = Verdicts()
    assert verdicts.rate() == 0.5
    verdicts.judged(0.1, good=False)
    assert verdicts.rate() == pytest.approx(2 / 3)
    for _ in range(10 * RECENT):
        verdicts.judged(0.9, good=True)
    assert verdicts.rate() == pytest.approx(1 / (RECENT + 2))
    assert verdicts.status()["escalation_rate"] == 0.0


def test_what_is_known_is_bounded() -> None:
    verdicts = Verdicts()
    for number in range(KNOWN + 10):
        verdicts.remember(b"slot", f"{number}", 0.6)
    assert not verdicts.knows(b"slot", "0", 0.5)
    assert verdicts.knows(b"slot", f"{KNOWN + 9}", 0.6)
    assert not verdicts.knows(b"slot", f"{KNOWN + 9}", 0.61), "more is wanted than it was worth"
    assert not verdicts.knows(b"other", f"{KNOWN + 9}", 0.5)
    verdicts.remember(b"", "no cache", 0.6)
    assert not verdicts.knows(b"", "no cache", 0.5)


def test_another_configuration_goes_on_with_them() -> None:
    older, newer = Verdicts(), Verdicts()
    for each in (older, newer):
        each.count("begun")
        each.judged(0.2, good=False)
        each.remember(b"slot", "text", 0.9)
        each.saved(Decimal(2))
    older.remember(b"slot", "older", 0.7)
    newer.inherit(older)
    status = newer.status()
    assert (status["begun"], status["poor"], status["saved_usd"]) == (2, 2, 4)
    assert newer.rate() == pytest.approx(3 / 4)
    assert newer.knows(b"slot", "older", 0.7)
    assert not newer.knows(b"slot", "older", 0.8)


def cost(p50: str, p90: str, most: str) -> Cost:
    sd = (Decimal(p90) - Decimal(p50)) / Decimal("1.2816")
    return Cost(Decimal(p50), Decimal(p90), Decimal(most), Decimal(p50), sd)


CHEAP, STRONG = cost("1", "1.5", "4"), cost("10", "14", "40")


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.5, 0.8, 0.98])
def test_two_steps_are_what_a_simulation_says(rate: float) -> None:
    rng = Random(7)
    spread = {each: NormalDist(float(each.p50), float(each.sd)) for each in (CHEAP, STRONG)}
    drawn = []
    for _ in range(40_000):
        total = rng.gauss(spread[CHEAP].mean, spread[CHEAP].stdev)
        if rng.random() < rate:
            total += rng.gauss(spread[STRONG].mean, spread[STRONG].stdev)
        drawn.append(total)
    tenths = quantiles(drawn, n=10)
    both = either_cost(CHEAP, STRONG, rate)
    assert both is not None
    assert float(both.p50) == pytest.approx(tenths[4], abs=1.5)
    assert float(both.p90) == pytest.approx(tenths[8], abs=1.5)
    assert float(both.mean) == pytest.approx(sum(drawn) / len(drawn), rel=0.03)
    mean = sum(drawn) / len(drawn)
    sd = (sum((each - mean) ** 2 for each in drawn) / len(drawn)) ** 0.5
    assert float(both.sd) == pytest.approx(sd, rel=0.05)
    assert both.max == Decimal(44)


money = st.decimals(0, 1000, places=9)


@given(a=st.tuples(money, money, money), b=st.tuples(money, money, money), rate=st.floats(0.001, 0.999))
def test_a_sum_is_in_order(a: tuple[Decimal, ...], b: tuple[Decimal, ...], rate: float) -> None:
    one, other = (Cost(*sorted(each), mean=sorted(each)[0]) for each in (a, b))
    both = either_cost(one, other, rate)
    assert both is not None
    assert 0 <= both.p50 <= both.p90 <= both.max == one.max + other.max
    assert both.mean >= one.mean
    seconds = either_latency(Latency(*map(float, sorted(a))), Latency(*map(float, sorted(b))), rate, 0.25)
    assert seconds is not None
    assert 0.25 <= seconds.p50 <= seconds.p90 <= seconds.p95


def test_what_is_not_known_stays_so() -> None:
    assert either_cost(None, STRONG, 0.5) is None
    assert either_cost(CHEAP, None, 0.5) is None
    assert either_latency(None, Latency(1, 2, 3), 0.5, 0.0) is None
