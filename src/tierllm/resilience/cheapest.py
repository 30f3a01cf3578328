"""The cheapest place of a tier that is good enough and quick enough, by what this very call will cost."""

from __future__ import annotations

import math
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..cost.history import MOST_TOKENS
from ..cost.place import cap_of
from ..events import log
from ..pipeline.fork import renew_after_fork
from ..routing.course import key_of
from ..types import length_of
from .expected import Expected
from .options import ALIKE, Option, by_distance, cheapest_first

if TYPE_CHECKING:
    from ..cost.estimator import CostEstimator
    from ..pipeline.clock import Clock
    from ..types import Call, Objective, Response
    from .deployment_line import DeploymentLine, Obstacle

__all__ = ["Cheapest"]

MOST_SESSIONS: Final = 10_000
"""So many sessions are remembered, with the place that served each last."""

MOST_TRIALS: Final = 40
"""So often a place is tried in the hope that somebody measures how good its answers are."""

UNKNOWN_TOKENS: Final = 400
"""What an answer is taken for where nothing is known of any place, and no ``max_tokens`` bounds it."""


class Cheapest:
    """Puts a tier's places in order for a call: ``Tier(choose="cheapest")``. Thread-safe.

    **Cost** is the expected total of this call: its input by length (tokens a character, as reported by the
    place before), the part of it that the vendor has probably cached, at its price, and the place's mean
    answer. The vendor has cached what the session sent there in its last call, if that is less than
    ``cache_ttl_s`` ago, as far as such calls were reported to be cached there.

    First come the places that are expected to meet everything asked of them, the cheapest first:

    - quality: ``quality(tier, deployment)`` (measured, 0 to 1) or else the deployment's own, at least
      ``min_quality``;
    - latency: the percentiles of the ``objective``, as far as it names any of the whole answer;
    - the call's deadline: what is left of it, at the place's P95.

    Then those of which too little is known, then those that miss something, the nearest miss first. None is
    left out. A place without a price comes last among those like it. Of costs within 1 % the weights of the
    deployments decide, by a draw.

    A place of which too little is known is tried first, where it is no dearer than the best known one, by a
    tenth of the calls at most; one that was too slow, by a hundredth, and by a tenth after a trial that was
    quick enough. Only places that would serve the call now are in question: what bars others is known best
    where they are asked. Calls that are important are not used for trying, nor those whose session has a
    place here.

    A place whose quality nobody has measured after ``MOST_TRIALS`` trials is tried no more: it counts as
    not good enough until somebody has.
    """

    def __init__(
        self,
        *,
        estimator: CostEstimator,
        objective: Objective | None,
        clock: Clock,
        rng: random.Random,
        min_quality: float | None = None,
        quality: Callable[[str, str], float | None] | None = None,
        cache_ttl_s: float = 300.0,
    ) -> None:
        self.min_quality = min_quality
        self.quality = quality
        self.cache_ttl_s = cache_ttl_s
        self.tried = 0
        self._histories = getattr(estimator, "histories", None)
        goals = (
            ()
            if objective is None
            else (
                (0.5, objective.latency_p50_s),
                (0.95, objective.latency_p95_s),
                (0.99, objective.latency_p99_s),
            )
        )
        self._goals = tuple((q, limit_s) for q, limit_s in goals if limit_s is not None)
        self._slowest_s = max((limit_s for _, limit_s in self._goals), default=math.inf)
        self._clock = clock
        self._rng = rng
        self._expected: dict[str, Expected] = {}
        self._sessions: OrderedDict[int, tuple[str, float, int]] = OrderedDict()
        self._lock = threading.Lock()
        renew_after_fork(self)

    # -- before ------------------------------------------------------------------

    def order(
        self,
        call: Call,
        lines: Sequence[DeploymentLine],
        *,
        asks: bool = False,
        why: dict[str, Obstacle | str] | None = None,
    ) -> Sequence[DeploymentLine]:
        """``lines`` for this call, the one to be asked first in front, those that would not serve it last.
        All of them, each once. ``asks``: the first of them is going to be asked, so that it may be a trial.
        ``why`` is told what keeps places from being asked in their turn, other than their cost.
        """
        if len(lines) < 2:
            return lines
        require = call.request.require
        able: list[DeploymentLine] = []
        barred: list[DeploymentLine] = []
        for line in lines:
            able_to = require <= line.deployment.labels
            obstacle = line.obstacle(call, count=False) if able_to else None
            if able_to and obstacle is None:
                able.append(line)
                continue
            barred.append(line)
            if why is not None:
                why[line.name] = "labels" if obstacle is None else obstacle
        return (*self._ordered(call, able, asks, why), *barred) if len(able) > 1 else (*able, *barred)

    def _ordered(
        self,
        call: Call,
        lines: Sequence[DeploymentLine],
        asks: bool,
        why: dict[str, Obstacle | str] | None,
    ) -> list[DeploymentLine]:
        now = self._clock()
        options = self._options(call, lines, now)
        meet = [option for option in options if not option.off and option.known]
        unknown = [option for option in options if not option.off and not option.known]
        off = [option for option in options if option.off]
        off.sort(key=by_distance)
        if why is not None:
            why.update((option.line.name, "slow" if option.slow else "quality") for option in off)
        first: Option | None = None
        if meet:
            meet = cheapest_first(meet, self._rng)
            if asks and (unknown or off):
                first = self._on_trial(call, meet[0], unknown, off)
        if unknown:
            unknown = cheapest_first(unknown, self._rng)
        ordered = [option.line for option in (*meet, *unknown, *off)]
        if first is not None:
            ordered.remove(first.line)
            ordered.insert(0, first.line)
        return ordered

    def _options(self, call: Call, lines: Sequence[DeploymentLine], now: float) -> list[Option]:
        characters = self._length(call, lines[0])
        deadline_at = None if call.scope is None else call.scope.deadline_at
        left_s = None if deadline_at is None else max(1e-9, deadline_at - now)
        warm = self._warm(call, now)
        answers = self._answers(call, lines)
        found: list[Option] = []
        for line, answer in zip(lines, answers, strict=True):
            expected = self._of(line)
            sent_before = warm[2] if warm is not None and warm[0] == line.name else 0
            cost = expected.cost_usd(line, characters, answer, sent_before)
            off, known, slow = 0.0, True, True
            if self.min_quality is not None:
                quality = self._quality_of(line)
                if quality is None:
                    known = False
                    if expected.unmeasured >= MOST_TRIALS:
                        off, slow = 1.0, False
                elif quality < self.min_quality:
                    off, slow = 1.0 - quality / self.min_quality, False
            if self._goals or left_s is not None:
                speed = expected.speed(line.pace.history, self._goals, now)
                if speed is None:
                    known = False
                else:
                    p95_s, missed = speed
                    off = max(off, missed)
                    if left_s is not None and p95_s > left_s:
                        off = max(off, p95_s / left_s - 1.0)
            found.append(Option(line, cost, off, known, slow))
        return found

    def _length(self, call: Call, line: DeploymentLine) -> int:
        """The characters that will be sent: with the tier's prompt, which is the same at all its places."""
        if line.tier.prompt is None:
            return length_of(call.messages)
        if call.fits is None:
            return length_of(line.tier.worded(call.request.messages))
        fit = call.fits.get(line)
        return length_of(call.messages if fit is None else fit.messages)

    def _answers(self, call: Call, lines: Sequence[DeploymentLine]) -> list[float]:
        """How long the answer of each place will be; where too little is known, as long as the others'."""
        request = call.request
        cap = (cap_of(request.params) if request.params else 0) or MOST_TOKENS
        ceiling = lines[0].tier.ceilings.max_tokens
        if ceiling is not None and ceiling < cap:
            cap = ceiling
        histories, route = self._histories, request.route
        found: list[float | None] = []
        for line in lines:
            mean = None if histories is None else self._of(line).answer(histories, line.place.name, route)
            found.append(mean if mean is None or mean < cap else cap)
        if None not in found:
            return found  # type: ignore[return-value]
        known = [mean for mean in found if mean is not None]
        usual = sum(known) / len(known) if known else min(cap, UNKNOWN_TOKENS)
        return [usual if mean is None else mean for mean in found]

    def _quality_of(self, line: DeploymentLine) -> float | None:
        if self.quality is not None:
            measured = self.quality(line.tier.name, line.name)
            if measured is not None and not math.isnan(measured):
                return measured
        return line.deployment.quality

    def _warm(self, call: Call, now: float) -> tuple[str, float, int] | None:
        """The place that served this session last, when, and how much was sent; unless that is long ago."""
        key = _key_of(call)
        found = self._sessions.get(hash(key)) if key else None
        return None if found is None or now - found[1] >= self.cache_ttl_s else found

    def _on_trial(
        self, call: Call, best: Option, unknown: Sequence[Option], off: Sequence[Option]
    ) -> Option | None:
        """A place no dearer than the best that is asked first, to learn more about it: now and then only."""
        course = call.course
        avoid = () if course is None else course.avoid
        if course is not None:
            prefer = course.prefer
            if course.important or (prefer is not None and prefer[0] == best.line.tier.name):
                return None
        for option in (*unknown, *(each for each in off if each.slow and each.known)):
            line = option.line
            if option.cost_usd > best.cost_usd * ALIKE or (line.tier.name, line.name) in avoid:
                continue
            expected = self._of(line)
            if expected.on_trial(slow=bool(option.off)):
                self.tried += 1
                if self.min_quality is not None and self._quality_of(line) is None:
                    self._unmeasured(line, expected)
                return option
        return None

    def _unmeasured(self, line: DeploymentLine, expected: Expected) -> None:
        expected.unmeasured += 1
        if expected.unmeasured == MOST_TRIALS:
            log.warning(
                "%s/%s was tried %d times and nobody has said how good its answers are: it counts as not "
                "good enough for min_quality=%g; give Deployment(quality=...)",
                line.tier.name,
                line.name,
                MOST_TRIALS,
                self.min_quality or 0.0,
            )

    # -- after -------------------------------------------------------------------

    def served(self, call: Call, response: Response) -> None:
        """Learn from an answer of one of the places: how its input was counted, and what was cached of it."""
        usage, expected = response.usage, self._expected.get(response.deployment or "")
        if expected is None or response.cached:
            return  # it has never been in question
        expected.answers = {}
        expected.answered(self._slowest_s)
        if usage is None or usage.estimated or usage.input_tokens <= 0:
            return
        name = response.deployment or ""
        now = self._clock()
        warm = self._warm(call, now)
        sent_before = warm[2] if warm is not None and warm[0] == name else 0
        with self._lock:
            expected.learn(length_of(call.messages), usage, sent_before)
            key = _key_of(call)
            if key:
                sessions, number = self._sessions, hash(key)
                sessions[number] = (name, now, usage.input_tokens)
                sessions.move_to_end(number)
                if len(sessions) > MOST_SESSIONS:
                    sessions.popitem(last=False)

    def _of(self, line: DeploymentLine) -> Expected:
        expected = self._expected.get(line.name)
        if expected is None:
            expected = self._expected.setdefault(line.name, Expected(line.place, line.deployment))
            line.learns = True  # how long its answers are
        return expected

    def status(self) -> dict[str, Any]:
        return {
            "tried": self.tried,
            "sessions": len(self._sessions),
            "places": {name: expected.status() for name, expected in self._expected.items()},
        }

    def renew(self) -> None:
        """After a fork: the parent's lock may be held for good."""
        self._lock = threading.Lock()
        for expected in self._expected.values():
            expected.renew()


def _key_of(call: Call) -> str:
    return key_of(call.request) if call.course is None else call.course.key
