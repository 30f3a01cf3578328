"""Options, per-call options and the default client; and mistakes in them."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import tierllm
from tierllm import ConfigError, TieredClient, UnknownOptionError, tiered
from tierllm.testing import FakeProvider

DECORATORS = [tiered, tiered.call]


def text(text: str = "hello") -> str:
    return text


def test_with_options_makes_another(client: TieredClient, fake: FakeProvider) -> None:
    summarise = tiered(sla="gold", client=client, temperature=0.5)(text)
    bronze = summarise.with_options(sla="bronze", max_tokens=7)
    assert bronze("x").tier == "bronze"
    assert dict(fake.journal[-1].params) == {"temperature": 0.5, "max_tokens": 7}
    assert summarise("x").tier == "gold"
    assert bronze.with_options(sla="gold")("x").tier == "gold"
    with bronze.stream("x") as stream:
        list(stream)
    assert stream.response.tier == "bronze"


def test_with_options_of_a_wrapped_call(client: TieredClient) -> None:
    @tiered.call(client=client)
    def call(*, route: tierllm.Route = tierllm.Route.INJECTED) -> str:
        return route.model

    assert (call(), call.with_options(sla="bronze")()) == ("big", "small")


def test_the_default_client(client: TieredClient) -> None:
    prompted, called = tiered(text), tiered.call(text)
    for decorated in (prompted, called):
        with pytest.raises(ConfigError, match=r"text has no client: .*tierllm\.configure\(client\)"):
            decorated()
    tierllm.configure(client)  # after decorating
    assert prompted().tier == "gold"
    assert called() == "hello"
    tierllm.configure(None)
    with pytest.raises(ConfigError, match="no client"):
        prompted()


def test_a_clients_own_comes_first(client: TieredClient, fake: FakeProvider) -> None:
    other = TieredClient([tierllm.Tier("other", [tierllm.Deployment("m", fake)])])
    tierllm.configure(other)
    assert tiered(client=client)(text)().tier == "gold"
    assert tiered(text)().tier == "other"


@pytest.mark.parametrize("decorate", DECORATORS)
class TestMistakes:
    """They show where the decorator stands, and not at the first call."""

    def test_unknown_options(self, decorate: Any) -> None:
        with pytest.raises(UnknownOptionError, match="'slaa' is no option of a call: did you mean 'sla'"):
            decorate(slaa="gold")(text)
        with pytest.raises(TypeError):
            decorate(text).with_options(slaa="gold")

    @pytest.mark.parametrize(
        "option", [{"priority": "high"}, {"deadline_s": 0}, {"max_tokens": -1}, {"sla": ""}, {"tags": "a"}]
    )
    def test_values_that_make_no_sense(self, decorate: Any, option: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(option))):
            decorate(**option)(text)
        with pytest.raises(ConfigError, match=next(iter(option))):
            decorate(text).with_options(**option)

    def test_tiers_the_client_does_not_have(self, decorate: Any, client: TieredClient) -> None:
        with pytest.raises(ConfigError, match="did you mean 'gold'"):
            decorate(sla="glod", client=client)(text)
        with pytest.raises(ConfigError, match="did you mean 'gold'"):
            decorate(client=client)(text).with_options(sla="glod")

    @pytest.mark.parametrize("thing", ["gold", 3, object(), property(text)])
    def test_what_is_no_function(self, decorate: Any, thing: Any) -> None:
        with pytest.raises(ConfigError, match="decorates a function, not"):
            decorate(thing)
        with pytest.raises(ConfigError, match=r"options are keywords: @tiered\(sla=\.\.\.\)"):
            decorate(sla="gold")(thing)

    def test_a_client_in_the_functions_place(self, decorate: Any, client: TieredClient) -> None:
        with pytest.raises(ConfigError, match="not TieredClient"):
            decorate(client)

    def test_a_class(self, decorate: Any) -> None:
        with pytest.raises(ConfigError, match="not a class"):
            decorate(dict)

    def test_what_is_no_client(self, decorate: Any) -> None:
        with pytest.raises(ConfigError, match=r"@tiered\(client=\.\.\.\): give a TieredClient, not str"):
            decorate(client="client")(text)

    def test_twice(self, decorate: Any) -> None:
        with pytest.raises(ConfigError, match="<tiered text> is decorated already: use with_options"):
            decorate(decorate(text))


def test_configure_takes_a_client() -> None:
    with pytest.raises(ConfigError, match="give a TieredClient, not str"):
        tierllm.configure("client")  # type: ignore[arg-type]


# -- other callables -------------------------------------------------------------


def test_lambdas_partials_objects_and_builtins(client: TieredClient) -> None:
    class Greeter:
        def __init__(self, greeting: str) -> None:
            self.greeting = greeting

        def __call__(self, name: str) -> str:
            return f"{self.greeting} {name}"

    assert tiered.call(client=client)(lambda x: x)(3) == 3
    assert tiered.call(client=client)(functools.partial(int, base=16))("ff") == 255
    assert tiered.call(client=client)(Greeter("Hello"))("you") == "Hello you"
    assert tiered.call(client=client)(max)(1, 2) == 2
    assert tiered(client=client)(lambda: "prompt")().tier == "gold"


def test_async_partials_and_objects(client: TieredClient) -> None:
    import asyncio

    class Greeter:
        async def __call__(self, name: str) -> str:
            return f"Hello {name}"

    async def add(a: int, b: int) -> int:
        return a + b

    assert asyncio.run(tiered.call(client=client)(Greeter())("you")) == "Hello you"
    assert asyncio.run(tiered.call(client=client)(functools.partial(add, 1))(2)) == 3
    assert asyncio.run(tiered(client=client)(Greeter())("you")).tier == "gold"
