"""Traffic with the shape of real traffic, and clients that serve hours of it in virtual time."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from tierllm import Tier, TieredClient, Usage
from tierllm.errors import TierLLMError
from tierllm.events import Event
from tierllm.pipeline.virtual import VirtualRun, VirtualTime
from tierllm.routing.ask import ask
from tierllm.testing import FakeProvider, Reply
from tierllm.types import Call, Response

START_S = 1_700_000_000.0
"""When every replay begins, seconds since 1970: consents have dates."""

BLANK = " " * 64_000


class Arrival(NamedTuple):
    """A call: when it comes, how long its prompt is, and how long an answer it would get."""

    at_s: float
    input_tokens: int
    output_tokens: int


def azure_folder(given: str | None) -> Path | None:
    """Where the Azure traces of 2023 are: ``given``, or a data folder beside this checkout."""
    root = Path(__file__).resolve().parents[2]
    places = [Path(given)] if given else [root / "data", root.parent / "shared" / "data"]
    found = (each for place in places for each in (place / "azure", place) if (each / "conv.csv").exists())
    return next(found, None)


def azure(name: str, folder: Path) -> list[Arrival]:
    """A trace, ``"conv"`` or ``"code"``, from its first call on."""
    with (folder / f"{name}.csv").open(newline="") as lines:
        rows = [
            (datetime.fromisoformat(row["TIMESTAMP"][:26]), row["ContextTokens"], row["GeneratedTokens"])
            for row in csv.DictReader(lines)
        ]
    first = rows[0][0]
    return [Arrival((at - first).total_seconds(), int(given), max(1, int(made))) for at, given, made in rows]


def bursty(
    seed: int, *, seconds: float, per_s: float, calm_s: float = 20.0, burst_s: float = 5.0
) -> list[Arrival]:
    """Calls that come ``per_s`` a second, four times as often in bursts as between them.

    Lengths are lognormal, with the means of chat: about 1,100 tokens in and 210 out.
    """
    rng = random.Random(seed)
    share = burst_s / (burst_s + calm_s)
    calm = per_s / (1 + 3 * share)
    arrivals: list[Arrival] = []
    now, until, rate = 0.0, rng.expovariate(1 / calm_s), calm
    while True:
        step = rng.expovariate(rate)
        if now + step > until:
            now, rate = until, calm if rate > calm else 4 * calm
            until += rng.expovariate(1 / (burst_s if rate > calm else calm_s))
            continue
        now += step
        if now >= seconds:
            return arrivals
        arrivals.append(
            Arrival(
                now, 1 + int(rng.lognormvariate(6.7, 0.8)), 1 + min(1000, int(rng.lognormvariate(5.1, 0.7)))
            )
        )


def steady(
    rng: random.Random, *, seconds: float, per_s: Callable[[float], float], most_per_s: float, out: int = 200
) -> list[Arrival]:
    """Poisson arrivals at a rate that changes with time, with lognormal lengths around ``out`` tokens."""
    arrivals: list[Arrival] = []
    now = 0.0
    while (now := now + rng.expovariate(most_per_s)) < seconds:
        if rng.random() < per_s(now) / most_per_s:
            arrivals.append(Arrival(now, 200, max(1, int(rng.lognormvariate(-0.125, 0.5) * out))))
    return arrivals


def faster(arrivals: Sequence[Arrival], factor: int, seconds: float) -> list[Arrival]:
    """The first ``seconds`` of a trace at ``factor`` times its rate, again and again for ``seconds``."""
    part = [each for each in arrivals if each.at_s < seconds]
    return [
        each._replace(at_s=(again * seconds + each.at_s) / factor) for again in range(factor) for each in part
    ]


class Ended(NamedTuple):
    """How a call went. ``work_s`` is the time a provider worked for it, ``used`` its tokens in and out.

    ``wanted`` is how many tokens its answer would have had, had nothing cut it.
    """

    who: str
    wanted: int
    arrived_s: float
    ended_s: float
    waited_s: float
    work_s: float
    used: int
    tier: str | None
    degraded: tuple[str, ...]
    error: str | None
    come_back_s: float | None

    @property
    def took_s(self) -> float:
        return self.ended_s - self.arrived_s


class Speed(NamedTuple):
    """How fast a model answers."""

    first_s: float
    tokens_per_s: float

    def takes_s(self, output_tokens: float) -> float:
        return self.first_s + output_tokens / self.tokens_per_s


class Replay:
    """A client in virtual time, its models, and how each call to it ended.

    The models give every call as long an answer as its arrival says, cut at ``max_tokens``, at their
    ``speeds``; ``events`` are those of the kinds in ``keep``, with their times.
    """

    def __init__(
        self,
        tiers: Callable[[FakeProvider], Sequence[Tier]],
        speeds: Mapping[str, Speed],
        *,
        keep: tuple[type[Event], ...] = (),
        seed: int = 7,
        **settings: Any,
    ) -> None:
        self.world = VirtualTime(START_S)
        self.speeds = speeds
        self.provider = FakeProvider(answer=self._answer, journal_size=1)
        self.ended: list[Ended] = []
        self.lost: list[BaseException] = []
        """Errors that do not say when to come back, or are not tierllm's at all."""
        self.events: list[tuple[float, Event]] = []
        self._keep = keep
        self.client = TieredClient(
            tiers(self.provider),
            clock=self.world.clock,
            rng=random.Random(seed),
            listeners=[self._heard] if keep else [],
            **settings,
        )

    @property
    def now_s(self) -> float:
        return self.world.now - START_S

    def _heard(self, event: Event) -> None:
        if isinstance(event, self._keep):
            self.events.append((self.now_s, event))

    def _answer(self, call: Call) -> Reply:
        text: str = call.messages[-1]["content"]
        wanted = _wanted(text)
        out = min(wanted, call.params.get("max_tokens") or wanted)
        return Reply(
            "fine",
            usage=Usage(input_tokens=len(text) // 4, output_tokens=out),
            latency_s=self.speeds[call.model].takes_s(out),
        )

    def play(self, who: str, arrivals: Sequence[Arrival], **options: Any) -> None:
        """Let these calls come; an option may be a function of the call's number."""
        coming = iter(arrivals)
        numbers = iter(range(len(arrivals)))
        changing = {name: value for name, value in options.items() if callable(value)}
        fixed = {name: value for name, value in options.items() if not callable(value)}

        def next_one() -> None:
            arrival = next(coming, None)
            if arrival is not None:
                self.world.at(START_S + arrival.at_s, lambda: come(arrival))

        def come(arrival: Arrival) -> None:
            number = next(numbers)
            said = {**fixed, **{name: value(number) for name, value in changing.items()}}
            head = f"{arrival.output_tokens}|"
            self.begin(who, head + BLANK[: max(0, 4 * arrival.input_tokens - len(head))], **said)
            next_one()

        next_one()

    def begin(self, who: str, prompt: str, **options: Any) -> None:
        """Make one call now."""
        began, wanted = self.now_s, _wanted(prompt)
        try:
            ready = self.client.ready(ask(prompt, options))
        except TierLLMError as error:
            self._end(who, wanted, began, None, None, error)
            return
        ready.host.begin(ready.scope)

        def ended(run: VirtualRun) -> None:
            ready.host.end(ready.scope)
            self._end(who, wanted, began, ready.call, run.result, run.error)

        self.world.start(ready.flow(), ready.host, scope=ready.scope, on_end=ended)

    def _end(
        self,
        who: str,
        wanted: int,
        began: float,
        call: Call | None,
        response: Response | None,
        error: BaseException | None,
    ) -> None:
        trace = None if call is None else call.trace
        usage = None if response is None else response.usage
        come_back_s: float | None = getattr(error, "retry_after_s", None)
        if error is not None and not (isinstance(error, TierLLMError) and come_back_s is not None):
            self.lost.append(error)
        self.ended.append(
            Ended(
                who,
                wanted,
                began,
                self.now_s,
                0.0 if trace is None else sum(wait.seconds for wait in trace.waits),
                0.0 if trace is None else sum(a.latency_s for a in trace.attempts if a.outcome == "ok"),
                0 if usage is None else usage.input_tokens + usage.output_tokens,
                None if response is None else response.tier,
                () if response is None else response.degraded,
                None if error is None else type(error).__name__,
                come_back_s,
            )
        )

    def run(self, until_s: float | None = None) -> None:
        """Let time pass: to a moment, or until every call has ended."""
        self.world.run(None if until_s is None else START_S + until_s)

    def of(self, who: str) -> list[Ended]:
        return [each for each in self.ended if each.who == who]


def _wanted(prompt: str) -> int:
    return int(prompt[: prompt.index("|")])


def mean(values: Sequence[float] | Iterator[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0
