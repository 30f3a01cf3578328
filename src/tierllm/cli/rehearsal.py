"""An outage rehearsed: the user's tiers with fakes for providers, in virtual time.

Three phases: all is well; the tiers in question fail; all is well again, until they answer again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from ..client import TieredClient
from ..errors import ConfigError
from ..events import BreakerChanged, Event
from ..pipeline.virtual import VirtualRun, VirtualTime
from ..routing.ask import ask
from ..routing.plan import unknown_tier
from ..testing import Fail, FakeProvider, Latency, Reply

if TYPE_CHECKING:
    from ..config import Config
    from ..testing.replies import Item
    from ..types import Call, Response, Trace

__all__ = ["Moment", "Phase", "Rehearsal"]

FAULTS: dict[str, Item] = {
    "5xx": Fail.unavailable(latency_s=0.1),
    "429": Fail.rate_limited(retry_after_s=5, latency_s=0.1),
    "hang": Fail.hang(),
    "slow": Reply("Slowly, but surely.", first_token_s=20.0, latency_s=30.0),
    "cut": Fail.cut_after(3),
}
USUAL = Latency(first_token_s=0.4, tokens_per_s=60)
PHASES = ("normal", "outage", "recovery")
PATIENCE_S = 3600.0


@dataclass(slots=True)
class Asked:
    """One call: when it began, what it asked for, who answered or why nobody did."""

    at_s: float
    phase: str
    tier: str
    served: str | None = None
    error: str | None = None
    latency_s: float = 0.0
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Moment:
    """Something worth telling, and when it happened."""

    at_s: float
    text: str


@dataclass(slots=True)
class Phase:
    """What became of the calls begun in one phase."""

    name: str
    calls: int = 0
    lost: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    def latency_s(self, quantile: float) -> float | None:
        """A quantile of the answered calls' latencies; ``None`` without any."""
        ordered = sorted(self.latencies)
        return round(ordered[int(quantile * (len(ordered) - 1))], 3) if ordered else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "calls": self.calls,
            "answered": dict(self.answered),
            "lost": self.lost,
            "reasons": dict(self.reasons),
            "latency_p50_s": self.latency_s(0.5),
            "latency_p95_s": self.latency_s(0.95),
        }


class Rehearsal:
    """Calls to ``asks`` (by default to what is down) while ``down`` fails, ``calls`` in each phase.

    Recovery goes on until each tier that was hit has answered again, for an hour at most.
    Raises ``ConfigError`` for a tier or deployment that does not exist.
    """

    def __init__(
        self,
        config: Config,
        *,
        down: Sequence[str],
        fault: str = "5xx",
        asks: Sequence[str] | None = None,
        calls: int = 60,
        every_s: float = 1.0,
        streaming: bool = False,
    ) -> None:
        self.world = VirtualTime()
        self.fault = fault
        self.down = tuple(dict.fromkeys(down))
        self.calls: list[Asked] = []
        self.timeline: list[Moment] = []
        self.errors: Counter[str] = Counter()
        self.patience_s = PATIENCE_S
        self.recovered_s: dict[str, float | None] = {}
        self._phase_calls = calls
        self._every_s = every_s
        self._streaming = streaming
        self._phase = PHASES[0]
        self._began_s = 0.0
        self._over = False
        self._hit: set[str] = set()
        self._stepped: set[tuple[str, str]] = set()
        fake = FakeProvider(latency_s=USUAL)
        fake.script("*", FAULTS[fault], forever=True, when=self._is_out)
        self._client = TieredClient.from_config(
            config,
            providers=dict.fromkeys(config.used(), fake),
            clock=self.world.clock,
            rng=Random(0),
            budgets=(),
            store=None,
            cache=None,  # all its calls are alike
            ledger=False,
            listeners=[self._heard],
        )
        self._check_names(asks or ())
        self.asks = tuple(asks or dict.fromkeys(name.partition("/")[0] for name in self.down))

    def _check_names(self, asks: Sequence[str]) -> None:
        tiers = self._client.status()["tiers"]
        for option, names in (("--down", self.down), ("--sla", asks)):
            for name in names:
                tier, slash, deployment = name.partition("/")
                if tier not in tiers:
                    raise unknown_tier(option, tier, list(tiers))
                known = tiers[tier]["deployments"]
                if slash and deployment not in known:
                    raise ConfigError(f"{option}={name!r}: the deployments of {tier} are {', '.join(known)}")

    def _is_out(self, call: Call) -> bool:
        place = f"{call.tier}/{call.deployment}"
        out = self._phase == "outage" and (call.tier in self.down or place in self.down)
        if out:
            self._hit.add(call.tier)
        return out

    # -- the course of events --------------------------------------------------

    def run(self) -> None:
        """Live through all three phases."""
        self._tick()
        while not self._over:
            self.world.run(until=self.world.now + self._every_s)
        self.world.run(until=self.world.now + self.patience_s)
        self._client.close()
        for call in self.calls:
            if call.served is None and call.error is None:
                call.error = "no end in sight (set a timeout or a deadline)"
                self.errors[call.error] += 1
        self.timeline.sort(key=lambda moment: moment.at_s)

    def _tick(self) -> None:
        """Make one call, and plan the next."""
        number = len(self.calls)
        if number and number % self._phase_calls == 0 and self._phase != PHASES[-1]:
            self._enter(PHASES[PHASES.index(self._phase) + 1])
        asked = Asked(self.world.now, self._phase, self.asks[number % len(self.asks)])
        self.calls.append(asked)
        ready = self._client.ready(ask("A drill.", {"sla": asked.tier}))
        self.world.start(
            ready.flow(),
            ready.host,
            scope=ready.scope,
            streaming=self._streaming,
            on_end=lambda run: self._ended(asked, run, ready.call.trace),
        )
        self._over = not self._goes_on()
        if not self._over:
            self.world.after(self._every_s, self._tick)

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._began_s = self.world.now
        names = " and ".join(self.down)
        verb = "fail" if len(self.down) > 1 else "fails"
        if phase == "outage":
            self._note(f"{names} {verb} ({self.fault})")
        else:
            self.recovered_s = {tier: None for tier in self.asks if tier in self._hit}
            self._note(f"{names}: the outage is over")

    def _goes_on(self) -> bool:
        if self._phase != PHASES[-1] or len(self.calls) < len(PHASES) * self._phase_calls:
            return True
        waiting = None in self.recovered_s.values()
        return waiting and self.world.now - self._began_s < self.patience_s

    def _ended(self, asked: Asked, run: VirtualRun, trace: Trace | None) -> None:
        asked.latency_s = self.world.now - asked.at_s
        assert trace is not None
        passed_over = (f"{c.tier}/{c.deployment}: {c.reason}" for c in trace.candidates if c.reason)
        asked.reasons = tuple(dict.fromkeys(passed_over))
        if run.error is not None:
            asked.error = type(run.error).__name__
            self.errors[asked.error] += 1
            if self.errors[asked.error] == 1:
                self._note(f"a call to {asked.tier} ends without an answer: {asked.error}")
            return
        response: Response = run.result
        asked.served = response.tier or "/".join(response.degraded)
        if asked.served != asked.tier and (asked.tier, asked.served) not in self._stepped:
            self._stepped.add((asked.tier, asked.served))
            after = f"{asked.latency_s:.1f} s after it was asked"
            self._note(f"a call to {asked.tier} is answered by {asked.served}, {after}")
        if asked.phase == "recovery" and self.recovered_s.get(asked.served, 0.0) is None:
            self.recovered_s[asked.served] = self.world.now - self._began_s
            self._note(f"{asked.served} answers again")

    def _heard(self, event: Event) -> None:
        if isinstance(event, BreakerChanged):
            state = event.new.replace("_", "-")
            self._note(f"{event.name}: breaker {state} ({event.reason})")

    def _note(self, text: str) -> None:
        self.timeline.append(Moment(self.world.now, text))

    # -- afterwards ------------------------------------------------------------

    @property
    def passed(self) -> bool:
        """Every call was answered, and every tier that was hit answers again."""
        return not self.errors and None not in self.recovered_s.values()

    def phases(self) -> Iterator[Phase]:
        for name in PHASES:
            phase = Phase(name)
            for call in self.calls:
                if call.phase == name:
                    phase.calls += 1
                    phase.lost += call.served is None
                    phase.reasons.update(call.reasons)
                    if call.served is not None:
                        phase.answered[call.served] += 1
                        phase.latencies.append(call.latency_s)
            yield phase

    def to_dict(self) -> dict[str, Any]:
        return {
            "down": list(self.down),
            "with": self.fault,
            "asked": list(self.asks),
            "passed": self.passed,
            "calls": len(self.calls),
            "lost": sum(self.errors.values()),
            "errors": dict(self.errors),
            "recovered_after_s": {t: None if s is None else round(s, 3) for t, s in self.recovered_s.items()},
            "phases": [phase.to_dict() for phase in self.phases()],
            "timeline": [{"at_s": round(m.at_s, 3), "text": m.text} for m in self.timeline],
        }
