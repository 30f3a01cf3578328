"""Replies, failures and the order in which calls meet them."""

from __future__ import annotations

import pickle

import pytest

from tierllm.errors import (
    AuthenticationError,
    ConfigError,
    ContentFilteredError,
    ContextWindowExceededError,
    InvalidRequestError,
    MalformedResponseError,
    ProviderError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
)
from tierllm.pipeline.scope import Invocation, Scope
from tierllm.testing import Fail, FakeClock, FakeProvider, Reply, ScriptExhausted
from tierllm.types import Call, Request, Response, ToolCall, Usage


def call(model: str = "m", text: str = "hi") -> Call:
    return Call(Request(messages=({"role": "user", "content": text},)), model=model)


def ask(fake: FakeProvider, model: str = "m", text: str = "hi", clock: FakeClock | None = None) -> Response:
    asked = call(model, text)
    return fake.complete(asked, Invocation(asked, Scope(clock or FakeClock()), False))


def stream(fake: FakeProvider, clock: FakeClock | None = None) -> tuple[list[str], Response]:
    asked = call()
    invocation = Invocation(asked, Scope(clock or FakeClock()), True)
    texts = []
    for chunk in fake.stream(asked, invocation):
        invocation.feed(chunk)
        texts.append(chunk.text)
    return texts, invocation.finished()


class TestReply:
    def test_is_given_word_for_word(self) -> None:
        fake = FakeProvider()
        usage = Usage(input_tokens=7, output_tokens=9)
        fake.script(
            "m", Reply("so it is", finish_reason="length", usage=usage, model="m-0613", reasoning="hm")
        )
        reply = ask(fake)
        assert (reply.text, reply.finish_reason, reply.usage) == ("so it is", "length", usage)
        assert (reply.model, reply.reasoning) == ("m-0613", "hm")

    def test_counts_its_usage(self) -> None:
        fake = FakeProvider()
        fake.script("m", Reply("12345678"))
        assert ask(fake).usage == Usage(input_tokens=1, output_tokens=2)

    def test_streams_in_words_or_in_given_chunks(self) -> None:
        fake = FakeProvider()
        fake.script("m", Reply("so it  is\n"), Reply(chunks=["so i", "t is"]))
        assert stream(fake)[0] == ["so", " it", "  is", "\n", ""]
        texts, folded = stream(fake)
        assert texts == ["so i", "t is", ""]
        assert folded.text == "so it is"

    def test_chunks_must_be_the_text(self) -> None:
        with pytest.raises(ConfigError, match="chunks"):
            Reply("this", chunks=["that"])

    def test_tool_calls_are_numbered_and_streamed_in_fragments(self) -> None:
        tools = (ToolCall(name="look", arguments='{"at": 1}'), ToolCall(name="go", id="x"))
        fake = FakeProvider()
        fake.script("m", Reply(tool_calls=tools), repeat=2)
        plain = ask(fake)
        _, folded = stream(fake)
        assert (
            plain.tool_calls
            == folded.tool_calls
            == (
                ToolCall(0, "call_0", "look", '{"at": 1}'),
                ToolCall(1, "x", "go", ""),
            )
        )
        assert plain.finish_reason == folded.finish_reason == "tool_calls"
        assert fake.journal[-1].chunks == 4

    @pytest.mark.parametrize(
        ("reply", "whole_s", "arrivals"),
        [
            (Reply("a b c", latency_s=3), 3, [3, 3, 3]),
            (Reply("a b c", latency_s=3, first_token_s=1), 3, [1, 2, 3]),
            (Reply("a b c", first_token_s=1, between_s=0.5), 2, [1, 1.5, 2]),
            (Reply("a b c", between_s=0.5), 1.25, [0.25, 0.75, 1.25]),
            (Reply("a b c", first_token_s=1), 1, [1, 1, 1]),
            (Reply("a b c"), 0.25, [0.25, 0.25, 0.25]),
            (Reply("", latency_s=2), 2, []),
        ],
    )
    def test_takes_its_time(self, reply: Reply, whole_s: float, arrivals: list[float]) -> None:
        fake = FakeProvider(latency_s=0.25)
        fake.script("m", reply, repeat=2)
        clock = FakeClock()
        ask(fake, clock=clock)
        assert clock() == whole_s
        clock, asked = FakeClock(), call()
        steps = fake.stream(asked, Invocation(asked, Scope(clock), True))
        assert [clock() for chunk in steps if chunk.text] == arrivals
        assert clock() == whole_s

    @pytest.mark.parametrize("name", ["latency_s", "first_token_s", "between_s"])
    def test_refuses_times_below_zero(self, name: str) -> None:
        with pytest.raises(ConfigError, match=name):
            Reply("x", **{name: -1.0})  # type: ignore[arg-type]


class TestFail:
    @pytest.mark.parametrize(
        ("fail", "kind", "status", "retryable"),
        [
            (Fail.rate_limited(), RateLimitError, 429, True),
            (Fail.unavailable(), ProviderUnavailableError, 503, True),
            (Fail.unavailable(status=500), ProviderUnavailableError, 500, True),
            (Fail.connection_refused(), ProviderUnavailableError, None, True),
            (Fail.timeout(), ProviderTimeoutError, None, True),
            (Fail.unauthorized(), AuthenticationError, 401, False),
            (Fail.not_found(), AuthenticationError, 404, False),
            (Fail.quota(), AuthenticationError, 429, False),
            (Fail.invalid(), InvalidRequestError, 400, False),
            (Fail.too_long(), ContextWindowExceededError, 400, False),
            (Fail.filtered(), ContentFilteredError, 400, False),
            (Fail.malformed(), MalformedResponseError, None, True),
            (Fail.cut_after(2), ProviderUnavailableError, None, True),
            (Fail.truncated_after(2), ProviderUnavailableError, None, True),
            (Fail.error_in_stream_after(2, 429), RateLimitError, 429, True),
            (Fail.error_in_stream_after(2), ProviderUnavailableError, 500, True),
        ],
    )
    def test_raises_its_kind(
        self, fail: Fail, kind: type[ProviderError], status: int | None, retryable: bool
    ) -> None:
        fake = FakeProvider()
        fake.script("m", fail)
        with pytest.raises(kind) as failure:
            ask(fake)
        assert type(failure.value) is kind
        assert (failure.value.status, failure.value.retryable) == (status, retryable)
        assert failure.value.request_id == "fake-000001"
        assert (fake.journal[0].outcome, fake.journal[0].error) == ("failed", kind.__name__)

    @pytest.mark.parametrize(
        ("fail", "kind"),
        [
            (Fail.cut_after(11), ProviderUnavailableError),
            (Fail.truncated_after(11), ProviderUnavailableError),
            (Fail.malformed(after=11), MalformedResponseError),
            (Fail.error_in_stream_after(11, 400), InvalidRequestError),
        ],
    )
    def test_strikes_after_exactly_so_many_chunks(self, fail: Fail, kind: type[ProviderError]) -> None:
        fake = FakeProvider()
        fake.script("m", fail)
        seen, asked = [], call()
        invocation = Invocation(asked, Scope(FakeClock()), True)
        with pytest.raises(kind):
            for chunk in fake.stream(asked, invocation):
                seen.append(chunk)
                invocation.feed(chunk)
            invocation.finished()
        assert len(seen) == fake.journal[0].chunks == 11
        assert all(chunk.text and chunk.finish_reason is None for chunk in seen)

    def test_says_when_to_come_back(self) -> None:
        fake = FakeProvider()
        fake.script("m", Fail.rate_limited(retry_after_s=2))
        with pytest.raises(RateLimitError) as failure:
            ask(fake)
        assert failure.value.retry_after_s == fake.journal[0].retry_after_s == 2

    def test_comes_at_once_or_after_its_latency(self) -> None:
        clock = FakeClock()
        fake = FakeProvider(latency_s=5)
        fake.script("m", Fail.timeout(), Fail.unavailable(latency_s=2))
        with pytest.raises(ProviderTimeoutError):
            ask(fake, clock=clock)
        assert clock() == 0
        with pytest.raises(ProviderUnavailableError):
            ask(fake, clock=clock)
        assert clock() == 2

    def test_in_the_middle_of_a_plain_answer_takes_the_time_until_then(self) -> None:
        clock = FakeClock()
        fake = FakeProvider(latency_s=0.5)
        fake.script("m", Fail.cut_after(3))
        with pytest.raises(ProviderUnavailableError):
            ask(fake, clock=clock)
        assert clock() == 0.5

    def test_any_exception_a_fresh_one_each_time(self) -> None:
        fake = FakeProvider()
        boom = KeyError("boom")
        boom.__cause__ = ValueError("why")
        fake.script("m", Fail.error(boom), forever=True)
        fake.script("n", Fail.error(ZeroDivisionError))
        raised = []
        for _ in range(2):
            with pytest.raises(KeyError, match="boom") as failure:
                ask(fake)
            raised.append(failure.value)
        assert raised[0] is not raised[1]
        assert boom.__traceback__ is None
        assert raised[0].__cause__ is boom.__cause__
        with pytest.raises(ZeroDivisionError):
            ask(fake, "n")
        assert fake.journal[-1].error == "ZeroDivisionError"

    def test_an_exception_that_cannot_be_copied_is_raised_itself(self) -> None:
        class StubbornError(Exception):
            def __init__(self, *, code: int) -> None:
                super().__init__("stubborn")
                self.code = code

        error = StubbornError(code=7)
        fake = FakeProvider()
        fake.script("m", Fail.error(error))
        with pytest.raises(StubbornError) as failure:
            ask(fake)
        assert failure.value is error

    def test_a_cancellation_is_no_failure(self) -> None:
        fake = FakeProvider()
        fake.script("m", Fail.error(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ask(fake)
        assert fake.journal[0].outcome == "cancelled"

    def test_survives_pickling_and_reads_well(self) -> None:
        fail = pickle.loads(pickle.dumps(Fail.rate_limited(retry_after_s=2)))
        fake = FakeProvider()
        fake.script("m", fail)
        with pytest.raises(RateLimitError):
            ask(fake)
        assert fake.journal[0].retry_after_s == 2
        assert repr(fail) == "<Fail.rate_limited()>"
        assert repr(Fail.cut_after(3)) == "<Fail.cut_after(3)>"

    def test_refuses_nonsense(self) -> None:
        with pytest.raises(ConfigError, match="cut_after"):
            Fail.cut_after(-1)
        for after in (2.5, "2", True, None):
            with pytest.raises(ConfigError, match="a whole number of chunks"):
                Fail.cut_after(after)  # type: ignore[arg-type]
        for seconds in (-1, "1", True, float("inf")):
            with pytest.raises(ConfigError, match="latency_s"):
                Fail.timeout(latency_s=seconds)  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match="between_s"):
                Reply("x", between_s=seconds)  # type: ignore[arg-type]
            with pytest.raises(ConfigError, match="retry_after_s"):
                Fail.rate_limited(seconds)  # type: ignore[arg-type]
        for error in ("boom", None, int):
            with pytest.raises(ConfigError, match="give an exception"):
                Fail.error(error)  # type: ignore[arg-type]


class TestScript:
    def test_then_answers_normally_again(self) -> None:
        fake = FakeProvider()
        usual = ask(fake).text
        fake.script("m", Reply("one"), "two")
        assert [ask(fake).text for _ in range(3)] == ["one", "two", usual]

    def test_repeats(self) -> None:
        fake = FakeProvider()
        fake.script("m", "a", "b", repeat=2)
        fake.script("m", "c")
        assert [ask(fake).text for _ in range(5)] == ["a", "b", "a", "b", "c"]

    def test_forever(self) -> None:
        fake = FakeProvider()
        fake.script("m", "a", "b", forever=True)
        fake.script("m", "never")
        assert [ask(fake).text for _ in range(5)] == ["a", "b", "a", "b", "a"]

    def test_is_for_its_model(self) -> None:
        fake = FakeProvider()
        fake.script("m", "a")
        assert ask(fake, "n").text != "a"
        assert ask(fake, "m").text == "a"

    def test_for_any_model(self) -> None:
        fake = FakeProvider()
        fake.script("*", "any", repeat=2)
        fake.script("m", "own")
        assert [ask(fake, model).text for model in ("m", "m", "n")] == ["own", "any", "any"]

    def test_for_some_calls_only(self) -> None:
        fake = FakeProvider()
        fake.script("m", "long", when=lambda c: len(c.request.text) > 5)
        fake.script("m", "short")
        assert ask(fake, text="hi").text == "short"
        assert ask(fake, text="a longer one").text == "long"

    def test_when_may_look_at_the_provider(self) -> None:
        fake = FakeProvider()
        fake.script("m", "second", when=lambda _: fake.calls == 1)
        assert ask(fake).text != "second"
        assert ask(fake).text == "second"

    def test_a_broken_when_leaves_nothing_behind(self) -> None:
        fake = FakeProvider()
        fake.script("m", "x", when=lambda c: c.params["missing"])
        with pytest.raises(KeyError):
            ask(fake)
        assert (fake.in_flight, fake.calls) == (0, 0)

    def test_tells_what_was_never_met(self) -> None:
        fake = FakeProvider()
        fake.assert_scripts_used()
        fake.script("m", "a", "b")
        fake.script("m", "on and on", forever=True)
        fake.script("mm", Fail.unavailable(), repeat=3)
        ask(fake)
        with pytest.raises(AssertionError) as failure:
            fake.assert_scripts_used()
        assert str(failure.value).splitlines() == [
            "scripted and never met (calls went to ['m']):",
            "  1 item for 'm'",
            "  1 item for 'm'",
            "  3 items for 'mm'",
        ]
        for model in ("m", "m", "mm", "mm", "mm"):
            try:
                ask(fake, model)
            except ProviderUnavailableError:
                assert model == "mm"
        fake.assert_scripts_used()
        fake.script("m", "forgotten")
        fake.reset()
        fake.assert_scripts_used()

    @pytest.mark.parametrize("options", [{"repeat": 0}, {"repeat": 1.5}, {"repeat": "2"}, {}])
    def test_refuses_nonsense(self, options: dict[str, int]) -> None:
        with pytest.raises(ConfigError, match="script"):
            FakeProvider().script("m", *(("x",) if options else ()), **options)  # type: ignore[arg-type]

    def test_refuses_bare_exceptions(self) -> None:
        with pytest.raises(ConfigError, match="neither a Reply"):
            FakeProvider().script("m", ValueError())  # type: ignore[arg-type]


class TestStrict:
    def test_script_that_runs_out(self) -> None:
        fake = FakeProvider()
        fake.script("m", "a", strict=True)
        assert ask(fake).text == "a"
        with pytest.raises(ScriptExhausted, match="'m' has nothing left"):
            ask(fake)
        assert ask(fake, "n").text
        fake.script("m", "more")
        assert ask(fake).text == "more"
        assert fake.journal[1].error == "ScriptExhausted"

    def test_provider(self) -> None:
        fake = FakeProvider(strict=True)
        fake.script("m", "a")
        fake.script("n", "b", strict=False)
        assert [ask(fake, "m").text, ask(fake, "n").text] == ["a", "b"]
        assert ask(fake, "n").text
        for model in ("m", "unheard of"):
            with pytest.raises(ScriptExhausted):
                ask(fake, model)

    def test_is_an_assertion_that_no_policy_catches(self) -> None:
        assert issubclass(ScriptExhausted, AssertionError)
        assert not issubclass(ScriptExhausted, ProviderError)


class TestOutage:
    def test_from_down_to_up(self) -> None:
        fake = FakeProvider()
        fake.script("m", "scripted")
        fake.down("m")
        for _ in range(3):
            with pytest.raises(ProviderUnavailableError):
                ask(fake)
        assert ask(fake, "n").text
        fake.up("m")
        assert ask(fake).text == "scripted"

    def test_of_everything(self) -> None:
        fake = FakeProvider()
        fake.down(fail=Fail.connection_refused())
        fake.down("m", Fail.rate_limited(3))
        with pytest.raises(RateLimitError):
            ask(fake, "m")
        with pytest.raises(ProviderUnavailableError, match="refused"):
            ask(fake, "n")
        fake.up()
        assert ask(fake, "m").text
        assert ask(fake, "n").text

    def test_of_everything_but_one(self) -> None:
        fake = FakeProvider()
        fake.down()
        fake.up("m")
        fake.script("m", "scripted")
        assert ask(fake, "m").text == "scripted"
        with pytest.raises(ProviderUnavailableError):
            ask(fake, "n")
        fake.down("m", Fail.rate_limited(3))
        with pytest.raises(RateLimitError):
            ask(fake, "m")
        fake.up("m")
        fake.down()
        with pytest.raises(ProviderUnavailableError):
            ask(fake, "m")
        fake.up()
        assert ask(fake, "m").text
