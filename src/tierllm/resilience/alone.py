"""One function of several, as a policy goes from tier to tier, without a client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ..providers.alone import Errors, around_each, named
from ..routing.plan import Plan

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..pipeline.effects import Policy
    from ..types import Call

__all__ = ["one_of"]

P = ParamSpec("P")
R = TypeVar("R")


def one_of(
    policy: Policy, fns: Sequence[Callable[P, R]], *, on: Errors = (), clock: Clock | None = None
) -> Callable[P, R]:
    """A function that asks each of ``fns`` in turn, as ``policy`` goes from tier to tier."""
    names = tuple(named(fns))

    def begin(call: Call) -> None:
        call.plan = plan

    driven = around_each(policy, fns, on=on, clock=clock, begin=begin)
    plan = Plan(names[0], names)
    return driven
