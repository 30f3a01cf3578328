"""A rate limit, as the application describes it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError, UsageError
from .limit_checks import (
    PLACES,
    checked_limits,
    checked_pacing,
    checked_per,
    checked_reserve,
    checked_where,
    one_of,
    shapes_of,
)
from .limit_meter import Meter
from .limiter import Limiter

if TYPE_CHECKING:
    from ..pipeline.clock import Clock
    from ..stores import Store
    from ..types import Request
    from .limit_alone import LimitTake

__all__ = ["RateLimit"]

IMPERSONAL = frozenset({"account", "deployment", "tier"})


class RateLimit:
    """How many requests and tokens a minute or a day, and how many at once. Thread-safe.

    ``rpm`` and ``rpd``: requests a minute and a day; ``tpm`` and ``tpd``: tokens, input and output together;
    ``input_tpm``, ``output_tpm``: one of them; ``max_concurrency``: calls under way. All that are given hold
    at once, each over every sliding window of 60 seconds (24 hours), not only over those that begin with the
    full minute.

    ``per`` names whose limit it is: ``"account"`` (one for everything this object is attached to),
    ``"deployment"``, ``"tier"``, ``"user"``, ``"tenant"``, ``"plan"``, ``"session"``, ``"tag"``, ``"route"``;
    several make one bucket for each combination. Calls that lack the key share one bucket. ``where`` says
    for which calls it holds: ``{"plan": "free"}``. ``reserve={"gold": 0.3}`` keeps a share of every limit
    for a tier: others leave free what it has not used of it; it may use more than its share, too.

    Before a call its requests and tokens are taken, by an estimate of its input and of its output
    (``tokens="p90"``: what 9 of 10 answers stay within; ``"max"``: as much as it may have), and corrected
    when it has ended: what was too much comes back, what was too little is missing later. ``pacing=True``
    spaces calls evenly, a number lets so many go at once before. ``headers``: a vendor that says less is
    left is believed until the reset it names.

    With a ``store`` the processes that share it share the limit; the clocks of their machines have to agree.
    ``fail`` says what happens where it cannot be reached: ``"open"`` keeps the limit within this process
    alone, ``"closed"`` refuses. ``mode="observe"`` takes, tells what it would have refused, and refuses
    nothing.

    One object attached in several places, or to several clients, is one limit; it goes by the clock of the
    client that it is attached to first, and by ``clock`` where it is used alone before. A forked child goes
    on from what was taken, by a count of its own: share a ``store`` where processes have to keep one limit
    together. Usable alone::

        with limit.take(user="u42", input_tokens=800, output_tokens=300) as take:
            ...
            take.settle(input_tokens=812, output_tokens=240)

    Raises ``ConfigError`` for settings that make no sense.
    """

    def __init__(
        self,
        *,
        rpm: int | None = None,
        tpm: int | None = None,
        input_tpm: int | None = None,
        output_tpm: int | None = None,
        rpd: int | None = None,
        tpd: int | None = None,
        max_concurrency: int | None = None,
        per: str | Sequence[str] = "account",
        where: Mapping[str, str | Iterable[str]] | None = None,
        reserve: Mapping[str, float] | None = None,
        tokens: Literal["p90", "max"] = "p90",
        pacing: bool | int = False,
        headers: bool = True,
        store: Store | None = None,
        fail: Literal["open", "closed"] = "open",
        mode: Literal["enforce", "observe"] = "enforce",
        name: str | None = None,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
    ) -> None:
        self.limits = checked_limits(
            {
                "rpm": rpm,
                "tpm": tpm,
                "input_tpm": input_tpm,
                "output_tpm": output_tpm,
                "rpd": rpd,
                "tpd": tpd,
                "max_concurrency": max_concurrency,
            }
        )
        self.rpm, self.tpm, self.rpd, self.tpd = rpm, tpm, rpd, tpd
        self.input_tpm, self.output_tpm = input_tpm, output_tpm
        self.max_concurrency = max_concurrency
        if not self.limits:
            raise ConfigError("RateLimit(): give it something to limit, such as rpm=500")
        self.per = checked_per(per)
        self.where = checked_where(where)
        self.reserve = checked_reserve(reserve)
        self.burst = checked_pacing(pacing)
        one_of("tokens", tokens, ("p90", "max"))
        one_of("fail", fail, ("open", "closed"))
        one_of("mode", mode, ("enforce", "observe"))
        if store is not None and not hasattr(store, "reserve"):
            raise ConfigError(f"RateLimit(store={store!r}): give a DiskStore or a RedisStore")
        if name is not None and (not isinstance(name, str) or not name or "|" in name):
            raise ConfigError(f"RateLimit(name={name!r}): give a name without '|', or leave it out")
        if name is None and store is not None and self.per == ("account",):
            raise ConfigError("RateLimit(store=...): give it a name=..., by which processes share it")
        self.shapes = shapes_of(self.limits, self.reserve)
        if self.reserve and not self.shapes:
            raise ConfigError(
                "RateLimit(reserve=...): it is a share of requests or tokens; give one of those"
            )
        if self.burst is not None and not self.shapes:
            raise ConfigError(
                "RateLimit(pacing=...): calls are spaced by requests or tokens; give one of those"
            )
        self.named = name is not None
        self.name = name or self._described()
        self.tokens: str = tokens
        self.store = store
        self.fail: str = fail
        self.mode: str = mode
        self.personal = not IMPERSONAL.issuperset(self.per)
        self.about_caller = not PLACES.issuperset(self.where)
        """Whether it depends on the caller if it holds."""
        self.headers = headers and not self.personal
        self.clock = clock
        self.wall_clock = wall_clock
        self.limiter = Limiter(self)

    def _described(self) -> str:
        bounds = ",".join(f"{name}={limit}" for name, limit in self.limits.items())
        where = "".join(f"[{key}={'+'.join(sorted(names))}]" for key, names in self.where.items())
        return f"{'+'.join(self.per)}:{bounds}{where}".replace("|", "_")

    def meter(self, bucket: str) -> Meter:
        """The state of a bucket that nothing is known of yet."""
        return Meter(
            self.shapes,
            bucket=bucket,
            most_at_once=self.limits.get("max_concurrency"),
            burst=self.burst,
            follows=self.headers,
        )

    # -- which calls, whose bucket -----------------------------------------------

    def holds_at(self, tier: str, deployment: str, model: str) -> bool:
        """Whether calls at this place can fall under it."""
        places = {"tier": tier, "deployment": deployment, "model": model}
        return all(places[key] in names for key, names in self.where.items() if key in PLACES)

    def leaves_nothing(self, tier: str) -> bool:
        """Whether all of something is kept for tiers other than ``tier``."""
        return any(min(shape.most) < 1 for shape in self.shapes if tier not in shape.spares)

    @property
    def shared(self) -> bool:
        """Whether others have it already, or may by a store."""
        return self.store is not None or self.limiter.watched

    def holds_for(self, request: Request) -> bool:
        """Whether ``where`` matches the request, as far as it is about the caller."""
        for key, names in self.where.items():
            if key == "tag":
                if names.isdisjoint(request.tags):
                    return False
            elif key not in PLACES and getattr(request, key) not in names:
                return False
        return True

    def fixed_bucket(self, tier: str, deployment: str) -> str | None:
        """The bucket of all calls at this place; ``None`` where it depends on who calls."""
        if self.personal:
            return None
        values = {"deployment": f"{tier}/{deployment}", "tier": tier}
        return (
            "account"
            if self.per == ("account",)
            else ",".join(f"{k}={_escaped(values[k])}" for k in self.per)
        )

    def buckets(self, request: Request, tier: str, deployment: str) -> list[str]:
        """Whose buckets a call draws on: one, or one for each tag."""
        per = self.per
        if len(per) == 1 and per[0] not in ("tag", "deployment", "tier", "account"):
            key = per[0]
            return [f"{key}={getattr(request, key) or ''}"]
        fixed = self.fixed_bucket(tier, deployment)
        if fixed is not None:
            return [fixed]
        parts = [""]
        for key in per:
            values: Sequence[str]
            if key == "tag":
                values = tuple(dict.fromkeys(request.tags)) or ("",)
            elif key == "tier":
                values = (tier,)
            elif key == "deployment":
                values = (f"{tier}/{deployment}",)
            else:
                values = (getattr(request, key) or "",)
            said = [f"{key}={_escaped(value)}" for value in values]
            parts = [f"{part},{each}" if part else each for part in parts for each in said]
        return parts

    # -- alone ------------------------------------------------------------------

    @contextmanager
    def take(
        self, *, input_tokens: int = 0, output_tokens: int = 0, requests: int = 1, **who: Any
    ) -> Iterator[LimitTake]:
        """Take so much for ``who`` (``user=``, ``tenant=``, ``tier=``, …) while the block runs.

        ``settle(...)`` in the block says what was really used; without it, what was taken counts. An error
        in the block gives the tokens back (and the request, unless the vendor has counted it). Raises
        ``ThrottledError`` with ``retry_after_s``, ``RequestTooLargeError``, and ``StoreUnavailableError``
        where ``fail="closed"``.
        """
        from .limit_alone import open_take

        with open_take(self, input_tokens, output_tokens, requests, who) as take:
            yield take

    def __reduce_ex__(self, protocol: object) -> str:
        raise UsageError(
            f"{self!r} counts for all that it is attached to, and cannot be copied or pickled: make one "
            "where it is used; processes share it by a store=... and a name=..."
        )

    def __repr__(self) -> str:
        return f"<RateLimit {self.name}>"


def _escaped(value: str) -> str:
    """So that no two combinations of names make the same bucket."""
    return value.replace("\\", "\\\\").replace(",", "\\,") if "," in value or "\\" in value else value
