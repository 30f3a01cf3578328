"""One side of a race between two places."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .lateness import has_spoken

if TYPE_CHECKING:
    from ..pipeline.effects import Grant, Ticket
    from ..pipeline.scope import Invocation
    from ..types import Call
    from .deployment_line import DeploymentLine

__all__ = ["Lane"]


class Lane:
    """One leg's side of a race: which places it has asked, and the other side, its ``rival``.

    To a policy it is also something to wait for: the end of this leg.
    """

    __slots__ = ("_lock", "_outrun", "_spoke", "_ticket", "call", "line", "over", "rival", "tried")

    def __init__(self) -> None:
        self.rival: Lane | None = None
        self.line: DeploymentLine | None = None
        self.call: Call | None = None
        self.tried: list[DeploymentLine] = []
        self.over = False
        self._spoke = self._outrun = False  # as it stood when the race was over
        self._ticket: Ticket | None = None
        self._lock = threading.RLock()

    def against(self) -> Lane:
        """The lane of a second leg."""
        other = Lane()
        other._lock = self._lock
        self.rival, other.rival = other, self
        return other

    def claim(self, line: DeploymentLine, *, anew: bool = False) -> bool:
        """Say that ``line`` is asked next. False where the other leg asks it now (``anew``: or has asked)."""
        with self._lock:
            rival = self.rival
            if rival is not None and line in rival.tried and (anew or not rival.over):
                return False
            self.line = line
            self.tried.append(line)
            return True

    def asks(self, call: Call) -> None:
        """``call`` is what goes to the line that was claimed."""
        self.call = call

    @property
    def progress(self) -> Invocation | None:
        return None if self.call is None else self.call.progress

    @property
    def spoke(self) -> bool:
        """Whether this leg has heard a first token, or got a whole answer."""
        progress = self.progress
        return self._spoke if progress is None else has_spoken(progress)

    @property
    def outrun(self) -> bool:
        """Whether the other leg has spoken, so that whatever cancels this one is the race."""
        return self._outrun if self.rival is None else self.rival.spoke

    def let_go(self) -> None:
        """The race is over: nothing here may keep the call alive, and with it the prompt."""
        self._spoke, self._outrun = self.spoke, self.outrun
        self.call = self.rival = None

    # -- waiting for its end -----------------------------------------------------

    def end(self) -> None:
        with self._lock:
            self.over = True
            ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.give(self)

    def take(self, owner: list[Grant]) -> Lane | None:
        return self if self.over else None

    def enter(self, ticket: Ticket, call: Call | None = None) -> bool:
        with self._lock:
            if not self.over:
                self._ticket = ticket
                return False
        ticket.give(self)
        return True

    def leave(self, ticket: Ticket) -> None:
        with self._lock:
            if self._ticket is ticket:
                self._ticket = None

    def release(self) -> None:
        """Knowing that it is over takes nothing from anyone."""
