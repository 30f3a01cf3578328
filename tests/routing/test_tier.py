"""Tiers and deployments: what they make of a call, and which settings make sense."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from client.forms import Form, World, every_form
from tierllm import CircuitBreaker, Deployment, FallbackChain, Hedge, Objective, Retry, Tier, TieredClient
from tierllm.errors import ConfigError
from tierllm.testing import Fail, FakeProvider, Reply
from tierllm.types import Message

FAKE = FakeProvider()


def d(**options: Any) -> Deployment:
    return Deployment("m", FAKE, **options)


# -- prompts -----------------------------------------------------------------------


SYSTEM: Message = {"role": "system", "content": "Be brief."}
ASKED: Message = {"role": "user", "content": "Why?"}


@pytest.mark.parametrize(
    ("prompt", "messages", "worded"),
    [
        (None, [ASKED], [ASKED]),
        ("Be kind.", [ASKED], [{"role": "system", "content": "Be kind."}, ASKED]),
        (
            "Be kind.",
            [SYSTEM, ASKED],
            [{"role": "system", "content": "Be kind.\n\nBe brief."}, ASKED],
        ),
        (
            "Be kind.",
            [{**SYSTEM, "name": "boss"}, ASKED],
            [{"role": "system", "content": "Be kind.\n\nBe brief.", "name": "boss"}, ASKED],
        ),
        (
            "Be kind.",
            [{"role": "system", "content": [{"type": "text", "text": "x"}]}, ASKED],
            [
                {"role": "system", "content": "Be kind."},
                {"role": "system", "content": [{"type": "text", "text": "x"}]},
                ASKED,
            ],
        ),
        ("", [ASKED], [ASKED]),
        (lambda messages: "", [ASKED], [ASKED]),
        (lambda messages: "Be kind.", [ASKED], [{"role": "system", "content": "Be kind."}, ASKED]),
        (lambda messages: [SYSTEM, *messages], [ASKED], [SYSTEM, ASKED]),
        (lambda messages: tuple(messages[-1:]), [SYSTEM, ASKED], [ASKED]),
    ],
)
def test_a_prompt_of_the_tiers_own(prompt: Any, messages: list[Message], worded: list[Message]) -> None:
    tier = Tier("gold", [d()], prompt=prompt)
    asked = tuple(messages)
    assert tier.worded(asked) == tuple(worded)
    assert asked == tuple(messages)


@every_form
def test_each_step_down_begins_with_the_original_messages(form: Form) -> None:
    fake = FakeProvider()
    seen: list[Sequence[Message]] = []

    def shortened(messages: Sequence[Message]) -> list[Message]:
        seen.append(messages)
        return [{"role": "user", "content": f"In one word: {messages[-1]['content']}"}]

    tiers = [
        Tier("gold", [Deployment("g", fake)], prompt="Think hard."),
        Tier("silver", [Deployment("s", fake)], prompt=shortened),
        Tier("bronze", [Deployment("b", fake)]),
    ]
    world = World(tiers, virtual=False, fake=fake, retry=False)
    fake.down("g")
    fake.down("s")
    assert form(world.client, [SYSTEM, ASKED]).tier == "bronze"
    sent = {entry.model: list(entry.messages) for entry in fake.journal}
    assert sent["g"] == [{"role": "system", "content": "Think hard.\n\nBe brief."}, ASKED]
    assert sent["s"] == [{"role": "user", "content": "In one word: Why?"}]
    assert sent["b"] == [SYSTEM, ASKED]
    assert seen == [(SYSTEM, ASKED)]


@pytest.mark.parametrize("made", [None, 5, [], [5], "", [{"role": "user"}], b"x"], ids=str)
def test_a_prompt_function_that_gives_nonsense_is_told_before_anything_is_sent(made: Any) -> None:
    fake = FakeProvider()
    client = TieredClient([Tier("gold", [Deployment("g", fake)], prompt=lambda messages: made)])
    if made == "":
        assert client.complete("Hello").text
        return
    with pytest.raises(ConfigError, match=r"the prompt of tier 'gold'|message 0"):
        client.complete("Hello")
    assert fake.calls == 0


# -- parameters ----------------------------------------------------------------------


@every_form
def test_defaults_ceilings_and_what_is_dropped(form: Form) -> None:
    fake = FakeProvider()
    tiers = [
        Tier(
            "gold",
            [
                Deployment("g1", fake, params={"seed": 1, "temperature": 0.7}, drop={"top_p"}),
                Deployment("g2", fake, drop={"seed", "temperature"}),
            ],
            defaults={"temperature": 0.3, "top_p": 0.9, "seed": 0},
            max_tokens=100,
        ),
        Tier("silver", [Deployment("s", fake)], max_tokens=400, temperature=0.5, reasoning_effort="low"),
    ]
    world = World(tiers, virtual=False, fake=fake, retry=False)
    fake.down("g1")
    fake.down("g2")
    form(world.client, max_tokens=5000, temperature=1.0)
    sent = {entry.model: dict(entry.params) for entry in fake.journal}
    assert sent == {
        "g1": {"temperature": 1.0, "seed": 1, "max_tokens": 100},
        "g2": {"top_p": 0.9, "max_tokens": 100},
        "s": {"temperature": 0.5, "max_tokens": 400, "reasoning_effort": "low"},
    }
    fake.up()
    fake.journal.clear()
    world.clock.advance(60)
    form(world.client)
    assert dict(fake.journal[0].params) == {"temperature": 0.7, "seed": 1, "max_tokens": 100}


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({}, "medium"),
        ({"reasoning_effort": "low"}, "low"),
        ({"reasoning_effort": "medium"}, "medium"),
        ({"reasoning_effort": "xhigh"}, "medium"),
        ({"reasoning_effort": "a word no ceiling knows"}, "medium"),
    ],
    ids=str,
)
def test_a_ceiling_of_effort(asked: dict[str, Any], given: str) -> None:
    fake = FakeProvider()
    TieredClient([Tier("gold", [Deployment("g", fake)], reasoning_effort="medium")]).complete(
        "Hello", **asked
    )
    assert fake.journal[0].params["reasoning_effort"] == given


def test_the_callers_own_mappings_are_left_alone() -> None:
    fake = FakeProvider()
    defaults, params = {"temperature": 0.3}, {"seed": 1}
    client = TieredClient(
        [Tier("gold", [Deployment("g", fake, params=params)], defaults=defaults, max_tokens=5)]
    )
    client.complete("Hello", stop=["x"])
    defaults["temperature"] = 9
    client.complete("Hello", stop=["x"])
    assert (defaults, params) == ({"temperature": 9}, {"seed": 1})
    assert [e.params["temperature"] for e in fake.journal] == [0.3, 0.3]


# -- several deployments ---------------------------------------------------------------


def weighted(*weights: float, seed: int = 1) -> World:
    fake = FakeProvider()
    places = [Deployment(f"m{i}", fake, weight=w) for i, w in enumerate(weights)]
    return World([Tier("gold", places, choose="weighted")], virtual=False, fake=fake, seed=seed, retry=False)


def test_weights_share_the_calls() -> None:
    world = weighted(1, 2, 5)
    count = 4000
    for _ in range(count):
        world.client.complete("Hello")
    shares = {model: n / count for model, n in Counter(world.models()).items()}
    assert shares == pytest.approx({"m0": 1 / 8, "m1": 2 / 8, "m2": 5 / 8}, abs=0.03)


def test_the_draw_is_repeatable_and_among_those_that_are_left_fair() -> None:
    def drawn(seed: int) -> list[str]:
        world = weighted(1, 3, 6, seed=seed)
        world.fake.down("m2", Fail.filtered())
        world.client.fallback.content_filter = "next"
        for _ in range(600):
            world.client.complete("Hello")
        return [e.model for e in world.fake.journal if e.outcome == "ok"]

    first = drawn(3)
    assert first == drawn(3) != drawn(4)
    assert Counter(first)["m1"] / 600 == pytest.approx(3 / 4, abs=0.06)


@every_form
def test_those_that_were_not_drawn_are_told_as_far_as_they_are_listed_before(form: Form) -> None:
    world = weighted(1, 1, 1, seed=5)
    world.fake.down("m1")
    found = set()
    for _ in range(40):
        response = form(world.client, "Hello")
        assert response.trace is not None
        told = [(each.deployment, each.reason) for each in response.trace.candidates]
        assert told[-1] == (response.deployment, None)
        assert dict(told[:-1]).keys() <= {"m0", "m1"}
        found.add((response.deployment, *(f"{name} {reason}" for name, reason in sorted(told[:-1]))))
    failed = "m1 ProviderUnavailableError 503"
    assert found >= {
        ("m0",),
        ("m0", failed),
        ("m2", "m0 weight", "m1 weight"),
        ("m2", "m0 weight", failed),
    }
    assert all(one[0] == "m2" or "weight" not in " ".join(one) for one in found)


@every_form
def test_in_a_race_nobody_who_was_asked_is_said_not_to_be_drawn(form: Form) -> None:
    names, fake = ["m0", "m1", "m2"], FakeProvider()
    hedge = Hedge(share=0.9, min_samples=5)
    tier = Tier("gold", [Deployment(name, fake) for name in names], choose="weighted", hedge=hedge)
    with TieredClient([tier], retry=False, rng=Random(3)) as client:
        for _ in range(60):
            form(client)
        raced = 0
        for turn in range(12):
            fake.script(names[turn % 3], Reply("late", latency_s=0.3))
            response = form(client)
            assert response.trace is not None
            asked = {attempt.deployment for attempt in response.trace.attempts}
            told = {each.deployment for each in response.trace.candidates if each.reason == "weight"}
            assert not told & asked
            raced += len(asked) > 1
        assert raced


def test_ordered_means_the_first_that_can() -> None:
    world = World(virtual=False)
    for _ in range(5):
        world.client.complete("Hello")
    assert world.models() == ["g1"] * 5


def test_several_keys_of_one_account_are_told_apart() -> None:
    keys = [FakeProvider(name=f"key{i}") for i in range(3)]
    client = TieredClient([Tier("gold", [Deployment("gpt", key) for key in keys])], retry=False)
    keys[0].down()
    keys[1].down()
    response = client.complete("Hello")
    assert response.deployment == "gpt#3"
    assert list(client.status()["tiers"]["gold"]["deployments"]) == ["gpt", "gpt#2", "gpt#3"]
    assert response.trace is not None
    assert [a.deployment for a in response.trace.attempts] == ["gpt", "gpt#2", "gpt#3"]


# -- settings --------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")

BAD_TIERS: list[dict[str, Any]] = [
    *({"name": v} for v in ("", None, 5, b"gold")),
    *({"deployments": v} for v in ([], None, 5, "gpt", d(), [5], [d(), "gpt"], {"m": 1})),
    *({"max_tokens": v} for v in (0, -1, 1.5, True, NAN, "9")),
    *({"temperature": v} for v in (-1, NAN, INF, True)),
    *({"reasoning_effort": v} for v in ("huge", 5)),
    *({"choose": v} for v in ("random", None)),
    *({"max_concurrency": v} for v in (0, -1, 1.5, True, NAN, "9")),
    *({"max_waiting": v} for v in (-1, 1.5, False, NAN)),
    *({"max_wait_s": v} for v in (-1, NAN)),
    *({"prompt": v} for v in (5, ["x"], b"x")),
    *({"objective": v} for v in (5, {"latency_p95_s": 1})),
    *({"timeouts": v} for v in (5, {"total_s": 1})),
    *({"breaker": v} for v in (True, 5, "on")),
    *({"retry": v} for v in (True, 3, "on")),
    *({"fallback": v} for v in (None, "no", 0)),
    *({"defaults": v} for v in (5, [1], {"temperature": "hot"}, {"max_tokens": NAN}, {"stream": True})),
    *({"policies": v} for v in (5, [5], [None])),
]


@pytest.mark.parametrize("wrong", BAD_TIERS, ids=lambda o: repr(o)[:50])
def test_tiers_that_make_no_sense(wrong: dict[str, Any]) -> None:
    settings = {"name": "gold", "deployments": [d()], **wrong}
    with pytest.raises(ConfigError):
        Tier(settings.pop("name"), settings.pop("deployments"), **settings)


BAD_DEPLOYMENTS: list[dict[str, Any]] = [
    *({"model": v} for v in ("", None, 5)),
    *({"provider": v} for v in ("openai", 5, FakeProvider)),
    *({"name": v} for v in ("", 5)),
    *({"context_window": v} for v in (0, -1, 1.5, True, NAN, "8k")),
    *({"weight": v} for v in (0, -1, NAN, INF, True, "heavy")),
    *({"drop": v} for v in ("seed", 5, [5], [""])),
    *({"labels": v} for v in ("eu", 5, [None])),
    *({"price": v} for v in (5, {"input": 1})),
    *({"params": v} for v in (5, [1], {"temperature": 9}, {"max_tokens": 0})),
    *({"timeouts": v} for v in (5,)),
    *({"breaker": v} for v in (True, 5)),
    *({"retry": v} for v in (True, 5)),
    *({"policies": v} for v in (5, [5])),
]


@pytest.mark.parametrize("wrong", BAD_DEPLOYMENTS, ids=repr)
def test_deployments_that_make_no_sense(wrong: dict[str, Any]) -> None:
    settings = {"model": "m", "provider": FAKE, **wrong}
    with pytest.raises(ConfigError):
        Deployment(settings.pop("model"), settings.pop("provider"), **settings)


@pytest.mark.parametrize(
    "name",
    ["model", "messages", "stream", "stream_options", "timeout", "api_key", "api_base", "base_url", 5],
)
def test_parameters_that_are_tierllms_own(name: Any) -> None:
    with pytest.raises(ConfigError, match=rf"params=\.\.\.\): {name!r} is no parameter of a generation"):
        d(params={name: None})
    with pytest.raises(ConfigError, match=r"Tier\('gold', defaults="):
        Tier("gold", [d()], defaults={name: None})


def test_settings_that_do() -> None:
    tier = Tier(
        "gold",
        (Deployment("m", FAKE, labels=["eu"], drop=("seed",), weight=3, params={"top_k": 5, "seed": None}),),
        objective=Objective(latency_p95_s=4, availability=0.999),
        temperature=1,
        max_concurrency=3,
        max_waiting=0,
        max_wait_s=0,
        breaker=False,
        retry=Retry(2),
        fallback=FallbackChain(),
        policies=(CircuitBreaker("own"),),
        defaults={"temperature": None},
    )
    assert repr(tier) == "Tier('gold', [Deployment('m', name='m')])"
    assert tier.deployments[0].labels == {"eu"}
    assert Random(1).random() < 1
