"""A rate limit used alone, around any piece of work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..cost.spend import asked_by
from ..errors import ConfigError, StoreUnavailableError, ThrottledError, UsageError
from .limit_checks import PLACES
from .limit_shortfall import Need
from .limit_take import Take
from .limiter import Draw, take_on
from .shared_limit import Shared, asked_of, recalled, refusal, remember

if TYPE_CHECKING:
    from .rate_limit import RateLimit

__all__ = ["LimitTake", "open_take"]


class LimitTake:
    """What was taken. ``settle`` says what was really used, once; unsaid, it is what was taken."""

    __slots__ = ("_used", "input_tokens", "output_tokens")

    def __init__(self, input_tokens: int, output_tokens: int) -> None:
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self._used: tuple[int, int] | None = None

    def settle(self, *, input_tokens: int | None = None, output_tokens: int | None = None) -> None:
        """What was used; what is left out is what was taken.

        Once: then ``UsageError``. Raises ``ConfigError`` for what is no number of tokens.
        """
        if self._used is not None:
            raise UsageError("this take was settled before")
        used = (
            self.input_tokens if input_tokens is None else input_tokens,
            self.output_tokens if output_tokens is None else output_tokens,
        )
        _check(*used)
        self._used = used

    @property
    def used(self) -> tuple[int, int] | None:
        """Input and output tokens as settled; ``None`` before."""
        return self._used


@contextmanager
def open_take(
    limit: RateLimit, input_tokens: int, output_tokens: int, requests: int, who: Mapping[str, Any]
) -> Iterator[LimitTake]:
    request = asked_by(who)
    _check(input_tokens, output_tokens, requests)
    tier, deployment = who.get("tier", ""), who.get("deployment", "")
    for key in sorted(PLACES & (limit.where.keys() | set(limit.per))):
        if key not in who:
            raise ConfigError(f"{limit!r} is for some places only: say {key}=...")
    take = LimitTake(input_tokens, output_tokens)
    if not limit.holds_at(tier, deployment, who.get("model", "")) or not limit.holds_for(request):
        yield take
        return
    draws = [Draw(limit, bucket) for bucket in limit.buckets(request, tier, deployment)]
    need = Need(input_tokens, output_tokens, requests)
    takes: list[Take] = []
    held: list[Shared] = []
    failed = True
    began = False
    try:
        _begin(limit, draws, need, tier, takes, held)
        began = True
        yield take
        failed = False
    finally:
        _end(limit, takes, held, take, began=began, failed=failed)


def _begin(
    limit: RateLimit, draws: list[Draw], need: Need, tier: str, takes: list[Take], held: list[Shared]
) -> None:
    missing = take_on(draws, need, need, tier, limit.clock, takes)
    if missing and limit.mode == "enforce":
        raise max(missing, key=lambda each: (each.too_large, each.wait_s)).error()
    store = limit.store
    if store is None:
        return
    now, wall_s = limit.clock(), limit.wall_clock()
    for draw in draws:
        known = recalled(draw, need, now)
        if known is not None and limit.mode == "enforce":
            raise known.error()
    hold, parts = asked_of(store, list(zip(draws, takes, strict=True)), tier, wall_s)
    try:
        verdict = store.reserve(hold)
    except BaseException as error:
        store.give_back(hold)
        if not isinstance(error, StoreUnavailableError):
            raise
        if limit.fail == "closed" and limit.mode == "enforce":
            raise
        return
    if verdict.ok:
        held.append(Shared(store, hold, parts))
        return
    short = refusal(hold, parts, verdict.standings, wall_s)
    if short is None:
        raise ThrottledError(f"the store of limit {limit.name!r} did not take the call")
    for draw, take in zip(draws, takes, strict=True):
        if draw.bucket == short.bucket:
            remember(short, take.meter, now)
    raise short.error()


def _end(
    limit: RateLimit,
    takes: list[Take],
    held: list[Shared],
    alone: LimitTake,
    *,
    began: bool,
    failed: bool,
) -> None:
    """Settle. What was never begun is given back whole; what failed, but for requests a vendor counted."""
    back = False
    for take in takes:
        requests, used = take.requests, alone.used
        if failed and used is None:
            used = (0, 0)
            if limit.personal or not began:
                requests = 0
        inputs, outputs = (take.input_tokens, take.output_tokens) if used is None else used
        take.used = requests, inputs, outputs
        back = limit.limiter.settle(take, requests, inputs, outputs, limit.clock) or back
    for shared in held:
        shared.settle()
        shared.store.flush()
    if back:
        limit.limiter.tell()


def _check(*amounts: object) -> None:
    for amount in amounts:
        if isinstance(amount, bool) or not isinstance(amount, int) or amount < 0:
            raise ConfigError(f"{amount!r} is no number of requests or tokens: give a whole one from 0 up")
