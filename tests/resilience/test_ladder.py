"""The ladder's end: a stale answer, then a simple reply, then the error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from client.forms import Form, World, every_form
from tierllm import Call, Request, Response, Route, TieredClient, tiered
from tierllm.errors import (
    AllTiersFailedError,
    ConfigError,
    ContentFilteredError,
    DeadlineExceededError,
    InvalidRequestError,
    StreamInterruptedError,
    ThrottledError,
)
from tierllm.resilience.ladder import SimpleReply, StaleAnswer
from tierllm.testing import Fail


def out(**settings: Any) -> World:
    """A world in which no tier answers."""
    world = World(virtual=False, **settings)
    world.fake.down()
    return world


def old(request: Request) -> Response:
    return Response(text="an old answer", tier="silver", deployment="s", finish_reason="stop")


@every_form
def test_first_the_old_answer(form: Form) -> None:
    response = form(out(stale=old, simple_reply="sorry").client)
    assert response.text == "an old answer"
    assert response.cached
    assert response.degraded == ("stale",)
    trace = response.trace
    assert trace is not None
    assert (trace.outcome, trace.degraded, trace.served) == ("ok", ("stale",), "silver")
    assert {a.outcome for a in trace.attempts} == {"failed"}


@every_form
def test_then_the_simple_reply(form: Form) -> None:
    response = form(out(stale=lambda request: None, simple_reply="sorry").client)
    assert (response.text, response.degraded, response.finish_reason) == ("sorry", ("simple_reply",), "stop")
    assert (response.tier, response.cached) == (None, False)
    assert response.trace is not None
    assert response.trace.degraded == ("simple_reply",)
    assert response.trace.to_dict()["degraded"] == ["simple_reply"]


@every_form
def test_then_the_error(form: Form) -> None:
    world = out(stale=lambda request: None, simple_reply=lambda request: None)
    with pytest.raises(AllTiersFailedError) as info:
        form(world.client)
    assert info.value.trace is not None
    assert info.value.trace.degraded == ()


@every_form
def test_nothing_is_asked_while_a_tier_answers(form: Form) -> None:
    world = World(virtual=False, stale=lambda r: 1 / 0, simple_reply=lambda r: 1 / 0)
    response = form(world.client)
    assert response.tier == "gold"
    assert response.degraded == ()


@every_form
def test_a_missed_deadline_is_answered_too(form: Form) -> None:
    world = World(virtual=False, simple_reply="sorry")
    world.fake.down(fail=Fail.hang())
    assert form(world.client, deadline_s=1).text == "sorry"
    assert world.clock() == 1


@every_form
def test_a_throttle_is_answered_too(form: Form) -> None:
    world = World(virtual=False, simple_reply="sorry")
    world.fake.down(fail=Fail.rate_limited(retry_after_s=60))
    assert [form(world.client).text for _ in range(2)] == ["sorry", "sorry"]
    assert world.fake.calls == 4


@every_form
@pytest.mark.parametrize(
    ("fail", "kind"),
    [(Fail.invalid(), InvalidRequestError), (Fail.filtered(), ContentFilteredError)],
    ids=str,
)
def test_an_answer_that_would_hide_the_callers_own_mistake_is_not_given(
    form: Form, fail: Fail, kind: type[Exception]
) -> None:
    world = World(virtual=False, stale=old, simple_reply="sorry")
    world.fake.down(fail=fail)
    with pytest.raises(kind):
        form(world.client)


@every_form
def test_a_call_without_fallback_gets_the_error(form: Form) -> None:
    world = out(stale=old, simple_reply="sorry")
    with pytest.raises(AllTiersFailedError):
        form(world.client, fallback=False)


def test_nothing_follows_text_that_was_delivered() -> None:
    world = World(stale=old, simple_reply="sorry")
    world.fake.script("g1", Fail.cut_after(2))
    assert isinstance(world.call(streaming=True).error, StreamInterruptedError)
    world.fake.script("g1", Fail.stall_after(2))
    told = world.call(streaming=True, deadline_s=1)
    assert isinstance(told.error, DeadlineExceededError)
    assert "sorry" not in told.text


# -- floors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "an old answer"),
        ({"sla": "silver"}, "an old answer"),
        ({"min_tier": "silver"}, "an old answer"),
        ({"min_tier": "gold"}, "sorry"),
        ({"sla": "bronze"}, "sorry"),
        ({"sla": "bronze", "min_tier": "silver"}, "an old answer"),
    ],
    ids=str,
)
def test_an_old_answer_comes_from_an_admissible_tier(options: dict[str, Any], text: str) -> None:
    assert out(stale=old, simple_reply="sorry").client.complete("Hello", **options).text == text


def test_where_an_old_answer_is_from_nobody_knows_a_floor_keeps_it_out() -> None:
    client = out(stale=lambda request: "from somewhere", simple_reply="sorry").client
    assert client.complete("Hello").text == "from somewhere"
    assert client.complete("Hello", min_tier="bronze").text == "sorry"


def test_labels_are_not_known_of_an_old_answer() -> None:
    from tierllm import Deployment, Tier
    from tierllm.testing import FakeProvider

    fake = FakeProvider()
    fake.down()
    client = TieredClient([Tier("silver", [Deployment("s", fake, labels={"eu"})])], stale=old, retry=False)
    assert client.complete("Hello").text == "an old answer"
    with pytest.raises(AllTiersFailedError):
        client.complete("Hello", require={"eu"})


# -- which reply -----------------------------------------------------------------

REPLIES = {
    "faq": {"de": "Bitte später noch einmal.", "*": "Please come back later."},
    "quiet": lambda request: None,
    "echo": lambda request: f"no answer to: {request.text}",
    "whole": lambda request: Response(text="built", finish_reason="stop"),
    "*": "Sorry.",
}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"route": "faq", "language": "de"}, "Bitte später noch einmal."),
        ({"route": "faq", "language": "fr"}, "Please come back later."),
        ({"route": "faq"}, "Please come back later."),
        ({"route": "echo", "language": "de"}, "no answer to: Hello"),
        ({"route": "whole"}, "built"),
        ({"route": "other"}, "Sorry."),
        ({}, "Sorry."),
    ],
    ids=str,
)
def test_by_route_and_language(options: dict[str, Any], text: str) -> None:
    assert out(simple_reply=REPLIES).client.complete("Hello", **options).text == text


def test_a_route_may_have_none() -> None:
    with pytest.raises(AllTiersFailedError):
        out(simple_reply=REPLIES).client.complete("Hello", route="quiet")
    with pytest.raises(AllTiersFailedError):
        out(simple_reply={"faq": "sorry"}).client.complete("Hello", route="other")


def test_a_reply_that_is_kept_is_not_changed() -> None:
    kept = Response(text="kept", finish_reason="stop")
    client = out(stale=lambda request: kept).client
    first, second = client.complete("Hello"), client.complete("Hello")
    assert first.trace is not second.trace
    assert (kept.degraded, kept.cached, kept.trace) == ((), False, None)
    assert first.degraded == second.degraded == ("stale",)


@pytest.mark.parametrize("wrong", [5, ["sorry"], {"faq": 5}, {"faq": {"de": None}}, b"sorry"], ids=str)
def test_replies_that_make_no_sense(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="simple_reply"):
        SimpleReply(wrong)


def test_a_coroutine_function_is_no_reply() -> None:
    async def later(request: Request) -> str:
        return "later"

    with pytest.raises(ConfigError, match="simple_reply"):
        SimpleReply(later)


# -- rungs that fail ---------------------------------------------------------------


@every_form
def test_a_rung_that_raises_is_logged_and_passed_over(form: Form, caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: Request) -> str:
        raise KeyError(f"nothing cached for {request.text}")

    world = out(stale=broken, simple_reply="sorry")
    with caplog.at_level(logging.ERROR, "tierllm"):
        assert form(world.client, "canary-question").text == "sorry"
    assert "'stale' raised KeyError" in caplog.text
    assert "canary" not in caplog.text


@every_form
@pytest.mark.parametrize("wrong", [5, b"bytes", ["sorry"]], ids=str)
def test_a_rung_that_gives_nonsense_is_passed_over(form: Form, wrong: Any) -> None:
    with pytest.raises(AllTiersFailedError):
        form(out(stale=lambda request: wrong).client)


def test_when_all_rungs_fail_the_error_of_the_tiers_stands() -> None:
    world = out(stale=lambda r: 1 / 0, simple_reply=lambda r: 1 / 0)
    with pytest.raises(AllTiersFailedError) as info:
        world.client.complete("Hello")
    assert info.value.trace is not None


def test_an_interrupt_in_a_rung_is_an_interrupt() -> None:
    def interrupted(request: Request) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        out(stale=interrupted).client.complete("Hello")


# -- wrapped calls -----------------------------------------------------------------


def test_a_wrapped_call_never_gets_a_bare_text() -> None:
    client = World(virtual=False, stale=lambda r: "text", simple_reply="sorry", retry=False).client

    @tiered.call(client=client)
    def answer(question: str, *, route: Route = Route.INJECTED) -> dict[str, str]:
        raise ConnectionError(route.model)

    with pytest.raises(AllTiersFailedError):
        answer("Hello")


def test_a_wrapped_call_may_get_what_it_returns_itself() -> None:
    client = World(
        virtual=False, simple_reply=lambda request: Response(raw={"text": "sorry"}), retry=False
    ).client

    @tiered.call(client=client)
    def answer(question: str) -> dict[str, str]:
        raise ConnectionError

    assert answer("Hello") == {"text": "sorry"}


def test_a_wrapped_stream_never_gets_a_bare_text() -> None:
    client = World(virtual=False, simple_reply="sorry", retry=False).client

    @tiered.call(client=client)
    def answer(question: str) -> Iterator[str]:
        if question:
            raise ConnectionError
        yield ""

    with pytest.raises(AllTiersFailedError):
        list(answer("Hello"))


def test_as_a_stream_it_comes_in_pieces_like_any_other() -> None:
    world = out(simple_reply="sorry")
    with world.client.stream("Hello") as stream:
        chunks = list(stream)
    assert "".join(c.text for c in chunks) == "sorry"
    assert chunks[-1].finish_reason == "stop"
    assert stream.response.degraded == ("simple_reply",)

    async def main() -> str:
        async with world.client.astream("Hello") as stream:
            return "".join([chunk.text async for chunk in stream])

    assert asyncio.run(main()) == "sorry"


def test_rungs_alone() -> None:
    call = Call(Request(messages=()))
    assert StaleAnswer(lambda r: None)(call) is None
    stale = StaleAnswer(lambda r: "old")(call)
    assert stale is not None
    assert (stale.text, stale.cached) == ("old", True)
    assert ThrottledError("full").retry_after_s is None
