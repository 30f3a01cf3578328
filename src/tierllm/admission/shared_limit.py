"""A rate limit that processes share, on accounts in a store.

Each bounded number of each bucket is one account that slides: what calls under way have taken is
reserved, and what has ended is settled into the slot of its take, whenever it ended. All slots that
reach into the window count as a whole, so that no window of any position holds more than the limit.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..errors import StoreUnavailableError, ThrottledError
from ..events import log_failure
from ..pipeline.effects import Blocking
from ..stores.base import Hold, Line, Settlement, Standing
from .limit_log import DAY_S
from .limit_shortfall import Need, Shortfall

if TYPE_CHECKING:
    from ..cost.place import Place
    from ..pipeline.clock import Clock
    from ..stores import Store, Verdict
    from .limit_meter import Meter
    from .limit_take import Take
    from .limiter import Draw
    from .rate_limit import RateLimit

__all__ = [
    "Shared",
    "asked_of",
    "flush",
    "flush_soon",
    "recalled",
    "refusal",
    "remember",
    "store_of",
    "take_shared",
]

SLOTS = 600
"""A window is counted in so many slots, and the one that is just beginning to leave it: 1/600 is lost."""

LOOK_AGAIN_S = 1.0
"""Other processes may give back what they took too much, unheard: after so long the store is asked again."""

CONCURRENCY = 4


Soon = Callable[[Callable[[], object]], None]


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


def store_of(limit: RateLimit, store: Store | None) -> Store | None:
    """Where the limit is shared; ``None``: nowhere."""
    if limit.store is not None:
        return limit.store
    if store is not None and store.shared and (limit.named or limit.per != ("account",)):
        return store
    return None


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


async def take_shared(
    store: Store,
    drawn: Sequence[tuple[Draw, Take]],
    place: Place,
    clock: Clock,
    wall: Callable[[], float],
    held: list[Shared],
) -> Shortfall | None:
    """Take in ``store`` what was taken here; what is missing there, if anything is.

    What is held there is in ``held`` first, for whoever has to settle it. Raises ``ThrottledError`` where
    the store cannot be reached and a limit fails closed.
    """
    for draw, take in drawn:
        known = recalled(draw, Need(take.input_tokens, take.output_tokens), clock())
        if known is not None and draw.limit.mode == "enforce":
            return known
    wall_s = wall()
    hold, parts = asked_of(store, drawn, place.tier, wall_s)
    shared = Shared(store, hold, parts)
    held.append(shared)  # giving back too much is harmless
    try:
        verdict: Verdict
        if store.inline:
            verdict = store.reserve(hold)
        else:
            reserve, areserve = _reserving(store, hold)
            verdict = await Blocking(reserve, undo=partial(_undo, store, hold), afn=areserve)
    except StoreUnavailableError as error:
        held.remove(shared)
        for draw, _ in drawn:
            if draw.limit.fail == "closed" and draw.limit.mode == "enforce":
                raise ThrottledError(
                    f"{place.name}: the store of limit {draw.limit.name!r} cannot be reached, and it fails "
                    f"closed: {error}"
                ) from error
        return None  # by this process's own count
    if verdict.ok:
        return None
    held.remove(shared)
    short = refusal(hold, parts, verdict.standings, wall_s)
    if short is None:  # it was given back before it came
        raise ThrottledError(f"{place.name}: the store of a rate limit did not take the call")
    for draw, take in drawn:
        if draw.limit.name == short.limit and draw.bucket == short.bucket:
            remember(short, take.meter, clock())
    return short


async def flush(held: Sequence[Shared], soon: Soon | None) -> None:
    """Have the stores apply what was settled. Never fails."""
    for shared in held:
        store = shared.store
        if store.inline:
            continue
        try:
            await Blocking(store.flush, afn=store.aflush)
        except Exception:  # the answer is there, and what it used is in the outbox
            log_failure("settling a rate limit with a store failed")
        except BaseException:
            flush_soon(held, soon)
            raise


def flush_soon(held: Sequence[Shared], soon: Soon | None) -> None:
    """The same, off the path of a call that is being ended."""
    for shared in held:
        if not shared.store.inline and soon is not None:
            soon(shared.store.flush)


def _undo(store: Store, hold: Hold, _: Verdict) -> None:
    """The call was cancelled while its hold was being reserved."""
    store.give_back(hold)
    store.flush()


def _reserving(
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
