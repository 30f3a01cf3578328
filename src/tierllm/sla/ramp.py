"""How calls leave a place, and come back to it little by little. Pure state: whoever has it holds a lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from hashlib import blake2b

__all__ = ["HOUR_S", "Quota", "Ramp", "rank"]

HOUR_S = 3600.0


def rank(salt: str, key: str) -> float:
    """Where ``key`` stands among all, in 0…1: the same in every process, and anew for each ``salt``."""
    digest = blake2b(f"{salt}\0{key}".encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2.0**56


class Quota:
    """How many changes may come within any hour: ``most``."""

    __slots__ = ("_at", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self._at: deque[float] = deque()

    def room(self, changes: int, now: float) -> bool:
        """Whether so many more may come within the hour that ends now."""
        return self.used(now) + changes <= self.most

    def used(self, now: float) -> int:
        past = self._at
        while past and now - past[0] > HOUR_S:
            past.popleft()
        return len(past)

    def use(self, now: float) -> None:
        self._at.append(now)

    def prolong(self, now: float) -> None:
        """The last change goes on until now."""
        if self._at:
            self._at.pop()
        self._at.append(now)

    def inherit(self, older: Quota) -> None:
        self._at = deque(older._at)

    def set_back(self, by_s: float) -> None:
        self._at = deque(at - by_s for at in self._at)


class Ramp:
    """Which share of its keys a place has: all of them, none, or one of ``stages``.

    A place that is left keeps nobody for ``dwell_s``; then come the stages, one after the other. A bad stage
    sends everybody away again for twice as long as before, up to ``max_dwell_s``. The first wait is
    ``dwell_s`` again once the place has been home for as long as it last had to wait.
    """

    __slots__ = ("_dwell_s", "_max_dwell_s", "_stages", "dwell_s", "since", "stage", "stage_s")

    HOME = 1 << 30

    def __init__(
        self, stages: Sequence[float], *, dwell_s: float, max_dwell_s: float, stage_s: float
    ) -> None:
        self._stages = tuple(stages)
        self._dwell_s = self.dwell_s = dwell_s
        self._max_dwell_s = max_dwell_s
        self.stage_s = stage_s
        self.stage = self.HOME
        """-1 where nobody goes there, else the number of the stage."""
        self.since: float | None = None

    @property
    def home(self) -> bool:
        return self.stage == self.HOME

    @property
    def share(self) -> float:
        if self.home:
            return 1.0
        return self._stages[self.stage] if self.stage >= 0 else 0.0

    @property
    def next_share(self) -> float:
        """What the next stage gives it; 1.0 is the way home."""
        return self._stages[self.stage + 1] if self.stage + 1 < len(self._stages) else 1.0

    def leave(self, now: float) -> None:
        """Everybody away."""
        if not self.home:
            self.dwell_s = min(2 * self.dwell_s, self._max_dwell_s)
        elif self.since is not None:
            again = now - self.since < self.dwell_s
            self.dwell_s = min(2 * self.dwell_s, self._max_dwell_s) if again else self._dwell_s
        self.stage, self.since = -1, now

    def due(self, now: float) -> bool:
        """Whether the present stage has lasted as long as it has to."""
        assert self.since is not None
        return now - self.since >= (self.dwell_s if self.stage < 0 else self.stage_s)

    def forward(self, now: float) -> None:
        """On to the next stage, or home."""
        home = self.next_share >= 1.0
        self.stage = self.HOME if home else self.stage + 1
        self.since = now

    def reset(self) -> None:
        """Home, as if nothing had been."""
        self.stage, self.since, self.dwell_s = self.HOME, None, self._dwell_s

    def set_back(self, by_s: float) -> None:
        if self.since is not None:
            self.since -= by_s
