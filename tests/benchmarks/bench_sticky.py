"""What sticky sessions cost a call and keep in memory, and what they save of the vendors' prompt caches;
and what it costs a call to choose the cheapest of four places (``Tier(choose="cheapest")``).

Run: ``python tests/benchmarks/bench_sticky.py [--data DIR] [--sessions N]``.

``DIR`` holds ``conversation_trace.jsonl`` of Mooncake (an hour of a chat service: arrival, input and output
tokens, and the input's blocks of 512 tokens, each named by itself and all before it). Without it the replay
is left out.

The trace names no sessions. A request is taken to go on with an earlier one where it begins with all its
blocks but the last (which need not have been full), at least two; of several, the latest. Any other begins
a session of its own, whatever it has in common with others: they share a system prompt.

The replay sends each request to one of four deployments, each with a prompt cache of its own: blocks are
kept for 300 s after their last use, as many as fit. The first of a session's requests goes to a place drawn
evenly. Every other is drawn too (``choose="weighted"``), or goes where ``StickySessions`` says. ``one place
for all`` is the most there is to be had. With an outage the first deployment is out for ten minutes.

Ends with an error where a call, or a session in memory, takes more than it may.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tierllm import Deployment, Objective, Price, Tier, TieredClient
from tierllm.cost.prices import PriceBook
from tierllm.events import Event
from tierllm.pipeline.effects import Flow
from tierllm.resilience.cheapest import Cheapest
from tierllm.routing.bindings import Bindings
from tierllm.routing.course import Course
from tierllm.routing.plan import Plan
from tierllm.routing.sticky import StickySessions
from tierllm.testing import FakeProvider
from tierllm.types import Call, Request, Response, Usage

BLOCK_TOKENS = 512
CACHE_S = 300.0
PLACES = ("a", "b", "c", "d")
MODEL = "gpt-5-mini"
ROUNDS = 200
"""Short ones: a machine that has other work to do is not asked how fast it is."""
PLAN = Plan("gold", ("gold", "silver"))
CALL_US, SESSION_BYTES = 3.0, 400.0
"""As much as it may add to a call (in the quietest round), and as a session may take on average."""


class Asked(NamedTuple):
    at: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]
    session: str


def ended(flow: Flow[Response]) -> Response:
    try:
        flow.send(None)
    except StopIteration as stopped:
        response: Response = stopped.value
        return response
    raise AssertionError("a call that needs no I/O waited")


def call_of(session: str) -> Call:
    call = Call(Request(messages=(), session=session))
    call.plan = PLAN
    call.course = Course(f"s:\0{session}")
    return call


# -- a call --------------------------------------------------------------------------


def per_call(sessions: int, rounds: int) -> tuple[float, float]:
    """Microseconds that it adds to a call of a session that stays: median and quietest of the rounds."""
    sticking = StickySessions(max_sessions=sessions).bound(
        clock=time.monotonic,
        wall=time.time,
        store=None,
        usable=lambda call, tier, deployment: True,
        tiers=PLAN.tiers,
    )
    answer = Response(tier="gold", deployment="a")

    async def inside(call: Call) -> Response:
        return answer

    def round_us(handler: Callable[[Call], Flow[Response]], calls: Sequence[Call]) -> float:
        began = time.perf_counter()
        for call in calls:
            ended(handler(call))
        return (time.perf_counter() - began) / len(calls) * 1e6

    for number in range(sessions):
        ended(sticking(call_of(f"session-{number:09d}"), inside))
    rng, bound, bare = random.Random(1), [], []
    for _ in range(rounds):
        picked = [f"session-{rng.randrange(sessions):09d}" for _ in range(200)]
        bound.append(round_us(lambda call: sticking(call, inside), [call_of(session) for session in picked]))
        bare.append(round_us(inside, [call_of(session) for session in picked]))
    return statistics.median(bound) - statistics.median(bare), min(bound) - min(bare)


def per_choice(places: int, rounds: int) -> tuple[float, float]:
    """Microseconds to put so many places in order by expected cost: median and quietest of the rounds."""
    fake, rng = FakeProvider(), random.Random(5)
    names = [f"place-{number}" for number in range(places)]
    deployments = [
        Deployment(
            name,
            fake,
            quality=0.9,
            price=Price(input_usd_per_mtok=1 + number, output_usd_per_mtok=8, cached_input_usd_per_mtok=1),
        )
        for number, name in enumerate(names)
    ]
    objective = Objective(latency_p50_s=3, latency_p95_s=4, latency_p99_s=9)
    with TieredClient([Tier("gold", deployments, objective=objective)]) as client:
        setup = client._setup
        lines = setup.lines["gold"].lines
        for line in lines:
            for _ in range(256):
                line.pace.history.add(rng.random() * 2)
                setup.estimator.histories.add(line.place.name, "chat", rng.randrange(2000))
        cheapest = Cheapest(
            estimator=setup.estimator, objective=objective, clock=time.monotonic, rng=rng, min_quality=0.5
        )
        messages = tuple({"role": "user", "content": "hello " * 50} for _ in range(6))
        request = Request(messages=messages, session="s1", route="chat", deadline_s=30.0)
        call = client.ready(request).call
        found = []
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in range(100):
                cheapest.order(call, lines)
            found.append((time.perf_counter() - began) / 100 * 1e6)
    return statistics.median(found), min(found)


# -- memory --------------------------------------------------------------------------


def memory(sessions: int) -> tuple[float, float, float]:
    """Bytes a session when full, and after twice as many again have come and gone; seconds that took."""
    table = Bindings(sessions, ttl_s=1e9)
    gc.collect()
    began = time.perf_counter()
    tracemalloc.start()
    for number in range(sessions):
        table.bind(f"s:tenant\0session-{number:012d}", ("gold", PLACES[number % 4]), float(number))
    full, _ = tracemalloc.get_traced_memory()
    for number in range(sessions, 3 * sessions):
        table.bind(f"s:tenant\0session-{number:012d}", ("gold", PLACES[number % 4]), float(number))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == sessions
    return full / sessions, peak / sessions, time.perf_counter() - began


# -- the replay ----------------------------------------------------------------------


def traced(directory: Path) -> list[Asked]:
    """The requests, in order, each with its session."""
    by_blocks: dict[int, tuple[str, int]] = {}  # the last full block of a request: its session, how deep
    found: list[Asked] = []
    name = "conversation_trace.jsonl"
    path = directory / name if (directory / name).exists() else directory / "mooncake" / name
    with path.open() as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            blocks = tuple(row["hash_ids"])
            session = f"session-{number}"
            for depth in range(len(blocks), 1, -1):
                known = by_blocks.get(blocks[depth - 1])
                if known is not None and known[1] == depth:
                    session = known[0]
                    break
            whole = len(blocks) - 1
            if whole >= 2:
                by_blocks[blocks[whole - 1]] = (session, whole)
            found.append(
                Asked(row["timestamp"] / 1000, row["input_length"], row["output_length"], blocks, session)
            )
    return found


class PromptCache:
    """A vendor's: prefixes by blocks, each for 300 s after its last use, as many as fit."""

    def __init__(self, most_blocks: int) -> None:
        self.most_blocks = most_blocks
        self.used_at: OrderedDict[int, float] = OrderedDict()

    def read(self, asked: Asked) -> int:
        """Tokens of its input that were there; all of it is from now on."""
        used_at, now = self.used_at, asked.at
        there = 0
        for block in asked.blocks:
            if now - used_at.get(block, -CACHE_S) >= CACHE_S:
                break
            there += 1
        for block in asked.blocks:
            used_at[block] = now
            used_at.move_to_end(block)
        while len(used_at) > self.most_blocks:
            used_at.popitem(last=False)
        # the last block is rarely full: what is there of it is what was sent before
        return min(there * BLOCK_TOKENS, asked.input_tokens - 1)


class Told(NamedTuple):
    cached_share: float
    input_usd: float
    usd: float
    moves: int


def replay(
    requests: Sequence[Asked], how: str, *, most_blocks: int, price: Price, outage: tuple[float, float]
) -> Told:
    rng = random.Random(7)
    caches = {name: PromptCache(most_blocks) for name in PLACES}
    now, moves = 0.0, list[Event]()

    def out(name: str) -> bool:
        return name == PLACES[0] and outage[0] <= now < outage[1]

    sticking = StickySessions().bound(
        clock=lambda: now,
        wall=lambda: now,
        store=None,
        usable=lambda call, tier, name: tier == "gold" and not out(name),
        tiers=PLAN.tiers,
        emit=moves.append,
    )

    async def inside(call: Call) -> Response:
        drawn = rng.sample(PLACES, len(PLACES))
        if how == "one place":
            drawn = sorted(drawn)
        prefer = None if call.course is None or call.course.prefer is None else call.course.prefer[1]
        drawn.sort(key=lambda name: name != prefer)
        return Response(tier="gold", deployment=next(name for name in drawn if not out(name)))

    sent = cached = 0
    usd = output_usd = 0.0
    for asked in requests:
        now = asked.at
        call = call_of(asked.session)
        response = ended(sticking(call, inside) if how == "sticky" else inside(call))
        assert response.deployment is not None
        read = caches[response.deployment].read(asked)
        sent += asked.input_tokens
        cached += read
        usage = Usage(
            input_tokens=asked.input_tokens, output_tokens=asked.output_tokens, cached_input_tokens=read
        )
        usd += float(price.cost_usd(usage))
        output_usd += float(price.cost_usd(Usage(output_tokens=asked.output_tokens)))
    return Told(cached / sent, usd - output_usd, usd, len(moves))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="where conversation_trace.jsonl is")
    parser.add_argument("--sessions", type=int, default=1_000_000)
    given = parser.parse_args()
    misses: list[str] = []
    for sessions in (1000, 100_000):
        usual_us, quiet_us = per_call(sessions, ROUNDS)
        print(f"a call, {sessions:7,} sessions: {usual_us:.2f} µs (quietest round {quiet_us:.2f})")
        if quiet_us > CALL_US:
            misses.append(f"a call, {sessions:,} sessions: {quiet_us:.2f} µs, more than {CALL_US:g}")
    usual_us, quiet_us = per_choice(4, ROUNDS)
    print(f"choice of the cheapest of four places: {usual_us:.1f} µs (quietest round {quiet_us:.1f})")
    full, peak, took_s = memory(given.sessions)
    print(
        f"memory, {given.sessions:,} sessions: {full:.0f} bytes each when full, {peak:.0f} at most after "
        f"{3 * given.sessions:,} had come ({peak * given.sessions / 1e6:.0f} MB, {took_s:.0f} s)"
    )
    if full > SESSION_BYTES:
        misses.append(f"a session: {full:.0f} bytes, more than {SESSION_BYTES:g}")
    if given.data is not None:
        replayed(given.data)
    print("bounds: " + (f"missed: {'; '.join(misses)}" if misses else "kept"))
    return 1 if misses else 0


def replayed(data: Path) -> None:
    requests = traced(data)
    lengths: dict[str, int] = {}
    for asked in requests:
        lengths[asked.session] = lengths.get(asked.session, 0) + 1
    several = sum(1 for n in lengths.values() if n > 1)
    print(f"\n{len(requests):,} requests of {len(lengths):,} sessions, {several:,} of more than one request")
    found = PriceBook.bundled().find(MODEL, "openai")
    assert found is not None
    assert found.price is not None
    price = found.price
    print(
        f"{MODEL}: ${price.input_usd_per_mtok} in, ${price.cached_input_usd_per_mtok} cached, "
        f"${price.output_usd_per_mtok} out"
    )
    print(
        f"{'blocks kept':>12} {'outage':>7}  {'how':<10} {'cached':>7} "
        f"{'input':>8} {'in all':>8} {'moves':>6}"
    )
    for most_blocks in (10_000_000, 20_000):
        for outage in ((0.0, 0.0), (1200.0, 1800.0)):
            for how in ("drawn", "sticky", "one place"):
                told = replay(requests, how, most_blocks=most_blocks, price=price, outage=outage)
                print(
                    f"{most_blocks:12,} {'10 min' if outage[1] else 'none':>7}  {how:<10} "
                    f"{told.cached_share:7.1%} {told.input_usd:8.2f} {told.usd:8.2f} {told.moves:6}"
                )


if __name__ == "__main__":
    sys.exit(main())
