"""One side of a race between two places."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .lateness import has_spoken

if TYPE_CHECKING:
    from ..pipeline.effects import Grant, Ticket
    from ..pipeline.scope import Invocation
    from ..types import Call, Response
    from .deployment_line import DeploymentLine

__all__ = ["Lane", "Trail"]


class Trail:
    """What one place was asked for ``call``: by it, or by a copy of it that a policy of the place made.

    ``past`` are the attempts before the present one.
    """

    __slots__ = ("call", "calls", "line", "past", "present")

    def __init__(self, line: DeploymentLine, call: Call) -> None:
        self.line = line
        self.call = call
        self.calls = [call]
        """This attempt's, with whatever was sent in its stead."""
        self.past: list[Invocation] = []
        self.present: list[Invocation] = []

    @property
    def progress(self) -> Invocation | None:
        """How far the provider has come that was asked last; ``None``: none was, in this attempt."""
        return self.present[-1] if self.present else None

    @property
    def asked(self) -> list[Invocation]:
        """Each time that a provider was asked."""
        return self.past + self.present


class Lane:
    """One leg's side of a race: which places it has asked, and the other side, its ``rival``.

    ``trail`` is what it asks now, ``answer`` what came of it, ``begun`` and ``over`` say how far it is.
    Of a second leg, ``hedged`` has the place that was late, the one asked instead, and for how long the
    first had been silent; ``None``: nobody was asked.

    To a policy it is also something to wait for: the next attempt of this leg, or its end.
    """

    __slots__ = (
        "_lock",
        "_moved",
        "_outrun",
        "_spoke",
        "_ticket",
        "answer",
        "begun",
        "hedged",
        "over",
        "rival",
        "trail",
        "tried",
    )

    def __init__(self) -> None:
        self.rival: Lane | None = None
        self.trail: Trail | None = None
        self.tried: list[DeploymentLine] = []
        self.answer: Response | None = None
        self.hedged: tuple[DeploymentLine, DeploymentLine, float] | None = None
        self.begun = self.over = False
        self._spoke = self._outrun = False  # as it stood when the race was over
        self._moved = False
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
            self.tried.append(line)
            return True

    def asks(self, line: DeploymentLine, call: Call) -> Trail:
        """``call`` is what goes to ``line``."""
        trail = self.trail = Trail(line, call)
        self.stir()
        return trail

    def again(self) -> None:
        """Another attempt begins at the same place."""
        trail = self.trail
        if trail is not None:
            trail.past += trail.present
            trail.present, trail.calls = [], [trail.call]
        self.stir()

    def reached(self, invocation: Invocation) -> None:
        """A provider is asked."""
        if self.trail is not None:
            self.trail.present.append(invocation)
            self.trail.calls.append(invocation.call)

    @property
    def call(self) -> Call | None:
        return None if self.trail is None else self.trail.call

    @property
    def spoke(self) -> bool:
        """Whether this leg has heard a first token, or got a whole answer."""
        trail = self.trail
        progress = None if trail is None else trail.progress
        return self._spoke if progress is None else has_spoken(progress)

    @property
    def outrun(self) -> bool:
        """Whether the other leg has spoken, so that whatever cancels this one is the race."""
        return self._outrun if self.rival is None else self.rival.spoke

    def let_go(self) -> None:
        """The race is over: nothing here may keep the call alive, and with it the prompt."""
        self._spoke, self._outrun = self.spoke, self.outrun
        self.trail = self.rival = self.answer = None

    # -- waiting for what it does ------------------------------------------------

    def look(self) -> None:
        """Whoever waits now has seen everything so far."""
        self._moved = False

    def stir(self) -> None:
        """Something happened here that is worth a look."""
        with self._lock:
            self._moved = True
            ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.give(self)

    def end(self) -> None:
        self.over = True
        self.stir()

    def take(self, owner: list[Grant]) -> Lane | None:
        return self if self.over or self._moved else None

    def enter(self, ticket: Ticket, call: Call | None = None) -> bool:
        with self._lock:
            if not self.over and not self._moved:
                self._ticket = ticket
                return False
        ticket.give(self)
        return True

    def leave(self, ticket: Ticket) -> None:
        with self._lock:
            if self._ticket is ticket:
                self._ticket = None

    def release(self) -> None:
        """Knowing that it has moved takes nothing from anyone."""
