"""One bucket of a rate limit: its logs, what is under way, its pace, and what the vendor said of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .limit_log import MINUTE_S, Lack, LimitLog, Shape
from .limit_pace import Pace
from .limit_take import Take
from .limit_vendor import ANYWHERE, Origin, VendorView

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from .limit_headers import Told
    from .shared_refusal import Refused

__all__ = ["Meter", "Take"]

REMEMBERED = 128
"""So many calls back reaches the mean of outputs."""


class Meter:
    """The state of one bucket. Not thread-safe: the limiter has the lock.

    ``most_at_once`` bounds what is under way, ``burst`` paces; ``None``: not. ``follows``: the vendor's
    headers are listened to.

    Short answers come first and give back what they did not use; who is still under way then will mostly
    use more than was taken for it. So a window's output counts as no less than its calls have on average,
    as far as those under way may owe that (``owed``), or it would be passed by their debts each time.
    """

    __slots__ = (
        "_of_tier",
        "bucket",
        "excess",
        "follows",
        "held",
        "logs",
        "mean",
        "most_at_once",
        "only",
        "pace",
        "plain",
        "refused",
        "settled",
        "spares",
        "under_way",
        "usual_s",
        "vendors",
    )

    def __init__(
        self,
        shapes: Sequence[Shape],
        *,
        bucket: str = "",
        most_at_once: int | None = None,
        burst: int | None = None,
        follows: bool = False,
    ) -> None:
        self.bucket = bucket
        self.logs = tuple(LimitLog(shape) for shape in shapes)
        self.spares = any(shape.spares for shape in shapes)
        self._of_tier: dict[str, tuple[LimitLog, ...]] | None = {} if self.spares else None
        self.most_at_once = most_at_once
        self.held: set[Take] | None = None if most_at_once is None else set()
        self.under_way = self.settled = 0
        self.mean = 0.0
        """Output tokens of a call."""
        self.excess = 0.0
        """How much more than was taken those use that use more."""
        self.usual_s: float | None = None
        self.pace: Pace | None = None
        if burst is not None and shapes:
            first = shapes[0]
            self.pace = Pace(first.most, first.window_s, burst)
        self.refused: Mapping[tuple[str, frozenset[str]], Refused] | None = None
        """What a shared store said last, by the limit and whose takes it leaves out."""
        self.follows = follows
        self.vendors: dict[Origin, VendorView] | None = None
        """What was heard, by whose word it is."""
        self.plain = most_at_once is None and self.pace is None
        """Whether there is nothing but logs to look at."""
        self.only = self.logs[0] if self.plain and len(self.logs) == 1 else None
        """The log, where that is all there is."""

    def logs_of(self, tier: str) -> tuple[LimitLog, ...]:
        """Those that calls of ``tier`` are booked in."""
        if self._of_tier is None:
            return self.logs
        found = self._of_tier.get(tier)
        if found is None:
            found = tuple(log for log in self.logs if tier not in log.shape.spares)
            self._of_tier[tier] = found
        return found

    # -- before ----------------------------------------------------------------

    def fits(
        self,
        requests: int,
        input_tokens: int,
        output_tokens: int,
        now: float,
        tier: str,
        copies: int = 1,
        origin: Origin = ANYWHERE,
    ) -> bool:
        """Whether ``copies`` of this may go now."""
        for log in self.logs_of(tier) if self.spares else self.logs:
            owed = self.owed(log) if self.excess else 0
            if copies == 1:
                if not log.fits(requests, input_tokens, output_tokens + owed, now):
                    return False
            elif not log.fits(requests * copies, input_tokens * copies, output_tokens * copies + owed, now):
                return False
        if self.plain:
            return True
        return self._beside(requests, input_tokens, output_tokens, now, tier, copies, origin) is None

    def lack(
        self,
        requests: int,
        input_tokens: int,
        output_tokens: int,
        now: float,
        tier: str,
        copies: int = 1,
        origin: Origin = ANYWHERE,
    ) -> Lack | None:
        """What is in the way of that, and until when at least; ``None``: nothing."""
        worst: Lack | None = None
        for log in self.logs_of(tier):
            log.forget(now)
            found = log.lack(requests, input_tokens, output_tokens, now, copies, self.owed(log))
            if found is not None and (worst is None or found.frees_at > worst.frees_at):
                worst = found
        if not self.plain and (worst is None or worst.frees_at < math.inf):
            found = self._beside(requests, input_tokens, output_tokens, now, tier, copies, origin)
            if found is not None and (worst is None or found.frees_at > worst.frees_at):
                worst = found
        return worst

    def owed(self, log: LimitLog) -> int:
        """Output that calls under way will probably use beyond what was taken for them."""
        missing = log.requests * self.mean - log.output_tokens
        return max(0, int(min(missing, self.under_way * self.excess)))

    def room_for_input(self, output_tokens: int, tier: str) -> float:
        """The longest input that could ever be taken beside so much output."""
        logs = self.logs_of(tier)
        return min((min(log.most_tokens - output_tokens, log.most_input) for log in logs), default=math.inf)

    def room_for_output(self, input_tokens: int, tier: str) -> float:
        """The longest output that could ever be taken beside so much input."""
        return min(
            (
                min(log.most_tokens - input_tokens, log.most_output)
                for log in self.logs_of(tier)
                if input_tokens <= log.most_input
            ),
            default=math.inf,
        )

    def _beside(
        self,
        requests: int,
        input_tokens: int,
        output_tokens: int,
        now: float,
        tier: str,
        copies: int,
        origin: Origin,
    ) -> Lack | None:
        """What is in the way beside the logs."""
        worst: Lack | None = None
        need = (requests, input_tokens + output_tokens, input_tokens, output_tokens)
        if self.pace is not None:
            which, at = self.pace.frees_at(need, now, copies)
            if at > now:
                log = self.logs[0]
                worst = Lack(f"pace of {log.shape.names[which]}", at, need[which], int(log.shape.most[which]))
        view = None if self.vendors is None else self.vendors.get(origin)
        if view is not None:
            found = view.lack(requests, input_tokens, output_tokens, now, tier, copies)
            if found is not None and (worst is None or found.frees_at > worst.frees_at):
                worst = found
        most = self.most_at_once
        held = len(self.held) if self.held else 0
        if most is not None and held + copies > most:
            at = math.inf
            if self.usual_s is not None:
                at = now + self.usual_s * (held + copies - most) / max(1, held)
            if worst is None or at > worst.frees_at:
                worst = Lack("max_concurrency", at, 1, most)
        return worst

    # -- taking ----------------------------------------------------------------

    def charge(self, take: Take, tier: str, origin: Origin = ANYWHERE) -> None:
        """Book it, fitting or not."""
        requests, input_tokens, output_tokens = take.requests, take.input_tokens, take.output_tokens
        now = take.at
        self.under_way += 1
        logs = self.logs_of(tier) if self.spares else self.logs
        take.cells = [log.add(requests, input_tokens, output_tokens, now) for log in logs]
        if not self.plain:
            view = None if self.vendors is None else self.vendors.get(origin)
            if view is not None:
                view.book(take, tier)
            if self.held is not None:
                self.held.add(take)
            if self.pace is not None:
                self.pace.took((requests, input_tokens + output_tokens, input_tokens, output_tokens), now)

    def settle(
        self, take: Take, requests: int, input_tokens: int, output_tokens: int, clock: Clock | None
    ) -> bool:
        """It really was so much. Whether room came back. A second time does nothing."""
        if not take.open:
            return False
        take.open = False
        if self.under_way > 0:  # an interrupt may have kept it from being counted
            self.under_way -= 1
        if requests:
            self.settled = settled = self.settled + 1
            self.mean += (output_tokens - self.mean) / (settled if settled < REMEMBERED else REMEMBERED)
            excess = output_tokens - take.output_tokens
            if excess > 0:
                self.excess += 0.1 * (excess - self.excess) if self.excess else excess
        requests -= take.requests
        input_tokens -= take.input_tokens
        output_tokens -= take.output_tokens
        if requests or input_tokens or output_tokens:
            try:
                for cell in take.cells:
                    log = cell.log
                    if log is not None:  # it still counts
                        cell.requests += requests
                        cell.input_tokens += input_tokens
                        cell.output_tokens += output_tokens
                        log.requests += requests
                        log.input_tokens += input_tokens
                        log.output_tokens += output_tokens
            except BaseException:  # an interrupt
                for log in self.logs:
                    log.torn = True
                raise
        # one less is under way, who may owe something: that is room, too
        back = requests < 0 or input_tokens < 0 or output_tokens < 0 or self.excess > 0.0
        if not self.plain:
            if self.pace is not None:
                self.pace.corrected((requests, input_tokens + output_tokens, input_tokens, output_tokens))
            if self.held is not None and take in self.held:
                self.held.discard(take)
                back = True
                took_s = 0.0 if clock is None else clock() - take.at
                self.usual_s = (
                    took_s if self.usual_s is None else self.usual_s + 0.1 * (took_s - self.usual_s)
                )
        return back

    def hear(self, told: Sequence[Told], take: Take, origin: Origin, now: float) -> bool:
        """What a vendor said to the request that ``take`` was for. Whether there is more room by that."""
        if self.vendors is None:
            self.vendors = {}  # from now on what is booked is summed up
            self.plain, self.only = False, None
        view = self.vendors.get(origin)
        if view is None:
            view = self.vendors[origin] = VendorView(log.shape for log in self.logs)
        earlier = () if len(self.vendors) > 1 else [log for log in self.logs if log.window_s == MINUTE_S]
        return view.hear(told, take.booked, take.at, now, earlier)

    # -- watching --------------------------------------------------------------

    def idle(self, now: float) -> bool:
        """Nothing of it matters any more."""
        if self.held:
            return False
        return not any(log.cells and log.cells[-1].at + log.window_s > now for log in reversed(self.logs))

    def status(self, now: float) -> dict[str, float]:
        """What is used of each limit."""
        used: dict[str, float] = {}
        for log in self.logs:
            if log.shape.spares:
                continue
            log.forget(now)
            sums = (log.requests, log.input_tokens + log.output_tokens, log.input_tokens, log.output_tokens)
            bounds = zip(log.shape.names, log.shape.most, sums, strict=True)
            used.update({name: found for name, most, found in bounds if most < math.inf})
        if self.most_at_once is not None:
            used["max_concurrency"] = len(self.held or ())
        return used
