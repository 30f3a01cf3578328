"""Promises 2, 4 and 5 in virtual time, over random stacks, races, failures and cancellations.

In flight never exceeds a pool's size and nothing is held once all is quiet; each call ends exactly
once and no text is delivered twice; nothing goes on past the deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.drivers import call, limits
from tierllm.admission.pool import Pool
from tierllm.errors import ProviderError, StreamInterruptedError
from tierllm.pipeline.compose import compose
from tierllm.pipeline.effects import Blocking, Follow, Gather, Handler, Invoke, Race, Sleep, Spawn, Wait
from tierllm.pipeline.host import Host
from tierllm.pipeline.scope import Scope
from tierllm.pipeline.tape import FlightLost, Tape
from tierllm.pipeline.virtual import VirtualRun, VirtualTime
from tierllm.testing import Fail, FakeProvider, Reply
from tierllm.types import Call, Response

SECONDS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0])


@dataclass(frozen=True)
class Plan:
    """One call: its policies from the outside in, and what happens to it."""

    policies: tuple[tuple[str, float], ...]
    answers: tuple[Any, ...]
    arrives_s: float
    leaves_s: float | None
    deadline_s: float | None
    streaming: bool


ANSWERS = st.one_of(
    st.builds(
        lambda first, between, n: Reply(
            chunks=[f"{i} " for i in range(n)], first_token_s=first, between_s=between
        ),
        SECONDS,
        SECONDS,
        st.integers(1, 4),
    ),
    st.builds(lambda s: Fail.unavailable(latency_s=s), SECONDS),
    st.builds(lambda s, n: Fail.cut_after(n, latency_s=s), SECONDS, st.integers(1, 3)),
    st.builds(lambda n: Fail.stall_after(n), st.integers(1, 2)),
    st.just(Fail.hang()),
)
POLICIES = st.tuples(
    st.sampled_from(["seat", "race", "race by result", "retry", "gather", "flight", "reserve", "nap"]),
    SECONDS,
)
PLANS = st.builds(
    Plan,
    policies=st.lists(POLICIES, max_size=4).map(tuple),
    answers=st.lists(ANSWERS, min_size=1, max_size=4).map(tuple),
    arrives_s=SECONDS,
    leaves_s=st.none() | SECONDS,
    deadline_s=st.none() | st.sampled_from([0.0, 1.0, 2.5, 6.0]),
    streaming=st.booleans(),
)


class World:
    def __init__(self, sizes: tuple[int, int]) -> None:
        self.time = VirtualTime()
        self.host = Host(self.time.clock)
        self.pools = [Pool(size) for size in sizes]
        self.reserved = 0
        self.runs: dict[int, VirtualRun] = {}
        self.ends: dict[int, int] = {}
        self.texts: dict[int, str] = {}
        self.ended_at: dict[int, float] = {}

    # -- policies ----------------------------------------------------------------

    def policy(self, kind: str, seconds: float) -> Any:
        async def seat(call: Call, call_next: Handler) -> Response:
            pool = self.pools[int(seconds) % 2]
            with await Wait(pool, 1 + seconds):  # two seats of one call may meet
                assert pool.in_use <= pool.size
                return await call_next(call)

        async def race(call: Call, call_next: Handler) -> Response:
            win: Any = "chunk" if kind == "race" else "result"
            return await Race([(seconds * n, lambda: call_next(call.copy())) for n in range(3)], win)

        async def retry(call: Call, call_next: Handler) -> Response:
            try:
                return await call_next(call)
            except StreamInterruptedError:
                raise
            except ProviderError:
                await Sleep(seconds)
                return await call_next(call.copy())

        async def gather(call: Call, call_next: Handler) -> Response:
            async def beside() -> Response:
                with await Wait(self.pools[0], 2.0):
                    await Sleep(seconds)
                return Response()

            await Gather(beside(), beside())
            return await call_next(call)

        async def flight(call: Call, call_next: Handler) -> Response:
            tape = Tape()
            spawned = await Spawn(call_next(call.copy()), tape)
            try:
                return await Follow(tape)
            finally:
                if not tape.done:
                    spawned.cancel()

        async def reserve(call: Call, call_next: Handler) -> Response:
            await Blocking(lambda: self.reserve(1), lambda _: self.reserve(-1))
            try:
                return await call_next(call)
            finally:
                self.reserve(-1)

        async def nap(call: Call, call_next: Handler) -> Response:
            await Sleep(seconds)
            return await call_next(call)

        named = {"race by result": race}
        return {**named, **{f.__name__: f for f in (seat, race, retry, gather, flight, reserve, nap)}}[kind]

    def reserve(self, change: int) -> int:
        self.reserved += change
        return change

    # -- calls -------------------------------------------------------------------

    def plan(self, number: int, plan: Plan, provider: FakeProvider) -> None:
        answers = iter(plan.answers)
        bounded = limits(first_token_s=4.0, between_tokens_s=4.0, total_s=20.0)

        async def innermost(asked: Call, /) -> Response:
            return await Invoke(provider, asked)

        provider._answer = lambda _: next(answers, plan.answers[-1])
        handler = compose([self.policy(*policy) for policy in plan.policies], innermost)

        def begin() -> None:
            deadline = None if plan.deadline_s is None else self.time.now + plan.deadline_s
            scope = Scope(self.time.clock, deadline)
            self.texts[number] = ""
            run = VirtualRun(
                self.time,
                handler(call(timeouts=bounded)),
                scope,
                self.host,
                plan.streaming,
                lambda chunk: self.heard(number, chunk.text),
                lambda run: self.ended(number),
            )
            self.runs[number] = run
            run.begin()
            if plan.leaves_s is not None:
                leave = scope.cancel if number % 2 else run.close
                self.time.after(plan.leaves_s, leave)

        self.time.after(plan.arrives_s, begin)

    def heard(self, number: int, text: str) -> None:
        assert number not in self.ends, "a chunk after the end"
        self.texts[number] += text

    def ended(self, number: int) -> None:
        self.ends[number] = self.ends.get(number, 0) + 1
        self.ended_at[number] = self.time.now


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PLANS, min_size=1, max_size=6), st.tuples(st.integers(1, 2), st.integers(1, 3)))
def test_permits_ends_and_deadlines_hold(plans: list[Plan], sizes: tuple[int, int]) -> None:
    world = World(sizes)
    providers = [FakeProvider() for _ in plans]
    for number, (plan, provider) in enumerate(zip(plans, providers, strict=True)):
        world.plan(number, plan, provider)
    world.time.run()

    for pool in world.pools:
        assert (pool.in_use, pool.waiting) == (0, 0)
        assert pool.peak <= pool.size
    assert [p.in_flight for p in providers] == [0] * len(plans)
    assert world.reserved == 0
    assert not world.host.live
    assert world.ends == dict.fromkeys(range(len(plans)), 1)
    for number, plan in enumerate(plans):
        run, text = world.runs[number], world.texts[number]
        assert _one_answer(text.split()), f"delivered twice or out of order: {text!r}"
        if run.error is None and run.result is not None and plan.streaming and run.delivered:
            assert run.result.text == text
            assert run.result.finish_reason is not None
        if plan.deadline_s is not None:
            assert world.ended_at[number] <= plan.arrives_s + plan.deadline_s + 1e-6
        if isinstance(run.error, StreamInterruptedError) and plan.streaming:
            assert run.error.partial is not None
            assert run.error.partial.text == text
        assert not isinstance(run.error, FlightLost) or run.delivered == 0


def _one_answer(words: list[str]) -> bool:
    """The beginning of one numbered answer, or of the provider's own words before it was cut."""
    if all(word.isdigit() for word in words):
        return words == [str(n) for n in range(len(words))]
    return len(words) <= 3
