"""One answer for several callers: what each of them says of it counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from tierllm import Budget, Deployment, MemoryLayer, Price, ResultCache, Tier, TieredClient
from tierllm.caching import DiskLayer, RedisLayer
from tierllm.errors import CacheMissError, ConfigError
from tierllm.testing import FakeProvider


@pytest.fixture
def fake() -> FakeProvider:
    return FakeProvider()


def client_of(fake: FakeProvider, cache: ResultCache | None, **settings: Any) -> TieredClient:
    return TieredClient([Tier("gold", [Deployment("g", fake)])], cache=cache, **settings)


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[TieredClient]:
    with client_of(fake, ResultCache()) as client:
        yield client


def cached(client: TieredClient, **options: Any) -> bool:
    return client.complete("Hello", **options).cached


def test_a_tag_of_a_later_caller_counts(client: TieredClient) -> None:
    assert not cached(client)
    assert cached(client, tags=["faq"])
    client.cache.invalidate(tag="faq")
    assert not cached(client, tags=["faq"])  # whoever says it is about that
    assert cached(client, tags=["faq"])
    assert cached(client)


def test_a_tenant_among_all_who_share(fake: FakeProvider) -> None:
    with client_of(fake, ResultCache(scope="shared")) as client:
        assert not cached(client, tenant="acme")
        assert cached(client, tenant="globex")
        client.cache.invalidate(tenant="globex")
        assert cached(client, tenant="acme")
        assert not cached(client, tenant="globex")


def test_a_session_is_one_users(fake: FakeProvider) -> None:
    with client_of(fake, ResultCache(scope="session")) as client:
        assert not cached(client, user="ann", session="1")
        assert not cached(client, user="bob", session="1")
        assert cached(client, user="ann", session="1")


def test_names_that_look_alike_are_not(fake: FakeProvider) -> None:
    with client_of(fake, ResultCache(scope="session")) as client:
        assert not cached(client, user="a", session="b', 'c")
        assert not cached(client, user="a', 'b", session="c")


def test_only_from_a_cache_without_a_cache(fake: FakeProvider) -> None:
    with client_of(fake, None) as client, pytest.raises(CacheMissError, match="no cache"):
        client.complete("Hello", cache="only")
    assert fake.calls == 0


def test_a_tier_that_does_not_exist_has_no_time_to_live(fake: FakeProvider) -> None:
    with pytest.raises(ConfigError, match="glod"):
        client_of(fake, ResultCache(ttl_s={"glod": 60}))


def test_layers_have_names(tmp_path: Any) -> None:
    cache = ResultCache([MemoryLayer(), DiskLayer(tmp_path), RedisLayer("redis://localhost:1", name="eu")])
    assert [layer.name for layer in cache.layers] == ["memory", "disk", "eu"]
    cache.close()
    with pytest.raises(ConfigError, match="name"):
        MemoryLayer(name="")


def test_what_anothers_budget_cut_short_is_asked_for_again() -> None:
    gate, words = threading.Event(), "one two three four five six seven eight nine ten " * 8

    def answer(call: Any) -> str:
        gate.wait(10)
        return words

    fake = FakeProvider(answer=answer)
    price = Price(input_usd_per_mtok=0, output_usd_per_mtok=1_000_000)  # a dollar a token
    tiers = [Tier("gold", [Deployment("g", fake, price=price)], max_tokens=100)]
    budget = Budget(hard_usd=Decimal(120), per="user", on_exceed="clamp")
    with TieredClient(tiers, cache=ResultCache(), budgets=[budget]) as client:
        gate.set()
        client.complete("first", user="poor", max_tokens=90)  # 30 dollars are left
        gate.clear()
        with ThreadPoolExecutor(2) as pool:
            poor = pool.submit(client.complete, "why", user="poor")
            while fake.in_flight == 0:
                pass
            rich = pool.submit(client.complete, "why", user="rich")
            while client.status()["in_flight"] < 2:
                pass
            gate.set()
            cut, whole = poor.result(10), rich.result(10)
        assert cut.finish_reason == "length"
        assert whole.finish_reason == "stop"
        assert whole.text.split() == words.split()


async def test_on_an_event_loop_answers_are_invalidated_beside_it(client: TieredClient) -> None:
    async def kept(**options: Any) -> bool:
        return (await client.acomplete("Hello", **options)).cached

    assert [await kept(tags=["faq"]) for _ in range(2)] == [False, True]
    await client.cache.ainvalidate(tag="faq")
    assert not await kept(tags=["faq"])
    assert [await kept(depends_on={"doc:1": "old"}) for _ in range(2)] == [False, True]
    await client.cache.achanged({"doc:1": "new"})
    assert not await kept(depends_on={"doc:1": "old"})
