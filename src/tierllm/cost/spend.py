"""A budget used alone: reserve, then settle, around any piece of work."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, StoreUnavailableError, UsageError
from ..stores.base import Settlement
from ..types import Request
from .amounts import Money, spent
from .budget import Budget, Draw, lines_of, short
from .budget_checks import PLACES

if TYPE_CHECKING:
    from ..pipeline.clock import Clock

__all__ = ["WHO", "Spend", "asked_by", "open_spend"]

WHO = frozenset({"user", "tenant", "plan", "contract", "tags", "session", "route"})


class Spend:
    """Amounts reserved from a budget. ``settle`` says what was really used, once."""

    __slots__ = ("_reserved", "settled")

    def __init__(self, reserved: Mapping[str, int]) -> None:
        self._reserved = reserved
        self.settled: dict[str, int] | None = None

    def settle(
        self, *, usd: Money | None = None, tokens: int | None = None, calls: int | None = None
    ) -> None:
        """What was used; what is left out counts as it was reserved.

        Once: then ``UsageError``. Raises ``ConfigError`` for amounts below 0.
        """
        if self.settled is not None:
            raise UsageError("this spend was settled before")
        self.settled = {**self._reserved, **spent("settle", usd=usd, tokens=tokens, calls=calls)}


@contextmanager
def open_spend(
    budget: Budget, amounts: Mapping[str, int], said: Collection[str], who: Mapping[str, Any], clock: Clock
) -> Iterator[Spend]:
    request = asked_by(who)
    for limit in budget.limits:
        if not amounts.get(limit.unit) and limit.unit != "calls" and limit.unit not in said:
            raise ConfigError(f"{budget!r} limits {limit.unit}: say how many with spend({limit.unit}=...)")
    store, now = budget.alone_store(), clock()
    for key in sorted(PLACES & budget.where.keys()):
        if key not in who:
            raise ConfigError(f"{budget!r} is for some places only: say {key}=...")
    draws: list[Draw] = []
    if budget.holds_for(request) and _at_place(budget, who):
        draws = budget.draws(request, who.get("tier", ""), who.get("deployment", ""), now, store)
    hold = store.hold(lines_of(draws, amounts))
    try:
        verdict = store.reserve(hold)
    except BaseException as error:
        store.give_back(hold)
        if not isinstance(error, StoreUnavailableError) or budget.fail == "closed":
            raise
        yield Spend(amounts)
        return
    for draw, line, standing in zip(draws, hold.lines, verdict.standings, strict=True):
        if not verdict.ok and short(line, standing):
            raise budget.refusal(draw, standing, line.amount, now)
    spend = Spend(amounts)
    try:
        yield spend
    except BaseException:
        spend.settled = spend.settled or dict.fromkeys(amounts, 0)
        raise
    finally:
        used = spend.settled or amounts
        slots = tuple(budget.window.at(clock()).slot for _ in draws)
        store.post(Settlement(hold, tuple(used[draw.limit.unit] for draw in draws), slots))
        store.flush()


def _at_place(budget: Budget, who: Mapping[str, Any]) -> bool:
    return all(who.get(key) in names for key, names in budget.where.items() if key in PLACES)


def asked_by(who: Mapping[str, Any]) -> Request:
    """The request that ``who`` stands for, where there is none."""
    known = WHO
    unknown = set(who) - known - PLACES
    if unknown:
        raise ConfigError(f"{sorted(unknown)[0]!r} names nobody: one of {', '.join(sorted(known))}")
    for key in known - {"tags"}:
        if not isinstance(who.get(key) or "", str):
            raise ConfigError(f"{key}={who[key]!r}: give a name")
    tags = who.get("tags", ())
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
        raise ConfigError(f"tags={tags!r}: give several names, such as [{tags!r}]")
    return Request(messages=(), **{key: value for key, value in who.items() if key in known})
