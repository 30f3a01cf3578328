"""Reserve before, settle after: the policy that keeps the budgets at one deployment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import BudgetExceededError, StoreUnavailableError
from ..events import log_failure
from ..pipeline.effects import Blocking, Handler
from ..stores.base import Hold, Settlement
from ..stores.reserving import reserving
from ..types import Response, Usage
from .billing import LONG, NOTHING, UNKNOWN, Billed, billed, delivered, reported
from .budget import lines_of
from .purchase import Purchase, Shortage, Taken
from .tokens import BIG

if TYPE_CHECKING:
    from ..stores import Store
    from ..types import Call
    from .budget import Budget, Draw
    from .place import Place
    from .treasury import Treasury

__all__ = ["Spending"]


class Spending:
    """Everything that one deployment's calls cost.

    The worst case of a call is reserved on all accounts it draws on, or on none. Where that does not
    fit, the input is counted exactly, ``max_tokens`` lowered if the budget says so, or the call
    refused with ``BudgetExceededError``. Settling is synchronous, whichever way the call ends.
    """

    def __init__(self, place: Place, treasury: Treasury) -> None:
        self.place = place
        self.treasury = treasury
        self.budgets: tuple[tuple[Budget, Store], ...] = tuple(
            (budget, treasury.store_of(budget))
            for budget in treasury.budgets
            if budget.holds_at(place.tier, place.deployment, place.model)
        )

    async def __call__(self, call: Call, call_next: Handler) -> Response:
        draws = self.draws(call)
        purchase = Purchase(self.place, call, draws)
        params = call.params
        sent = False
        try:
            self.treasury.books.expect(purchase)
            if draws:
                await self._reserve(purchase, call)
            sent = True
            response = await call_next(call)
            self._settle(purchase, self._reported(purchase, response), response=response)
        except BaseException as error:  # an interrupt may come anywhere: what is settled counts once
            if not sent:
                self._give_back(purchase)
            elif not purchase.settled:
                self._settle(purchase, self._bill(purchase, call, error), error=error)
            if isinstance(error, Exception):
                await self._flush(purchase)
            else:
                self._flush_soon(purchase)
            raise
        finally:
            call.params = params
        await self._flush(purchase)
        return response

    def draws(self, call: Call) -> list[Draw]:
        """The accounts that the call draws on here."""
        request, place = call.request, self.place
        found: list[Draw] = []
        now = self.treasury.wall()
        for budget, store in self.budgets:
            if not budget.where or budget.holds_for(request):
                found += budget.draws(request, place.tier, place.deployment, now, store)
        for cap in call.caps:
            own = cap.budget
            if own is None or not own.holds_at(place.tier, place.deployment, place.model):
                continue
            if not own.where or own.holds_for(request):
                found += cap.draws(now)
        return found

    def too_dear(self, call: Call) -> BudgetExceededError | None:
        """The refusal that is certain already, before anything is waited for. Changes nothing."""
        now = self.treasury.wall()
        purchase: Purchase | None = None
        draws = self.draws(call)
        for draw in draws:
            hard = draw.limit.hard
            if hard is None or draw.budget.mode != "enforce":
                continue
            standing = self.treasury.known(draw)
            if purchase is None:
                purchase = Purchase(self.place, call, draws)
            output = 1 if "clamp" in draw.budget.on_exceed else purchase.max_tokens
            least = purchase.amounts(purchase.least_input, output)[draw.limit.unit]
            if standing.settled + least > hard:
                return draw.budget.refusal(draw, standing, least, now)
        return None

    def outlook(self, call: Call) -> BudgetExceededError | None:
        """The refusal that the call would meet now, as far as is known without asking a shared store."""
        now = self.treasury.wall()
        draws = self.draws(call)
        purchase = Purchase(self.place, call, draws)
        standings = tuple(self.treasury.last_seen(draw) for draw in draws)
        while True:
            hold = Hold("", lines_of(draws, purchase.worst()))
            shortage = Shortage(hold, draws, standings)
            short = list(shortage.short())
            if not short:
                return None
            if not purchase.counted and purchase.size <= BIG and purchase.may_fit(shortage):
                purchase.count()
            elif not purchase.clamp(shortage, lowest=_lowest(call)):
                errors = [d.budget.refusal(d, standing, amount, now) for d, standing, amount in short]
                return next((e for e in errors if not e.steps_down), errors[0])

    def refuse(self, call: Call, error: BudgetExceededError) -> None:
        """Tell of a refusal that came before anything was waited for."""
        self.treasury.refused(Purchase(self.place, call, ()), error)

    def learn(self, call: Call, response: Response) -> None:
        """What an answer that was not metered teaches the estimates."""
        self.treasury.books.learn(Purchase(self.place, call, ()), response)

    # -- before -----------------------------------------------------------------

    async def _reserve(self, purchase: Purchase, call: Call) -> None:
        purchase.check()
        while (shortage := await self._take(purchase)) is not None:
            if not purchase.counted and purchase.may_fit(shortage):
                await self._count(purchase)
            elif not purchase.clamp(shortage, lowest=_lowest(call)):
                raise self._refusal(purchase, call, shortage)
        if purchase.lost:
            purchase.warnings.append("a budget's store could not be reached; the call went on without it")
        if purchase.settles_tier:  # or the account's own setting might make it a dearer one
            call.params = {**call.params, "service_tier": "default"}
        dropped = "max_tokens" in self.place.drop
        if purchase.bounded and purchase.wanted != purchase.max_tokens and not dropped:
            call.params = {**call.params, "max_tokens": purchase.max_tokens}

    async def _take(self, purchase: Purchase) -> Shortage | None:
        """Reserve on all accounts; where one has too little left, on none."""
        purchase.lost.clear()
        for store, draws in purchase.groups():
            hold = purchase.hold(store, draws)
            purchase.taken.append(Taken(store, hold, draws, ()))  # first: giving back too much is harmless
            try:
                if store.inline:
                    verdict = store.reserve(hold)
                else:
                    verdict = await reserving(store, hold)
            except StoreUnavailableError as error:
                purchase.lost.append(purchase.taken.pop())
                self._unreachable(purchase, draws, error)
                continue
            if not verdict.ok:
                purchase.taken.pop()
                self._give_back(purchase)
                return Shortage(hold, draws, verdict.standings)
            purchase.taken[-1] = Taken(store, hold, draws, verdict.standings)
        self.treasury.took(purchase)
        return None

    def _unreachable(self, purchase: Purchase, draws: Sequence[Draw], error: StoreUnavailableError) -> None:
        """Go on without a store, where all its budgets allow it."""
        for draw in draws:
            if draw.budget.hard and draw.budget.fail == "closed":
                self._give_back(purchase)
                refusal = BudgetExceededError(
                    f"budget {draw.budget.name!r}: its store cannot be reached, and it fails closed: {error}",
                    budget=draw.budget.name,
                    bucket=draw.bucket,
                    unit=draw.limit.unit,
                    steps_down=draw.budget.steps_down(),
                )
                self.treasury.refused(purchase, refusal)
                raise refusal from error

    def _give_back(self, purchase: Purchase) -> None:
        if purchase.taken:
            for taken in purchase.taken:
                taken.store.give_back(taken.hold)
            self._flush_soon(purchase)
            purchase.taken.clear()

    async def _count(self, purchase: Purchase) -> None:
        if purchase.size > BIG or not self.place.tokens.loaded:
            await Blocking(purchase.count)
        else:
            purchase.count()

    def _refusal(self, purchase: Purchase, call: Call, shortage: Shortage) -> BudgetExceededError:
        now = self.treasury.wall()
        errors = [d.budget.refusal(d, standing, amount, now) for d, standing, amount in shortage.short()]
        error = next((e for e in errors if not e.steps_down), errors[0])
        self.treasury.refused(purchase, error)
        return error

    # -- after ------------------------------------------------------------------

    def _bill(self, purchase: Purchase, call: Call, error: BaseException) -> Billed:
        progress = call.progress
        bill = billed(error, progress)
        if bill is None:
            assert progress is not None
            tokens, input_tokens = self.place.tokens, purchase.input_tokens
            if purchase.expected is not None:  # corrected by what this place reported before
                input_tokens = min(input_tokens, purchase.expected.input_tokens.p50)
            elif not purchase.counted and purchase.size <= BIG:
                input_tokens = min(input_tokens, tokens.count(call.messages, purchase.params))
            return self._within(purchase, delivered(progress, tokens, input_tokens))
        return bill

    def _reported(self, purchase: Purchase, response: Response) -> Billed:
        """What an answer cost. One that reports nothing is what was reserved, or more if it is longer."""
        bill = reported(response.usage)
        if isinstance(bill, Usage) and not bill.total_tokens and (response.text or response.tool_calls):
            bill = UNKNOWN
        most = purchase.max_tokens * purchase.copies
        if bill is UNKNOWN and len(response.text.encode("utf-8", "replace")) > most:
            part = response.text[:LONG]
            counted = self.place.tokens.text(part) * len(response.text) // len(part)
            if counted > most:
                return Usage(input_tokens=purchase.input_tokens, output_tokens=counted, estimated=True)
        return bill

    def _within(self, purchase: Purchase, usage: Usage) -> Usage:
        """Our own guess is never above what was reserved."""
        most = purchase.max_tokens * purchase.copies
        if usage.output_tokens <= most or not purchase.bounded:
            return usage
        return Usage(input_tokens=usage.input_tokens, output_tokens=most, estimated=True)

    def _settle(
        self,
        purchase: Purchase,
        bill: Billed,
        *,
        response: Response | None = None,
        error: BaseException | None = None,
    ) -> None:
        now = self.treasury.wall()
        for taken in purchase.taken:
            used = purchase.used(taken, bill)
            slots = tuple(draw.budget.window.at(now).slot for draw in taken.draws)
            taken.store.post(Settlement(taken.hold, used, slots))
        purchase.settled = True
        for taken in purchase.taken if bill is not NOTHING else ():
            self.treasury.settled(purchase, taken, purchase.used(taken, bill))
        for lost in purchase.lost if bill is not NOTHING else ():
            self.treasury.owe(lost, purchase.used(lost, bill), now)
        self.treasury.books.ended(purchase, bill, response, error)
        if response is not None and isinstance(bill, Usage) and not bill.estimated and purchase.price:
            response.cost_usd = purchase.price.cost_usd(bill)
        if purchase.clamped and purchase.call.lookup is not None:
            purchase.call.lookup.altered = True
        if response is not None and purchase.warnings:
            response.warnings = (*response.warnings, *purchase.warnings)

    async def _flush(self, purchase: Purchase) -> None:
        for taken in purchase.taken:
            store = taken.store
            if store.inline:
                continue
            try:
                await Blocking(store.flush, afn=store.aflush)
            except Exception:  # the answer is there, and what it cost is in the outbox
                log_failure("settling with a store failed")
            except BaseException:
                self._flush_soon(purchase)
                raise
        if self.treasury.arrears and purchase.taken:
            self.treasury.soon(self.treasury.pay)

    def _flush_soon(self, purchase: Purchase) -> None:
        for taken in purchase.taken:
            if not taken.store.inline:
                self.treasury.soon(taken.store.flush)


def _lowest(call: Call) -> bool:
    """Whether no tier is left beneath this one."""
    return call.plan is None or call.plan.is_lowest(call.tier)
