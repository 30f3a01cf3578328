"""What a ledger suggests: limits, tiers, caches and estimates worth another look.

The rules are plain thresholds, stated at each, and say nothing where there is too little to go by.
They see costs and counts, not whether an answer was good: what they propose is to be tried on a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, NamedTuple

from .ledger_summary import UsageLine

if TYPE_CHECKING:
    from .ledger import UsageLedger

__all__ = ["BudgetUse", "Suggestion", "advice_on", "suggestions"]

ENOUGH_CALLS = 100
ENOUGH_COMPARED = 30
ENOUGH_REFUSALS = 20

LOOSE_BELOW = Decimal("0.5")
TIGHT_FROM = 0.1
OFF_FROM = 0.2
DEGRADED_FROM = 0.05
SHORT_TOKENS = 100
WORTH_OF_TOTAL = Decimal("0.05")
CHEAPER_BELOW = Decimal("0.5")

Kind = Literal[
    "limit_loose", "limit_tight", "cheaper_tier", "cache_saved", "estimate_off", "degraded", "unpriced"
]


class BudgetUse(NamedTuple):
    """A budget's name, its hard limit, and the most that any of its buckets had used of it."""

    name: str
    limit: Decimal
    peak: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """One thing to look at. ``saves_usd``: over the time looked at, where it can be told."""

    kind: Kind
    subject: str
    text: str
    saves_usd: Decimal | None = None


def advice_on(
    ledger: UsageLedger,
    since: float | datetime | None = None,
    until: float | datetime | None = None,
    *,
    budgets: Sequence[BudgetUse] = (),
) -> list[Suggestion]:
    """``suggestions`` on what ``ledger`` holds for that time."""
    return suggestions(
        total=ledger.total(since, until),
        budgets=budgets,
        refusals=ledger.usage(("budget",), since, until, outcome="refused"),
        tiers=ledger.usage(("tier",), since, until, outcome="ok"),
        routes=ledger.usage(("route", "tier"), since, until, outcome="ok"),
        models=ledger.usage(("model",), since, until),
    )


def suggestions(
    *,
    total: UsageLine,
    budgets: Sequence[BudgetUse] = (),
    refusals: Sequence[UsageLine] = (),
    tiers: Sequence[UsageLine] = (),
    routes: Sequence[UsageLine] = (),
    models: Sequence[UsageLine] = (),
) -> list[Suggestion]:
    """What these summaries suggest, the dearest first.

    ``refusals`` are lines by ``budget``, ``models`` by ``model``; ``tiers`` and ``routes`` are lines by
    ``tier`` and by ``route`` and ``tier``, of calls that succeeded.
    """
    found = [
        *_limits(total, budgets, refusals),
        *_cheaper_tiers(total, tiers, routes),
        *_cache(total),
        *_estimates(models),
        *_degraded(total),
        *_unpriced(models),
    ]
    return sorted(found, key=lambda one: (-(one.saves_usd or Decimal(0)), one.kind, one.subject))


def _limits(
    total: UsageLine, budgets: Sequence[BudgetUse], refusals: Sequence[UsageLine]
) -> list[Suggestion]:
    """Loose: never refused, and never used by half. Tight: it kept back a tenth of all."""
    found = []
    refused = {line.group["budget"]: line.refused for line in refusals if line.refused}
    for budget in budgets:
        if total.calls < ENOUGH_CALLS or refused.get(budget.name) or budget.limit <= 0:
            continue
        if budget.peak < LOOSE_BELOW * budget.limit:
            used = budget.peak / budget.limit
            text = (
                f"the most that was used of its {budget.limit:f} is {budget.peak:f} ({used:.0%}): "
                "it would not stop a mistake before it is dear; a lower limit would"
            )
            found.append(Suggestion(kind="limit_loose", subject=budget.name, text=text))
    asked = total.calls + total.refused
    for name, count in refused.items():
        if count >= ENOUGH_REFUSALS and asked >= ENOUGH_CALLS and count / asked >= TIGHT_FROM:
            text = (
                f"it kept calls back {count} times, beside {total.calls} that were made: raise it, "
                'or let it step down with on_exceed="downgrade"'
            )
            found.append(Suggestion(kind="limit_tight", subject=name or "a budget without a name", text=text))
    return found


def _cheaper_tiers(
    total: UsageLine, tiers: Sequence[UsageLine], routes: Sequence[UsageLine]
) -> list[Suggestion]:
    """Routes whose answers are short in the mean, whose cost matters, where the same tokens would have cost
    less than half in another tier. The dearest tier that is cheaper enough: a small step, not the last."""
    paid = [
        line
        for line in (*tiers, *routes)
        if line.group["tier"] and line.calls >= ENOUGH_CALLS and not line.unpriced
    ]
    found = []
    for line in routes:
        tier, route = line.group["tier"], line.group["route"]
        if not route or not tier or line.unpriced or line.calls < ENOUGH_CALLS:
            continue
        if line.output_tokens > SHORT_TOKENS * line.calls or line.cost_usd < WORTH_OF_TOTAL * total.cost_usd:
            continue
        cheaper: dict[str, Decimal] = {}
        for other in paid:
            name, most = other.group["tier"], _at_most(line, other)
            if name and name != tier and most is not None and most < CHEAPER_BELOW * line.cost_usd:
                cheaper[name] = min(most, cheaper.get(name, most))
        if not cheaper:
            continue
        to = max(cheaper, key=lambda name: (cheaper[name], name))
        saves = line.cost_usd - cheaper[to]
        text = (
            f"{line.calls} calls in {tier} had short answers ({line.output_tokens / line.calls:.0f} tokens "
            f"in the mean); in {to} the same tokens would have cost {_dollars(saves)} less: compare the "
            "answers on a sample"
        )
        found.append(Suggestion(kind="cheaper_tier", subject=route, text=text, saves_usd=saves))
    return found


def _at_most(line: UsageLine, other: UsageLine) -> Decimal | None:
    """The most that ``line``'s tokens can have cost at the rates that ``other`` paid, without caches.

    Which share of its cost was for input is not known. Whatever it was, no rate is above the whole cost
    divided by the tokens of that kind, and the sum is the highest where all of it was for the one kind
    that ``line`` has more of. ``None``: it has a kind of which ``other`` has none.
    """
    shares = []
    for mine, theirs in (
        (line.input_tokens, other.input_tokens),
        (line.output_tokens, other.output_tokens),
    ):
        if mine and not theirs:
            return None
        if mine:
            shares.append(Decimal(mine) / theirs)
    return max(other.cost_usd, other.list_usd) * max(shares) if shares else None


def _cache(total: UsageLine) -> list[Suggestion]:
    """What caches, ours and the vendors', have saved already."""
    if total.calls < ENOUGH_CALLS or total.saved_usd <= 0:
        return []
    text = f"caches saved {_dollars(total.saved_usd)}"
    if total.cached:
        text += f"; {total.cached} of {total.calls} calls ({total.cached / total.calls:.0%}) called nobody"
    return [Suggestion(kind="cache_saved", subject="caching", text=text, saves_usd=total.saved_usd)]


def _estimates(models: Sequence[UsageLine]) -> list[Suggestion]:
    """Models whose estimates are a fifth too high or too low in sum."""
    found = []
    for line in models:
        share = line.error_share
        if line.compared >= ENOUGH_COMPARED and share is not None and abs(share) >= OFF_FROM:
            way = "high" if share > 0 else "low"
            text = (
                f"estimates of {line.compared} calls were {abs(share):.0%} too {way} in sum: "
                "look at its price, and at max_tokens"
            )
            found.append(Suggestion(kind="estimate_off", subject=_name(line, "model"), text=text))
    return found


def _degraded(total: UsageLine) -> list[Suggestion]:
    """A twentieth of all calls got less than they asked for."""
    if total.calls < ENOUGH_CALLS or total.degraded < DEGRADED_FROM * total.calls:
        return []
    text = f"{total.degraded} of {total.calls} calls ({total.degraded / total.calls:.0%}) were degraded"
    return [Suggestion(kind="degraded", subject="service", text=f"{text}: the tiers asked for lack room")]


def _unpriced(models: Sequence[UsageLine]) -> list[Suggestion]:
    """Models without a price count as free, at any number of calls."""
    return [
        Suggestion(
            kind="unpriced",
            subject=_name(line, "model"),
            text=f"calls at no known price, counted as free: {line.unpriced}; give its deployment a price",
        )
        for line in models
        if line.unpriced
    ]


def _name(line: UsageLine, by: str) -> str:
    return line.group[by] or "(none)"


def _dollars(amount: Decimal) -> str:
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.2g}"
