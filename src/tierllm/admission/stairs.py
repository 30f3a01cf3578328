"""Which steps of degradation are on. Pure state; whoever has it holds the lock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from .hysteresis import Switch
from .steps import Step

__all__ = ["Stairs", "Turn"]


class Turn(NamedTuple):
    """A step was entered (``on``) or left; ``reason`` says why in words."""

    step: Step
    on: bool
    reason: str


class Stairs:
    """The steps of one tier, each with its switch, and those that an emergency forces on.

    ``on`` are the steps that are, in their order; ``forced`` names the emergency of those forced on.
    """

    def __init__(
        self, steps: Sequence[Step], emergencies: Mapping[str, Sequence[str]], *, dwell_s: float, most: int
    ) -> None:
        self.on: tuple[Step, ...] = ()
        self.forced: Mapping[str, str] = {}
        self._dwell_s = dwell_s
        self._emergencies = emergencies
        self._switches = {
            step.name: (step, Switch(at=step.at, leave=step.leave_at, dwell_s=dwell_s, most=most))
            for step in steps
        }

    def same_as(self, other: Stairs) -> bool:
        """Whether both are entered and left alike."""
        return self._made_of() == other._made_of()

    def _made_of(self) -> object:
        steps = [(step, switch.most) for step, switch in self._switches.values()]
        return steps, self._dwell_s, dict(self._emergencies)

    def look(self, level: float, forecast: float, declared: Set[str], now: float) -> list[Turn]:
        """Take in the load and what is declared; the steps that were entered or left by it."""
        were, forced = {step.name for step in self.on}, self._forced_by(declared)
        turns: list[Turn] = []
        on: list[Step] = []
        for step, switch in self._switches.values():
            thrown = switch.look(max(level, forecast), now)
            is_on = switch.on or step.name in forced
            if is_on:
                on.append(step)
            if is_on == (step.name in were):
                continue
            if is_on and switch.on:
                reason = (
                    f"load {level:.3g}" if level >= step.at else f"load {level:.3g}, forecast {forecast:.3g}"
                )
                reason += f" reached {step.at:.3g}"
            elif is_on:
                reason = f"emergency {forced[step.name]!r}"
            elif thrown:
                reason = f"load no higher than {step.leave_at:.3g} for {self._dwell_s:.3g} s"
            else:
                reason = f"emergency {self.forced[step.name]!r} is over"
            turns.append(Turn(step, is_on, reason))
        self.forced, self.on = forced, tuple(on)
        return turns

    def _forced_by(self, declared: Set[str]) -> dict[str, str]:
        if not declared:
            return {}
        return {
            step: name for name in sorted(declared, reverse=True) for step in self._emergencies.get(name, ())
        }

    def off_in_s(self, step: Step, now: float) -> float:
        """In how many seconds the load lets go of ``step`` at the soonest, should it be low from now on."""
        switch = self._switches[step.name][1]
        return switch.off_in_s(now) if switch.on else 0.0

    def status(self, now: float) -> dict[str, dict[str, object]]:
        """Each step as plain data. ``changed_s``: seconds since the load last changed it."""
        return {
            step.name: {
                "on": switch.on or step.name in self.forced,
                "emergency": self.forced.get(step.name),
                "at": step.at,
                "leave": step.leave_at,
                "changed_s": None if switch.changed_at is None else now - switch.changed_at,
                "changes_last_hour": switch.changes(now),
            }
            for step, switch in self._switches.values()
        }
