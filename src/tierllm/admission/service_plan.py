"""What a plan of the application's customers may claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigError
from ..types import Objective
from .consent import Consent
from .promised import (
    check_above_0,
    check_limits,
    check_mode,
    check_objective,
    check_tier_names,
    check_whole,
    checked_consent,
    checked_limit_per,
)

__all__ = ["ServicePlan"]

PER = ("tenant", "user")


@dataclass(frozen=True, slots=True, init=False)
class ServicePlan:
    """What calls with ``plan=name`` may claim, and what their tenants weigh.

    A ``priority`` above ``max_priority`` is lowered to it. Priorities of ``high_priority`` and above are
    scarce: at most ``high_priority_quota`` calls of all callers on the plan together have one in any
    ``quota_window_s`` seconds; what comes on top of that is lowered to ``high_priority - 1``.
    ``weight`` is the share that each tenant on the plan has in a tier's queue, relative to other tenants.

    Its calls are served neither below ``min_tier`` nor above ``max_tier``. ``rpm``, ``tpm``, ``rpd``,
    ``tpd`` and ``max_concurrency`` limit each that ``limit_per`` tells apart: left out, each user of each
    tenant; with ``"plan"`` all on it together. ``objective`` is promised to contracts on the plan that
    promise nothing else. ``consent`` lists what those on the plan have agreed to under load. ``shifts``:
    whether their calls may be sent to the next tier where one sheds.

    ``mode="observe"`` changes nothing, and tells what it would have changed. Frozen; raises ``ConfigError``
    for settings that make no sense.
    """

    name: str
    max_priority: int | None
    high_priority: int | None
    high_priority_quota: int | None
    quota_window_s: float
    weight: float
    min_tier: str | None
    max_tier: str | None
    rpm: int | None
    tpm: int | None
    rpd: int | None
    tpd: int | None
    max_concurrency: int | None
    limit_per: tuple[str, ...]
    objective: Objective | None
    consent: tuple[Consent, ...]
    shifts: bool
    mode: Literal["enforce", "observe"]

    def __init__(
        self,
        name: str,
        *,
        max_priority: int | None = None,
        high_priority: int | None = None,
        high_priority_quota: int | None = None,
        quota_window_s: float = 3600.0,
        weight: float = 1.0,
        min_tier: str | None = None,
        max_tier: str | None = None,
        rpm: int | None = None,
        tpm: int | None = None,
        rpd: int | None = None,
        tpd: int | None = None,
        max_concurrency: int | None = None,
        limit_per: str | Sequence[str] = PER,
        objective: Objective | None = None,
        consent: Sequence[Consent] = (),
        shifts: bool = True,
        mode: Literal["enforce", "observe"] = "enforce",
    ) -> None:
        given: dict[str, Any] = dict(locals())
        del given["self"]
        if not isinstance(name, str) or not name:
            raise ConfigError("ServicePlan(name): give the plan's name, such as 'free'")
        where = f"ServicePlan({name!r}"
        check_whole(where, "max_priority", max_priority)
        _check_quota(where, max_priority, high_priority, high_priority_quota)
        check_above_0(where, "quota_window_s", quota_window_s, "seconds")
        check_above_0(where, "weight", weight, "a weight")
        check_tier_names(where, min_tier, max_tier)
        check_limits(where, given)
        given["limit_per"] = checked_limit_per(where, given, PER)
        check_objective(where, objective)
        given["consent"] = checked_consent(where, consent)
        if not isinstance(shifts, bool):
            raise ConfigError(f"{where}, shifts={shifts!r}): give True or False")
        check_mode(where, mode)
        given["quota_window_s"], given["weight"] = float(quota_window_s), float(weight)
        for field, value in given.items():
            object.__setattr__(self, field, value)


def _check_quota(
    where: str, max_priority: int | None, high_priority: int | None, high_priority_quota: int | None
) -> None:
    check_whole(where, "high_priority", high_priority)
    check_whole(where, "high_priority_quota", high_priority_quota, least=0)
    if high_priority_quota is not None and high_priority is None:
        raise ConfigError(
            f"{where}, high_priority_quota={high_priority_quota}): say which priorities count against "
            "it, such as high_priority=5"
        )
    if high_priority is not None and high_priority_quota is None:
        raise ConfigError(
            f"{where}, high_priority={high_priority}): without high_priority_quota it says nothing; "
            "give both, or max_priority"
        )
    if max_priority is not None and high_priority is not None and high_priority > max_priority:
        raise ConfigError(
            f"{where}, high_priority={high_priority}): no call is granted more than "
            f"max_priority={max_priority}; give {max_priority} or less"
        )
