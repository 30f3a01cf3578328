"""How a tier hedges: what it is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigError
from ..events import Event
from .lateness import SIZE

if TYPE_CHECKING:
    from ..admission.seat import Seat
    from ..pipeline.clock import Clock
    from ..types import Call
    from .deployment_line import DeploymentLine
    from .hedging import Hedging

__all__ = ["Hedge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge:
    """Asks a second deployment of the tier where the first is later than usual: ``Tier(hedge=Hedge())``.

    A call is late once it has waited longer for its first token (a whole answer: for its end) than
    ``quantile`` of the last 256 calls to that deployment, of which at least ``min_samples`` must be known.
    The next deployment that has room and no open breaker is then asked too; the first of the two to speak
    answers, the other is cancelled and settled. Each call earns ``share`` of a hedge, and at most ``bank``
    are saved up, so that of all calls no more than ``share`` are extra ones.

    Never hedged: calls with tools that may act (``tools``, unless ``tool_choice="none"``), wrapped calls,
    and calls that are not ``repeatable``. A deployment of whose last 20 calls more than ``slow_share``
    were late themselves is not asked: where that is so of all the others, the backend as a whole is slow.

    ``mode="observe"`` asks nobody; ``CallHedged`` events tell where it would have.
    Raises ``ConfigError`` where settings make no sense. After "The Tail at Scale" (Dean and Barroso, 2013).
    """

    share: float = 0.05
    bank: float = 100.0
    quantile: float = 0.98
    min_samples: int = 100
    slow_share: float = 0.5
    mode: Literal["enforce", "observe"] = "enforce"

    def __post_init__(self) -> None:
        for name in ("share", "slow_share"):
            value = getattr(self, name)
            if not (_number(value) and 0 < value <= 1):
                raise ConfigError(f"Hedge({name}={value!r}): give a share above 0 and up to 1, such as 0.05")
        if not (_number(self.quantile) and 0.5 <= self.quantile < 1):
            raise ConfigError(f"Hedge(quantile={self.quantile!r}): from 0.5 up to below 1, such as 0.98")
        if not (_number(self.bank) and 1 <= self.bank < math.inf):
            raise ConfigError(f"Hedge(bank={self.bank!r}): give 1 or more, or no hedge could ever be paid")
        whole = isinstance(self.min_samples, int) and not isinstance(self.min_samples, bool)
        if not (whole and 1 <= self.min_samples <= SIZE):
            raise ConfigError(
                f"Hedge(min_samples={self.min_samples!r}): give a whole number from 1 to {SIZE}, "
                "which is how many are remembered"
            )
        if self.mode not in ("enforce", "observe"):
            raise ConfigError(f'Hedge(mode={self.mode!r}): give "enforce" or "observe"')

    def bound(
        self,
        *,
        tier: str,
        lines: Sequence[DeploymentLine],
        open_now: Callable[[Call], Iterable[DeploymentLine]],
        seat: Callable[[], Seat | None],
        clock: Clock,
        emit: Callable[[Event], None] | None,
    ) -> Hedging:
        """The policy of one tier. ``open_now`` gives the places that would serve a call now, in order;
        ``seat`` a seat that is still to be taken, or ``None`` where the tier has no pool.
        """
        from .hedging import Hedging

        return Hedging(self, tier=tier, lines=lines, open_now=open_now, seat=seat, clock=clock, emit=emit)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
