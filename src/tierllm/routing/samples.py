"""From rows of the decision log to samples: of which calls it is known how a model did."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from ..errors import ConfigError
from . import lenient
from .decision_rows import DecisionRow

__all__ = ["Sample", "Samples", "samples_of"]

GROUPS_LEAST = 20

NOT_ESCALATED = "not_escalated"
"""What a row says of the weak model's own answer, which is served though it was judged to be poor."""

CERTAIN = 0.9999
"""A choice with such a chance was none: nothing is known of the other model on calls like it.

Nor is one of the other's that came about all the same: it would stand for ten thousand.
"""

MOST_LOST = 0.02
"""Of the calls that chance sent to a model: if more of its outcomes are unknown since it failed or its answer
was not good enough, those that are known say nothing of all."""


@dataclass(slots=True, kw_only=True)
class Sample:
    """A call of which it is known how at least one of the models did, from 0 to 1.

    ``propensity`` is the chance that the model which was called had, ``None`` where chance had no part in it.
    ``prompt`` stands for the prompt, ``group`` for whose call it was.
    """

    buckets: array[int]
    prompt: bytes
    group: str = ""
    weak: float | None = None
    strong: float | None = None
    propensity: float | None = None
    weak_usd: float | None = None
    strong_usd: float | None = None
    important: bool = False
    score: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether both outcomes are known."""
        return self.weak is not None and self.strong is not None

    @property
    def can_judge(self) -> bool:
        """Whether it says something of a choice that was not made."""
        return self.is_whole or self.propensity is not None


@dataclass(slots=True)
class Samples:
    """Samples in the order of time, and what was left out of the log, with why.

    ``weak`` and ``strong`` are the tiers of the two models, ``grouped_by`` says whose calls stay together,
    ``doubts`` why chance says nothing here.
    """

    found: list[Sample] = field(default_factory=list)
    weak: str | None = None
    strong: str | None = None
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    grouped_by: str = "prompt"
    doubts: list[str] = field(default_factory=list)


def samples_of(
    rows: Iterable[DecisionRow],
    *,
    buckets_of: Callable[[str], Sequence[int]],
    weak: str | None = None,
    strong: str | None = None,
) -> Samples:
    """The samples in ``rows``. ``buckets_of`` reads texts, where the log has them.

    ``weak`` and ``strong`` name tiers; left out, they are those that calls were sent to by their difficulty,
    or the two that answered, the cheaper being the weak one. Raises ``ConfigError`` where it cannot be told.
    """
    samples = Samples()
    known: dict[str, DecisionRow] = {}
    for row in rows:
        samples.rows += 1
        why = _unfit(row)
        if why is None:
            known[row.id] = row  # a line that was written twice counts once
        else:
            samples.left_out[why] += 1
    fit = sorted(known.values(), key=lambda row: row.at)
    samples.weak, samples.strong = _tiers(fit, weak, strong)
    of: list[DecisionRow] = []
    lost = Counter[str]()
    for row in fit:
        sample = _sample(row, samples.weak, samples.strong, buckets_of, lost)
        if isinstance(sample, str):
            samples.left_out[sample] += 1
        else:
            samples.found.append(sample)
            of.append(row)
    samples.grouped_by = _group(samples.found, of)
    _doubt_chance(samples, lost)
    return samples


def _doubt_chance(samples: Samples, lost: Counter[str]) -> None:
    """Where outcomes are missing because of what they would have been, chance judges nothing."""
    for arm in ("weak", "strong"):
        kept = sum(s.propensity is not None and getattr(s, arm) is not None for s in samples.found)
        if lost[arm] > MOST_LOST * (kept + lost[arm]):
            samples.doubts.append(
                f"of {kept + lost[arm]:,} calls that chance sent to the {arm} model, another model answered "
                f"{lost[arm]:,}, and how good its own answer was is not in the log: those that are left are "
                "not like all (with a cascade, its judge has to give scores; or compare with shadow=)"
            )
    if samples.doubts:
        for sample in samples.found:
            sample.propensity = None


def _unfit(row: DecisionRow) -> str | None:
    if row.quality is None and row.weak_quality is None:
        return "nothing is known of how good the answer was"
    if not row.buckets and not row.text:
        return "nothing of the prompt was kept"
    if row.weak_quality is not None:
        return None
    if row.outcome != "ok":
        return "there was no answer"
    if row.cache in ("hit", "stale", "joined"):
        return "the answer was made for another call"
    if row.degraded and row.degraded != (NOT_ESCALATED,):
        return "the answer was degraded"
    return None


def _tiers(
    rows: Sequence[DecisionRow], weak: str | None, strong: str | None
) -> tuple[str | None, str | None]:
    if weak is not None and weak == strong:
        raise ConfigError(f"weak={weak!r}, strong={strong!r}: give two different tiers")
    named = weak is not None and strong is not None
    seen = {
        arm: Counter(sent for row in rows if row.arm == arm and (sent := row.granted or row.served))
        for arm in ("weak", "strong")
    }
    if weak is None and seen["weak"]:
        weak = next((t for t, _ in seen["weak"].most_common() if t != strong), None)
    if strong is None and seen["strong"]:
        strong = next((t for t, _ in seen["strong"].most_common() if t != weak), None)
    if weak is not None and strong is not None:
        if not named:
            _check_prices(rows, weak, strong)
        return weak, strong
    answered = sorted({row.served for row in rows if row.served and row.quality is not None})
    if weak is None and strong is None and len(answered) == 2:
        costs = {tier: _mean_cost(rows, tier) for tier in answered}
        first, second = answered
        if None not in costs.values() and costs[first] != costs[second]:
            return (first, second) if (costs[first] or 0) < (costs[second] or 0) else (second, first)
    if (weak is None) != (strong is None) and len(answered) == 2:
        other = next(tier for tier in answered if tier not in (weak, strong))
        return (other, strong) if weak is None else (weak, other)
    if len(answered) < 2 or all(row.weak_quality is not None for row in rows):
        return weak, strong
    raise ConfigError(
        f"it cannot be told which tier has the weak model and which the strong one: say so with weak= and "
        f"strong= (--weak, --strong); {', '.join(answered)} answered"
    )


def _mean_cost(rows: Sequence[DecisionRow], tier: str) -> Decimal | None:
    """Of the answers of this tier to calls that had no other's before."""
    costs = [r.cost_usd for r in rows if r.served == tier == (r.granted or tier) and r.cost_usd]
    return sum(costs, Decimal(0)) / len(costs) if costs else None


def _check_prices(rows: Sequence[DecisionRow], weak: str, strong: str) -> None:
    """Raises ``ConfigError`` where the model that seems to be the weak one is the dearer one."""
    less, more = _mean_cost(rows, weak), _mean_cost(rows, strong)
    if less is not None and more is not None and less > more:
        raise ConfigError(
            f"calls that were to go to the weak model went to {weak}, but its answers cost more than "
            f"those of {strong}: say which is which with weak= and strong= (--weak, --strong)"
        )


def _sample(
    row: DecisionRow,
    weak: str | None,
    strong: str | None,
    buckets_of: Callable[[str], Sequence[int]],
    lost: Counter[str],
) -> Sample | str:
    chance = row.propensity if row.arm in ("weak", "strong") and row.weak_quality is None else None
    if chance is not None and not 1 - CERTAIN < chance < CERTAIN:
        chance = None
    arm = {weak: "weak", strong: "strong"}.get(row.served) if row.served is not None else None
    quality, usd = row.quality, None if row.cost_usd is None else float(row.cost_usd)
    if chance is not None and arm != row.arm:
        sent = weak if row.arm == "weak" else strong
        fell = sent is not None and row.granted in (sent, None)  # and was not sent elsewhere for the load
        outcome, its_usd, asked = _outcome_of(row, sent or "")
        if fell and outcome is not None and row.arm == "weak":
            arm, quality, usd = "weak", outcome, its_usd
        elif fell and asked:
            lost[row.arm or ""] += 1
    if arm is None and row.weak_quality is None:
        return "a third tier answered"
    try:
        buckets = array("I", row.buckets or buckets_of(row.text or ""))
    except OverflowError:
        return "its buckets are none"
    sample = Sample(
        buckets=buckets,
        prompt=hashlib.blake2b(array("I", sorted(buckets)).tobytes(), digest_size=16).digest(),
        important=row.importance == "high",
        score=row.score,
    )
    if arm == "weak":
        sample.weak, sample.weak_usd = quality, usd
    elif arm == "strong":
        sample.strong, sample.strong_usd = quality, usd
    if row.weak_quality is not None:
        sample.weak, sample.strong = row.weak_quality, row.strong_quality
        sample.weak_usd = sample.weak_usd if row.weak_usd is None else row.weak_usd
        sample.strong_usd = sample.strong_usd if row.strong_usd is None else row.strong_usd
    elif arm == row.arm:
        sample.propensity = chance
    return sample


def _outcome_of(row: DecisionRow, tier: str) -> tuple[float | None, float | None, bool]:
    """How good that tier's answer was, where another one's was served; what it cost; whether it was asked.

    A cascade's judge has said how good. Where the row tells no attempts, it counts as asked.
    """
    attempts = row.raw.get("attempts")
    if not isinstance(attempts, list):
        return None, None, True
    mine = [a for a in attempts if isinstance(a, Mapping) and a.get("tier") == tier]
    told = [a for a in mine if a.get("outcome") == "ok"]
    asked = any(a.get("outcome") in ("ok", "failed") for a in mine)
    if not told:
        return None, None, asked
    costs = [lenient.usd(a.get("cost_usd")) for a in told]
    usd = None if None in costs else sum(cost or 0.0 for cost in costs)
    return lenient.share(row.scores.get("judge")), usd, asked


def _group(samples: Sequence[Sample], rows: Sequence[DecisionRow]) -> str:
    """Whose call each was: the coarsest of user, session and prompt that makes enough groups."""
    for kind in ("user", "session"):
        for sample, row in zip(samples, rows, strict=True):
            mine = [f"p:{sample.prompt.hex()}"]
            if row.session is not None:
                mine.append(f"s:{row.session}")
            if row.user is not None and kind == "user":
                mine.append(f"u:{row.tenant or ''}\0{row.user}")
            sample.group = mine[-1]
        groups = Counter(sample.group for sample in samples)
        named = any(group[0] == kind[0] for group in groups)
        if named and len(groups) >= GROUPS_LEAST and max(groups.values()) <= len(samples) / 5:
            return kind
    for sample in samples:
        sample.group = f"p:{sample.prompt.hex()}"
    return "prompt"
