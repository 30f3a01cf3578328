"""A rate limit that processes share, on accounts in a store.

Each bounded number of each bucket is one account that slides. A call reserves there what it takes, and
has it settled into the slot of its take before it is sent: it counts until that slot has left the window,
whatever becomes of the process. What it used in the end is settled as a correction into the same slot,
by a second hold, open while the call is under way. All slots that reach into the window count as a
whole, so that no window of any position holds more than the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ..errors import StoreUnavailableError, ThrottledError
from ..events import log_failure
from ..pipeline.effects import Blocking
from ..stores.base import Hold, Line, Standing
from ..stores.reserving import reserving
from .limit_shortfall import Need, Shortfall
from .shared_refusal import LOOK_AGAIN_S, Short, recalled, remember
from .shared_take import Shared

if TYPE_CHECKING:
    from ..cost.place import Place
    from ..pipeline.clock import Clock
    from ..stores import Store
    from .rate_limit import RateLimit
    from .shared_take import Ask, Drawn

__all__ = ["Shared", "flush", "flush_soon", "store_of", "take_shared", "take_shared_now"]

Soon = Callable[[Callable[[], object]], None]


def store_of(limit: RateLimit, store: Store | None) -> Store | None:
    """Where the limit is shared; ``None``: nowhere."""
    if limit.store is not None:
        return limit.store
    if store is not None and store.shared and (limit.named or limit.per != ("account",)):
        return store
    return None


# -- taking ------------------------------------------------------------------------


def _known(drawn: Drawn, tier: str, clock: Clock) -> Shortfall | None:
    """What the store said a moment ago, if that answers it."""
    for draw, take in drawn:
        if draw.limit.mode == "enforce":
            need = Need(take.input_tokens, take.output_tokens, take.requests)
            known = recalled(draw, need, (draw.limiter.clock or clock)(), tier)
            if known is not None:
                return known
    return None


def _refused(missing: list[Short], clock: Clock, where: str) -> Shortfall:
    """The one that takes longest; all are remembered. Raises ``ThrottledError`` where there is none."""
    if not missing:
        raise ThrottledError(
            f"{where}: the store of a rate limit did not take the call", retry_after_s=LOOK_AGAIN_S
        )
    for short in missing:
        remember(short, (short.part.draw.limiter.clock or clock)())
    return max(missing, key=lambda short: short.wait_s).shortfall()


def _closed(drawn: Drawn, where: str, error: StoreUnavailableError) -> ThrottledError | None:
    """The refusal, where one of the limits does not go on without its store."""
    for draw, _ in drawn:
        if draw.limit.fail == "closed" and draw.limit.mode == "enforce":
            return ThrottledError(
                f"{where}: the store of limit {draw.limit.name!r} cannot be reached, and it fails "
                f"closed: {error}",
                retry_after_s=LOOK_AGAIN_S,
            )
    return None


async def take_shared(
    store: Store,
    drawn: Drawn,
    place: Place,
    clock: Clock,
    wall: Callable[[], float],
    held: list[Shared],
) -> Shortfall | None:
    """Take in ``store`` what was taken here; what is missing there, if anything is.

    What is held there is in ``held`` first, for whoever has to settle it. Raises ``ThrottledError`` where
    the store cannot be reached and a limit fails closed.
    """
    known = _known(drawn, place.tier, clock)
    if known is not None:
        return known
    shared = Shared(store, drawn, place.tier, wall())
    held.append(shared)  # giving back too much is harmless
    steps = shared.steps()
    answer: object = None
    try:
        while True:
            answer = await _answer(shared, steps.send(answer))
    except StopIteration as stop:
        missing: list[Short] | None = stop.value
    except StoreUnavailableError as error:
        held.remove(shared)
        shared.settle()
        refusal = _closed(drawn, place.name, error)
        if refusal is not None:
            raise refusal from error
        return None  # by this process's own count
    if missing is None:
        return None
    if not shared.reserved:
        held.remove(shared)
    return _refused(missing, clock, place.name)


async def _answer(shared: Shared, ask: Ask) -> object:
    store = shared.store
    if store.inline:
        return _answer_now(shared, ask)
    if ask is None:
        await flush((shared,), None)
        return None
    if isinstance(ask, Hold):
        return await reserving(store, ask)
    astandings = store.astandings
    afn = None if astandings is None else partial(astandings, ask)
    try:
        return await Blocking(partial(store.standings, ask), afn=afn)
    except StoreUnavailableError:
        return _unknown(ask)


def take_shared_now(
    store: Store, drawn: Drawn, tier: str, clock: Clock, wall_s: float, held: list[Shared]
) -> Shortfall | None:
    """The same, without waiting for anything but the store. Raises ``StoreUnavailableError``."""
    known = _known(drawn, tier, clock)
    if known is not None:
        return known
    shared = Shared(store, drawn, tier, wall_s)
    held.append(shared)
    steps = shared.steps()
    answer: object = None
    try:
        while True:
            answer = _answer_now(shared, steps.send(answer))
    except StopIteration as stop:
        missing: list[Short] | None = stop.value
    except StoreUnavailableError:
        held.remove(shared)
        shared.settle()
        raise
    if missing is None:
        return None
    if not shared.reserved:
        held.remove(shared)
    return _refused(missing, clock, f"limit {drawn[0][0].limit.name!r}")


def _answer_now(shared: Shared, ask: Ask) -> object:
    store = shared.store
    if ask is None:
        return store.flush()
    if isinstance(ask, Hold):
        return store.reserve(ask)
    try:
        return store.standings(ask)
    except StoreUnavailableError:
        return _unknown(ask)


def _unknown(lines: Sequence[Line]) -> tuple[Standing, ...]:
    """As if nothing left the window before its end."""
    return (Standing(2**62, 0),) * len(lines)


# -- applying what was settled -------------------------------------------------------


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
