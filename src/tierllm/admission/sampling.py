"""Adaptive sampling: under load a tier's answers get simpler, step by step, before there are none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import ConfigError
from .consent import Consent
from .emergency_document import check_name
from .sampler import Sampler
from .steps import Step

if TYPE_CHECKING:
    from ..events import Event
    from ..pipeline.clock import Clock
    from .emergency import Emergencies
    from .load import LoadMeter
    from .sampler import Stale

__all__ = ["AdaptiveSampling"]

T = TypeVar("T")


class AdaptiveSampling:
    """Steps by which a tier gets simpler under load, entered and left by themselves.

    A step is entered where the tier's load, or what it is forecast to be, reaches its ``at``. It is left
    once both have stayed at or below its ``leave`` for ``dwell_s``. Each changes ``max_changes_per_hour``
    times at most in any hour; entering never has to wait for that, leaving may.

    A step touches only calls whose plan and tenant have agreed to it by a ``Consent`` that holds today;
    the others are passed over. Without any ``consent`` nothing is changed. ``emergencies`` names, for each
    emergency that may be declared, the steps that it forces on, whatever the load; consent is needed all
    the same.

    ``mode="observe"`` enters and leaves steps, tells of it and counts whom they would have touched, and
    changes nothing. Raises ``ConfigError`` for settings that make no sense.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        *,
        consent: Sequence[Consent] = (),
        dwell_s: float = 60.0,
        max_changes_per_hour: int = 4,
        emergencies: Mapping[str, Sequence[str]] | None = None,
        mode: Literal["enforce", "observe"] = "enforce",
        clock: Clock | None = None,
    ) -> None:
        self.steps = _listed("steps", steps, Step, "Step('short', at=1.2, max_tokens=300)")
        names = [step.name for step in self.steps]
        twice = next((name for name in names if names.count(name) > 1), None)
        if not names or twice is not None:
            raise ConfigError(
                "AdaptiveSampling(steps=[]): give at least one Step"
                if twice is None
                else f"AdaptiveSampling: two steps are called {twice!r}; give each a name of its own"
            )
        self.consent = _listed("consent", consent, Consent, "Consent('all', since=date(2026, 11, 1))")
        if isinstance(dwell_s, bool) or not isinstance(dwell_s, int | float) or not 0 <= dwell_s <= 86_400:
            raise ConfigError(f"AdaptiveSampling(dwell_s={dwell_s!r}): give seconds, 0 to 86400")
        most = max_changes_per_hour
        if isinstance(most, bool) or not isinstance(most, int) or most < 2:
            raise ConfigError(
                f"AdaptiveSampling(max_changes_per_hour={most!r}): give at least 2, for entering and leaving"
            )
        if mode not in ("enforce", "observe"):
            raise ConfigError(f"AdaptiveSampling(mode={mode!r}): 'enforce' or 'observe'")
        self.dwell_s = dwell_s
        self.max_changes_per_hour = most
        self.emergencies = _forced({} if emergencies is None else emergencies, names)
        self.mode = mode
        self.clock = clock
        for each in self.consent:
            for name in each.steps if each.steps != "all" else ():
                if name not in names:
                    raise ConfigError(
                        f"Consent({name!r}): there is no such step; there are {', '.join(names)}"
                    )

    def bound(
        self,
        *,
        tier: str,
        load: Callable[[], tuple[float, float]],
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
        emit: Callable[[Event], None] | None = None,
        stale: Stale | None = None,
        emergencies: Emergencies | None = None,
        meter: LoadMeter | None = None,
        consent: Sequence[Consent] = (),
    ) -> Sampler:
        """The policy for one tier. ``load()`` gives its load and the forecast, each as a share of 1.0.

        ``stale(call)`` gives an old answer from the cache, ``emergencies`` knows what is declared. Calls
        that go no further than this policy are told to ``meter``, since they belong to the load, too.
        ``consent`` is that of plans and contracts, beside the tier's own.
        """
        return Sampler(
            self,
            tier=tier,
            load=load,
            clock=self.clock or clock,
            wall=wall,
            emit=emit,
            stale=stale,
            emergencies=emergencies,
            meter=meter,
            consent=consent,
        )

    def __repr__(self) -> str:
        return f"AdaptiveSampling({', '.join(step.name for step in self.steps)})"


def _listed(option: str, given: Any, kind: type[T], such_as: str) -> tuple[T, ...]:
    if isinstance(given, Iterable) and not isinstance(given, str | Mapping):
        listed = tuple(given)
        if all(isinstance(each, kind) for each in listed):
            return listed
    raise ConfigError(f"AdaptiveSampling({option}=...): give a list, such as [{such_as}]")


def _forced(emergencies: Any, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The steps of each emergency, checked."""
    if not isinstance(emergencies, Mapping):
        raise ConfigError(
            f"AdaptiveSampling(emergencies={emergencies!r}): give the steps of each, such as "
            f"{{'disaster': [{names[0]!r}]}}"
        )
    found: dict[str, tuple[str, ...]] = {}
    for name, steps in emergencies.items():
        check_name(name)
        if isinstance(steps, str) or not isinstance(steps, Iterable) or not (listed := tuple(steps)):
            raise ConfigError(f"AdaptiveSampling(emergencies=...): give a list of steps for {name!r}")
        for step in listed:
            if step not in names:
                raise ConfigError(
                    f"AdaptiveSampling(emergencies=...): {name!r} names {step!r}, which is no step; "
                    f"there are {', '.join(names)}"
                )
        found[name] = listed
    return found
