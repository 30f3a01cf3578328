"""What a call is expected to cost at one place, and how long it takes there: learnt from those before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from ..cost.tokens.families import family_of
from .lateness import Bank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cost.history import Histories
    from ..cost.place import Place
    from ..cost.price import Price
    from ..routing.deployment import Deployment
    from ..types import Usage
    from .deployment_line import DeploymentLine
    from .timeouts import DurationHistory

__all__ = ["Expected"]

TOKENS_A_CHARACTER: Final = 0.22
"""Of English prose, until the place has said better."""

STEP: Final = 0.1
"""How far an average follows each new value."""

LOOK_S: Final = 5.0
"""Percentiles are taken anew so often."""

LEAST_TOKENS: Final = 64
"""Reports of less input say little about how it is counted or cached."""

UNKNOWN_SHARE: Final = 0.1
"""Of the calls that would be cheaper there, so many try a place of which too little is known."""

AGAIN_SHARE: Final = 0.01
"""And so many one that was too slow before, until a trial was quick enough."""

RECENT: Final = 20
"""So many of the last answers tell that a place has become quick again, whatever was before."""

ROUTES: Final = 64
"""So many routes' answers are kept at hand."""

RATES: Final = 64
"""So many prices are kept as plain numbers: one, and those it has by length and service tier."""


class Expected:
    """What was learnt of one place. The caller holds a lock while it learns; to ask takes none.

    ``hit`` is the part of what a session had sent there before that its next call was reported to have
    cached, ``cold`` the cached part of any other call's input, ``written`` the part of what was not cached
    that was billed as written to the cache. ``answers`` are the mean lengths by route, until the next one.
    ``unmeasured`` counts the trials after which nobody knew how good its answers are.
    """

    __slots__ = (
        "_history",
        "_looked_at",
        "_quick",
        "_rates",
        "_service_tier",
        "_speed",
        "again",
        "answers",
        "cold",
        "hit",
        "per_character",
        "samples",
        "trials",
        "unmeasured",
        "written",
    )

    def __init__(self, place: Place, deployment: Deployment) -> None:
        scale = family_of(place.model, place.vendor).scale
        self.per_character = TOKENS_A_CHARACTER * (1.0 if scale is None else scale.text)
        self.hit = 0.9
        self.cold = 0.0
        self.written = 0.0
        self.samples = 0
        self.answers: dict[str | None, float | None] = {}
        self.trials = Bank(UNKNOWN_SHARE, 1)
        self.again = Bank(AGAIN_SHARE, 1)
        self.unmeasured = 0
        self._quick = False
        self._service_tier = deployment.params.get("service_tier")
        self._rates: dict[int, tuple[Price, float, float, float, float]] = {}
        self._history: DurationHistory | None = None
        self._looked_at = -math.inf
        self._speed: tuple[float, float] | None = None

    def cost_usd(self, line: DeploymentLine, characters: int, answer: float, sent_before: int) -> float:
        """Dollars for a call of so many ``characters``; infinite where no price is known.

        ``sent_before``: tokens that its session sent there in its last call.
        """
        price = line.place.price
        if price is None:
            return math.inf
        tokens = characters * self.per_character + 4.0
        if price.above or price.service:
            price = price.rates(int(tokens), self._service_tier)
        found = self._rates.get(id(price))
        if found is None:
            found = self._known(price)
        _, asked, answered, cached, written = found
        share = self.cold
        if sent_before:
            share = max(share, min(sent_before, tokens) * self.hit / tokens)
        fresh = tokens * (1.0 - share)
        return (
            tokens * share * cached
            + fresh * (self.written * written + (1.0 - self.written) * asked)
            + answer * answered
        )

    def _known(self, price: Price) -> tuple[Price, float, float, float, float]:
        if len(self._rates) >= RATES:
            self._rates = {}
        asked = float(price.input_usd_per_mtok) / 1e6
        cached, written = price.cached_input_usd_per_mtok, price.cache_write_usd_per_mtok
        found = self._rates[id(price)] = (
            price,  # kept alive, so that no other comes to have its id
            asked,
            float(price.output_usd_per_mtok) / 1e6,
            asked if cached is None else float(cached) / 1e6,
            asked if written is None else float(written) / 1e6,
        )
        return found

    def answer(self, histories: Histories, place: str, route: str | None) -> float | None:
        """The mean length of its answers in tokens; ``None`` where there are too few yet."""
        try:
            return self.answers[route]
        except KeyError:
            history = histories.of(place, route)
            mean = None if history is None else history.mean
            if len(self.answers) < ROUTES:
                self.answers[route] = mean
            return mean

    def speed(
        self, history: DurationHistory, goals: Sequence[tuple[float, float]], now: float
    ) -> tuple[float, float] | None:
        """The P95 in seconds, and by what part the worst of ``goals`` is missed; ``None``: not known yet.

        Where its last ``RECENT`` answers were quicker, they count: a place that was slow is hardly asked, and
        what it remembers is old.
        """
        p95_s = history.p95_s
        if p95_s is None:
            return None
        if history is not self._history or not 0 <= now - self._looked_at < LOOK_S:
            latest = sorted(history.latest(RECENT))
            count, missed = len(latest), 0.0
            for quantile, limit_s in goals:
                taken_s = p95_s if quantile == 0.95 else history.quantile(quantile)
                if taken_s is not None and taken_s > limit_s:
                    taken_s = min(taken_s, latest[min(count - 1, int(quantile * count))])
                    missed = max(missed, taken_s / limit_s - 1.0)
            self._history, self._looked_at, self._speed = history, now, (min(p95_s, latest[-1]), missed)
        return self._speed

    def on_trial(self, *, slow: bool) -> bool:
        """Whether the call at hand is one to try the place with; it pays into the share of those that are."""
        bank = self.again if slow and not self._quick else self.trials
        bank.pay_in()
        if not bank.withdraw():
            return False
        self._quick = False  # until it has answered
        return True

    def answered(self, limit_s: float) -> None:
        """It has answered: quickly enough to be tried more often?"""
        last_s = None if self._history is None else self._history.last_s
        self._quick = last_s is not None and last_s <= limit_s

    def learn(self, characters: int, usage: Usage, sent_before: int) -> None:
        asked = usage.input_tokens
        if asked < LEAST_TOKENS or characters <= 0:
            return
        step = max(STEP, 1.0 / (self.samples + 2))
        self.samples += 1
        self.per_character += step * (asked / characters - self.per_character)
        cached = min(max(usage.cached_input_tokens, 0), asked)
        if sent_before >= LEAST_TOKENS:
            self.hit += step * (min(1.0, cached / min(sent_before, asked)) - self.hit)
        else:
            self.cold += STEP * (cached / asked - self.cold)
        if cached < asked:
            written = min(max(usage.cache_write_tokens, 0), asked - cached)
            self.written += step * (written / (asked - cached) - self.written)

    def status(self) -> dict[str, Any]:
        return {
            "tokens_per_character": round(self.per_character, 4),
            "cached_again": round(self.hit, 4),
            "cached_anyway": round(self.cold, 4),
            "samples": self.samples,
            "unmeasured": self.unmeasured,
        }

    def renew(self) -> None:
        """After a fork."""
        self.trials.renew()
        self.again.renew()
