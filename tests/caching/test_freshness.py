"""How long an answer is good for, in virtual time: fresh, old but served, and old when all else is out."""

from __future__ import annotations

import math
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caching.kept import CachedWorld
from client.forms import Form, every_form
from tierllm import Budget, Deployment, Price, Tier
from tierllm.caching.memory_layer import MemoryLayer
from tierllm.caching.renewal import MOST_AT_ONCE, TRY_AGAIN_S
from tierllm.errors import AllTiersFailedError, BudgetExceededError, CacheMissError, DeadlineExceededError
from tierllm.events import CacheRefreshed
from tierllm.testing import Fail, FakeProvider, Reply

PRICE = Price(input_usd_per_mtok=1000, output_usd_per_mtok=1000)


def numbered(latency_s: float = 0.0, **provider: Any) -> FakeProvider:
    """A provider that counts its answers."""
    numbers = iter(range(10_000))
    return FakeProvider(answer=lambda call: Reply(f"number {next(numbers)}"), latency_s=latency_s, **provider)


def test_an_answer_is_fresh_for_its_time_and_not_a_moment_longer() -> None:
    world = CachedWorld(cache={"ttl_s": 100})
    assert world.how() == "miss"
    world.pass_s(99.9)
    response = world.call().ok
    assert response.cached
    assert response.age_s == pytest.approx(99.9)
    assert response.degraded == ()
    world.pass_s(0.1)
    assert world.how() == "miss"


def test_each_tier_has_its_time() -> None:
    world = CachedWorld(cache={"ttl_s": {"gold": 100, "*": 10}})
    world.call("a", sla="gold")
    world.call("b", sla="bronze")
    world.pass_s(9)
    assert world.how("b", sla="bronze") == "hit"
    world.pass_s(1)
    assert world.how("b", sla="bronze") == "miss"
    world.pass_s(89)
    assert world.how("a") == "hit"
    world.pass_s(1)
    assert world.how("a") == "miss"


def test_a_tier_without_a_time_keeps_nothing_that_is_fresh() -> None:
    world = CachedWorld(cache={"ttl_s": {"gold": 100}})
    assert [world.how(sla="bronze") for _ in range(2)] == ["miss", "miss"]
    assert [world.how(sla="gold") for _ in range(2)] == ["miss", "hit"]


def test_a_call_has_its_time() -> None:
    world = CachedWorld(cache={"ttl_s": 100})
    world.call("short", cache_ttl_s=5)
    world.call("long", cache_ttl_s=500)
    world.call("none", cache_ttl_s=0)
    assert world.how("none") == "miss"
    world.pass_s(5)
    assert world.how("short") == "miss"
    world.pass_s(400)
    assert world.how("long") == "hit"


def test_a_layer_has_its_time() -> None:
    def layers(clock: Any) -> list[MemoryLayer]:
        upper, lower = MemoryLayer(clock=clock), MemoryLayer(clock=clock)
        upper.name, lower.name = "upper", "lower"
        upper.ttl_s = 10
        return [upper, lower]

    world = CachedWorld(layers=layers, cache={"ttl_s": 100})
    world.call()

    def layer() -> str | None:
        trace = world.call().ok.trace
        assert trace is not None
        return trace.cache_layer

    assert layer() == "upper"
    world.pass_s(10)
    assert layer() == "lower"
    assert layer() == "upper", "it was filled up"
    world.pass_s(89)
    assert layer() == "lower"
    assert layer() == "upper"
    world.pass_s(1)
    assert layer() is None, "filled up, it lives no longer than it did"


def test_jitter_shortens_the_time_by_its_part_at_most_and_spreads_it() -> None:
    world = CachedWorld(cache={"ttl_s": 1000, "jitter": 0.2}, seed=1)
    for n in range(300):
        world.call(f"q{n}")
    fresh = []
    for at in range(780, 1001, 10):
        world.time.run(until=float(at))
        fresh.append(
            sum(isinstance(world.call(f"q{n}", cache="only").error, CacheMissError) for n in range(300))
        )
    assert fresh[2] == 0, "until 800 s nothing has gone"
    assert fresh[-1] == 300
    steps = [after - before for before, after in pairwise(fresh[2:])]
    assert max(steps) < 45, steps
    assert min(steps) > 0, steps


# -- stale while revalidate ------------------------------------------------------------


def swr(fake: FakeProvider | None = None, **options: Any) -> CachedWorld:
    fake = fake or numbered(latency_s=1.0)
    cache = {"ttl_s": 100, "stale_while_revalidate_s": 50, **options.pop("cache", {})}
    tiers = [Tier("gold", [Deployment("g", fake, price=PRICE)])]
    return CachedWorld(tiers, fake=fake, cache=cache, **options)


@pytest.mark.parametrize("streaming", [False, True])
def test_an_old_answer_is_served_at_once_and_made_anew_once(streaming: bool) -> None:
    world = swr()
    world.call(streaming=streaming)
    world.pass_s(110)
    told = world.call(streaming=streaming)
    assert (told.ok.text, told.took_s) == ("number 0", 0.0)
    assert told.ok.degraded == ()
    assert told.ok.age_s == pytest.approx(110.0)
    assert told.ok.trace is not None
    assert told.ok.trace.cache == "stale"
    world.pass_s(2)
    after = world.call(streaming=streaming).ok
    assert (after.text, after.trace and after.trace.cache) == ("number 1", "hit")
    assert world.fake.calls == 2
    stats = world.cache.stats()
    assert (stats.stale, stats.refreshed, stats.misses) == (1, 1, 1)
    assert [event.error for event in world.told(CacheRefreshed)] == [None]  # type: ignore[attr-defined]


def test_many_at_once_get_the_old_answer_and_one_makes_it_anew() -> None:
    world = swr()
    world.call()
    world.pass_s(110)
    begun = [world.begin() for _ in range(50)]
    world.pass_s(0.5)
    begun += [world.begin() for _ in range(50)]
    assert all(each.ok.text == "number 0" for each in begun)
    world.pass_s(5)
    assert world.fake.calls == 2
    assert world.call().ok.text == "number 1"


def test_a_renewal_that_fails_hurts_nobody_and_is_tried_again() -> None:
    world = swr(retry=False, breaker=False)
    world.call()
    world.pass_s(110)
    world.fake.script("g", Fail.unavailable(), Fail.unavailable())
    for n in (1, 2):
        for _ in range(3):  # of which but one tries, for a while
            assert world.call().ok.text == "number 0"
            world.pass_s(2)
        assert world.cache.stats().refresh_failures == n
    assert [event.error for event in world.told(CacheRefreshed)] == [  # type: ignore[attr-defined]
        "ProviderUnavailableError"
    ] * 2
    assert world.call().ok.text == "number 0"
    world.pass_s(2)
    assert world.call().ok.text == "number 1"


def test_after_the_grace_it_is_a_miss() -> None:
    world = swr()
    world.call()
    world.pass_s(149.5)
    assert world.how() == "stale"
    world.pass_s(0.4)
    world.client.close()  # the renewal comes to nothing
    world = swr()
    world.call()
    world.pass_s(151)
    assert world.how() == "miss"
    assert world.fake.calls == 2


def test_a_miss_joins_the_renewal_that_is_under_way() -> None:
    world = swr(numbered(latency_s=10.0), timeouts=None)
    world.call()
    world.pass_s(145)
    assert world.how() == "stale"
    world.pass_s(6)
    told = world.call().ok
    assert (told.text, told.trace and told.trace.cache) == ("number 1", "joined")
    assert world.fake.calls == 2


def test_a_renewal_is_paid_by_the_caller() -> None:
    world = swr(budgets=[Budget(hard_usd=100, per="user", name="user")])
    world.call(user="ann")
    world.pass_s(110)
    told = world.call(user="ann").ok
    assert told.cost_usd == 0
    world.pass_s(5)
    bill = world.client.usage(user="ann")
    assert (bill.calls, bill.cached) == (3, 1)
    (left,) = world.client.remaining(user="ann")
    assert left.used == bill.cost_usd


def test_a_renewal_that_the_callers_budget_refuses_hurts_nobody() -> None:
    world = swr(budgets=[Budget(hard_calls=1, per="user", name="user")])
    world.call(user="ann")
    assert isinstance(world.call("other", user="ann").error, BudgetExceededError)
    world.pass_s(110)
    for n in (1, 2):
        told = world.call(user="ann").ok
        assert (told.text, told.cost_usd) == ("number 0", 0)
        world.pass_s(5)
        assert world.cache.stats().refresh_failures == n
    assert world.fake.calls == 1
    assert world.call(user="bob").ok.text == "number 0", "who still has money"
    world.pass_s(5)
    assert world.call(user="ann").ok.text == "number 1"


def test_what_is_invalid_is_not_served_while_it_is_made_anew() -> None:
    world = swr()
    world.call(tags=["t"])
    world.pass_s(110)
    world.cache.invalidate(tag="t")
    assert world.how() == "miss"


def test_a_renewal_begun_before_an_invalidation_is_not_served_after_it() -> None:
    world = swr(numbered(latency_s=2.0))
    world.call(tags=["t"])
    world.pass_s(110)
    assert world.how(tags=["t"]) == "stale"
    world.pass_s(1)
    world.cache.invalidate(tag="t")
    world.pass_s(5)
    told = world.call(tags=["t"]).ok
    assert told.text == "number 2"
    assert not told.cached


def test_an_old_answer_of_a_higher_tier_is_served_to_a_lower_one() -> None:
    fake = numbered()
    tiers = [Tier("gold", [Deployment("g", fake)]), Tier("bronze", [Deployment("b", fake)])]
    world = CachedWorld(tiers, fake=fake, cache={"ttl_s": 100, "stale_while_revalidate_s": 50})
    world.call(sla="gold")
    world.pass_s(110)
    assert world.how(sla="bronze") == "stale"
    world.pass_s(1)
    assert world.models() == ["g", "b"]  # made anew by the tier that asked, at its own expense
    assert world.call(sla="bronze").ok.tier == "bronze"
    assert world.how(sla="bronze") == "hit"
    assert world.how(sla="gold") == "miss"


def test_an_old_answer_of_a_higher_tier_has_its_end() -> None:
    fake = numbered()
    tiers = [Tier("gold", [Deployment("g", fake)]), Tier("bronze", [Deployment("b", fake)])]
    world = CachedWorld(tiers, fake=fake, cache={"ttl_s": 100, "stale_while_revalidate_s": 50})
    world.call(sla="gold")
    world.pass_s(160)
    assert world.how(sla="bronze") == "miss"


# -- stale if error --------------------------------------------------------------------


def out(world: CachedWorld) -> None:
    world.fake.down(fail=Fail.unavailable())


@pytest.mark.parametrize("streaming", [False, True])
def test_when_all_is_out_an_old_answer_is_better_than_none(streaming: bool) -> None:
    world = CachedWorld(cache={"ttl_s": 100, "stale_if_error_s": 1000})
    made = world.call(streaming=streaming).ok
    world.pass_s(500)
    out(world)
    told = world.call(streaming=streaming)
    old = told.ok
    assert (old.text, old.tier, old.cached, old.degraded) == (made.text, "gold", True, ("stale",))
    assert old.age_s == pytest.approx(told.ended_s)
    assert old.cost_usd in (0, None) or old.cost_usd == Decimal(0)
    assert old.trace is not None
    assert (old.trace.cache, old.trace.cache_layer, old.trace.degraded) == ("stale", "memory", ("stale",))
    stats = world.cache.stats()
    assert (stats.stale, stats.hits, stats.misses) == (1, {"memory": 1}, 1)


@every_form
def test_an_old_answer_comes_in_every_form(form: Form) -> None:
    world = CachedWorld(cache={"ttl_s": 100}, virtual=False, retry=False)
    made = form(world.client)
    world.clock.advance(200)
    out(world)
    old = form(world.client)
    assert (old.text, old.degraded, old.age_s) == (made.text, ("stale",), 200.0)
    with world.client.stream("Hello") as stream:
        assert "".join(chunk.text for chunk in stream) == made.text


def test_it_comes_before_the_applications_own_answers() -> None:
    asked: list[str] = []

    def stale(request: Any) -> str:
        asked.append("stale")
        return "the application's"

    world = CachedWorld(cache={"ttl_s": 100}, stale=stale, simple_reply="Later.")
    made = world.call().ok
    world.pass_s(200)
    out(world)
    assert world.call().ok.text == made.text
    assert not asked
    assert world.call("another question").ok.text == "the application's"


def test_it_is_not_given_past_its_time() -> None:
    world = CachedWorld(cache={"ttl_s": 100, "stale_if_error_s": 50}, retry=False)
    world.call()
    world.pass_s(149)
    out(world)
    assert world.call().ok.degraded == ("stale",)
    world.pass_s(1)
    assert isinstance(world.call().error, AllTiersFailedError)


def test_none_where_it_is_not_wanted() -> None:
    world = CachedWorld(cache={"ttl_s": 100, "stale_if_error_s": 0}, retry=False)
    world.call()
    world.pass_s(100)
    out(world)
    assert world.call().error is not None


@pytest.mark.parametrize(
    ("made", "asked", "given"),
    [
        ({}, {}, True),
        ({}, {"fallback": False}, False),
        ({"sla": "silver"}, {"sla": "gold"}, True),
        ({"sla": "bronze"}, {"sla": "gold", "min_tier": "silver"}, False),
        ({"sla": "silver"}, {"sla": "gold", "min_tier": "silver"}, True),
        ({"sla": "gold"}, {"sla": "bronze"}, True),
        ({"sla": "gold"}, {"sla": "silver", "min_tier": "silver"}, True),
        ({}, {"require": ["eu"]}, False),
        ({"require": ["eu"]}, {"require": ["eu"]}, True),
        ({"require": ["eu"]}, {}, False),
        ({"tenant": "a"}, {"tenant": "b"}, False),
        ({"tenant": "a"}, {"tenant": "a"}, True),
        ({"seed": 1}, {"seed": 2}, False),
        ({}, {"cache": "off"}, False),
        ({}, {"temperature": 0.7}, False),
        ({"depends_on": {"d": 1}}, {"depends_on": {"d": 2}}, False),
    ],
    ids=range(16),
)
def test_who_may_have_an_old_answer(made: dict[str, Any], asked: dict[str, Any], given: bool) -> None:
    fake = FakeProvider()
    tiers = [
        Tier("gold", [Deployment("g", fake), Deployment("ge", fake, labels={"eu"})]),
        Tier("silver", [Deployment("s", fake)]),
        Tier("bronze", [Deployment("b", fake)]),
    ]
    world = CachedWorld(tiers, fake=fake, cache={"ttl_s": 100}, retry=False)
    world.call(**made)
    world.pass_s(200)
    out(world)
    told = world.call(**asked)
    assert (told.response is not None) is given, told.error
    if given:
        assert told.ok.degraded == ("stale",)


def test_a_higher_tiers_old_answer_is_not_given_where_that_is_not_wanted() -> None:
    world = CachedWorld(cache={"ttl_s": 100, "serve_higher": False}, retry=False)
    world.call(sla="gold")
    world.pass_s(200)
    out(world)
    assert world.call(sla="bronze").error is not None
    assert world.call(sla="gold").ok.degraded == ("stale",)


def test_the_deadline_that_passes_is_an_outage_too() -> None:
    fake = FakeProvider()
    world = CachedWorld([Tier("gold", [Deployment("g", fake)])], fake=fake, cache={"ttl_s": 100})
    world.call()
    world.pass_s(200)
    fake.script("g", Fail.hang(), forever=True)
    assert world.call(deadline_s=1).ok.degraded == ("stale",)
    assert isinstance(world.call("another", deadline_s=1).error, DeadlineExceededError)


def test_what_was_invalidated_is_not_given_even_then() -> None:
    world = CachedWorld(cache={"ttl_s": 100}, retry=False)
    world.call("a", tags=["t"])
    world.call("b")
    world.pass_s(200)
    out(world)
    assert world.call("a").ok.degraded == ("stale",)
    world.cache.invalidate(tag="t")
    assert world.call("a").error is not None
    assert world.call("b").ok.degraded == ("stale",)


def test_what_is_invalidated_while_all_tiers_are_tried_is_not_given() -> None:
    fake = FakeProvider()
    world = CachedWorld([Tier("gold", [Deployment("g", fake)])], fake=fake, cache={"ttl_s": 100}, retry=False)
    world.call(tags=["t"])
    world.pass_s(200)
    fake.down(fail=Fail.unavailable(latency_s=1.0))
    told = world.begin()
    world.pass_s(0.5)
    world.cache.invalidate(tag="t")
    world.pass_s(5)
    assert isinstance(told.error, AllTiersFailedError)


def test_what_is_invalidated_while_gold_is_tried_is_not_given_by_silver() -> None:
    world = CachedWorld(cache={"ttl_s": 100}, retry=False)
    world.call(sla="silver", tags=["t"])
    world.fake.down("g1", fail=Fail.unavailable(latency_s=1.0))
    world.fake.down("g2", fail=Fail.unavailable(latency_s=1.0))
    told = world.begin(sla="gold")
    world.pass_s(0.5)
    world.cache.invalidate(tag="t")
    world.pass_s(5)
    assert told.ok.tier == "silver"
    assert not told.ok.cached


def test_an_answer_of_a_deployment_that_changed_is_not_given_even_then() -> None:
    words = ["Be brief."]
    fake = FakeProvider()
    tiers = [Tier("gold", [Deployment("g", fake)], prompt=lambda messages: words[-1])]
    world = CachedWorld(tiers, fake=fake, cache={"ttl_s": 100}, retry=False)
    world.call()
    world.pass_s(200)
    out(world)
    assert world.call().ok.degraded == ("stale",)
    words.append("Be kind.")
    assert world.call().error is not None


def test_an_old_answer_is_never_kept_as_a_new_one() -> None:
    world = CachedWorld(cache={"ttl_s": 100, "stale_if_error_s": 300}, retry=False)
    world.call()
    world.pass_s(200)
    out(world)
    for _ in range(3):
        assert world.call().ok.degraded == ("stale",)
        world.pass_s(50)
    world.pass_s(100)
    assert world.call().error is not None


# -- against a model -------------------------------------------------------------------


@settings(max_examples=60)
@given(
    ttl_s=st.integers(0, 50),
    swr_s=st.integers(0, 50),
    sie_s=st.integers(0, 50),
    steps=st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=12),
)
def test_what_a_call_gets_at_any_time(
    ttl_s: int, swr_s: int, sie_s: int, steps: list[tuple[int, bool]]
) -> None:
    fake = numbered()
    world = CachedWorld(
        [Tier("gold", [Deployment("g", fake)])],
        fake=fake,
        cache={"ttl_s": ttl_s, "stale_while_revalidate_s": swr_s, "stale_if_error_s": sie_s},
        retry=False,
        breaker=False,
    )
    made_at: float | None = None
    failed_at, text = -math.inf, ""
    for wait_s, up in steps:
        world.pass_s(wait_s)
        (fake.up if up else fake.down)()
        now = world.time.now
        age_s = None if made_at is None else now - made_at
        calls = fake.calls
        told = world.call()
        world.pass_s(0)
        if age_s is not None and age_s < ttl_s:
            assert told.ok.text == text
            assert fake.calls == calls
        elif age_s is not None and age_s < ttl_s + swr_s:
            assert told.ok.text == text
            assert told.ok.degraded == ()
            tried = now >= failed_at + TRY_AGAIN_S
            assert fake.calls == calls + tried
            if tried and not up:
                failed_at = now
            elif tried:
                made_at, text = now, f"number {int(text.split()[1]) + 1}"
        elif up:
            assert not told.ok.cached
            made_at, text = now, told.ok.text
        elif age_s is not None and age_s < ttl_s + sie_s:
            assert (told.ok.text, told.ok.degraded) == (text, ("stale",))
        else:
            assert told.error is not None


def test_jitter_takes_nothing_from_what_bridges_an_outage() -> None:
    fake = FakeProvider()
    world = CachedWorld(
        [Tier("gold", [Deployment("g", fake)])],
        fake=fake,
        cache={"ttl_s": 1000, "jitter": 0.9, "stale_if_error_s": 10},
        retry=False,
        breaker=False,
    )
    for n in range(20):
        world.call(str(n))
    world.pass_s(999)
    fake.down("g", Fail.unavailable())
    for n in range(20):
        assert world.call(str(n)).ok.cached


def test_no_more_than_so_many_renewals_are_under_way() -> None:
    fake = FakeProvider(latency_s=1.0)
    world = swr(fake)
    for n in range(40):
        world.call(str(n))
    world.pass_s(105)
    fake.peak_in_flight = 0
    for n in range(40):
        world.begin(str(n))
    world.pass_s(0.5)
    assert fake.in_flight == MOST_AT_ONCE
