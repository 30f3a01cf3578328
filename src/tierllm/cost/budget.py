"""A budget, as the application describes it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import ROUND_CEILING, Context, Decimal
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..errors import BudgetExceededError, ConfigError
from ..stores.base import Line
from .windows import Span, Window

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..stores import Standing, Store
    from ..types import Request
    from .spend import Spend

__all__ = ["Budget", "Draw", "Limit", "Remaining", "lines_of", "nano", "short", "spent"]

NANO = Decimal(1_000_000_000)
EXACT = Context(prec=60)
"""Money is never rounded by the precision that an application has set for its own sums."""

MOST = 2**53 - 1
"""Stores count exactly up to here: nine million dollars, in nano-dollars."""

UNITS = ("usd", "tokens", "calls")
PER = ("user", "tenant", "plan", "tag", "session", "route", "tier", "deployment", "client", "call", "run")
WHERE = ("user", "tenant", "plan", "tag", "session", "route", "tier", "deployment", "model")
PLACES = frozenset({"tier", "deployment", "model"})
ON_EXCEED = ("reject", "downgrade", "clamp")

OnExceed = Literal["reject", "downgrade", "clamp"]
Money = Decimal | float | int | str


def nano(usd: Money) -> int:
    """Dollars as whole nano-dollars, rounded up."""
    return int(EXACT.multiply(Decimal(str(usd)), NANO).to_integral_value(ROUND_CEILING))


class Limit(NamedTuple):
    """The limits of a budget in one unit, in the whole numbers that stores count in."""

    unit: str
    hard: int | None
    soft: int | None

    def told(self, amount: int) -> Decimal:
        """``amount`` as people know it: dollars, tokens or calls."""
        return EXACT.divide(Decimal(amount), NANO) if self.unit == "usd" else Decimal(amount)


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
        self.limits = _limits(
            usd=(hard_usd, soft_usd), tokens=(hard_tokens, soft_tokens), calls=(hard_calls, soft_calls)
        )
        self.per = _keys(per)
        self.window = Window(window, tz)
        self.where = _where(where)
        self.on_exceed = _on_exceed(on_exceed, self.per)
        _one_of("on_soft", on_soft, ("warn", "downgrade"))
        _one_of("fail", fail, ("closed", "open"))
        _one_of("scope", scope, ("shared", "process"))
        _one_of("mode", mode, ("enforce", "observe"))
        if self.per[0] in ("call", "run") and window != "total":
            raise ConfigError(f"Budget(per={per!r}, window={window!r}): it has no window, leave it out")
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
        if standing.settled + amount <= limit.hard:
            wait_s = None  # what is in the way is not spent, but held by calls under way
        resets = f"; it resets in {frees_at - now:.0f} s" if frees_at is not None else "; it never resets"
        if self.per[0] in ("call", "run"):
            resets = ""
        held = f" ({_told(limit, standing.reserved)} is held by calls under way)" if standing.reserved else ""
        return BudgetExceededError(
            f"budget {self.name!r} ({draw.bucket}): this call may need {_told(limit, amount)}, and "
            f"{_told(limit, left)} of {_told(limit, limit.hard)} is left{held}{resets}",
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
        self, *, usd: Money = 0, tokens: int = 0, calls: int = 1, clock: Clock = time.time, **who: Any
    ) -> Iterator[Spend]:
        """Reserve these amounts for ``who`` (``user=``, ``tenant=``, …) while the block runs.

        ``settle(...)`` books what was used; without it the reservation counts as used, and an error
        in the block gives it back. Raises ``BudgetExceededError``, and ``StoreUnavailableError`` where
        ``fail="closed"``.
        """
        from .spend import open_spend

        with open_spend(self, spent("spend", usd=usd, tokens=tokens, calls=calls), who, clock) as spend:
            yield spend

    def remaining(self, *, clock: Clock = time.time, **who: Any) -> list[Remaining]:
        """How it stands for ``who``, one for each limit. Raises ``StoreUnavailableError``."""
        from .spend import asked_by

        store = self.alone_store()
        draws = self.draws(asked_by(who), who.get("tier", ""), who.get("deployment", ""), clock(), store)
        standings = store.standings(lines_of(draws))
        return [self.remains(draw, standing) for draw, standing in zip(draws, standings, strict=True)]

    def alone_store(self) -> Store:
        """The store given, or one in memory of its own."""
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


def _told(limit: Limit, amount: int) -> str:
    if limit.unit == "usd":
        return f"${limit.told(amount).normalize(EXACT):f}"
    return f"{amount} {limit.unit[:-1] if amount == 1 else limit.unit}"


def _escaped(value: str) -> str:
    """So that no two combinations of names make the same bucket."""
    return value.replace("\\", "\\\\").replace(",", "\\,") if "," in value or "\\" in value else value


def _limits(**given: tuple[Money | int | None, Money | int | None]) -> tuple[Limit, ...]:
    limits = []
    for unit, (hard, soft) in given.items():
        if hard is None and soft is None:
            continue
        most, warn = _amount(f"hard_{unit}", hard, unit), _amount(f"soft_{unit}", soft, unit)
        if most is not None and warn is not None and warn > most:
            raise ConfigError(f"Budget(soft_{unit}={soft!r}): give less than hard_{unit}={hard!r}")
        limits.append(Limit(unit, most, warn))
    if not limits:
        raise ConfigError("Budget(): give it a limit, such as hard_usd=10")
    return tuple(limits)


def _amount(option: str, value: Money | int | None, unit: str) -> int | None:
    if value is None:
        return None
    exact = _exact(f"Budget({option}", value, unit)
    # rounded down: a limit is never raised
    return int(EXACT.multiply(exact, NANO)) if unit == "usd" else int(exact)


def spent(what: str, **given: Money | None) -> dict[str, int]:
    """Amounts by unit, as stores count them; those that are ``None`` left out. Raises ``ConfigError``."""
    amounts = {}
    for unit, value in given.items():
        if value is not None:
            exact = _exact(f"{what}({unit}", value, unit)
            amounts[unit] = nano(exact) if unit == "usd" else int(exact)
    return amounts


def _exact(option: str, value: Money, unit: str) -> Decimal:
    exact = Decimal("NaN")
    if isinstance(value, int) and not isinstance(value, bool):
        exact = Decimal(value)
    elif unit == "usd" and isinstance(value, Decimal | float | str):
        try:
            exact = Decimal(str(value))
        except ArithmeticError:
            pass  # told below
    if not exact.is_finite() or exact < 0:
        what = "dollars" if unit == "usd" else f"a whole number of {unit}"
        raise ConfigError(f"{option}={value!r}): give {what}, 0 or more")
    if exact > (EXACT.divide(MOST, NANO) if unit == "usd" else MOST):
        raise ConfigError(f"{option}=…): that is more than can be counted; leave it out")
    return exact


def _keys(per: str | Sequence[str]) -> tuple[str, ...]:
    keys = (per,) if isinstance(per, str) else tuple(per) if isinstance(per, Sequence) else ()
    if not keys or any(key not in PER for key in keys) or len(set(keys)) < len(keys):
        raise ConfigError(f"Budget(per={per!r}): one or several of {', '.join(PER)}")
    if len(keys) > 1 and {"call", "run", "client"} & set(keys):
        raise ConfigError(f"Budget(per={per!r}): 'client', 'call' and 'run' stand alone")
    return keys


def _where(where: Mapping[str, str | Iterable[str]] | None) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    if where is not None and not isinstance(where, Mapping):
        raise ConfigError(f"Budget(where={where!r}): give a mapping, such as {{'plan': 'free'}}")
    for key, names in (where or {}).items():
        if key not in WHERE:
            raise ConfigError(f"Budget(where=...): {key!r} is none of {', '.join(WHERE)}")
        several = (names,) if isinstance(names, str) else tuple(names) if isinstance(names, Iterable) else ()
        if not several or not all(isinstance(name, str) and name for name in several):
            raise ConfigError(f"Budget(where={{{key!r}: {names!r}}}): give a name or several")
        found[key] = frozenset(several)
    return found


def _on_exceed(given: OnExceed | Sequence[OnExceed] | None, per: tuple[str, ...]) -> tuple[str, ...]:
    if given is None:
        return ("downgrade",) if {"tier", "deployment"} & set(per) else ("reject",)
    steps = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Sequence) else ()
    if not steps or any(step not in ON_EXCEED for step in steps):
        raise ConfigError(f"Budget(on_exceed={given!r}): one or several of {', '.join(ON_EXCEED)}")
    return steps


def _one_of(option: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"Budget({option}={value!r}): one of {', '.join(map(repr, known))}")
