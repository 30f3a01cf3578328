"""A call's account in plain words: from its trace, or from its row in the decision log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import groupby
from json import dumps
from typing import TYPE_CHECKING

from ..types import Trace
from .account import Account, Passed, Tried, account_of
from .words import (
    ERRORS,
    NEXT,
    OBSERVED,
    OWN,
    PLACE_WORDS,
    STEPS,
    TIER_WORDS,
    WAITS,
    dollars,
    error_words,
    seconds,
)

if TYPE_CHECKING:
    from .decision_rows import DecisionRow

__all__ = ["explained"]

UNTRIED = ("plan", "contract", "rule", "min_tier", "max_tier", "no fallback")
"""Bounds: they exclude tiers that nobody may have missed, and are told together."""


def explained(what: Trace | DecisionRow | Mapping[str, object]) -> str:
    """What was asked, why it went where it went, what it cost and how long it took, in one sentence.

    ``what`` is a trace, its ``to_dict()``, or a row or line of the decision log. Never raises for what any of
    these may hold: what is not known is not told, and a reason that has no words is told as it is. Names of
    tiers, deployments, rules and plans are in it, text of prompts never.
    """
    account = account_of(what)
    parts = [
        _asked(account),
        *_class(account),
        *_bounds(account),
        *_passed_over(account),
        *_waits(account),
        *_end(account),
        *_degraded(account),
        *_bill(account),
        *(f"note: {warning}" for warning in dict.fromkeys(account.warnings)),
    ]
    return _printable("; ".join(part for part in parts if part))


def _printable(told: str) -> str:
    """Names may hold anything: nothing in them begins a line, or is obeyed by a terminal."""
    return told if told.isprintable() else "".join(c if c.isprintable() else dumps(c)[1:-1] for c in told)


def _asked(account: Account) -> str:
    terms = [
        f"{kind} {name}" for kind, name in (("plan", account.plan), ("contract", account.contract)) if name
    ]
    told = f"asked {account.asked}" if account.asked else "asked no tier in particular"
    return f"{told} ({', '.join(terms)})" if terms else told


def _class(account: Account) -> list[str]:
    told = []
    if account.rule:
        told.append(f"by rule {account.rule!r}{' (only observed)' if _observed(account) else ''}")
    scores = ", ".join(f"{name} {value:.2f}" for name, value in account.scores.items())
    if account.request_class:
        told.append(f"taken for {account.request_class} difficulty" + (f" ({scores})" if scores else ""))
    elif scores:
        told.append(f"scores: {scores}")
    if account.arm:
        chance = "" if account.propensity is None else f", which had a chance of {account.propensity:.0%}"
        how = "by chance, to learn from it" if account.explored else "by its difficulty"
        told.append(f"sent to the {account.arm} model {how}{chance}")
    elif account.propensity is not None and account.propensity < 1:
        tier = _chosen(account)
        what = f"the choice of {tier}" if tier else "the choice of the model"
        told.append(f"{what} had a chance of {account.propensity:.0%}")
    return told


def _observed(account: Account) -> bool:
    """Whether its rule would have changed something, had it held."""
    return any(one.reason == "observed: rule" for one in account.candidates) or any(
        warning.startswith("observed only: its rule ") for warning in account.warnings
    )


def _chosen(account: Account) -> str:
    """The tier that was chosen for its difficulty; empty where it cannot be told from where it began."""
    whole = [one.reason for one in account.candidates if one.deployment == "*"]
    return "" if {"load", "budget", "shift", "pinned", "cascade"} & {*whole} else account.granted


def _bounds(account: Account) -> list[str]:
    """What kept whole tiers from it, and where it began for that."""
    told, together = [], dict[str, list[str]]()
    for one in account.candidates:
        if one.deployment == "*" and one.reason in UNTRIED and one.tier not in together.get(one.reason, ()):
            together.setdefault(one.reason, []).append(one.tier)
    for reason, tiers in together.items():
        told.append(f"{' and '.join(tiers)} {TIER_WORDS[reason]}")
    if account.granted and account.asked and account.granted != account.asked:
        told.append(f"granted {account.granted}")
    return told


def _passed_over(account: Account) -> list[str]:
    """Why it was not answered elsewhere, in the order of events; each place once for each reason."""
    told: dict[str, None] = {}
    met: dict[tuple[str, str], int] = {}
    for one in _together(account.candidates):
        reason = one.reason
        if not reason or (one.deployment == "*" and reason in UNTRIED):
            continue
        mine = [a for a in account.attempts if (a.tier, a.deployment) == (one.tier, one.deployment)]
        begin = met.get((one.tier, one.deployment), 0)
        told[_reason(one.tier, one.deployment, reason, mine[begin:], account.outcome)] = None
        met[one.tier, one.deployment] = len(mine)
    again = account.outcome == "ok" and account.place_answered
    for attempt in account.attempts:  # of a race, or of a call that was left: no reason was written down
        place = (attempt.tier, attempt.deployment)
        if again and attempt.place == account.place:
            continue
        if place not in met and attempt.outcome in ("failed", "rejected"):
            told[f"{attempt.place} {attempt.words}"] = None
        elif place not in met and attempt.outcome == "cancelled" and account.outcome == "ok":
            told[f"{attempt.place} was asked as well, and was slower"] = None
    tries = [a for a in account.attempts if a.outcome == "failed" and a.place == account.place]
    if again and tries:
        words = _words(tries)
        more = f" {_times(len(tries))}" if len(tries) > 1 else ""
        told[f"{account.place} {', then '.join(words)}, and was tried again{more}"] = None
    return list(told)


def _together(candidates: Sequence[Passed]) -> Iterator[Passed]:
    """Whole tiers that were passed over for the same reason, as one."""
    for (whole, reason), same in groupby(candidates, key=lambda one: (one.deployment == "*", one.reason)):
        if whole and reason not in UNTRIED:
            tiers = list(dict.fromkeys(one.tier for one in same))
            yield Passed(" and ".join(tiers), "*", reason)
        else:
            yield from same


def _reason(tier: str, deployment: str, reason: str, tries: list[Tried], outcome: str) -> str:
    observed, _, rest = reason.partition("observed:")
    if not observed and rest:
        place, what = _place(tier, deployment), rest.strip()
        return f"{place} {OBSERVED[what]} (only observed)" if what in OBSERVED else f"{place}: {reason}"
    whole = deployment in ("*", "")
    place = _place(tier, deployment)
    asked = [each for each in tries if each.outcome in ("failed", "ok", "cancelled")]
    again = f" ({_times(len(asked))} tried)" if len(asked) > 1 else ""
    name = reason.split(" ", 1)[0]
    words = _words([each for each in tries if each.outcome == "failed"])
    if len(words) > 1:
        more = again if len(words) < len(asked) else ""
        return f"{place} {', then '.join(words)}{more}"
    if reason == "deadline" and asked:
        return f"{place} {ERRORS['DeadlineExceededError']}{again}"
    if reason == "cancelled" and outcome in LEFT:
        return f"{place} was left, since {LEFT[outcome]}"
    for each in reversed(tries):
        if each.error and (each.error == name or (each.error, reason) in SAME):
            return f"{place} {each.words}{again}"
    if whole and reason in TIER_WORDS:
        return f"{place} {TIER_WORDS[reason]}"
    if not whole and reason in PLACE_WORDS:
        return f"{place} {PLACE_WORDS[reason]}{again}"
    if name == "judged":
        return f"{place} answered, and was judged {reason[7:].strip() or 'too poor'}: not good enough"
    said = error_words(name, status=reason[len(name) :].strip())
    return f"{place} {said}{again}" if said else f"{place}: {reason}{again}"


def _words(failed: Sequence[Tried]) -> list[str]:
    """What was met, each kind once: how long it will last is said by the last of a kind."""
    return list({each.words.partition(",")[0]: each.words for each in failed}.values())


def _place(tier: str, deployment: str) -> str:
    return tier if deployment in ("*", "") else f"{tier}/{deployment}"


LEFT = {"cancelled": "the call was cancelled", "ok": "another was quicker"}
"""Why a place was not waited for any longer, by how the call went."""

SAME = frozenset(
    {
        ("CircuitOpenError", "breaker"),
        ("BudgetExceededError", "budget"),
        ("RequestTooLargeError", "window"),
        ("ContextWindowExceededError", "window"),
    }
)
"""Errors that tell more than the reason which they leave."""


def _waits(account: Account) -> list[str]:
    spans: dict[str, float] = {}
    for kind, _, span_s in account.waits:
        spans[kind] = spans.get(kind, 0.0) + span_s
    told = [f"{seconds(s)} {WAITS.get(kind, f'({kind})')}" for kind, s in spans.items() if s >= 0.0005]
    return [f"waited {', '.join(told)}"] if told else []


def _end(account: Account) -> list[str]:
    """Where the answer came from; or why there is none, and what to do about it."""
    if account.outcome == "ok":
        return [_answered(account)]
    if account.outcome == "cancelled":
        return ["cancelled before it had its answer"]
    if account.outcome == "running":
        return ["still under way"]
    if not account.outcome and not account.error:
        return []
    verb = "refused" if account.outcome == "rejected" else "failed"
    told = f"{verb} with {account.error}" if account.error else verb
    advice, soonest = NEXT.get(_what_next(account)), _soonest_s(account)
    if advice and soonest is not None and "{soon}" in advice:
        return [f"{told}: {advice.format(soon=f'in {seconds(soonest)} at the soonest')}"]
    return [f"{told}: {advice.format(soon='later')}" if advice else told]


def _what_next(account: Account) -> str:
    if account.error == "BudgetExceededError":
        refused = [a for a in account.attempts if a.error == account.error]
        if refused and refused[-1].budget == OWN:
            return OWN
        if refused and refused[-1].too_large:
            return "too large"
    return account.error


def _soonest_s(account: Account) -> float | None:
    """When the first of the places that said so may serve again, counted from the end of the call."""
    last = {attempt.place: attempt for attempt in account.attempts}.values()
    ended_s = account.duration_s or 0.0
    waits = [a.retry_after_s - max(0.0, ended_s - a.ended_s) for a in last if a.retry_after_s]
    return min((wait for wait in waits if wait > 0), default=None)


def _answered(account: Account) -> str:
    of = f", an answer of {account.place}" if account.place else ""
    layer = f" ({account.cache_layer})" if account.cache_layer else ""
    if "simple_reply" in account.degraded:
        return "answered with the application's own words"
    if account.cache == "stale" or "stale" in account.degraded:
        return f"an old answer was served from the cache{layer}{of}"
    if account.cache == "hit":
        return f"answered from the cache{layer}{of}"
    if account.cache == "joined":
        whose = f" {account.led_by}" if account.led_by else ""
        return f"shared the answer of call{whose}, which was under way{of}"
    return f"served by {account.place}" if account.place else "answered"


def _degraded(account: Account) -> list[str]:
    names = [name for name in account.degraded if name not in ("stale", "simple_reply")]
    return [f"degraded: {', '.join(STEPS.get(name, name) for name in names)}"] if names else []


def _bill(account: Account) -> list[str]:
    told = [] if account.cost_usd is None else [dollars(account.cost_usd)]
    paid = [a.cost_usd for a in account.attempts if a.cost_usd]
    if len(paid) > 1 and account.cost_usd is not None and sum(paid, Decimal(0)) == account.cost_usd:
        told[-1] += f" for {len(paid)} answers"
    if account.duration_s is not None:
        told.append(seconds(account.duration_s))
    return told


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")
