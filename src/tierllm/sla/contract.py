"""A contract: what was promised to a customer, and what the customer may claim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..admission.consent import Consent
from ..admission.promised import (
    check_limits,
    check_mode,
    check_objective,
    check_tier_names,
    check_whole,
    checked_consent,
    checked_limit_per,
)
from ..errors import ConfigError
from ..types import Objective

__all__ = ["Contract"]


@dataclass(frozen=True, slots=True, init=False)
class Contract:
    """What holds for calls with ``contract=name``, and for those of its ``tenants`` that name none.

    ``plan`` is the service plan of its calls that name none. No call is served below ``min_tier``, nor above
    ``max_tier``, nor claims a priority above ``max_priority``. ``rpm``, ``tpm``, ``rpd``, ``tpd`` and
    ``max_concurrency`` are its rate limits, one for all of its calls, or for each that ``limit_per`` tells
    apart (``"user"``, …). ``objective`` is what was promised: its attainment is kept apart; left out, its
    plan's. ``consent`` lists what may be taken from its answers under load. ``shifts``: whether its calls may
    be sent to the next tier where one sheds; left out, as its plan says.

    Where contract and plan both say something, the higher floor and the lower cap hold.
    ``mode="observe"`` changes nothing, and tells what it would have changed. Frozen; raises ``ConfigError``
    for settings that make no sense.
    """

    name: str
    tenants: tuple[str, ...]
    plan: str | None
    min_tier: str | None
    max_tier: str | None
    max_priority: int | None
    rpm: int | None
    tpm: int | None
    rpd: int | None
    tpd: int | None
    max_concurrency: int | None
    limit_per: tuple[str, ...]
    objective: Objective | None
    consent: tuple[Consent, ...]
    shifts: bool | None
    mode: Literal["enforce", "observe"]

    def __init__(
        self,
        name: str,
        *,
        tenants: Iterable[str] = (),
        plan: str | None = None,
        min_tier: str | None = None,
        max_tier: str | None = None,
        max_priority: int | None = None,
        rpm: int | None = None,
        tpm: int | None = None,
        rpd: int | None = None,
        tpd: int | None = None,
        max_concurrency: int | None = None,
        limit_per: str | Sequence[str] = "contract",
        objective: Objective | None = None,
        consent: Sequence[Consent] = (),
        shifts: bool | None = None,
        mode: Literal["enforce", "observe"] = "enforce",
    ) -> None:
        given: dict[str, Any] = dict(locals())
        del given["self"]
        if not isinstance(name, str) or not name:
            raise ConfigError("Contract(name): give the contract's name, such as 'acme'")
        where = f"Contract({name!r}"
        given["tenants"] = _tenants(where, tenants)
        if plan is not None and (not isinstance(plan, str) or not plan):
            raise ConfigError(f"{where}, plan={plan!r}): give a plan's name, or leave it out")
        check_tier_names(where, min_tier, max_tier)
        check_whole(where, "max_priority", max_priority)
        check_limits(where, given)
        given["limit_per"] = checked_limit_per(where, given, ("contract",))
        check_objective(where, objective)
        given["consent"] = checked_consent(where, consent)
        if shifts is not None and not isinstance(shifts, bool):
            raise ConfigError(f"{where}, shifts={shifts!r}): give True or False, or leave it out")
        check_mode(where, mode)
        for field, value in given.items():
            object.__setattr__(self, field, value)


def _tenants(where: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigError(f"{where}, tenants={given!r}): give a list of names, [{given!r}]")
    tenants = tuple(given)
    if not all(isinstance(tenant, str) and tenant for tenant in tenants):
        raise ConfigError(f"{where}, tenants={tenants!r}): give names")
    if len(set(tenants)) < len(tenants):
        raise ConfigError(f"{where}, tenants={tenants!r}): one of them is there twice")
    return tenants
