"""Rules about objectives, timeouts, retries and the deadline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .finding import Finding, warning

if TYPE_CHECKING:
    from ..types import Timeouts
    from .file import Config

__all__ = ["PATIENCE", "RULES", "longest", "within"]

PATIENCE = 3
"""A timeout of so many times the objective's percentile no longer serves the objective."""


def _slow_to_give_up(config: Config) -> Iterator[Finding]:
    """An objective that the timeouts do nothing for."""
    for t, tier in enumerate(config.tiers):
        objective = tier.objective
        if objective is None:
            continue
        timeouts = [config.timeouts_of(tier, deployment) for deployment in tier.deployments]
        for promise, bound in (("latency_p95_s", "total_s"), ("first_token_p95_s", "first_token_s")):
            promised_s = getattr(objective, promise)
            if promised_s is None or within(config.client.deadline_s, PATIENCE * promised_s):
                continue
            longest_s = longest(timeouts, bound)
            if not within(longest_s, PATIENCE * promised_s):
                yield warning(
                    f"tiers[{t}].objective.{promise}",
                    f"the objective is {promised_s:g} s, but a provider that hangs is given "
                    + ("for ever" if longest_s is None else f"{longest_s:g} s"),
                    f"set timeouts.{bound} to about {2 * promised_s:g}, or client.deadline_s",
                )


def _cut_short(config: Config) -> Iterator[Finding]:
    for t, tier in enumerate(config.tiers):
        promised_s = tier.objective.latency_p95_s if tier.objective else None
        total_s = longest([config.timeouts_of(tier, d) for d in tier.deployments], "total_s")
        if promised_s is not None and total_s is not None and total_s < promised_s:
            yield warning(
                f"tiers[{t}].timeouts.total_s",
                f"answers are cut off after {total_s:g} s, sooner than the objective of {promised_s:g} s",
                f"set it above {promised_s:g}",
            )


def _deadline_spent(config: Config) -> Iterator[Finding]:
    """A deadline that the first hanging attempt uses up."""
    deadline_s = config.client.deadline_s
    if deadline_s is None:
        return
    for t, tier in enumerate(config.tiers):
        longest_s = longest([config.timeouts_of(tier, d) for d in tier.deployments], "total_s")
        if not within(longest_s, deadline_s * 0.99):
            yield warning(
                f"tiers[{t}].timeouts.total_s",
                f"one hanging attempt uses up the deadline of {deadline_s:g} s: "
                "nothing is left for a retry or a fallback",
                f"set it to {deadline_s / 2:g} or less",
            )


def _backoff_too_long(config: Config) -> Iterator[Finding]:
    deadline_s = config.client.deadline_s
    for key, tier, deployment in config.places():
        retry = config.retry_of(tier, deployment)
        if deadline_s is None or not retry:
            continue
        ceilings = [min(retry.max_s, retry.base_s * 2.0**n) for n in range(min(retry.attempts - 1, 60))]
        mean_s = sum(ceilings) / 2  # full jitter is uniform from 0
        if mean_s > deadline_s:
            yield warning(
                f"{key}.retry",
                f"{retry.attempts} attempts wait {mean_s:.3g} s between them on average, "
                f"more than the deadline of {deadline_s:g} s",
                "lower retry.attempts or retry.base_s",
            )


def longest(timeouts: Iterable[Timeouts], bound: str) -> float | None:
    """The longest wait that ``bound`` allows; ``None`` is no bound."""
    spans: list[float | None] = [getattr(each, bound) for each in timeouts]
    finite = [span for span in spans if span is not None]
    return max(finite) if len(finite) == len(spans) else None


def within(span_s: float | None, limit_s: float) -> bool:
    return span_s is not None and span_s <= limit_s


RULES = (_slow_to_give_up, _cut_short, _deadline_spent, _backoff_too_long)
