"""What the demo does: calls to gold, one after the other, while a script lets tiers fail and recover."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from ..client import TieredClient
from ..errors import ProviderUnavailableError, TierLLMError
from ..events import BreakerChanged, Event
from ..providers.base import BaseProvider
from ..resilience.breaker import CircuitBreaker
from ..resilience.retry import Retry
from ..routing.tier import Deployment, Tier

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.provider import Provider
    from ..pipeline.scope import Invocation
    from ..types import Call, Chunk, Response
    from .stage import Stage

__all__ = ["PHASES", "TIERS", "Line", "Phase", "Story"]

TIERS = ("gold", "silver", "bronze")
QUESTIONS = (
    "What is a circuit breaker?",
    "Why is the sky blue?",
    "Name three rivers in Europe.",
    "What does an electrician do?",
    "How do I boil an egg?",
    "What is a good name for a cat?",
    "Why do leaves fall in autumn?",
    "What is a queue?",
)


@dataclass(frozen=True, slots=True)
class Phase:
    """Until ``until`` (a share of the whole time) the tiers in ``down`` fail."""

    name: str
    told: str
    until: float
    down: frozenset[str] = frozenset()


GOLD, BOTH = frozenset({"gold"}), frozenset({"gold", "silver"})
PHASES = (
    Phase("normal", "All is well.", 0.18),
    Phase("gold down", "Gold fails from here on: the script answers 503 in its place.", 0.38, GOLD),
    Phase("both down", "Silver fails, too.", 0.55, BOTH),
    Phase("gold down", "Silver is well again. Nobody tells tierllm.", 0.72, GOLD),
    Phase("recovery", "Gold is well again. Nobody tells tierllm.", 1.0),
)


@dataclass(slots=True)
class Line:
    """One call, as it is shown."""

    at_s: float
    phase: str
    tier: str = "-"
    deployment: str = "-"
    model: str = "-"
    first_s: float | None = None
    total_s: float = 0.0
    breakers: dict[str, str] = field(default_factory=dict)
    text: str = ""


class Outages(BaseProvider):
    """A provider that fails for the tiers in ``down``, and otherwise is the one it wraps."""

    def __init__(self, inner: Provider) -> None:
        self.inner = inner
        self.name = inner.name
        self.waits = inner.waits
        self.down: frozenset[str] = frozenset()

    def complete(self, call: Call, scope: Invocation) -> Response:
        self._check(call)
        return self.inner.complete(call, scope)

    async def acomplete(self, call: Call, scope: Invocation) -> Response:
        self._check(call)
        return await self.inner.acomplete(call, scope)

    def stream(self, call: Call, scope: Invocation) -> Iterator[Chunk]:
        self._check(call)
        yield from self.inner.stream(call, scope)

    async def astream(self, call: Call, scope: Invocation) -> AsyncIterator[Chunk]:
        self._check(call)
        async for chunk in self.inner.astream(call, scope):
            yield chunk

    def close(self) -> None:
        self.inner.close()

    def _check(self, call: Call) -> None:
        if call.tier in self.down:
            raise ProviderUnavailableError("out, by the demo's script", status=503)


class Story:
    """One demo: ``tell()`` plays it on ``stage`` and gives the exit code.

    ``clock`` and ``wait`` are real or virtual time; ``why`` says which model this is and why.
    """

    def __init__(
        self,
        model: Provider,
        model_name: str,
        why: str,
        seconds: float,
        stage: Stage,
        clock: Clock,
        wait: Callable[[float], object],
    ) -> None:
        self.why = why
        self.seconds = seconds
        self.clock = clock
        self._stage = stage
        self._wait = wait
        self._provider = Outages(model)
        self._client = self._made(model_name)
        self._began_at = 0.0
        self._phase = PHASES[0]
        self._lines: list[Line] = []
        self._lost = 0
        self._moments: dict[str, float] = {}

    def _made(self, model: str) -> TieredClient:
        """Three tiers on the same weights: what differs is what they are told and how much they may say."""

        def tier(name: str, prompt: str, max_tokens: int) -> Tier:
            deployment = Deployment(model, self._provider, name=f"{name}-1")
            return Tier(name, [deployment], prompt=prompt, max_tokens=max_tokens, max_concurrency=4)

        open_s = self.seconds / 10
        return TieredClient(
            [
                tier("gold", "Answer kindly, in two sentences.", 48),
                tier("silver", "Answer in one short sentence.", 24),
                tier("bronze", "Answer in a few words.", 12),
            ],
            retry=Retry(2, base_s=0.05),
            breaker=CircuitBreaker(open_s=open_s, open_backoff=1, max_open_s=open_s),
            listeners=[self._heard],
            clock=self.clock,
            rng=Random(0),
        )

    # -- the course of events --------------------------------------------------

    def tell(self) -> int:
        self._stage.open(self)
        self._began_at = self.clock()
        pause_s = self.seconds / 30
        with self._client:
            for phase in PHASES:
                self._phase = phase
                self._provider.down = phase.down
                self._moments.setdefault(phase.name, self.at_s())
                self._stage.chapter(self.at_s(), phase.told)
                while self.at_s() < phase.until * self.seconds:
                    began_s = self.at_s()
                    self._ask()
                    left_s = min(began_s + pause_s, phase.until * self.seconds) - self.at_s()
                    if left_s > 0:
                        self._wait(left_s)
        self._stage.close(self.summary())
        return 0 if self.recovered and not self._lost else 1

    def _ask(self) -> None:
        question = QUESTIONS[len(self._lines) % len(QUESTIONS)]
        began_s = self.at_s()
        line = Line(began_s, self._phase.name)
        try:
            with self._client.stream(question, sla="gold") as stream:
                for chunk in stream:
                    if line.first_s is None:
                        line.first_s = self.at_s() - began_s
                    line.text += chunk.text
                    self._stage.speaking(line.text)
            response = stream.response
            line.tier = response.tier or "-"
            line.deployment = response.deployment or "-"
            line.model = response.trace.attempts[-1].model if response.trace else "-"
            self._moments.setdefault(f"{line.tier} in {line.phase}", self.at_s())
        except TierLLMError as error:
            self._lost += 1
            line.text = f"no answer: {error}"
        line.total_s = self.at_s() - began_s
        line.breakers = self.breakers()
        self._lines.append(line)
        self._stage.line(line)

    def _heard(self, event: Event) -> None:
        if isinstance(event, BreakerChanged):
            tier = event.name.partition("/")[0]
            self._moments.setdefault(f"{tier} {event.new} in {self._phase.name}", self.at_s())
            self._stage.news(self.at_s(), tier, event.new, event.reason)

    def at_s(self) -> float:
        return self.clock() - self._began_at

    def breakers(self) -> dict[str, str]:
        """Each tier's breaker state."""
        tiers = self._client.status()["tiers"]
        return {name: tiers[name]["deployments"][f"{name}-1"]["breaker"]["state"] for name in TIERS}

    # -- the moral -------------------------------------------------------------

    @property
    def recovered(self) -> bool:
        """Gold's breaker opened, closed after a probe, and gold answered again."""
        seen = self._moments
        return all(
            moment in seen
            for moment in ("gold open in gold down", "gold closed in recovery", "gold in recovery")
        )

    def summary(self) -> list[str]:
        answered = Counter(line.tier for line in self._lines if line.tier != "-")
        by_tier = ", ".join(f"{tier} {answered[tier]}" for tier in TIERS)
        seen = self._moments
        told = [
            f"{len(self._lines)} calls to gold, answered by {by_tier}; "
            + (f"{self._lost} lost" if self._lost else "none lost")
        ]
        if "silver in gold down" in seen:
            after_s = seen["silver in gold down"] - seen["gold down"]
            told.append(
                f"gold failed at {seen['gold down']:.1f} s; silver had answered {after_s:.1f} s later"
            )
        if self.recovered:
            after_s = seen["gold in recovery"] - seen["recovery"]
            told.append(
                f"gold was well again at {seen['recovery']:.1f} s; a probe found out, "
                f"and gold answered {after_s:.1f} s later"
            )
        else:
            told.append("gold was not seen to recover")
        return told
