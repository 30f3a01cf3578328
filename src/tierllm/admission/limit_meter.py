"""One bucket of a rate limit: its logs, what is under way, its pace, and what the vendor said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .limit_log import MINUTE_S, Lack, LimitLog, Shape
from .limit_pace import Pace
from .limit_take import Take
from .limit_vendor import Booked, VendorView

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from .limit_headers import Told
    from .limit_shortfall import Shortfall

__all__ = ["Meter", "Take"]

REMEMBERED = 128
"""So many calls back reaches the mean of outputs."""

UNITS = ("requests", "tokens", "input tokens", "output tokens")


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
        "input_tokens",
        "logs",
        "mean",
        "most_at_once",
        "only",
        "output_tokens",
        "pace",
        "plain",
        "refused",
        "refused_until",
        "requests",
        "settled",
        "spares",
        "under_way",
        "usual_s",
        "vendor",
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
        self._of_tier: dict[str, tuple[LimitLog, ...]] = {}
        self.most_at_once = most_at_once
        self.held: set[Take] = set()
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
        self.refused: Shortfall | None = None
        self.refused_until = -math.inf
        """What a shared store said last, and until when it need not be asked again."""
        self.follows = follows
        self.vendor: VendorView | None = None
        self.requests = self.input_tokens = self.output_tokens = 0  # booked since the vendor was first heard
        self.plain = most_at_once is None and self.pace is None
        """Whether there is nothing but logs to look at."""
        self.only = self.logs[0] if self.plain and len(self.logs) == 1 else None
        """The log, where that is all there is."""

    def logs_of(self, tier: str) -> tuple[LimitLog, ...]:
        """Those that calls of ``tier`` are booked in."""
        if not self.spares:
            return self.logs
        found = self._of_tier.get(tier)
        if found is None:
            found = tuple(log for log in self.logs if tier not in log.shape.spares)
            self._of_tier[tier] = found
        return found

    # -- before ----------------------------------------------------------------

    def fits(
        self, requests: int, input_tokens: int, output_tokens: int, now: float, tier: str, copies: int = 1
    ) -> bool:
        """Whether ``copies`` of this may go now."""
        for log in self.logs_of(tier) if self.spares else self.logs:
            owed = self.owed(log) if self.excess else 0
            if copies == 1:
                if not log.fits(requests, input_tokens, output_tokens + owed, now):
                    return False
            elif not log.fits(requests * copies, input_tokens * copies, output_tokens * copies + owed, now):
                return False
        return self.plain or self._beside(requests, input_tokens, output_tokens, now, copies) is None

    def lack(
        self, requests: int, input_tokens: int, output_tokens: int, now: float, tier: str, copies: int = 1
    ) -> Lack | None:
        """What is in the way of that, and until when at least; ``None``: nothing."""
        worst: Lack | None = None
        for log in self.logs_of(tier):
            log.forget(now)
            found = log.lack(requests, input_tokens, output_tokens, now, copies, self.owed(log))
            if found is not None and (worst is None or found.frees_at > worst.frees_at):
                worst = found
        if not self.plain and (worst is None or worst.frees_at < math.inf):
            found = self._beside(requests, input_tokens, output_tokens, now, copies)
            if found is not None and (worst is None or found.frees_at > worst.frees_at):
                worst = found
        return worst

    def owed(self, log: LimitLog) -> int:
        """Output that calls under way will probably use beyond what was taken for them."""
        missing = log.requests * self.mean - log.output_tokens
        return max(0, int(min(missing, self.under_way * self.excess)))

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
        self, requests: int, input_tokens: int, output_tokens: int, now: float, copies: int
    ) -> Lack | None:
        """What is in the way beside the logs."""
        worst: Lack | None = None
        need = (requests, input_tokens + output_tokens, input_tokens, output_tokens)
        if self.pace is not None:
            which, at = self.pace.frees_at(need, now, copies)
            if at > now:
                log = self.logs[0]
                worst = Lack(f"pace of {log.shape.names[which]}", at, need[which], int(log.shape.most[which]))
        if self.vendor is not None:
            several = need if copies == 1 else tuple(copies * each for each in need)
            found = self.vendor.frees_at(self._booked(), several, now)  # type: ignore[arg-type]
            if found is not None and (worst is None or found[1] > worst.frees_at):
                which, at = found
                worst = Lack(
                    f"vendor's {UNITS[which]}", at, need[which], self.vendor.limits[which] or need[which]
                )
        most = self.most_at_once
        if most is not None and len(self.held) + copies > most:
            at = math.inf
            if self.usual_s is not None:
                at = now + self.usual_s * (len(self.held) + copies - most) / max(1, len(self.held))
            if worst is None or at > worst.frees_at:
                worst = Lack("max_concurrency", at, 1, most)
        return worst

    # -- taking ----------------------------------------------------------------

    def charge(self, take: Take, tier: str) -> None:
        """Book it, fitting or not."""
        requests, input_tokens, output_tokens = take.requests, take.input_tokens, take.output_tokens
        now = take.at
        self.under_way += 1
        logs = self.logs_of(tier) if self.spares else self.logs
        take.cells = [log.add(requests, input_tokens, output_tokens, now) for log in logs]
        if not self.plain:
            if self.vendor is not None:
                self.requests += requests
                self.input_tokens += input_tokens
                self.output_tokens += output_tokens
                take.booked = self._booked()
            if self.most_at_once is not None:
                self.held.add(take)
            if self.pace is not None:
                self.pace.took((requests, input_tokens + output_tokens, input_tokens, output_tokens), now)

    def settle(self, take: Take, requests: int, input_tokens: int, output_tokens: int, clock: Clock) -> bool:
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
            for cell in take.cells:
                log = cell.log
                if log is not None:  # it still counts
                    cell.requests += requests
                    cell.input_tokens += input_tokens
                    cell.output_tokens += output_tokens
                    log.requests += requests
                    log.input_tokens += input_tokens
                    log.output_tokens += output_tokens
        back = requests < 0 or input_tokens < 0 or output_tokens < 0
        if not self.plain:
            if self.pace is not None:
                self.pace.corrected((requests, input_tokens + output_tokens, input_tokens, output_tokens))
            if take in self.held:
                self.held.discard(take)
                back = True
                took_s = clock() - take.at
                self.usual_s = (
                    took_s if self.usual_s is None else self.usual_s + 0.1 * (took_s - self.usual_s)
                )
        return back

    def hear(self, told: Sequence[Told], take: Take) -> bool:
        """What the vendor said to the request that ``take`` was for. Whether there is more room by that."""
        if self.vendor is None:
            self.vendor = VendorView()  # from now on what is booked is summed up
            self.plain, self.only = False, None
        if not self.vendor.hear(told, take.booked, take.at):
            return False
        for log in self.logs:
            if log.window_s == MINUTE_S:
                limits = self.vendor.limits
                log.most_requests = self._lowered(log, 0, limits[0])
                log.most_tokens = self._lowered(log, 1, limits[1])
                log.most_input = self._lowered(log, 2, limits[2])
                log.most_output = self._lowered(log, 3, limits[3])
        return True

    def _lowered(self, log: LimitLog, dimension: int, told: int | None) -> float:
        """The limit as the vendor has it, where that is lower; what is left over of it, in proportion."""
        own = log.shape.most[dimension]
        if told is None or own == math.inf:
            return own
        whole = next(each.shape.most[dimension] for each in self.logs if each.window_s == log.window_s)
        return own if told >= whole else max(1.0, math.floor(own * told / whole))

    def _booked(self) -> Booked:
        return (
            self.requests,
            self.input_tokens + self.output_tokens,
            self.input_tokens,
            self.output_tokens,
        )

    # -- watching --------------------------------------------------------------

    def idle(self, now: float) -> bool:
        """Nothing of it matters any more."""
        for log in self.logs:
            log.forget(now)
        return not self.held and all(log.empty for log in self.logs)

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
            used["max_concurrency"] = len(self.held)
        return used
