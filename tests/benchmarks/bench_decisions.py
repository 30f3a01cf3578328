"""What the decision log costs a call, how fast it is written and read, and what an explanation takes.

Run: ``python tests/benchmarks/bench_decisions.py [ROWS]`` (100,000). Figures are CPU time; of notes with a
flush in the background, that of the calling thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

from tierllm.errors import CircuitOpenError
from tierllm.routing.course import Course
from tierllm.routing.decision_log import DecisionLog
from tierllm.routing.decision_rows import find_decision, read_decisions
from tierllm.routing.difficulty import Choice
from tierllm.routing.explanation import explained
from tierllm.routing.learned_scorer import LearnedScorer
from tierllm.types import Attempt, Candidate, Request, Response, Trace, Usage

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
PROMPT = "Explain step by step why a queue grows without bound once more comes in than goes out. " * 6


def trace(number: int) -> Trace:
    """A call that stepped down once, as many do."""
    told = Trace(f"{number:012x}", "gold", "gold", "silver", "mini", 1_790_000_000.0 + number, 1.8)
    told.outcome, told.plan, told.rule, told.config = "ok", "premium", "daytime", "0123456789ab"
    told.request_class, told.scores = "medium", {"difficulty": 0.173}
    told.candidates = [Candidate("gold", "big", "breaker"), Candidate("silver", "mini")]
    told.attempts = [
        Attempt(
            "gold", "big", "big", 0.0, outcome="rejected", error=CircuitOpenError("", retry_after_s=12.0)
        ),
        Attempt("silver", "mini", "mini", 0.001, 1.79, outcome="ok", cost_usd=Decimal("0.0021")),
    ]
    return told


def main() -> None:
    request = Request(
        messages=({"role": "user", "content": PROMPT},),
        user="u-1234",
        tenant="acme",
        session="s",
        tags=("chat",),
    )
    buckets = LearnedScorer().buckets_of(PROMPT)
    course = Course()
    course.choice = Choice("weak", 0.17, 0.965, buckets=buckets)
    usage = Usage(input_tokens=900, output_tokens=200)
    response = Response("x", usage=usage, tier="silver", deployment="mini", model="mini")
    with tempfile.TemporaryDirectory() as home:
        for prompts in ("none", "hashed", "text"):
            path = Path(home) / prompts
            noting(DecisionLog(path, prompts=prompts, max_waiting=10**9), prompts, request, course, response)
        background(Path(home) / "background", request, course, response)
        reading(Path(home) / "none")
    told = trace(1)
    print(f"explained(trace): {took(lambda: explained(told), 2_000):.1f} µs")


def took(work: Callable[[], object], times: int) -> float:
    """Microseconds a time."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times * 1e6


def noting(log: DecisionLog, prompts: str, request: Request, course: Course, response: Response) -> None:
    log.bind(soon=lambda flush: None)  # what a flush costs comes by itself
    calls = [trace(number) for number in range(ROWS)]
    began = time.process_time()
    for call in calls:
        log.note(call, request, course, response)
    noted = (time.process_time() - began) / ROWS * 1e6
    began = time.process_time()
    log.flush()
    flushed = (time.process_time() - began) / ROWS * 1e6
    size = sum(file.stat().st_size for file in Path(log.path).parent.glob(f"{prompts}*"))
    print(
        f"prompts={prompts!r}: note {noted:.1f} µs a call, flush {flushed:.1f} µs a line "
        f"({1e6 / flushed:,.0f} lines/s), {size / ROWS:,.0f} bytes a line"
    )
    log.close()


def background(path: Path, request: Request, course: Course, response: Response) -> None:
    """As in a client: a thread flushes, asked for by the call that comes first; some calls, and many."""
    for calls, pause_s in ((200, 0.06), (20_000, 0.0005)):
        with ThreadPoolExecutor(8) as pool:
            log = DecisionLog(path)
            log.bind(soon=lambda flush, pool=pool: pool.submit(flush) and None)
            spent = 0.0
            for call in [trace(number) for number in range(calls)]:
                began = time.thread_time()
                log.note(call, request, course, response)
                spent += time.thread_time() - began
                time.sleep(pause_s)
            log.close()
        rate = "far apart" if pause_s > 0.05 else "close together"
        print(f"with a flush in the background, calls {rate}: note {spent / calls * 1e6:.1f} µs a call")


def reading(path: Path) -> None:
    began = time.process_time()
    rows = sum(1 for _ in read_decisions(path))
    spent = time.process_time() - began
    print(f"read: {rows:,} rows, {rows / spent:,.0f} a second")
    began = time.process_time()
    found = find_decision(path, f"{ROWS // 2:012x}")
    print(f"find one: {(time.process_time() - began) * 1e3:.0f} ms, {'found' if found else 'lost'}")


if __name__ == "__main__":
    main()
