"""A rate limit used alone, around any piece of work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..cost.spend import asked_by
from ..errors import ConfigError, StoreUnavailableError, UsageError
from .limit_checks import PLACES
from .limit_draw import Draw, take_on
from .limit_shortfall import Need
from .limit_take import Take
from .shared_limit import Shared, take_shared_now

if TYPE_CHECKING:
    from .rate_limit import RateLimit

__all__ = ["LimitTake", "open_take"]


class LimitTake:
    """What was taken. ``settle`` says in the block what was really used, once; unsaid, that is all of it."""

    __slots__ = ("_over", "_used", "input_tokens", "output_tokens")

    def __init__(self, input_tokens: int, output_tokens: int) -> None:
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self._used: tuple[int, int] | None = None
        self._over = False

    def settle(self, *, input_tokens: int | None = None, output_tokens: int | None = None) -> None:
        """What was used; what is left out is what was taken.

        Once, and not after the block: then ``UsageError``. Raises ``ConfigError`` for what is no number of
        tokens.
        """
        if self._over:
            raise UsageError("this take is over: settle it inside of its with block")
        if self._used is not None:
            raise UsageError("this take was settled before")
        used = (
            self.input_tokens if input_tokens is None else input_tokens,
            self.output_tokens if output_tokens is None else output_tokens,
        )
        _check(*used)
        self._used = used

    def close(self) -> None:
        """Its block is over."""
        self._over = True

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
    asked = limit.where.keys() | set(limit.per)
    if "deployment" in limit.per:  # which is told apart by its tier
        asked.add("tier")
    for key in sorted(PLACES & asked):
        if key not in who:
            raise ConfigError(f"{limit!r} is for some places only: say {key}=...")
    take = LimitTake(input_tokens, output_tokens)
    if not limit.holds_at(tier, deployment, who.get("model", "")) or not limit.holds_for(request):
        try:
            yield take
        finally:
            take.close()
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
        take.close()
        _end(limit, takes, held, take, began=began, failed=failed)


def _begin(
    limit: RateLimit, draws: list[Draw], need: Need, tier: str, takes: list[Take], held: list[Shared]
) -> None:
    clock = limit.limiter.go_by(limit.clock)
    missing = take_on(draws, need, need, tier, takes)
    if missing and limit.mode == "enforce":
        raise max(missing, key=lambda each: (each.too_large, each.wait_s)).error()
    store = limit.store
    if store is None:
        return
    drawn = list(zip(draws, takes, strict=True))
    try:
        missing_there = take_shared_now(store, drawn, tier, clock, limit.wall_clock(), held)
    except StoreUnavailableError:
        if limit.fail == "closed" and limit.mode == "enforce":
            raise
        return
    if missing_there is not None:
        raise missing_there.error()


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
    limiter = limit.limiter
    for take in takes:
        requests, used = take.requests, alone.used
        if failed and used is None:
            used = (0, 0)
            if limit.personal or not began:
                requests = 0
        inputs, outputs = (take.input_tokens, take.output_tokens) if used is None else used
        take.used = requests, inputs, outputs
        limiter.settle(take, requests, inputs, outputs)
    for shared in held:
        shared.settle()
        shared.store.flush()
    if limiter.roomy:
        limiter.tell()


def _check(*amounts: object) -> None:
    for amount in amounts:
        if isinstance(amount, bool) or not isinstance(amount, int) or amount < 0:
            raise ConfigError(f"{amount!r} is no number of requests or tokens: give a whole one from 0 up")
