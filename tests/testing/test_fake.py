from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import tierllm.testing
from tierllm.errors import (
    ConfigError,
    DeadlineExceededError,
    ProviderTimeoutError,
    RateLimitError,
    UsageError,
)
from tierllm.pipeline.effects import Invoke
from tierllm.pipeline.host import Host
from tierllm.pipeline.provider import Provider
from tierllm.pipeline.scope import Cancelled, Invocation, Scope
from tierllm.pipeline.virtual import VirtualRun, VirtualTime
from tierllm.testing import Fail, FakeClock, FakeProvider, Latency, Reply
from tierllm.types import Call, Chunk, Request, Response, Timeouts, Usage


def call(model: str = "m", text: str = "hi", **params: Any) -> Call:
    return Call(Request(messages=({"role": "user", "content": text},), params=params), model=model)


def opened(asked: Call, clock: FakeClock | None = None, streaming: bool = False) -> Invocation:
    return Invocation(asked, Scope(clock or FakeClock()), streaming)


def complete(fake: FakeProvider, asked: Call, clock: FakeClock | None = None) -> Response:
    return fake.complete(asked, opened(asked, clock))


def acomplete(fake: FakeProvider, asked: Call, clock: FakeClock | None = None) -> Response:
    return asyncio.run(fake.acomplete(asked, opened(asked, clock)))


def stream(fake: FakeProvider, asked: Call, clock: FakeClock | None = None) -> Response:
    invocation = opened(asked, clock, streaming=True)
    for chunk in fake.stream(asked, invocation):
        invocation.feed(chunk)
    return invocation.finished()


def astream(fake: FakeProvider, asked: Call, clock: FakeClock | None = None) -> Response:
    async def fold() -> Response:
        invocation = opened(asked, clock, streaming=True)
        async for chunk in fake.astream(asked, invocation):
            invocation.feed(chunk)
        return invocation.finished()

    return asyncio.run(fold())


def play(fake: FakeProvider, asked: Call, clock: FakeClock | None = None) -> Response:
    """As the driver of virtual time does it."""
    clock = clock or FakeClock()
    invocation = opened(asked, clock)
    for step in fake.play(asked, invocation):
        if isinstance(step, float):
            clock.advance(step)
        else:
            invocation.feed(step)
    return invocation.finished()


every_form = pytest.mark.parametrize("form", [complete, acomplete, stream, astream, play])


def as_provider(fake: FakeProvider) -> Provider:
    return fake  # type-checked


# -- answers ---------------------------------------------------------------------


@every_form
class TestAnswers:
    def test_are_the_same_in_every_form_and_process(self, form: Any) -> None:
        reply = form(FakeProvider(), call("gpt-5.2", "How are you?"))
        assert reply.text == "Wise farmers gather together around northern courtyards yearly."
        assert reply.usage == Usage(input_tokens=3, output_tokens=-(-len(reply.text) // 4))
        assert (reply.finish_reason, reply.model, reply.request_id) == ("stop", "gpt-5.2", "fake-000001")

    def test_follow_a_function(self, form: Any) -> None:
        fake = FakeProvider(answer=lambda c: c.request.text.upper())
        assert form(fake, call(text="loud")).text == "LOUD"
        fake = FakeProvider(answer=lambda _: Reply("whole", finish_reason="length"))
        assert form(fake, call()).finish_reason == "length"
        fake = FakeProvider(answer=lambda _: Fail.rate_limited(1))
        with pytest.raises(RateLimitError):
            form(fake, call())

    def test_end_at_max_tokens(self, form: Any) -> None:
        fake = FakeProvider()
        whole = form(fake, call()).text
        fake.script("m", "twelve chars", Reply("twelve chars"))
        for text in ("twelve chars", "twelve chars", whole):
            reply = form(fake, call(max_tokens=2))
            if fake.calls == 3:  # a Reply is word for word
                assert (reply.text, reply.finish_reason) == (text, "stop")
            else:
                assert (reply.text, reply.finish_reason) == (text[:8], "length")
                assert reply.usage.output_tokens == 2

    def test_enough_max_tokens_change_nothing(self, form: Any) -> None:
        reply = form(FakeProvider(), call(max_tokens=1000))
        assert (reply.text, reply.finish_reason) == (form(FakeProvider(), call()).text, "stop")

    def test_without_messages_or_text(self, form: Any) -> None:
        asked = Call(Request(messages=()), model="m")
        assert form(FakeProvider(), asked).text
        picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}
        assert form(FakeProvider(), Call(Request(messages=(picture,)), model="m")).text

    def test_every_call_is_in_the_journal(self, form: Any) -> None:
        clock = FakeClock(5)
        fake = FakeProvider(latency_s=2)
        asked = call(temperature=0.5)
        form(fake, asked, clock)
        (entry,) = fake.journal
        assert (entry.model, entry.messages, entry.params) == ("m", asked.messages, {"temperature": 0.5})
        assert (entry.at_s, entry.ended_s, entry.outcome, entry.error) == (5, 7, "ok", None)
        streamed = form in (stream, astream)
        assert (entry.streamed, entry.chunks) == (streamed, 8 if streamed else 0)
        assert (fake.calls, fake.in_flight, fake.peak_in_flight) == (1, 0, 1)


def test_different_questions_and_models_get_different_answers() -> None:
    fake = FakeProvider()
    answers = {complete(fake, call(f"m{i % 3}", f"question {i}")).text for i in range(3000)}
    assert len(answers) == 3000
    assert all(len(text.split()) == 8 for text in answers)


def test_is_a_provider() -> None:
    provider = as_provider(FakeProvider(name="other"))
    assert (provider.name, provider.waits) == ("other", False)


# -- time ------------------------------------------------------------------------


class TestLatency:
    @every_form
    def test_is_the_same_in_every_form(self, form: Any) -> None:
        clock = FakeClock()
        fake = FakeProvider(latency_s=Latency(first_token_s=0.5, tokens_per_s=10, sigma=0.4), seed=7)
        form(fake, call(), clock)
        assert clock() == pytest.approx(1.5515870255337274)

    def times(self, latency_s: Any, n: int = 400, model: str = "m", **options: Any) -> list[float]:
        fake = FakeProvider(latency_s=latency_s, **options)
        times = []
        for _ in range(n):
            clock = FakeClock()
            complete(fake, call(model), clock)
            times.append(clock())
        return times

    def test_is_fixed(self) -> None:
        assert set(self.times(0.05)) == {0.05}

    def test_is_even_between_bounds(self) -> None:
        times = self.times((1, 2))
        assert 1 <= min(times) < 1.05
        assert 1.95 < max(times) <= 2

    def test_varies_around_medians(self) -> None:
        times = self.times(Latency(first_token_s=2.0, tokens_per_s=1e9, sigma=0.5))
        assert statistics.median(times) == pytest.approx(2.0, rel=0.1)
        slow = sum(t > 2.0 * 2.28 for t in times) / len(times)
        assert slow == pytest.approx(0.05, abs=0.03)

    def test_comes_from_the_seed(self) -> None:
        spread = (0.0, 1.0)
        assert self.times(spread, seed=3) == self.times(spread, seed=3)
        assert self.times(spread, seed=3) != self.times(spread, seed=4)

    def test_does_not_depend_on_what_is_scripted(self) -> None:
        plain = FakeProvider(latency_s=(0, 1), seed=1)
        scripted = FakeProvider(latency_s=(0, 1), seed=1)
        scripted.script("m", Reply("quick", latency_s=0))
        for _ in range(2):
            one, other = FakeClock(), FakeClock()
            complete(plain, call(), one)
            complete(scripted, call(), other)
        assert one() == other()

    def test_may_differ_by_model(self) -> None:
        by_model = {"slow": 3.0, "*": (1.0, 1.0)}
        assert self.times(by_model, 1, "slow") == [3.0]
        assert self.times(by_model, 1, "other") == [1.0]
        assert self.times({"slow": 3.0}, 1, "other") == [0.0]

    @pytest.mark.parametrize(
        "latency_s",
        [
            -1,
            (2, 1),
            {"m": float("inf")},
            float("nan"),
            "1",
            True,
            False,
            None,
            (1, "2"),
            (1, 2, 3),
            {"m": "1"},
        ],
    )
    def test_refuses_nonsense(self, latency_s: Any) -> None:
        with pytest.raises(ConfigError, match="latency_s"):
            FakeProvider(latency_s=latency_s)

    @pytest.mark.parametrize("field", ["first_token_s", "tokens_per_s", "sigma"])
    def test_refuses_impossible_medians(self, field: str) -> None:
        with pytest.raises(ConfigError, match=field):
            Latency(**{field: -1.0})


# -- limits ----------------------------------------------------------------------


class TestLimits:
    def admitted(self, fake: FakeProvider, asked: Call, clock: FakeClock) -> bool:
        try:
            complete(fake, asked, clock)
        except RateLimitError:
            return False
        return True

    def test_requests_a_minute(self) -> None:
        clock = FakeClock()
        fake = FakeProvider(rpm=3)
        for _ in range(3):
            complete(fake, call(), clock)
            clock.advance(10)
        with pytest.raises(RateLimitError) as failure:
            complete(fake, call(), clock)
        assert failure.value.retry_after_s == 30
        assert failure.value.status == 429
        clock.advance(29.9)
        assert not self.admitted(fake, call(), clock)
        clock.advance(0.1)
        assert self.admitted(fake, call(), clock)
        assert not self.admitted(fake, call(), clock)
        assert [e.outcome for e in fake.journal] == ["ok"] * 3 + ["failed"] * 2 + ["ok", "failed"]

    def test_tokens_a_minute(self) -> None:
        clock = FakeClock()
        fake = FakeProvider(tpm=100)
        complete(fake, call(text="x" * 160), clock)
        clock.advance(20)
        complete(fake, call(text="x" * 120, max_tokens=20), clock)
        with pytest.raises(RateLimitError) as failure:
            complete(fake, call(text="x" * 44), clock)
        assert failure.value.retry_after_s == 40
        with pytest.raises(RateLimitError) as failure:
            complete(fake, call(text="x" * 204), clock)
        assert failure.value.retry_after_s == 60
        complete(fake, call(text="x" * 40), clock)

    def test_what_never_fits(self) -> None:
        fake = FakeProvider(tpm=10)
        with pytest.raises(RateLimitError, match="never fits") as failure:
            complete(fake, call(max_tokens=10))
        assert (failure.value.retryable, failure.value.retry_after_s) == (False, None)

    def test_whoever_waits_as_told_is_let_in(self) -> None:
        clock = FakeClock(1e6 / 3)
        fake = FakeProvider(rpm=7, tpm=50, latency_s=(0, 3), seed=2)
        for i in range(300):
            asked = call(text="x" * (i % 40))
            try:
                complete(fake, asked, clock)
            except RateLimitError as error:
                clock.advance(error.retry_after_s or 0.0)
                complete(fake, asked, clock)
        fake.journal.assert_retry_after_honoured()
        ok = [e.at_s for e in fake.journal.calls(outcome="ok")]
        assert len(ok) == 300
        assert all(later - earlier > 59.999 for earlier, later in zip(ok, ok[7:], strict=False))

    def test_are_each_model_s_own(self) -> None:
        clock = FakeClock()
        fake = FakeProvider(rpm={"small": 1, "*": 2})
        got = [self.admitted(fake, call(m), clock) for m in ("small", "small", "a", "a", "a", "b")]
        assert got == [True, False, True, True, False, True]
        free = FakeProvider(rpm={"small": 1})
        assert all(self.admitted(free, call("a"), clock) for _ in range(5))

    @pytest.mark.parametrize("streaming", [False, True])
    def test_are_told_in_headers(self, streaming: bool) -> None:
        clock = FakeClock()
        fake = FakeProvider(rpm=2, tpm=100)
        asked = call(text="x" * 40, max_tokens=5)
        seen = []
        for _ in range(3):
            invocation = opened(asked, clock, streaming)
            try:
                list(fake.stream(asked, invocation))
            except RateLimitError:
                pass
            seen.append(dict(invocation.headers or {}))
            clock.advance(15)
        assert seen[0] == {
            "x-ratelimit-limit-requests": "2",
            "x-ratelimit-remaining-requests": "1",
            "x-ratelimit-reset-requests": "60.000s",
            "x-ratelimit-limit-tokens": "100",
            "x-ratelimit-remaining-tokens": "85",
            "x-ratelimit-reset-tokens": "60.000s",
        }
        assert seen[2]["retry-after"] == "30.000"
        assert seen[2]["x-ratelimit-remaining-requests"] == "0"
        assert seen[2]["x-ratelimit-reset-requests"] == "45.000s"

    def test_refusals_use_up_no_script(self) -> None:
        clock = FakeClock()
        fake = FakeProvider(rpm=1)
        fake.script("m", "a", "b")
        complete(fake, call(), clock)
        assert not self.admitted(fake, call(), clock)
        clock.advance(60)
        assert complete(fake, call(), clock).text == "b"

    @pytest.mark.parametrize("limit", [0, {"m": -1}, "1", 1.5, True, {"m": "1"}])
    def test_refuse_nonsense(self, limit: Any) -> None:
        with pytest.raises(ConfigError, match="rpm"):
            FakeProvider(rpm=limit)


# -- ends ------------------------------------------------------------------------


class TestEnds:
    """How a call that does not run to its end is told in the journal; nothing stays in flight."""

    def ended(self, fake: FakeProvider) -> tuple[str, str | None]:
        assert fake.in_flight == 0
        assert fake.journal[-1].ended_s is not None
        return fake.journal[-1].outcome, fake.journal[-1].error

    def test_consumer_leaves_a_stream(self) -> None:
        fake = FakeProvider()
        asked = call()
        chunks = fake.stream(asked, opened(asked, streaming=True))
        next(chunks)
        next(chunks)
        assert fake.in_flight == 1
        assert fake.journal[0].outcome == "running"
        chunks.close()  # type: ignore[attr-defined]
        assert self.ended(fake) == ("cancelled", None)
        assert fake.journal[0].chunks == 2

    def test_consumer_that_dawdles_past_the_timeout_and_leaves(self) -> None:
        clock, fake = FakeClock(), FakeProvider()
        asked = call()
        asked.timeouts = Timeouts(between_tokens_s=1)
        invocation = opened(asked, clock, streaming=True)
        chunks = fake.stream(asked, invocation)
        invocation.feed(next(chunks))
        clock.advance(5)
        chunks.close()  # type: ignore[attr-defined]
        assert self.ended(fake) == ("cancelled", None)

    def test_consumer_leaves_after_the_last_word(self) -> None:
        fake = FakeProvider()
        asked = call()
        chunks = fake.stream(asked, opened(asked, streaming=True))
        assert next(c for c in chunks if c.finish_reason) is not None
        chunks.close()  # type: ignore[attr-defined]
        assert self.ended(fake) == ("ok", None)

    def test_scope_cancelled_while_waiting(self) -> None:
        fake = FakeProvider(latency_s=30)
        asked = call()
        invocation = Invocation(asked, Scope(FakeClock(), deadline_at=10), False)
        invocation.scope.cancel()
        with pytest.raises(Cancelled):
            fake.complete(asked, invocation)
        assert self.ended(fake) == ("cancelled", None)

    def test_thread_cancelled_while_waiting(self) -> None:
        fake = FakeProvider()
        fake.script("m", Fail.hang())
        asked = call()
        scope = Scope(time.monotonic)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(fake.complete, asked, Invocation(asked, scope, False))
            while not fake.in_flight:
                time.sleep(0.001)
            scope.cancel()
            with pytest.raises(Cancelled):
                future.result()
        assert self.ended(fake) == ("cancelled", None)

    async def test_task_cancelled_while_waiting(self) -> None:
        fake = FakeProvider()
        fake.script("m", Fail.hang(), Fail.stall_after(2))
        asked = call()
        task = asyncio.create_task(fake.acomplete(asked, Invocation(asked, Scope(time.monotonic), False)))
        await asyncio.sleep(0)
        assert fake.in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert self.ended(fake) == ("cancelled", None)

    @pytest.mark.parametrize("streaming", [False, True])
    def test_hang_until_the_timeout(self, streaming: bool) -> None:
        clock, fake = FakeClock(), FakeProvider()
        fake.script("m", Fail.hang())
        asked = call()
        asked.timeouts = Timeouts(first_token_s=4 if streaming else None, total_s=9)
        invocation = opened(asked, clock, streaming)
        with pytest.raises(ProviderTimeoutError):
            list(fake.stream(asked, invocation)) if streaming else fake.complete(asked, invocation)
        assert clock() == (4 if streaming else 9)
        assert self.ended(fake) == ("failed", "ProviderTimeoutError")

    def test_stall_until_the_deadline(self) -> None:
        clock, fake = FakeClock(), FakeProvider(latency_s=1)
        fake.script("m", Fail.stall_after(3))
        asked = call()
        invocation = Invocation(asked, Scope(clock, deadline_at=6), True)
        seen: list[Chunk] = []
        with pytest.raises(DeadlineExceededError):
            for chunk in fake.stream(asked, invocation):
                seen.append(chunk)
                invocation.feed(chunk)
        assert (len(seen), clock()) == (3, 6)
        assert self.ended(fake) == ("failed", "DeadlineExceededError")

    @every_form
    def test_hang_that_nothing_ends(self, form: Any) -> None:
        fake = FakeProvider()
        fake.script("m", Fail.hang())
        with pytest.raises(AssertionError, match="give it a timeout"):
            form(fake, call())

    def test_closed_before_it_began(self) -> None:
        fake = FakeProvider()
        asked = call()
        fake.play(asked, opened(asked)).close()  # type: ignore[attr-defined]
        assert (fake.calls, fake.in_flight) == (0, 0)

    def test_a_broken_answer_function(self) -> None:
        fake = FakeProvider(answer=lambda c: c.params["missing"])
        with pytest.raises(KeyError):
            complete(fake, call())
        assert self.ended(fake) == ("failed", "KeyError")


class TestInVirtualTime:
    def start(self, world: VirtualTime, fake: FakeProvider, timeouts: Timeouts | None = None) -> VirtualRun:
        async def flow() -> Response:
            asked = call()
            asked.timeouts = timeouts
            return await Invoke(fake, asked)

        return world.start(flow(), Host(world.clock), streaming=True)

    def test_answers_take_their_time(self) -> None:
        world, fake = VirtualTime(), FakeProvider(latency_s=2)
        runs = [self.start(world, fake) for _ in range(3)]
        world.run()
        assert {run.result.text for run in runs} == {stream(FakeProvider(), call()).text}
        assert [(e.ended_s, e.outcome, e.chunks) for e in fake.journal] == [(2, "ok", 8)] * 3
        assert (fake.in_flight, fake.peak_in_flight) == (0, 3)

    def test_timeouts_cancellation_and_leaving(self) -> None:
        world, fake = VirtualTime(), FakeProvider()
        fake.script("m", Fail.hang(), forever=True)
        patient = Timeouts(first_token_s=9)
        late, cancelled, left = (self.start(world, fake, patient) for _ in range(3))
        world.at(1, cancelled.scope.cancel)
        world.at(2, left.close)
        world.run()
        assert isinstance(late.error, ProviderTimeoutError)
        assert [(e.ended_s, e.outcome) for e in fake.journal] == [
            (9, "failed"),
            (1, "cancelled"),
            (2, "cancelled"),
        ]
        assert fake.in_flight == 0


# -- many at once ----------------------------------------------------------------


def test_reset() -> None:
    clock = FakeClock()
    fake = FakeProvider(latency_s=(0, 1), seed=5, rpm=2)
    first = complete(fake, call(), clock)
    fake.script("m", Reply("x"), strict=True)
    complete(fake, call(), clock)
    fake.down()
    fake.reset()
    assert (len(fake.journal), fake.calls, fake.peak_in_flight) == (0, 0, 0)
    again = FakeClock()
    assert complete(fake, call(), again) == first
    assert fake.journal[0].ended_s == pytest.approx(again())
    fake.renew()
    assert complete(fake, call(), again).request_id == "fake-000002"


def test_counts_streams_in_flight() -> None:
    fake = FakeProvider()
    asked = call()
    streams: list[Iterator[Chunk]] = [fake.stream(asked, opened(asked, streaming=True)) for _ in range(3)]
    for chunks in streams:
        next(chunks)
    assert (fake.in_flight, fake.peak_in_flight) == (3, 3)
    for chunks in streams:
        list(chunks)
    assert (fake.in_flight, fake.peak_in_flight) == (0, 3)


@pytest.mark.parametrize("latency_s", [0, 0.5])
def test_threads_share_it(latency_s: float) -> None:
    fake = FakeProvider(latency_s=latency_s, journal_size=100)
    fake.script("m", Fail.unavailable(), repeat=40)
    answers: list[str] = []
    failures: list[BaseException] = []

    def work() -> None:
        for i in range(100):
            asked = call()
            try:
                reply = (complete, stream)[i % 2](fake, asked)
                answers.append(reply.text)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(answers), len(failures)) == (360, 40)
    assert len(set(answers)) == 1
    assert (fake.calls, fake.in_flight, len(fake.journal)) == (400, 0, 100)
    assert {entry.outcome for entry in fake.journal} <= {"ok", "failed"}


def test_tasks_share_it() -> None:
    fake = FakeProvider(latency_s=0.005)

    async def main() -> list[Response]:
        asked = call()
        calls = (fake.acomplete(asked, Invocation(asked, Scope(time.monotonic), False)) for _ in range(20))
        return await asyncio.gather(*calls)

    replies = asyncio.run(main())
    assert len({r.request_id for r in replies}) == 20
    assert (fake.peak_in_flight, fake.in_flight) == (20, 0)


async def test_refuses_to_block_an_event_loop() -> None:
    fake = FakeProvider(latency_s=0.01)
    asked = call()
    with pytest.raises(UsageError, match="acomplete"):
        fake.complete(asked, Invocation(asked, Scope(time.monotonic), False))
    assert fake.in_flight == 0


@every_form
@pytest.mark.parametrize("nonsense", [3, None, b"text", ["text"]], ids=repr)
def test_an_answer_function_that_gives_nonsense(nonsense: Any, form: Any) -> None:
    fake = FakeProvider(answer=lambda call: nonsense)
    with pytest.raises(ConfigError, match=rf"the function returned {type(nonsense).__name__}; let it return"):
        form(fake, call())
    assert (fake.in_flight, fake.journal[0].error) == (0, "ConfigError")


def test_an_answer_must_be_a_function() -> None:
    with pytest.raises(ConfigError, match="answer='hi'"):
        FakeProvider(answer="hi")  # type: ignore[arg-type]


def test_journal_size_must_be_one_or_more() -> None:
    with pytest.raises(ConfigError, match="journal_size"):
        FakeProvider(journal_size=0)


# -- the package -----------------------------------------------------------------


def test_public_names() -> None:
    assert tierllm.testing.__all__ == sorted(tierllm.testing.__all__)
    for name in tierllm.testing.__all__:
        assert getattr(tierllm.testing, name).__name__ == name
        assert name in dir(tierllm.testing)
    with pytest.raises(AttributeError, match="NoSuch"):
        tierllm.testing.NoSuch  # noqa: B018


def test_fixtures(fake_provider: FakeProvider, fake_clock: FakeClock) -> None:
    assert complete(fake_provider, call(), fake_clock).text
    assert fake_clock() == 0


def test_the_plugin_loads_nothing() -> None:
    program = (
        "import sys, tierllm.testing.pytest_plugin\n"
        "print(sorted(m for m in sys.modules if m.startswith('tierllm')))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert loaded.strip() == "['tierllm', 'tierllm.testing', 'tierllm.testing.pytest_plugin']"
