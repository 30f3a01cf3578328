"""A budget, as the application describes it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..errors import BudgetExceededError, ConfigError, UsageError
from ..pipeline.fork import renew_after_fork
from ..stores.base import Line
from .amounts import Limit, Money, limits_of, spent, told
from .budget_checks import PLACES, OnExceed, checked_on_exceed, checked_per, checked_where, one_of
from .windows import Span, Window

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..stores import Standing, Store
    from ..types import Request
    from .spend import Spend

__all__ = ["Budget", "Draw", "Remaining", "lines_of", "short"]


class Draw(NamedTuple):
    """One account of a budget that a call draws on."""

    budget: Budget
    limit: Limit
    bucket: str
    span: Span
    account: str
    store: Store


class Remaining(NamedTuple):
    """How one budget stands for one bucket, in ``unit``. ``left`` never goes below 0.

    ``limit`` is the hard limit (the soft one where there is no other), ``resets_at`` is when room
    comes back (seconds since 1970; ``None``: never).
    """

    budget: str
    bucket: str
    unit: str
    limit: Decimal
    used: Decimal
    reserved: Decimal
    left: Decimal
    resets_at: float | None


class Budget:
    """What may be spent: dollars, tokens or calls, by whom, in which time.

    ``hard_…`` is never exceeded: before each call to a provider its worst case is reserved, and
    settled afterwards by what was really used. ``soft_…`` warns, or with ``on_soft="downgrade"``
    sends calls to the next tier down. Any of the three units may be limited, at once.

    ``per`` names whose budget it is: ``"user"``, ``"tenant"``, ``"plan"``, ``"tag"``, ``"session"``,
    ``"route"``, ``"tier"``, ``"deployment"``, ``"client"`` (all calls together), ``"call"``, ``"run"``;
    several make one bucket for each combination. Calls that lack the key share one bucket.
    ``where`` says for which calls it holds: ``{"plan": "free"}``, ``{"tier": ["gold", "silver"]}``.

    ``window`` is ``"day"``, ``"week"`` or ``"month"`` by the calendar of ``tz``, a rolling ``"1d"`` or
    ``"12h"``, or ``"total"``.

    ``on_exceed``: ``"reject"`` raises ``BudgetExceededError``; ``"downgrade"`` tries the next place or
    tier down; ``"clamp"`` lowers ``max_tokens`` to what is left, as long as that is of use. Several are
    tried in turn. Left out, budgets per tier and deployment downgrade and others reject.
    ``fail`` says what happens where ``store`` cannot be reached: ``"closed"`` refuses, ``"open"`` lets go.
    ``store`` is the client's unless given. ``scope="process"`` allows a hard limit in memory to be one
    for each process after a fork. ``mode="observe"`` records what it would have refused.

    Usable alone: ``with budget.spend(usd=0.02, user="u42") as spend: ...; spend.settle(usd=0.013)``.
    Raises ``ConfigError`` for limits that make no sense. Thread-safe.
    """

    def __init__(
        self,
        *,
        hard_usd: Money | None = None,
        soft_usd: Money | None = None,
        hard_tokens: int | None = None,
        soft_tokens: int | None = None,
        hard_calls: int | None = None,
        soft_calls: int | None = None,
        per: str | Sequence[str] = "client",
        window: str = "total",
        tz: str = "UTC",
        where: Mapping[str, str | Iterable[str]] | None = None,
        on_exceed: OnExceed | Sequence[OnExceed] | None = None,
        on_soft: Literal["warn", "downgrade"] = "warn",
        fail: Literal["closed", "open"] = "closed",
        scope: Literal["shared", "process"] = "shared",
        mode: Literal["enforce", "observe"] = "enforce",
        name: str | None = None,
        store: Store | None = None,
    ) -> None:
        self.limits = limits_of(
            usd=(hard_usd, soft_usd), tokens=(hard_tokens, soft_tokens), calls=(hard_calls, soft_calls)
        )
        self.per = checked_per(per)
        self.window = Window(window, tz)
        self.where = checked_where(where)
        self.on_exceed = checked_on_exceed(on_exceed, self.per)
        one_of("on_soft", on_soft, ("warn", "downgrade"))
        one_of("fail", fail, ("closed", "open"))
        one_of("scope", scope, ("shared", "process"))
        one_of("mode", mode, ("enforce", "observe"))
        if self.per[0] in ("call", "run") and window != "total":
            raise ConfigError(f"Budget(per={per!r}, window={window!r}): it has no window, leave it out")
        if self.per[0] in ("call", "run") and store is not None:
            raise ConfigError(
                f"Budget(per={per!r}, store=...): its account lives in memory; leave store= out"
            )
        if on_soft == "downgrade" and ("deployment" in self.per or {"deployment", "model"} & set(self.where)):
            raise ConfigError(
                "Budget(on_soft='downgrade'): where a call starts is a matter of tiers; take it out, or let "
                "the budget be per tier"
            )
        if on_soft == "downgrade" and not any(limit.soft is not None for limit in self.limits):
            raise ConfigError("Budget(on_soft='downgrade'): give it a soft limit, such as soft_usd=8")
        if store is not None and not hasattr(store, "reserve"):
            raise ConfigError(f"Budget(store={store!r}): give a MemoryStore, DiskStore or RedisStore")
        if name is not None and (not isinstance(name, str) or not name or "|" in name):
            raise ConfigError(f"Budget(name={name!r}): give a name without '|', or leave it out")
        self.on_soft = on_soft
        self.fail = fail
        self.scope = scope
        self.mode = mode
        self.name = name or self._described()
        self.store = store
        self._own: dict[str, Store] = {}
        self._watched = self._forked = False

    def _described(self) -> str:
        where = "".join(f"[{key}={'+'.join(sorted(names))}]" for key, names in self.where.items())
        windowed = "" if self.per[0] in ("call", "run") else f"-{self.window.spec}"
        return f"{'+'.join(self.per)}{windowed}{where}".replace("|", "_")

    @property
    def hard(self) -> bool:
        """Whether it may refuse: it has a hard limit and enforces it."""
        return self.mode == "enforce" and any(limit.hard is not None for limit in self.limits)

    def steps_down(self) -> bool:
        return "downgrade" in self.on_exceed

    # -- which calls, whose account ---------------------------------------------

    def holds_at(self, tier: str, deployment: str, model: str) -> bool:
        """Whether calls at this place can fall under it."""
        places = {"tier": tier, "deployment": deployment, "model": model}
        return all(places[key] in names for key, names in self.where.items() if key in PLACES)

    def holds_for(self, request: Request) -> bool:
        """Whether ``where`` matches the request, as far as it is about the caller."""
        for key, names in self.where.items():
            if key == "tag":
                if names.isdisjoint(request.tags):
                    return False
            elif key not in PLACES and getattr(request, key) not in names:
                return False
        return True

    def buckets(self, request: Request, tier: str, deployment: str) -> list[str]:
        """Whose accounts the call draws on: one, or one for each tag."""
        if self.per == ("client",):
            return ["client"]
        parts = [""]
        for key in self.per:
            if key == "tag":
                values: Sequence[str] = tuple(dict.fromkeys(request.tags)) or ("",)
            elif key == "tier":
                values = (tier,)
            elif key == "deployment":
                values = (f"{tier}/{deployment}",)
            elif key in ("client", "call", "run"):
                values = ()
            else:
                values = (getattr(request, key) or "",)
            if values:
                parts = [
                    f"{part},{key}={_escaped(value)}" if part else f"{key}={_escaped(value)}"
                    for part in parts
                    for value in values
                ]
            elif key not in parts[0].split(","):
                parts = [f"{part},{key}" if part else key for part in parts]
        return parts

    def draws(self, request: Request, tier: str, deployment: str, now: float, store: Store) -> list[Draw]:
        """The accounts that a call draws on here and now."""
        span = self.window.at(now)
        return [
            Draw(self, limit, bucket, span, f"{self.name}|{limit.unit}|{span.id}|{bucket}", store)
            for bucket in self.buckets(request, tier, deployment)
            for limit in self.limits
        ]

    # -- what is told -----------------------------------------------------------

    def refusal(self, draw: Draw, standing: Standing, amount: int, now: float) -> BudgetExceededError:
        """The error for ``amount`` more on top of ``standing``."""
        limit = draw.limit
        assert limit.hard is not None
        left = max(0, limit.hard - standing.settled - standing.reserved)
        frees_at = self.window.frees_at(draw.span, standing.first_slot)
        wait_s = None if frees_at is None else max(0.0, frees_at - now)
        if standing.settled + amount <= limit.hard or amount > limit.hard:
            wait_s = None  # what is in the way is held by calls under way; or waiting does not help at all
        resets = "; it never resets"
        if frees_at is not None:
            how = "it resets" if self.window.seconds is None else "the first of it comes back"
            resets = f"; {how} in {frees_at - now:.0f} s"
        if self.per[0] in ("call", "run"):
            resets = ""
        held = f" ({told(limit, standing.reserved)} is held by calls under way)" if standing.reserved else ""
        return BudgetExceededError(
            f"budget {self.name!r} ({draw.bucket}): this call may need {told(limit, amount)}, and "
            f"{told(limit, left)} of {told(limit, limit.hard)} is left{held}{resets}",
            budget=self.name,
            bucket=draw.bucket,
            unit=limit.unit,
            asked=limit.told(amount),
            left=limit.told(left),
            limit=limit.told(limit.hard),
            resets_at=frees_at,
            retry_after_s=wait_s,
            steps_down=self.steps_down(),
        )

    def remains(self, draw: Draw, standing: Standing) -> Remaining:
        limit = draw.limit
        most = limit.hard if limit.hard is not None else limit.soft
        assert most is not None
        return Remaining(
            self.name,
            draw.bucket,
            limit.unit,
            limit.told(most),
            limit.told(standing.settled),
            limit.told(standing.reserved),
            limit.told(max(0, most - standing.settled - standing.reserved)),
            self.window.frees_at(draw.span, standing.first_slot),
        )

    # -- alone ------------------------------------------------------------------

    @contextmanager
    def spend(
        self,
        *,
        usd: Money | None = None,
        tokens: int | None = None,
        calls: int = 1,
        clock: Clock = time.time,
        **who: Any,
    ) -> Iterator[Spend]:
        """Reserve these amounts for ``who`` (``user=``, ``tenant=``, …) while the block runs.

        What the budget limits has to be said. Where ``where`` does not match, nothing is reserved.
        ``settle(...)`` books what was used; without it the reservation counts as used, and an error
        in the block gives it back. Raises ``BudgetExceededError``, and ``StoreUnavailableError`` where
        ``fail="closed"``.
        """
        from .spend import open_spend

        said = spent("spend", usd=usd, tokens=tokens, calls=calls)
        amounts = {"usd": 0, "tokens": 0, **said}
        with open_spend(self, amounts, said, who, clock) as spend:
            yield spend

    def remaining(self, *, clock: Clock = time.time, **who: Any) -> list[Remaining]:
        """How it stands for ``who``, one for each limit. Raises ``StoreUnavailableError``."""
        from .spend import asked_by

        store = self.alone_store()
        draws = self.draws(asked_by(who), who.get("tier", ""), who.get("deployment", ""), clock(), store)
        standings = store.standings(lines_of(draws))
        return [self.remains(draw, standing) for draw, standing in zip(draws, standings, strict=True)]

    def renew(self) -> None:
        """After a fork."""
        store = self.store or self._own.get("store")
        self._forked = self.hard and self.scope == "shared" and store is not None and not store.shared

    def alone_store(self) -> Store:
        """The store given, or one in memory of its own. Raises ``UsageError`` after a fork."""
        if self._forked:
            raise UsageError(
                "this process was forked, and a hard budget in memory would count twice: give it a "
                'DiskStore or a RedisStore, or scope="process"'
            )
        if not self._watched:
            self._watched = True
            renew_after_fork(self)
        if self.store is not None:
            return self.store
        found = self._own.get("store")
        if found is None:
            from ..stores import MemoryStore

            found = self._own.setdefault("store", MemoryStore())  # one step: a lock would not outlive a fork
        return found

    def __repr__(self) -> str:
        return f"<Budget {self.name}>"


def lines_of(
    draws: Sequence[Draw], worst: Mapping[str, int] | None = None, likely: Mapping[str, int] | None = None
) -> list[Line]:
    """What a store is asked to reserve for ``draws``, by unit: the worst case where there is a hard
    limit, else what is likely.
    """
    worst = worst or {}
    likely = likely or worst
    return [
        Line(
            draw.account,
            (likely if draw.limit.hard is None else worst).get(draw.limit.unit, 0),
            draw.limit.hard if draw.budget.mode == "enforce" else None,
            draw.span.expires_at,
            draw.span.slot,
            draw.span.oldest,
        )
        for draw in draws
    ]


def short(line: Line, standing: Standing) -> bool:
    """Whether this line is why a reservation was refused."""
    return line.limit is not None and standing.settled + standing.reserved + line.amount > line.limit


def _escaped(value: str) -> str:
    """So that no two combinations of names make the same bucket."""
    return value.replace("\\", "\\\\").replace(",", "\\,") if "," in value or "\\" in value else value
