"""Who has agreed that an answer may get simpler, by which steps, and from when to when."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import product
from typing import Any, Literal

from ..errors import ConfigError

__all__ = ["Consent", "Consents", "day_of"]

DAY_S = 86_400.0
FIRST_DAY = date(1970, 1, 1).toordinal()
KEPT = 4096
"""So many plans, tenants and contracts are remembered with what they have agreed to, for a day."""

Whom = tuple[str | None, str | None, str | None]
"""Plan, tenant and contract."""


@dataclass(frozen=True, slots=True, init=False)
class Consent:
    """Consent to ``steps`` (their names, or ``"all"``) from ``since`` to ``until``, both days included (UTC).

    It is that of a ``plan``, of a ``tenant``, of a ``contract``, of those that are all of it where several
    are given, and of everybody where none is. Raises ``ConfigError``.
    """

    steps: tuple[str, ...] | Literal["all"]
    since: date
    until: date | None
    plan: str | None
    tenant: str | None
    contract: str | None

    def __init__(
        self,
        steps: Sequence[str] | Literal["all"],
        *,
        since: date,
        until: date | None = None,
        plan: str | None = None,
        tenant: str | None = None,
        contract: str | None = None,
    ) -> None:
        names: Any = steps
        if names != "all":
            if isinstance(names, str):
                raise ConfigError(f"Consent({names!r}): give a list, [{names!r}], or 'all'")
            if not isinstance(names, Iterable):
                raise ConfigError(f"Consent({names!r}): give the names of steps, or 'all'")
            names = tuple(names)
            if not names or not all(isinstance(name, str) and name for name in names):
                raise ConfigError(f"Consent({names!r}): give the names of steps, or 'all'")
        for option, day in (("since", since), ("until", until)):
            if not (_is_day(day) or (option == "until" and day is None)):
                raise ConfigError(f"Consent({option}={day!r}): give a date, such as date(2026, 11, 1)")
        if until is not None and until < since:
            raise ConfigError(f"Consent(since={since}, until={until}): it ends before it begins")
        for option, name in (("plan", plan), ("tenant", tenant), ("contract", contract)):
            if name is not None and (not isinstance(name, str) or not name):
                raise ConfigError(f"Consent({option}={name!r}): give a name, or leave it out")
        for field, value in (
            ("steps", names),
            ("since", since),
            ("until", until),
            ("plan", plan),
            ("tenant", tenant),
            ("contract", contract),
        ):
            object.__setattr__(self, field, value)

    def of(self, *, plan: str | None = None, contract: str | None = None) -> Consent:
        """The same, of that plan or contract."""
        return Consent(self.steps, since=self.since, until=self.until, plan=plan, contract=contract)

    def covers(
        self, step: str, *, plan: str | None, tenant: str | None, contract: str | None = None, on: date
    ) -> bool:
        """Whether ``step`` may be applied to a call of this plan, tenant and contract on that day."""
        return (
            (self.steps == "all" or step in self.steps)
            and (self.plan is None or self.plan == plan)
            and (self.tenant is None or self.tenant == tenant)
            and (self.contract is None or self.contract == contract)
            and self.since <= on
            and (self.until is None or on <= self.until)
        )


class Consents:
    """Many consents, found by plan, tenant and contract: as quick with ten thousand of them as with ten.

    Thread-safe: what is remembered is only ever replaced.
    """

    def __init__(self, consents: Sequence[Consent], steps: Sequence[str]) -> None:
        self._all = frozenset(steps)
        self._by_whom: dict[Whom, list[Consent]] = {}
        for consent in consents:
            whom = consent.plan, consent.tenant, consent.contract
            self._by_whom.setdefault(whom, []).append(consent)
        self._known: tuple[float, dict[Whom, frozenset[str]]] = (-math.inf, {})

    def granted(
        self, plan: str | None, tenant: str | None, wall_s: float, contract: str | None = None
    ) -> frozenset[str]:
        """The steps that may be applied to a call of this plan, tenant and contract at this time."""
        day = wall_s // DAY_S
        known_day, known = self._known
        if day != known_day:
            known = {}
            self._known = day, known
        found = known.get((plan, tenant, contract))
        if found is None:
            found = self._granted((plan, tenant, contract), day_of(wall_s))
            if len(known) >= KEPT:
                known.clear()
            known[plan, tenant, contract] = found
        return found

    def _granted(self, whom: Whom, today: date) -> frozenset[str]:
        plan, tenant, contract = whom
        steps: set[str] = set()
        for whose in set(product((plan, None), (tenant, None), (contract, None))):
            for consent in self._by_whom.get(whose, ()):
                steps.update(
                    step
                    for step in self._all
                    if consent.covers(step, plan=plan, tenant=tenant, contract=contract, on=today)
                )
        return frozenset(steps)


def day_of(wall_s: float) -> date:
    """The day (UTC) of a moment in seconds since 1970; the first or last there is for one beyond."""
    ordinal = FIRST_DAY + wall_s // DAY_S
    if not ordinal >= 1:  # or no number at all
        return date.min
    return date.max if ordinal >= date.max.toordinal() else date.fromordinal(int(ordinal))


def _is_day(value: object) -> bool:
    return isinstance(value, date) and not isinstance(value, datetime)
