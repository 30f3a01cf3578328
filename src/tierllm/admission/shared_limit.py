"""A rate limit that processes share, on accounts in a store.

Each bounded number of each bucket is one account that slides: what calls under way have taken is
reserved, and what has ended is settled into the slot of its take, whenever it ended. All slots that
reach into the window count as a whole, so that no window of any position holds more than the limit.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..stores.base import Hold, Line, Settlement, Standing
from .limit_log import DAY_S
from .limit_shortfall import Need, Shortfall

if TYPE_CHECKING:
    from ..stores import Store, Verdict
    from .limit_meter import Meter, Take
    from .limiter import Draw

__all__ = ["Shared", "asked_of", "recalled", "refusal", "remember", "reserving", "undo"]

SLOTS = 600
"""A window is counted in so many slots, and the one that is just beginning to leave it: 1/600 is lost."""

LOOK_AGAIN_S = 1.0
"""Other processes may give back what they took too much, unheard: after so long the store is asked again."""

CONCURRENCY = 4


class Part(NamedTuple):
    """What one line of a hold is about: a take, and which of its numbers."""

    take: Take
    draw: Draw
    dimension: int
    name: str
    width_s: float


class Shared:
    """What one call has reserved in one store."""

    __slots__ = ("hold", "parts", "store")

    def __init__(self, store: Store, hold: Hold, parts: Sequence[Part]) -> None:
        self.store = store
        self.hold = hold
        self.parts = parts

    def settle(self) -> None:
        """Book what the takes were settled with, into the slots of when they were made. Never waits.

        To be called after their settlement.
        """
        amounts: list[int] = []
        for part in self.parts:
            take = part.take
            requests, input_tokens, output_tokens = take.used or (
                take.requests,
                take.input_tokens,
                take.output_tokens,
            )
            sums = (requests, input_tokens + output_tokens, input_tokens, output_tokens, 0)
            amounts.append(sums[part.dimension])
            take.meter.refused = None  # there may be room now
        slots = tuple(line.slot for line in self.hold.lines)
        self.store.post(Settlement(self.hold, tuple(amounts), slots))


def asked_of(
    store: Store, drawn: Sequence[tuple[Draw, Take]], tier: str, wall_s: float
) -> tuple[Hold, list[Part]]:
    """What ``store`` is asked to reserve for these takes."""
    lines: list[Line] = []
    parts: list[Part] = []
    for draw, take in drawn:
        limit, meter = draw.limit, take.meter
        enforced = limit.mode == "enforce"
        wanted = (
            take.requests,
            take.input_tokens + take.output_tokens,
            take.input_tokens,
            take.output_tokens,
        )
        for log in meter.logs_of(tier):
            width_s = log.window_s / SLOTS
            slot = math.floor(wall_s / width_s)
            expires_at = wall_s + log.window_s + 2 * width_s
            spares = "+".join(sorted(log.shape.spares))
            bounds = (log.most_requests, log.most_tokens, log.most_input, log.most_output)
            for dimension, most in enumerate(bounds):
                if most < math.inf:
                    name = log.shape.names[dimension]
                    account = f"limit|{limit.name}|{name}|{spares}|{draw.bucket}"
                    bound = int(most) if enforced else None
                    lines.append(
                        Line(account, wanted[dimension], bound, expires_at, slot, max(0, slot - SLOTS))
                    )
                    parts.append(Part(take, draw, dimension, name, width_s))
        if meter.most_at_once is not None:
            account = f"limit|{limit.name}|max_concurrency||{draw.bucket}"
            most_at_once = meter.most_at_once if enforced else None
            lines.append(Line(account, 1, most_at_once, wall_s + DAY_S))
            parts.append(Part(take, draw, CONCURRENCY, "max_concurrency", 0.0))
    return store.hold(lines), parts


def refusal(
    hold: Hold, parts: Sequence[Part], standings: Sequence[Standing], wall_s: float
) -> Shortfall | None:
    """Why the store said no; the one that takes longest. ``None``: for nothing that shows."""
    worst: Shortfall | None = None
    for line, part, standing in zip(hold.lines, parts, standings, strict=True):
        if line.limit is None or standing.settled + standing.reserved + line.amount <= line.limit:
            continue
        wait_s = LOOK_AGAIN_S
        if part.take.meter.usual_s is not None and part.dimension == CONCURRENCY:
            wait_s = min(wait_s, part.take.meter.usual_s)
        if standing.first_slot is not None and standing.settled + line.amount > line.limit:
            wait_s = max(0.0, (standing.first_slot + SLOTS + 1) * part.width_s - wall_s)
            if part.dimension:  # tokens may be given back
                wait_s = min(wait_s, LOOK_AGAIN_S)
        if worst is None or wait_s > worst.wait_s:
            limit, take = part.draw.limit, part.take
            worst = Shortfall(
                wait_s,
                limit.name,
                part.name,
                part.draw.bucket,
                limit.personal,
                False,
                line.amount,
                line.limit,
                take.input_tokens,
                take.output_tokens,
            )
    return worst


def remember(shortfall: Shortfall, meter: Meter, now: float) -> None:
    """So that the store need not be asked what it said a moment ago."""
    meter.refused = shortfall
    meter.refused_until = now + shortfall.wait_s


def recalled(draw: Draw, need: Need, now: float) -> Shortfall | None:
    """What the store said of this bucket, if that still holds for so much."""
    meter = draw.limiter.meters.get(draw.bucket)
    if meter is None:
        return None
    said = meter.refused
    if said is None or now >= meter.refused_until:
        return None
    smaller = need.input_tokens + need.output_tokens < said.input_tokens + said.output_tokens
    if smaller and said.dimension not in ("rpm", "rpd", "max_concurrency"):
        return None
    return said._replace(wait_s=meter.refused_until - now)


def undo(store: Store, hold: Hold, _: Verdict) -> None:
    """The call was cancelled while its hold was being reserved."""
    store.give_back(hold)
    store.flush()


def reserving(
    store: Store, hold: Hold
) -> tuple[Callable[[], Verdict], Callable[[], Awaitable[Verdict]] | None]:
    """Reserving ``hold``, sync and async; one that fails may have happened all the same."""

    def reserve() -> Verdict:
        try:
            return store.reserve(hold)
        except BaseException:
            store.give_back(hold)
            raise

    native = store.areserve
    if native is None:
        return reserve, None

    async def areserve() -> Verdict:
        try:
            return await native(hold)
        except BaseException:
            store.give_back(hold)
            raise

    return reserve, areserve
