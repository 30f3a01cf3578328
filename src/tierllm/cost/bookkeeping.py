"""From calls to rows of the ledger, and what the estimator learns from them."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ..events import CallSettled, Event, PriceUnknown
from ..types import Response, Usage
from .amounts import EXACT, NANO, nano
from .billing import NOTHING, Billed
from .ledger import Entry

if TYPE_CHECKING:
    from ..errors import BudgetExceededError
    from ..types import Call
    from .estimator import CostEstimator
    from .ledger import UsageLedger
    from .price import Price
    from .purchase import Purchase

__all__ = ["Bookkeeper"]

log = logging.getLogger("tierllm")

NO_DOLLARS = Decimal(0)


class Bookkeeper:
    """Writes a row for each call to a provider as it was settled, and tells it to listeners and runs.

    ``soon`` runs the ledger's flush off the path of the call. Thread-safe.
    """

    def __init__(
        self,
        *,
        ledger: UsageLedger | None,
        estimator: CostEstimator,
        wall: Callable[[], float],
        emit: Callable[[Event], None] | None,
        soon: Callable[[Callable[[], object]], None],
    ) -> None:
        self.ledger = ledger
        self.estimator = estimator
        self.wall = wall
        self.emit = emit
        self.soon = soon
        self._unpriced: set[str] = set()
        self.renew()

    def renew(self) -> None:
        """After a fork: row ids of parent and child must differ."""
        self._prefix = os.urandom(6).hex()
        self._numbers = itertools.count(1)

    def expect(self, purchase: Purchase) -> None:
        """Estimate what is likely, where somebody wants to know."""
        soft_only = any(draw.limit.hard is None for draw in purchase.draws)
        if self.ledger is None and not soft_only:
            return
        call = purchase.call
        quote = self.estimator.quote(
            purchase.place, call.messages, call.params, route=call.request.route, exact=False
        )
        purchase.expected = quote
        if soft_only:
            cost = quote.cost_usd
            tokens = quote.input_tokens.p90 + quote.output_tokens.p90
            purchase.likely = {"usd": nano(cost.p90) if cost else 0, "tokens": tokens, "calls": 1}

    def refused(self, purchase: Purchase, error: BudgetExceededError) -> None:
        """A budget kept the call back."""
        if self.ledger is not None or purchase.call.caps:
            self._write(purchase, self._entry(purchase, outcome="refused", budget=error.budget))

    def ended(
        self, purchase: Purchase, bill: Billed, response: Response | None, error: BaseException | None
    ) -> None:
        """A call to the provider ended, well (``response``) or not (``error``)."""
        call = purchase.call
        if response is not None and isinstance(bill, Usage):
            self.learn(purchase, response)
        if bill is NOTHING and response is None:
            return
        if purchase.price is None:
            self._tell_unpriced(purchase)
        if self.ledger is None and self.emit is None and not call.caps:
            return
        progress = call.progress
        request_id = getattr(error, "request_id", None) if response is None else response.request_id
        outcome = "ok" if error is None else "failed" if isinstance(error, Exception) else "cancelled"
        entry = self._entry(
            purchase,
            outcome=outcome,
            reserved_usd=EXACT.divide(purchase.reserved("usd"), NANO) if purchase.taken else None,
            request_id=request_id or (None if progress is None else progress.request_id),
            latency_s=None if progress is None else progress.elapsed_s,
            **(_reported(purchase.price, bill) if isinstance(bill, Usage) else _supposed(purchase)),
        )
        self._write(purchase, entry)

    def cached(self, call: Call, response: Response, saved_usd: Decimal | None) -> None:
        """An answer was there already; made for this call it would have cost ``saved_usd``."""
        if self.ledger is None and not call.caps:
            return
        request, trace, usage = call.request, call.trace, response.usage
        counted = {} if usage is None else _reported(None, usage)
        entry = Entry(
            **{
                **counted,
                "id": self._new_id(),
                "trace_id": "" if trace is None else trace.id,
                "at": self.wall(),
                "outcome": "cached",
                "user": request.user,
                "tenant": request.tenant,
                "plan": request.plan,
                "contract": request.contract,
                "tags": request.tags,
                "route": request.route,
                "run": _runs_of(call),
                "tier": response.tier or "",
                "deployment": response.deployment or "",
                "model": response.model or "",
                "cost_usd": NO_DOLLARS,
                "list_usd": saved_usd,
                "cached": True,
                "request_id": response.request_id,
            }
        )
        self._post(call, entry)

    def _new_id(self) -> str:
        return f"{self._prefix}-{next(self._numbers):x}"

    def _entry(self, purchase: Purchase, **more: Any) -> Entry:
        place, request, trace = purchase.place, purchase.call.request, purchase.call.trace
        expected = purchase.expected
        cost = None if expected is None else expected.cost_usd
        return Entry(
            id=self._new_id(),
            trace_id="" if trace is None else trace.id,
            at=self.wall(),
            user=request.user,
            tenant=request.tenant,
            plan=request.plan,
            contract=request.contract,
            tags=request.tags,
            route=request.route,
            run=_runs_of(purchase.call),
            tier=place.tier,
            deployment=place.deployment,
            model=place.model,
            estimate_usd=None if cost is None else cost.mean,
            price_as_of=None if purchase.price is None else purchase.price.as_of,
            degraded=_degraded(purchase),
            **more,
        )

    def _write(self, purchase: Purchase, entry: Entry) -> None:
        self._post(purchase.call, entry)
        if self.emit is not None and entry.outcome != "refused":
            self.emit(CallSettled(entry=entry))

    def _post(self, call: Call, entry: Entry) -> None:
        for run in {cap.run: None for cap in call.caps if cap.run is not None}:
            run.book(entry)
        if self.ledger is not None and self.ledger.post(entry):
            self.soon(self.ledger.flush)

    def learn(self, purchase: Purchase, response: Response) -> None:
        """Let the estimator know what an answer was like."""
        if response.usage is None:
            return
        progress, expected = purchase.call.progress, purchase.expected
        self.estimator.observe(
            purchase.place,
            route=purchase.call.request.route,
            usage=response.usage,
            estimated_input_tokens=None if expected is None else expected.input_tokens,
            max_tokens=purchase.sent,
            choices=purchase.copies,
            finish_reason=response.finish_reason,
            latency_s=None if progress is None else progress.elapsed_s,
            first_token_s=None if progress is None else progress.first_token_s,
        )

    def _tell_unpriced(self, purchase: Purchase) -> None:
        place = purchase.place
        if any(draw.limit.unit == "usd" for draw in purchase.draws):
            purchase.warnings.append(f"no price is known for {place.model!r}: its calls count as free")
        if place.name in self._unpriced:
            return
        self._unpriced.add(place.name)
        log.warning("%s: no price is known for %r, its calls count as free", place.name, place.model)
        if self.emit is not None:
            self.emit(PriceUnknown(tier=place.tier, deployment=place.deployment, model=place.model))


def _reported(price: Price | None, usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "service_tier": usage.service_tier,
        "estimated": usage.estimated,
        "cost_usd": None if price is None else price.cost_usd(usage),
        "list_usd": None if price is None else price.list_usd(usage),
    }


def _supposed(purchase: Purchase) -> dict[str, Any]:
    """Nobody knows what was used: as much as was reserved."""
    usd = purchase.reserved("usd") if purchase.hard or purchase.likely is None else purchase.likely["usd"]
    cost = None if purchase.price is None else EXACT.divide(usd, NANO)
    return {
        "input_tokens": purchase.input_tokens,
        "output_tokens": purchase.max_tokens * purchase.copies,
        "estimated": True,
        "cost_usd": cost,
        "list_usd": cost,
    }


def _degraded(purchase: Purchase) -> tuple[str, ...]:
    """What the caller did not get: the tier that was granted, or the length that was asked for."""
    plan = purchase.call.plan
    lower = plan is not None and plan.highest != purchase.place.tier
    return ("tier",) * lower + ("max_tokens",) * purchase.clamped


def _runs_of(call: Call) -> str | None:
    if not call.caps:
        return None
    return "/".join({cap.run.name: None for cap in call.caps if cap.run is not None}) or None
