"""What is known of a deployment: its price now, by the price book's clock."""

from __future__ import annotations

import datetime

import pytest

from tierllm import Price
from tierllm.cost.estimator import CostEstimator
from tierllm.cost.place import Place
from tierllm.cost.prices import PriceBook

HOUR = 3600.0


def midnight(*day: int) -> float:
    return datetime.datetime(*day, tzinfo=datetime.UTC).timestamp()


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def output_rate(place: Place) -> str:
    assert place.price is not None
    return str(place.price.output_usd_per_mtok)


def test_prices_by_the_hour_change_by_the_hour() -> None:
    clock = Clock(midnight(2026, 11, 20))
    book = PriceBook.bundled(clock=clock)
    place = Place("gold", "deepseek", "deepseek-v4-flash", vendor="deepseek", book=book)
    seen = []
    for _ in range(48):
        found = book.find("deepseek-v4-flash", "deepseek")
        assert found is not None
        assert place.price == found.price
        seen.append(output_rate(place))
        clock.now += HOUR
    assert len(set(seen)) == 2
    assert seen[:24] == seen[24:]


def test_prices_by_the_day_change_on_the_day() -> None:
    clock = Clock(midnight(2026, 11, 30))
    place = Place("gold", "g", "gemini-4-argon", vendor="google", book=PriceBook.bundled(clock=clock))
    before = output_rate(place)
    clock.now = midnight(2026, 12, 1) - 1
    assert output_rate(place) == before
    clock.now += 1
    assert output_rate(place) != before


def test_an_estimator_knows_the_price_of_the_hour() -> None:
    clock = Clock(midnight(2026, 11, 20))
    estimator = CostEstimator(prices=PriceBook.bundled(clock=clock))

    def worst() -> object:
        cost = estimator.estimate("hi", model="deepseek-v4-flash", max_tokens=1_000_000).cost_usd
        assert cost is not None
        return cost.max

    night = worst()
    clock.now += 2 * HOUR
    assert worst() != night


def test_a_price_of_ones_own_does_not_change() -> None:
    clock = Clock(midnight(2026, 11, 20))
    own = Price(input_usd_per_mtok=1, output_usd_per_mtok=2)
    place = Place("gold", "d", "deepseek-v4-flash", price=own, book=PriceBook.bundled(clock=clock))
    for _ in range(24):
        assert place.price is own
        clock.now += HOUR


def test_it_is_looked_up_once_where_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = Clock(midnight(2026, 11, 20)), []
    book = PriceBook.bundled(clock=clock)
    place = Place("gold", "d", "gpt-5", vendor="openai", book=book)
    find = book.find
    monkeypatch.setattr(book, "find", lambda *args: asked.append(args) or find(*args))
    for _ in range(9):
        assert place.price is not None
        clock.now += 24 * HOUR
    assert len(asked) == 1
