"""One row of the usage ledger."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

__all__ = ["Entry", "Outcome"]

Outcome = Literal["ok", "failed", "cancelled", "refused", "cached"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row: one call to a provider as it was settled, or one that a budget refused. No prompt text.

    ``id`` is the row's own and unique, ``trace_id`` that of the call, which may have several rows
    (retries that were billed, hedges). ``at`` is seconds since 1970. ``cost_usd`` is ``None`` where no
    price is known; ``estimated`` says that the provider did not report the tokens. ``estimate_usd``
    and ``reserved_usd`` are what was expected (mean) and what was reserved before sending.
    ``list_usd`` is what the same tokens would have cost without a cache, a vendor's or our own.
    ``budget`` is the one that refused. ``run`` names the run that the call was part of.
    """

    id: str
    trace_id: str
    at: float
    outcome: Outcome = "ok"
    user: str | None = None
    tenant: str | None = None
    plan: str | None = None
    contract: str | None = None
    tags: tuple[str, ...] = ()
    route: str | None = None
    run: str | None = None
    tier: str = ""
    deployment: str = ""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    service_tier: str | None = None
    estimated: bool = False
    cost_usd: Decimal | None = None
    estimate_usd: Decimal | None = None
    reserved_usd: Decimal | None = None
    list_usd: Decimal | None = None
    price_as_of: str | None = None
    cached: bool = False
    degraded: tuple[str, ...] = ()
    request_id: str | None = None
    latency_s: float | None = None
    budget: str | None = None
