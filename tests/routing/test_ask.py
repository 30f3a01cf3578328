"""From what a caller writes to a request: nonsense is told by name, before anything is sent."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import UserList
from collections.abc import Iterator
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tierllm
from client.forms import Form, World, every_form
from tierllm import scope
from tierllm.errors import ConfigError, TierLLMError, UnknownOptionError
from tierllm.routing.ask import OPTIONS, PARAMS, ask, unknown_option

NAN, INF = float("nan"), float("inf")


class Junk:
    def __repr__(self) -> str:
        return "Junk()"


def generated() -> Iterator[dict[str, str]]:
    yield {"role": "user", "content": "hi"}


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


BAD_PROMPTS: list[Any] = [
    None,
    "",
    "   \n\t ",
    b"hello",
    bytearray(b"hello"),
    5,
    0.5,
    True,
    Junk(),
    [],
    (),
    {},
    {"role": "user", "content": "hi"},
    {"hi"},
    generated(),
    ["hi"],
    [None],
    [[]],
    [[{"role": "user", "content": "hi"}]],
    [{}],
    [{"role": "user"}],
    [{"content": "hi"}],
    [{"role": "", "content": "hi"}],
    [{"role": None, "content": "hi"}],
    [{"role": 5, "content": "hi"}],
    user(None),
    user(5),
    user(NAN),
    user(b"hi"),
    user({"type": "text", "text": "hi"}),
    user([]),
    user([None]),
    user([5]),
    user([True]),
    user([b"hi"]),
    user([["nested"]]),
    user([{"type": "text", "text": "hi"}, None]),
    user(generated()),
    user(Junk()),
    [{"role": "user", "content": "hi"}, "there"],
    [{"role": "assistant", "content": None, "tool_calls": []}],
    [{"role": "assistant", "content": None, "tool_calls": 5}],
    [{"role": "assistant", "content": None, "tool_calls": "call"}],
    [{"role": "assistant", "tool_calls": {"id": "1"}}],
]

BAD_OPTIONS: list[dict[str, Any]] = [
    *({"sla": v} for v in ("", "platinum", 5, True, ["gold"], b"gold", Junk())),
    *({"min_tier": v} for v in ("", "platinum", 5, {"gold"})),
    *(
        {name: v}
        for name in ("user", "tenant", "plan", "session", "route", "language")
        for v in ("", 5, b"u")
    ),
    *({"priority": v} for v in (1.5, "high", True, NAN, [1])),
    *({"deadline_s": v} for v in (0, -1, NAN, INF, -INF, "5", True, Decimal(5), [1], -(10**400))),
    {"fallback": 1},
    {"fallback": 0},
    {"fallback": "yes"},
    *({"tags": v} for v in ("billing", b"billing", 5, [5], [""], [None], {"a": 1})),
    *({"require": v} for v in ("eu", 5, [5], {""}, [None], b"eu", {"eu": True})),
    *({"extra": v} for v in (5, "x", [1], {"openai": 5}, {"openai": None})),
    *({"max_tokens": v} for v in (0, -1, 1.5, "9", True, NAN, [9])),
    *({"temperature": v} for v in (-0.1, 2.1, "hot", True, NAN, INF, 10**400, [1])),
    *({"top_p": v} for v in (-0.1, 1.1, "x", False, NAN)),
    *({"presence_penalty": v} for v in (-2.1, 2.1, NAN, "x", True)),
    *({"frequency_penalty": v} for v in (-2.1, 2.1, INF, "x")),
    *({"seed": v} for v in (1.5, "x", True)),
    *({"top_logprobs": v} for v in (-1, 1.5, True)),
    *({"logprobs": v} for v in (1, "yes")),
    *({"parallel_tool_calls": v} for v in (1, "no")),
    *({"stop": v} for v in (5, b"x", [5], {"a": 1}, [""])),
    *({"tools": v} for v in (5, "t", b"t", {"type": "function"}, [5], [None], generated())),
    *({"reasoning_effort": v} for v in (5, ["high"])),
    *({"logit_bias": v} for v in (5, [1], "x")),
    *({name: 1} for name in ("model", "messages", "slaa", "timeout", "stream", "n", "")),
]


def named(value: object) -> str:
    """A short name that is the same in every process."""
    return re.sub(r" at 0x\w*", "", repr(value))[:50]


@pytest.mark.parametrize("prompt", BAD_PROMPTS, ids=named)
def test_prompts_that_make_no_sense(prompt: Any) -> None:
    world = World(virtual=False)
    with pytest.raises(ConfigError):
        world.client.complete(prompt)
    assert world.fake.calls == 0


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=named)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    world = World(virtual=False)
    with pytest.raises(ConfigError) as info:
        world.client.complete("Hello", **options)
    assert world.fake.calls == 0
    assert isinstance(info.value, ValueError)
    assert next(iter(options)) in str(info.value)


@every_form
@pytest.mark.parametrize("options", [{"deadline_s": NAN}, {"sla": "platinum"}, {"modle": 1}], ids=str)
def test_every_form_checks_alike(form: Form, options: dict[str, Any]) -> None:
    world = World(virtual=False)
    with pytest.raises(ConfigError):
        form(world.client, **options)
    assert world.fake.calls == 0
    assert world.client.status()["in_flight"] == 0


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(json_like | st.lists(st.fixed_dictionaries({"role": json_like, "content": json_like})))
def test_whatever_comes_it_is_a_request_or_a_typed_error(prompt: Any) -> None:
    try:
        request = ask(prompt, {})
    except TierLLMError:
        return
    assert request.messages


@given(st.sampled_from(sorted(OPTIONS)), json_like)
def test_whatever_option_comes_it_is_a_request_or_a_typed_error(name: str, value: Any) -> None:
    try:
        ask("Hello", {name: value})
    except TierLLMError:
        pass


GOOD_PROMPTS: list[Any] = [
    "hi",
    user("hi"),
    tuple(user("hi")),
    UserList(user("hi")),
    [MappingProxyType({"role": "user", "content": "hi"})],
    user(""),
    user([{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:..."}}]),
    user(("hi", {"type": "text", "text": "there"})),
    user([Junk()]),
    [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, {"role": "tool", "content": "42"}],
    [{"role": "assistant", "tool_calls": ({"id": "1"},)}],
]


@pytest.mark.parametrize("prompt", GOOD_PROMPTS, ids=named)
def test_prompts_that_pass_untouched(prompt: Any) -> None:
    messages = ask(prompt, {}).messages
    assert messages == ((*user("hi"),) if prompt == "hi" else tuple(prompt))


def test_nothing_given_nothing_set() -> None:
    request = ask("hi", {name: None for name in OPTIONS if name not in ("fallback",)})
    assert request == ask("hi", {})
    assert (request.priority, request.fallback, dict(request.params)) == (0, True, {})


def test_options_find_their_places() -> None:
    request = ask(
        "hi",
        {
            "sla": "gold",
            "tags": ["a", "b"],
            "require": ["eu"],
            "deadline_s": 5,
            "max_tokens": 9,
            "stop": ["x"],
        },
    )
    assert (request.sla, request.tags, request.require, request.deadline_s) == (
        "gold",
        ("a", "b"),
        frozenset({"eu"}),
        5.0,
    )
    assert request.params == {"max_tokens": 9, "stop": ["x"]}
    assert PARAMS <= OPTIONS


def test_a_deadline_beyond_all_timers_is_a_long_one() -> None:
    assert ask("hi", {"deadline_s": 10**12}).deadline_s == 4e6


@pytest.mark.parametrize(
    ("name", "meant"),
    [("max_token", "max_tokens"), ("temprature", "temperature"), ("priorty", "priority"), ("zzz", "")],
)
def test_a_typing_error_is_met_with_a_guess(name: str, meant: str) -> None:
    error = unknown_option(name)
    assert isinstance(error, UnknownOptionError)
    assert isinstance(error, TypeError)
    assert ("did you mean" in str(error)) == bool(meant)
    assert meant in str(error)
    assert "extra=" in str(error)


def test_errors_do_not_quote_the_prompt() -> None:
    secret = "canary-4711"
    prompts: list[Any] = [user([secret, None]), user({secret: secret}), [[secret]], [secret]]
    for prompt in prompts:
        with pytest.raises(ConfigError) as info:
            ask(prompt, {})
        assert secret not in str(info.value)


# -- defaults for a while ----------------------------------------------------------


def test_a_scope_gives_defaults_and_takes_them_back() -> None:
    with scope(user="u1", sla="silver", temperature=0.5):
        with scope(user="u2", tags=["x"]):
            request = ask("hi", {"temperature": 1.0})
            assert (request.user, request.sla, request.tags) == ("u2", "silver", ("x",))
            assert request.params == {"temperature": 1.0}
        with scope(user=None):
            assert ask("hi", {}).user is None
        assert ask("hi", {}).user == "u1"
        assert ask("hi", {"user": None}).user is None
    assert ask("hi", {}) == ask("hi", {"user": None})


def test_a_scope_is_taken_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), scope(user="u1"):
        1 / 0  # noqa: B018
    assert ask("hi", {}).user is None


@every_form
def test_a_scope_reaches_every_form(form: Form) -> None:
    world = World(virtual=False)
    with tierllm.scope(sla="bronze", max_tokens=2):
        response = form(world.client)
    assert (response.tier, response.finish_reason) == ("bronze", "length")
    assert form(world.client).tier == "gold"


def test_an_unknown_option_of_a_scope_is_told_at_once() -> None:
    with pytest.raises(UnknownOptionError, match="usr"), scope(usr="u1"):  # type: ignore[call-arg]
        pass


def test_nonsense_in_a_scope_is_told_by_the_call() -> None:
    with scope(deadline_s=NAN), pytest.raises(ConfigError, match="deadline_s"):
        ask("hi", {})


def test_threads_do_not_see_each_others_scopes() -> None:
    seen: dict[str, str | None] = {}
    gate = threading.Barrier(3)

    def work(name: str) -> None:
        with scope(user=name):
            gate.wait()
            seen[name] = ask("hi", {}).user
            gate.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    with scope(user="main"):
        for thread in threads:
            thread.start()
        gate.wait()
        assert ask("hi", {}).user == "main"
        gate.wait()
    for thread in threads:
        thread.join()
    assert seen == {"a": "a", "b": "b"}


async def test_tasks_inherit_a_scope_and_keep_their_own() -> None:
    async def inner(name: str) -> list[str | None]:
        before = ask("hi", {}).user
        with scope(user=name):
            await asyncio.sleep(0)
            return [before, ask("hi", {}).user]

    with scope(user="main"):
        assert list(await asyncio.gather(inner("a"), inner("b"))) == [["main", "a"], ["main", "b"]]
        assert ask("hi", {}).user == "main"
