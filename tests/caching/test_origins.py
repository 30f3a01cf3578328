"""Which kept answers a call may get: those of the very deployment that could answer it today, or better."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from caching.kept import CachedWorld
from client.forms import World
from tierllm import Budget, Deployment, Price, Tier, TieredClient
from tierllm.caching.disk_layer import DiskLayer
from tierllm.caching.memory_layer import MemoryLayer
from tierllm.caching.origins import Origin, Origins
from tierllm.caching.result_cache import ResultCache
from tierllm.errors import AllTiersFailedError
from tierllm.pipeline.provider import Provider
from tierllm.pipeline.scope import Invocation
from tierllm.providers import Function, Local, OpenAI
from tierllm.providers.base import BaseProvider
from tierllm.testing import Fail, FakeProvider, Reply
from tierllm.types import Call, Message, Request, Response


def how(client: TieredClient, prompt: str = "Hello", **options: Any) -> tuple[str | None, str | None]:
    """What the cache did, and which tier's answer it was."""
    response = client.complete(prompt, **options)
    assert response.trace is not None
    return response.trace.cache, response.tier


# -- tiers -----------------------------------------------------------------------------


def test_gold_never_gets_bronzes_answer() -> None:
    world = CachedWorld()
    bronze = world.call(sla="bronze").ok
    gold = world.call(sla="gold").ok
    assert (bronze.tier, gold.tier) == ("bronze", "gold")
    assert world.models() == ["b", "g1"]
    assert not gold.cached


def test_bronze_gets_what_gold_answered() -> None:
    world = CachedWorld()
    gold = world.call(sla="gold").ok
    bronze = world.call(sla="bronze").ok
    assert bronze.cached
    assert (bronze.text, bronze.tier, bronze.deployment) == (gold.text, "gold", "g1")
    assert world.models() == ["g1"]
    assert world.how(sla="gold") == "hit"


def test_bronze_gets_its_own_where_higher_answers_are_not_served() -> None:
    world = CachedWorld(cache={"serve_higher": False})
    world.call(sla="gold")
    assert world.call(sla="bronze").ok.tier == "bronze"
    assert world.models() == ["g1", "b"]
    assert (world.how(sla="gold"), world.how(sla="bronze")) == ("hit", "hit")
    assert world.call(sla="bronze").ok.tier == "bronze"


@pytest.mark.parametrize("serve_higher", [True, False])
def test_having_stepped_down_to_silver_its_kept_answer_is_used(serve_higher: bool) -> None:
    world = CachedWorld(cache={"serve_higher": serve_higher})
    world.fake.down("g1")
    world.fake.down("g2")
    first = world.call(sla="gold").ok
    assert first.tier == "silver"
    asked = world.models().count("s")
    again = world.call(sla="gold").ok
    assert again.cached
    assert again.tier == "silver"
    assert again.text == first.text
    assert world.models().count("s") == asked
    assert again.trace is not None
    assert again.trace.cache == "hit"


def test_silvers_answer_waits_until_gold_is_out() -> None:
    world = CachedWorld()
    world.call(sla="silver")
    assert world.call(sla="gold").ok.tier == "gold"
    assert world.call(sla="silver").ok.tier == "gold", "the better one is kept"


def test_a_kept_answer_below_the_floor_is_not_given() -> None:
    world = CachedWorld()
    world.call(sla="bronze")
    for model in ("g1", "g2", "s"):
        world.fake.down(model)
    told = world.call(sla="gold", min_tier="silver")
    assert isinstance(told.error, AllTiersFailedError)
    assert world.call(sla="gold").ok.cached


def test_fallback_false_stays_with_its_tier() -> None:
    world = CachedWorld()
    world.call(sla="silver")
    world.fake.down("g1")
    world.fake.down("g2")
    assert world.call(sla="gold", fallback=False).error is not None


def test_a_call_that_a_budget_sends_down_gets_what_its_tier_may_have() -> None:
    price = Price(input_usd_per_mtok=100, output_usd_per_mtok=100)
    fake = FakeProvider()
    tiers = [
        Tier("gold", [Deployment("g", fake, price=price)]),
        Tier("bronze", [Deployment("b", fake, price=price)]),
    ]
    soft = Budget(soft_usd="0.005", name="soft", on_soft="downgrade")
    world = CachedWorld(tiers, fake=fake, budgets=[soft])
    world.call("one")
    world.call("two", sla="bronze")
    while world.call("more", cache="off").ok.tier == "gold":
        pass
    asked = len(world.models())
    steered = world.call("two").ok
    assert (steered.tier, steered.cached) == ("bronze", True), "bronze is where the call begins now"
    assert world.call("one").ok.tier == "gold", "what gold has answered costs nothing"
    assert len(world.models()) == asked


# -- labels ----------------------------------------------------------------------------


def labelled(eu: bool) -> list[Tier]:
    fake = FakeProvider()
    labels = {"eu"} if eu else set()
    return [Tier("gold", [Deployment("us", fake), Deployment("eu", fake, labels=labels)])]


def test_answers_from_elsewhere_are_not_given_where_a_label_is_required() -> None:
    fake = FakeProvider()
    world = CachedWorld(
        [Tier("gold", [Deployment("us", fake), Deployment("eu", fake, labels={"eu"})])], fake=fake
    )
    world.call()
    assert world.call(require=["eu"]).ok.deployment == "eu"
    assert world.how(require=["eu"]) == "hit"
    assert world.call().ok.deployment == "us"
    assert world.models() == ["us", "eu"]


def test_a_deployment_that_lost_its_label_no_longer_answers_for_it() -> None:
    cache = ResultCache()
    with TieredClient(labelled(True), cache=cache) as one:
        assert how(one, require=["eu"]) == ("miss", "gold")
        assert how(one, require=["eu"]) == ("hit", "gold")
        fake = FakeProvider()
        moved = [Tier("gold", [Deployment("us", fake, labels={"eu"}), Deployment("eu", fake)])]
        with TieredClient(moved, cache=cache) as two:
            response = two.complete("Hello", require=["eu"])
            assert (response.deployment, response.cached) == ("us", False)


# -- the config changes ----------------------------------------------------------------


def wordy(words: Sequence[str]) -> Callable[[Sequence[Message]], str]:
    return lambda messages: words[-1]


async def plainly(call: Call, call_next: Any) -> Response:
    response: Response = await call_next(call)
    return response


class Versioned:
    def __init__(self, version: str) -> None:
        self.version = version

    async def __call__(self, call: Call, call_next: Callable[[Call], Awaitable[Response]]) -> Response:
        return await call_next(call)


class Placed(FakeProvider):
    """At a base URL."""

    def __init__(self, origin: str) -> None:
        super().__init__()
        self.origin = origin


def tier(
    model: str = "m", provider: Provider | None = None, place: dict[str, Any] | None = None, **more: Any
) -> list[Tier]:
    return [Tier("gold", [Deployment(model, provider or FakeProvider(), name="d", **(place or {}))], **more)]


class Policed:
    """A policy of the application's own, which says what it holds."""

    def __init__(self, held: object) -> None:
        self.held = held

    async def __call__(self, call: Call, call_next: Callable[[Call], Awaitable[Response]]) -> Response:
        return await call_next(call)


class Slotted:
    __slots__ = ("held",)

    def __init__(self, held: object) -> None:
        self.held = held

    async def __call__(self, call: Call, call_next: Callable[[Call], Awaitable[Response]]) -> Response:
        return await call_next(call)


def policy_with(words: object) -> Any:
    async def policy(call: Call, call_next: Any) -> Any:
        return await call_next(call) if words else None

    return policy


class Own(BaseProvider):
    """A provider of the application's own."""

    def __init__(self, words: str, origin: object = None) -> None:
        self.words = words
        self.origin = origin

    def complete(self, call: Call, scope: Invocation) -> Response:
        return Response(text=self.words, finish_reason="stop")


class Alike(Own):
    """Of another class."""


def answering(held: Any) -> Callable[[Any], str]:
    return lambda messages: str(held)


class Bot:
    def __init__(self, words: str) -> None:
        self.words = words

    def __call__(self, messages: Any) -> str:
        return self.words

    def ask(self, messages: Any) -> str:
        return self.words


CHANGES: dict[str, tuple[list[Tier], list[Tier]]] = {
    "model": (tier("m"), tier("m2")),
    "provider": (tier(), tier(provider=FakeProvider(name="other"))),
    "base-url": (tier(provider=Placed("https://a/v1")), tier(provider=Placed("https://b/v1"))),
    "prompt": (tier(prompt="Be brief."), tier(prompt="Be kind.")),
    "prompt-added": (tier(), tier(prompt="Be kind.")),
    "prompt-function": (tier(prompt=wordy(["Be brief."])), tier(prompt=wordy(["Be kind."]))),
    "defaults": (tier(defaults={"top_p": 0.5}), tier(defaults={"top_p": 0.6})),
    "params": (tier(place={"params": {"seed": 1}}), tier(place={"params": {"seed": 2}})),
    "drop": (tier(place={"drop": {"seed"}}), tier()),
    "ceiling-tokens": (tier(max_tokens=100), tier(max_tokens=200)),
    "ceiling-effort": (tier(reasoning_effort="low"), tier(reasoning_effort="high")),
    "policy": (tier(), tier(policies=[plainly])),
    "policy-version": (tier(policies=[Versioned("1")]), tier(policies=[Versioned("2")])),
    "deployment-policy": (
        tier(place={"policies": [Versioned("1")]}),
        tier(place={"policies": [Versioned("2")]}),
    ),
    "policy-state": (tier(policies=[Policed("a")]), tier(policies=[Policed({"a": 1})])),
    "policy-slots": (tier(policies=[Slotted("a")]), tier(policies=[Slotted("b")])),
    "policy-function": (tier(policies=[policy_with("a")]), tier(policies=[policy_with("b")])),
    "policy-method": (tier(policies=[Policed("a")]), tier(policies=[Slotted("a")])),
    "own-provider": (tier(provider=Own("a", "a")), tier(provider=Own("b", "b"))),
    "own-settings": (tier(provider=Own("a", {"x": [1]})), tier(provider=Own("b", {"x": [2]}))),
    "own-class": (tier(provider=Own("a", "")), tier(provider=Alike("b", ""))),
    "function": (tier(provider=Function(answering("a"))), tier(provider=Function(answering({"a": 1})))),
    "function-version": (
        tier(provider=Function(Bot("a"), name="bot", version="1")),
        tier(provider=Function(Bot("b"), name="bot", version="2")),
    ),
    "tier-name": (tier(), [Tier("platinum", [Deployment("m", FakeProvider(), name="d")])]),
    "removed": (tier(), [Tier("gold", [Deployment("m", FakeProvider(), name="e")])]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_deployment_never_answers_with_its_predecessors_words(what: str) -> None:
    before, after = CHANGES[what]
    cache = ResultCache()
    with TieredClient(before, cache=cache) as one, TieredClient(after, cache=cache) as two:
        assert how(one)[0] == "miss"
        assert how(one)[0] == "hit"
        assert how(two)[0] == "miss"
        assert how(two)[0] == "hit"


def test_what_changes_no_answer_keeps_what_there_is() -> None:
    cache = ResultCache()
    again = tier(
        place={
            "weight": 3.0,
            "context_window": 100_000,
            "price": Price(input_usd_per_mtok=1, output_usd_per_mtok=1),
        },
        max_concurrency=3,
        prompt=wordy(["Be brief."]),
    )
    with (
        TieredClient(tier(prompt=wordy(["Be brief."])), cache=cache) as one,
        TieredClient(again, cache=cache) as two,
    ):
        assert how(one)[0] == "miss"
        assert how(two)[0] == "hit"


def test_a_prompt_function_whose_words_change() -> None:
    words = ["Today is Monday."]
    with TieredClient(tier(prompt=wordy(words)), cache=ResultCache()) as client:
        assert [how(client)[0] for _ in range(2)] == ["miss", "hit"]
        words.append("Today is Tuesday.")
        assert [how(client)[0] for _ in range(2)] == ["miss", "hit"]


def test_words_that_change_while_the_answer_is_made_are_not_taken_for_those_it_was_made_with() -> None:
    words = ["Today is Monday."]

    def midnight(call: Call) -> Reply:
        system = call.messages[0]["content"]
        if len(words) == 1:
            words.append("Today is Tuesday.")
        return Reply(f"I was told: {system}")

    fake = FakeProvider(answer=midnight)
    with TieredClient(tier(provider=fake, prompt=wordy(words)), cache=ResultCache()) as client:
        assert client.complete("Hello").text == "I was told: Today is Monday."
        assert client.complete("Hello").text == "I was told: Today is Tuesday."


def test_a_prompt_function_that_raises_hurts_no_other_call() -> None:
    fails = [False]

    def prompt(messages: Sequence[Message]) -> str:
        if fails[0]:
            raise LookupError("no words")
        return "Be brief."

    with TieredClient(tier(prompt=prompt), cache=ResultCache()) as client:
        how(client)
        fails[0] = True
        with pytest.raises(LookupError):
            client.complete("Hello")
        fails[0] = False
        assert how(client)[0] == "hit"


UNKNOWN = {
    "settings": tier(place={"params": {"tool_choice": object()}}),
    "own provider": tier(provider=Own("a")),
    "own provider's origin": tier(provider=Own("a", object())),
    "callable object": tier(provider=Function(Bot("a"))),
    "method": tier(provider=Function(Bot("a").ask)),
    "closure": tier(provider=Function(answering(object()))),
    "policy": tier(policies=[Policed(object())]),
    "policy's slots": tier(policies=[Slotted(object())]),
    "policy's method": tier(policies=[Policed("a").__call__]),
    "policy's closure": tier(policies=[policy_with(object())]),
    "policy's partial": tier(policies=[partial(plainly)]),
}


@pytest.mark.parametrize("what", [what for what in UNKNOWN if what != "policy's partial"])
def test_who_cannot_be_told_from_others_counts_for_one_client_and_the_log_says_so(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = ResultCache([MemoryLayer(), DiskLayer(tmp_path)])
    with TieredClient(UNKNOWN[what], cache=cache) as client:
        assert [how(client)[0] for _ in range(2)] == ["miss", "hit"]
        with TieredClient(UNKNOWN[what], cache=cache) as another:
            assert how(another)[0] == "miss"
    assert len(caplog.messages) == 2
    assert all("gold/d" in told for told in caplog.messages)


def test_in_memory_alone_nothing_has_to_be_said_of_it(caplog: pytest.LogCaptureFixture) -> None:
    with TieredClient(UNKNOWN["method"], cache=ResultCache()) as client:
        assert [how(client)[0] for _ in range(2)] == ["miss", "hit"]
    assert not caplog.messages


def test_who_can_be_told_from_others_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with TieredClient(UNKNOWN["policy's partial"], cache=ResultCache()) as client:
        assert [how(client)[0] for _ in range(2)] == ["miss", "hit"]
    assert not caplog.messages


def place_of(**settings: Any) -> object:
    return OpenAI(**{"api_key": "k", **settings}).origin


def client_of(kind: Any = openai.OpenAI, **settings: Any) -> Any:
    return kind(**{"api_key": "k", **settings})


OPENAI = {
    "address": {"base_url": "http://gateway/v1"},
    "query": {"base_url": "http://gateway/v1?version=2"},
    "organization": {"organization": "a"},
    "project": {"project": "a"},
    "headers": {"default_headers": {"x-config": "a"}},
    "other headers": {"default_headers": {"x-config": "b"}},
    "client's address": {"api_key": None, "client": client_of(base_url="http://other/v1")},
    "client's query": {"api_key": None, "client": client_of(default_query={"api-version": "1"})},
    "client's other query": {"api_key": None, "client": client_of(default_query={"api-version": "2"})},
    "client's organization": {"api_key": None, "client": client_of(organization="c")},
    "another async client": {
        "api_key": None,
        "client": client_of(),
        "async_client": client_of(openai.AsyncOpenAI, base_url="http://gateway/v2"),
    },
    "azure": {
        "api_key": None,
        "client": client_of(openai.AzureOpenAI, azure_endpoint="https://my", api_version="2025-03-01"),
    },
    "another version of azure": {
        "api_key": None,
        "client": client_of(openai.AzureOpenAI, azure_endpoint="https://my", api_version="2025-04-01"),
    },
}


def test_all_that_decides_who_answers_at_an_address_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = place_of()
    places = [str(plain), *(str(place_of(**settings)) for settings in OPENAI.values())]
    assert len(set(places)) == len(places)
    assert "secret" not in str(place_of(default_headers={"authorization": "secret"}))
    assert place_of(api_key="other") == plain  # a key that was rotated
    assert place_of(api_key=None, client=client_of()) == plain
    both = {"client": client_of(), "async_client": client_of(openai.AsyncOpenAI)}
    assert place_of(api_key=None, **both) == plain
    monkeypatch.setenv("OPENAI_ORG_ID", "a")
    assert place_of() == place_of(organization="a") != plain
    assert place_of(base_url="http://gateway/v1") == place_of(**OPENAI["address"])


def test_weights_that_were_replaced_are_others(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    provider = Local(file)
    origins = [provider.origin]
    for content in (b"1", b"22"):
        file.write_bytes(content)
        os.utime(file, ns=(1, 1))
        origins += [provider.origin, Local(file, n_threads=2).origin]
    os.utime(file, ns=(1, 2))
    origins += [provider.origin, Local(file, seed=1).origin]
    (tmp_path / "link.gguf").symlink_to(file)
    assert Local(tmp_path / "link.gguf").origin == provider.origin
    assert len({str(each) for each in origins}) == 5
    assert Local().origin == Local().origin


def test_origins_know_their_rank() -> None:
    def origin(tier: str) -> Origin:
        return Origin.of(
            {"tier": tier}, tier=tier, name="d", labels=frozenset(), wording=None, params=lambda asked: asked
        )

    origins = Origins([origin("gold"), origin("silver"), origin("bronze")])
    assert origins.above("gold", "bronze")
    assert not origins.above("bronze", "gold")
    assert not origins.above("gold", "gold")
    assert origins.place("gold", "nobody") is None
    assert origins.place(None, None) is None


# -- temperature -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "options", "kept"),
    [
        ({}, {}, True),
        ({}, {"temperature": 0}, True),
        ({}, {"temperature": 0.0}, True),
        ({}, {"temperature": 0.7}, False),
        ({}, {"temperature": 0.7, "cache": "always"}, True),
        ({"defaults": {"temperature": 0.7}}, {}, False),
        ({"defaults": {"temperature": 0.7}}, {"temperature": 0}, True),
        ({"defaults": {"temperature": 0.7}}, {"cache": "always"}, True),
        ({"place": {"params": {"temperature": 0.7}}}, {}, False),
        ({"place": {"params": {"temperature": 0.7}}}, {"temperature": 0}, True),
        ({"place": {"params": {"temperature": 0.7}}}, {"cache": "always"}, True),
        ({"place": {"params": {"temperature": 0.7}, "drop": {"temperature"}}}, {}, True),
        ({"temperature": 0.5}, {}, False),
        ({"temperature": 0.0}, {}, True),
        ({}, {"extra": {"fake": {"temperature": 0.7}}}, False),
        ({}, {"extra": {"fake": {"extra_body": {"temperature": 0.7}}}}, False),
        ({}, {"extra": {"fake": {"temperature": 0}}}, True),
        ({}, {"extra": {"fake": {"verbosity": "low"}}}, True),
        ({"temperature": 0}, {"temperature": 0.7}, True),
        ({"temperature": 0.2}, {"temperature": 0.7}, False),
        ({"place": {"drop": {"temperature"}}}, {"temperature": 0.7}, True),
        ({"place": {"drop": {"temperature"}}, "defaults": {"temperature": 0.7}}, {}, True),
        ({"place": {"params": {"extra_body": {"temperature": 0.7}}}}, {}, False),
        ({"place": {"params": {"extra_body": {"temperature": 0.7}}}}, {"temperature": 0}, False),
        ({}, {"extra": {"fake": {"options": {"temperature": 0.7}}}}, False),
        ({}, {"extra": {"fake": {"extra_body": {"options": {"temperature": 0.7}}}}}, False),
        ({}, {"extra": {"fake": {"generation_config": {"temperature": 0.7}}}}, False),
        ({}, {"extra": {"fake": {"options": {"temperature": 0.0}}}}, True),
    ],
    ids=range(28),
)
def test_only_what_is_asked_for_cold_is_kept(
    settings: dict[str, Any], options: dict[str, Any], kept: bool
) -> None:
    with TieredClient(tier(**settings), cache=ResultCache()) as client:
        first, second = (how(client, **options)[0] for _ in range(2))
    assert (first, second) == (("miss", "hit") if kept else ("bypassed", "bypassed"))


def test_a_warm_tier_below_keeps_nothing_of_a_cold_call() -> None:
    fake = FakeProvider()
    tiers = [
        Tier("gold", [Deployment("g", fake)]),
        Tier("silver", [Deployment("s", fake)], defaults={"temperature": 0.7}),
    ]
    world = CachedWorld(tiers, fake=fake)
    fake.down("g", Fail.unauthorized())
    assert world.call().ok.tier == "silver"
    assert not world.call().ok.cached
    assert world.models().count("s") == 2


def test_a_world_without_a_cache_is_as_before() -> None:
    world = World()
    first, second = world.call().ok, world.call().ok
    assert not first.cached
    assert not second.cached
    assert first.trace is not None
    assert first.trace.cache in (None, "off")


def test_requests_tell_labels_and_words_apart() -> None:
    origin = Origin.of(
        {}, tier="t", name="d", labels=frozenset({"eu"}), wording=lambda m: m, params=lambda asked: asked
    )
    one = origin.fingerprint(Request(messages=({"role": "user", "content": "a"},)))
    two = origin.fingerprint(Request(messages=({"role": "user", "content": "b"},)))
    assert one is not None
    assert one != two


def test_memory_layers_of_two_caches_share_nothing() -> None:
    fake = FakeProvider()
    for _ in range(2):
        with TieredClient(tier(provider=fake), cache=ResultCache([MemoryLayer()])) as client:
            assert how(client)[0] == "miss"
