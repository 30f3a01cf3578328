"""A decorated function looks, binds and pickles like the function it was."""

from __future__ import annotations

import abc
import copy
import functools
import inspect
import pickle
import pydoc
import typing
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import tierllm
from tierllm import Response, Route, TieredClient, tiered


@tiered(sla="gold")
def summarise(text: str, words: int = 20) -> str:
    """Summarise ``text``."""
    return f"Summarise in {words} words: {text}"


@tiered
async def translate(text: str) -> str:
    """Translate ``text``."""
    return text


@tiered.call(sla="gold")
def call(question: str, *, route: Route = Route.INJECTED) -> tuple[str, str]:
    """Answer ``question``."""
    return question, route.model


@tiered.call
async def acall(question: str) -> str:
    return question


@tiered.call
def items(question: str) -> Iterator[str]:
    yield question


@tiered.call
async def aitems(question: str) -> AsyncIterator[str]:
    yield question


bronze = summarise.with_options(sla="bronze")
ALL = [summarise, translate, call, acall, items, aitems]
by_name = pytest.mark.parametrize("decorated", ALL, ids=lambda d: d.__name__)


@by_name
def test_looks(decorated: Any) -> None:
    plain = decorated.__wrapped__
    assert inspect.isfunction(plain)
    for name in functools.WRAPPER_ASSIGNMENTS:
        assert getattr(decorated, name) == getattr(plain, name)
    assert inspect.signature(decorated) == inspect.signature(plain)
    assert inspect.unwrap(decorated) is plain
    assert inspect.getsource(decorated) == inspect.getsource(plain)
    assert inspect.getdoc(decorated) == inspect.getdoc(plain)
    assert typing.get_type_hints(decorated) == typing.get_type_hints(plain)
    assert repr(decorated) == f"<tiered {plain.__name__}>"
    assert callable(decorated)


@by_name
def test_frameworks_see_its_kind(decorated: Any) -> None:
    plain = decorated.__wrapped__
    for kind in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        assert kind(decorated) == kind(plain)
        assert kind(decorated.with_options(user="u")) == kind(plain)
        assert kind(functools.partial(decorated, "x")) == kind(plain)


def test_kind_of_partials_and_objects() -> None:
    class Greeter:
        async def __call__(self, name: str) -> str:
            return name

    greeter = tiered.call(Greeter())
    assert inspect.iscoroutinefunction(greeter)
    assert (greeter.__name__, str(inspect.signature(greeter))) == ("Greeter", "(name: 'str') -> 'str'")
    partial = tiered.call(functools.partial(acall.__wrapped__, "x"))
    assert inspect.iscoroutinefunction(partial)
    assert (partial.__name__, str(inspect.signature(partial))) == ("acall", "() -> 'str'")


def test_help() -> None:
    text = pydoc.plain(pydoc.render_doc(summarise))
    assert "Summarise ``text``." in text
    assert "text: " in text


def test_attributes_come_along_but_shadow_nothing() -> None:
    def marked() -> str:
        return "text"

    marked.mark = 1  # type: ignore[attr-defined]
    marked.stream = marked.client = marked._fn = "not ours"  # type: ignore[attr-defined]
    decorated: Any = tiered(marked)
    assert decorated.mark == 1
    assert callable(decorated.stream)
    assert decorated._fn is marked
    assert marked.stream == "not ours"  # type: ignore[attr-defined]


# -- methods ---------------------------------------------------------------------


class Desk:
    def __init__(self, name: str) -> None:
        self.name = name

    @tiered
    def draft(self, topic: str) -> str:
        """Draft it."""
        return f"{self.name}: {topic}"

    @tiered.call
    def call(self, topic: str, *, route: Route = Route.INJECTED) -> str:
        return f"{self.name} {topic} {route.model}"

    @tiered.call
    async def acall(self, topic: str) -> str:
        return f"{self.name} {topic}"

    @tiered.call
    def items(self, topic: str) -> Iterator[str]:
        yield self.name
        yield topic

    @staticmethod
    @tiered.call
    def below(topic: str) -> str:
        return topic

    @tiered.call
    @staticmethod
    def above(topic: str) -> str:
        return topic

    @classmethod
    @tiered.call
    def made(cls, topic: str) -> str:
        return f"{cls.__name__} {topic}"

    @tiered
    @classmethod
    def drafted(cls, topic: str) -> str:
        return f"{cls.__name__} {topic}"

    @property
    @tiered.call
    def title(self) -> str:
        return self.name.upper()

    unbound = tiered.call(functools.partial(str, "fixed"))

    quick = draft.with_options(sla="bronze")


class Subdesk(Desk):
    @tiered.call
    def call(self, topic: str, *, route: Route = Route.INJECTED) -> str:
        return "sub " + super().call(topic)


@pytest.fixture
def desk(client: TieredClient) -> Desk:
    tierllm.configure(client)
    return Desk("desk")


async def test_methods(desk: Desk, fake: Any) -> None:
    assert desk.draft("tea").tier == "gold"
    assert fake.journal[-1].messages[0]["content"] == "desk: tea"
    with desk.draft.stream("milk") as stream:
        list(stream)
    assert fake.journal[-1].messages[0]["content"] == "desk: milk"
    assert desk.draft.with_options(sla="bronze")("x").tier == "bronze"
    assert desk.quick("x").tier == "bronze"
    assert Desk.draft(desk, "tea").tier == "gold"
    assert await desk.acall("tea") == "desk tea"
    with pytest.raises(TypeError):
        desk.draft()  # type: ignore[call-arg]


def test_other_methods(desk: Desk, fake: Any) -> None:
    assert desk.call("tea") == "desk tea big"
    assert desk.call.with_options(sla="bronze")("tea") == "desk tea small"
    assert list(desk.items("tea")) == ["desk", "tea"]
    assert (Desk.below("tea"), desk.below("tea"), Desk.above("tea"), desk.above("tea")) == ("tea",) * 4
    assert (Desk.made("tea"), desk.made("tea"), Subdesk.made("tea")) == (
        "Desk tea",
        "Desk tea",
        "Subdesk tea",
    )  # type: ignore[call-arg,arg-type]
    assert desk.title == "DESK"
    assert desk.unbound() == "fixed"  # type: ignore[call-arg]
    assert Subdesk("s").call("tea") == "sub s tea big"
    for owner in (Desk, desk, Subdesk):
        with owner.drafted.stream("tea") as stream:  # type: ignore[attr-defined]
            list(stream)
    contents = [e.messages[0]["content"] for e in fake.journal]
    assert contents == ["Desk tea", "Desk tea", "Subdesk tea"]


def test_methods_look_like_methods(desk: Desk) -> None:
    assert str(inspect.signature(desk.draft)) == "(topic: 'str') -> 'str'"
    assert inspect.getdoc(desk.draft) == "Draft it."
    assert inspect.iscoroutinefunction(desk.acall)
    assert repr(desk.draft) == "<tiered Desk.draft>"


def test_abstract_methods_stay_abstract() -> None:
    class Base(abc.ABC):
        @tiered
        @abc.abstractmethod
        def draft(self) -> str: ...

    with pytest.raises(TypeError, match="abstract"):
        Base()  # type: ignore[abstract]


# -- copies ----------------------------------------------------------------------


@by_name
def test_pickled_by_reference(decorated: Any) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(decorated, protocol)) is decorated
    assert copy.copy(decorated) is copy.deepcopy(decorated) is decorated


def test_variants_are_pickled_with_their_options(client: TieredClient) -> None:
    tierllm.configure(client)
    variant = summarise.with_options(sla="gold", user="u").with_options(sla="bronze")
    for again in (pickle.loads(pickle.dumps(variant)), copy.deepcopy(variant)):
        response = again("x")
        assert isinstance(response, Response)
        assert response.tier == "bronze"
    assert pickle.loads(pickle.dumps(bronze))("x").tier == "bronze"


def test_methods_are_pickled_with_their_instance(desk: Desk) -> None:
    assert pickle.loads(pickle.dumps(desk.call))("tea") == "desk tea big"
    assert pickle.loads(pickle.dumps(desk.call.with_options(sla="bronze")))("tea") == "desk tea small"
    assert pickle.loads(pickle.dumps(Subdesk("s").call))("tea") == "sub s tea big"
    assert pickle.loads(pickle.dumps(Desk.drafted))("tea").tier == "gold"  # type: ignore[call-arg]


def test_local_functions_cannot_be_pickled() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(tiered(lambda: "text"))
