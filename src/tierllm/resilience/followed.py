"""An attempt whose call a policy may replace by a copy, as those see it who watch its progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lane import Lane

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation
    from ..types import Call
    from .deployment_line import DeploymentLine

__all__ = ["Followed"]


class Followed:
    """A call that is followed by its trail, which copies share. ``let_go()`` when the attempt is over."""

    __slots__ = ("_call", "_own", "_trail", "patience_s")

    def __init__(self, line: DeploymentLine, call: Call) -> None:
        self._call, self._own = call, call.lane is None
        lane = call.lane = call.lane or Lane()
        self._trail = lane.trail or lane.asks(line, call)
        self.patience_s = call.patience_s

    @property
    def progress(self) -> Invocation | None:
        return self._trail.progress

    def let_go(self) -> None:
        """The lane and the call know each other: that would keep both, and the prompt."""
        if self._own:
            self._call.lane = None
