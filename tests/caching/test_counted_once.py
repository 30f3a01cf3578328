"""Every call counts once: as a hit, as joined or as a miss, whatever it met on its way."""

from __future__ import annotations

import threading

import pytest

from tierllm import Deployment, Price, ResultCache, Tier, TieredClient
from tierllm.caching import CacheStats
from tierllm.testing import Fail, FakeClock, FakeProvider
from tierllm.types import Call

PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=1)


def client_of(
    fake: FakeProvider, cache: ResultCache, clock: FakeClock | None = None, *names: str
) -> TieredClient:
    tiers = [Tier(name, [Deployment(name, fake, price=PRICE)]) for name in names or ("gold",)]
    more = {} if clock is None else {"clock": clock}
    return TieredClient(tiers, cache=cache, retry=False, breaker=False, **more)  # type: ignore[arg-type]


def counted(stats: CacheStats) -> tuple[int, int, int]:
    return sum(stats.hits.values()), stats.joined, stats.misses


def test_an_old_answer_in_an_outage_is_a_hit_and_no_miss() -> None:
    fake, clock = FakeProvider(), FakeClock(1e9)
    with client_of(fake, ResultCache(ttl_s=10), clock) as client:
        client.complete("x")
        clock.advance(100)
        fake.down()
        assert client.complete("x").degraded == ("stale",)
        stats = client.cache.stats()
    assert (counted(stats), stats.stale) == ((1, 0, 1), 1)


def test_an_answer_of_a_lower_tier_found_on_the_way_down_is_a_hit_and_no_miss() -> None:
    fake = FakeProvider()
    with client_of(fake, ResultCache(), None, "gold", "silver") as client:
        paid = client.complete("x", sla="silver").cost_usd
        fake.down("gold")
        response = client.complete("x", sla="gold")
        stats = client.cache.stats()
    assert (response.tier, response.cached, fake.journal[-1].model) == ("silver", True, "gold")
    assert counted(stats) == (1, 0, 1)
    assert paid
    assert stats.saved_usd == paid


def test_an_answer_of_a_lower_tier_that_became_invalid_on_the_way_down_is_not_served() -> None:
    cache = ResultCache()

    def answer(call: Call) -> str | Fail:
        if call.model == "silver":
            return "from silver"
        cache.invalidate(tag="t")
        return Fail.unavailable()

    fake = FakeProvider(answer=answer)
    with client_of(fake, cache, None, "gold", "silver") as client:
        client.complete("x", sla="silver", tags=["t"])
        calls = fake.calls
        response = client.complete("x", sla="gold", tags=["t"])
    assert (response.tier, response.cached, fake.calls - calls) == ("silver", False, 2)


def test_calls_that_want_it_anew_are_misses_or_join_each_other() -> None:
    fake = FakeProvider(latency_s=0.1)
    with client_of(fake, ResultCache()) as client:
        threads = [
            threading.Thread(target=client.complete, args=["x"], kwargs={"cache": "refresh"})
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = client.cache.stats()
    assert counted(stats) == (0, 5 - fake.calls, fake.calls)


@pytest.mark.parametrize("scope", ["user", "session"])
def test_two_tenants_users_of_one_name_share_nothing(scope: str) -> None:
    fake = FakeProvider()
    cache = ResultCache(scope=scope)  # type: ignore[arg-type]
    with client_of(fake, cache) as client:
        for tenant in ("a", "b", None, "7:a", "1:a:u"):
            for whose in ("u", None, "1:u", ":u", "a:u"):
                names = {"tenant": tenant, scope: whose}
                assert not client.complete("x", **names).cached, names  # type: ignore[arg-type]
                assert client.complete("x", **names).cached, names  # type: ignore[arg-type]
    assert fake.calls == 25
