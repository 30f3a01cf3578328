"""All budgets of one client, what is known of their accounts, and what is told of them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ..errors import BudgetExceededError, ConfigError, UsageError
from ..events import Event
from ..stores import MemoryStore, Standing
from ..types import Request
from .alerts import Alerts
from .arrears import Arrears
from .bookkeeping import Bookkeeper
from .budget import Budget, Draw, Remaining, lines_of
from .budget_checks import PLACES
from .last_seen import NEVER_SEEN, LastSeen
from .runs import Cap, active_runs
from .spend import asked_by

if TYPE_CHECKING:
    from ..stores import Store
    from .advice import BudgetUse
    from .estimator import CostEstimator
    from .ledger import UsageLedger
    from .place import Place
    from .purchase import Purchase, Taken

__all__ = ["Treasury"]

OWN_NAME = "max_cost_usd"
NOBODY = Request(messages=())
GLIDE = 0.2
"""From this share of a budget on that is left, money that will not come back at a known time goes slower."""


class Treasury:
    """What ``Spending`` at the deployments of one client has in common. Thread-safe.

    ``store`` keeps the accounts of budgets that have none of their own. ``soon`` runs a store's flush
    off the path of the call.
    """

    def __init__(
        self,
        budgets: Sequence[Budget],
        *,
        store: Store | None,
        ledger: UsageLedger | None,
        estimator: CostEstimator,
        wall: Callable[[], float],
        emit: Callable[[Event], None] | None,
        soon: Callable[[Callable[[], object]], None],
    ) -> None:
        self.store = store or MemoryStore(clock=wall)
        self.ledger = ledger
        self.active = False
        """Whether every call is metered; otherwise only those that have caps of their own."""
        self._child = self._forked = False
        self._keeps(budgets)
        self.wall = wall
        self._emit = emit
        self.soon = soon
        self.books = Bookkeeper(ledger=ledger, estimator=estimator, wall=wall, emit=emit, soon=soon)
        self.alerts = Alerts(emit, wall)
        self.places: list[Place] = []
        self._cost_caps: dict[tuple[Decimal, bool], Budget] = {}
        self._seen = LastSeen()
        self.arrears = Arrears()
        self._call_store = MemoryStore(clock=wall)
        self.kept: tuple[Store, ...] = ()
        self._calls = itertools.count(1)
        for each in self.stores():
            if emit is not None:
                each.listen(emit)
        if ledger is not None:
            ledger.emit = getattr(ledger, "emit", None) or emit

    def _keeps(self, budgets: Sequence[Budget]) -> None:
        names = [budget.name for budget in budgets]
        if OWN_NAME in names:
            raise ConfigError(f"Budget(name={OWN_NAME!r}): that is what a call's own limit is called")
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"TieredClient(budgets): two are called {name!r}; give one a name=...")
        self.budgets = tuple(b for b in budgets if b.per[0] not in ("call", "run"))
        self.caps = tuple(b for b in budgets if b.per[0] == "call")
        self.run_budgets = tuple(b for b in budgets if b.per[0] == "run")
        self.active = bool(self.budgets or self.caps or self.ledger is not None)
        self._steering = tuple(b for b in self.budgets if _steers(b))
        self._everywhere = tuple(b for b in self.budgets if b.mode == "enforce" and not _of_places(b))
        self._forked = self._child and any(
            budget.hard and budget.scope == "shared" and not self.store_of(budget).shared
            for budget in self.budgets
        )

    def heir(self, budgets: Sequence[Budget]) -> Treasury:
        """A treasury with other budgets, and everything else in common with this one: stores, accounts and
        what is reserved on them, the ledger, what is owed. Only the last one is to be closed and renewed."""
        twin = copy.copy(self)
        twin._keeps(budgets)
        twin.places = []
        return twin

    def store_of(self, budget: Budget) -> Store:
        return budget.store or self.store

    def stores(self) -> list[Store]:
        """Every store in use, once."""
        own = (self.store, *(budget.store for budget in self.budgets), *self.kept)
        return list({id(store): store for store in own if store}.values())

    def keep(self, stores: Sequence[Store]) -> None:
        """See to these stores as well: listen to them, and close them in the end."""
        known = self.stores()
        for store in stores:
            if store not in known:
                self.kept = (*self.kept, store)
                if self._emit is not None:
                    store.listen(self._emit)

    # -- before a call ------------------------------------------------------------

    def caps_of(self, request: Request, owner: object) -> tuple[Cap, ...]:
        """The budgets of this very call, and of the runs it is part of."""
        if self._forked:
            raise UsageError(
                "this process was forked, and a hard budget in memory would count twice: "
                'give the client a DiskStore or a RedisStore, or the budget scope="process"'
            )
        runs = [run for run in active_runs() if run.owner is owner]
        if any(run.forked and run.hard for run in runs):
            raise UsageError(
                "this process was forked inside a run, whose limits would count twice: "
                "begin a run of its own here"
            )
        caps = [cap for run in runs for cap in run.caps]
        of_call = [budget for budget in self.caps if budget.holds_for(request)]
        if request.max_cost_usd is not None:
            of_call.append(self._cost_cap(request.max_cost_usd, "max_tokens" in request.params))
        if of_call:
            bucket = f"call={next(self._calls):x}"
            caps += [Cap(budget, bucket, self._call_store) for budget in of_call]
        return tuple(caps)

    def _cost_cap(self, usd: Decimal, as_asked: bool) -> Budget:
        key = (usd, as_asked)
        found = self._cost_caps.get(key)
        if found is None:
            on_exceed: Any = "downgrade" if as_asked else ("downgrade", "clamp")
            found = Budget(hard_usd=usd, per="call", name=OWN_NAME, on_exceed=on_exceed)
            if len(self._cost_caps) < 1024:
                self._cost_caps[key] = found
        return found

    def steered(self, request: Request, tiers: tuple[str, ...], caps: Sequence[Cap]) -> tuple[str, ...]:
        """``tiers`` with those last whose soft limits say that a lower one is to do.

        A limit that is not about tiers sends a call one tier down, one per tier as far as it must.
        """
        now = self.wall()
        start = 0
        while start < len(tiers) - 1 and self._passed(request, tiers[start], caps, now, anyway=start == 0):
            start += 1
        return (*tiers[start:], *tiers[:start]) if start else tiers

    def _passed(self, request: Request, tier: str, caps: Sequence[Cap], now: float, *, anyway: bool) -> bool:
        """Whether a soft limit is passed in this tier; ``anyway``: or one that is the same in all tiers."""
        for budget in self._steering:
            if not budget.holds_for(request) or tier not in budget.where.get("tier", (tier,)):
                continue
            if not (anyway or "tier" in budget.per or "tier" in budget.where):
                continue
            if self._over_soft(budget.draws(request, tier, "", now, self.store_of(budget))):
                return True
        for cap in caps:
            own = cap.budget
            if own is None or not anyway or not _steers(own) or not own.holds_for(request):
                continue
            if tier in own.where.get("tier", (tier,)) and self._over_soft(cap.draws(now)):
                return True
        return False

    def _over_soft(self, draws: Sequence[Draw]) -> bool:
        return any(d.limit.soft is not None and self.last_seen(d).settled >= d.limit.soft for d in draws)

    def last_seen(self, draw: Draw) -> Standing:
        """How an account stood when this process last drew on it: good enough for a soft limit."""
        return self._seen.of(draw)

    def left_share(self, request: Request) -> float | None:
        """What is left of the tightest budget that holds for ``request`` wherever it goes, as a share, as far
        as is known without asking a shared store; ``None``: there is none. Budgets that only observe, and
        those of a run or of the call itself, do not count."""
        now, least = self.wall(), None
        for budget in self._everywhere:
            if not budget.holds_for(request):
                continue
            for draw in budget.draws(request, "", "", now, self.store_of(budget)):
                most = draw.limit.hard if draw.limit.hard is not None else draw.limit.soft
                if most:
                    standing = self.last_seen(draw)
                    left = max(0.0, 1.0 - (standing.settled + standing.reserved) / most)
                    least = left if least is None else min(least, left)
        return least

    def pace(self) -> float:
        """How fast the money of the client's own budgets goes: 2.0 is twice as fast as lasts to the end of
        their windows; 0.0 where there is none. The first twentieth of a window tells little, and counts as
        over. A rolling window and a total have no end: they go by what is left, 1.0 where a fifth is."""
        now, fastest = self.wall(), 0.0
        for budget in self._everywhere:
            if budget.per != ("client",) or budget.where:
                continue
            span = budget.window.at(now)
            gone = None
            if span.begins_at is not None and span.resets_at is not None:
                gone = max(0.05, (now - span.begins_at) / (span.resets_at - span.begins_at))
            for draw in budget.draws(NOBODY, "", "", now, self.store_of(budget)):
                most = draw.limit.hard if draw.limit.hard is not None else draw.limit.soft
                if most and draw.limit.unit == "usd":
                    used = self.last_seen(draw).settled / most
                    pace = used / gone if gone is not None else GLIDE / max(1.0 - used, GLIDE / 100)
                    fastest = max(fastest, pace)
        return fastest

    def steers(self, caps: Sequence[Cap]) -> bool:
        """Whether some soft limit on the call sends it to a lower tier once it is passed."""
        return bool(self._steering) or any(c.budget is not None and _steers(c.budget) for c in caps)

    def known(self, draw: Draw) -> Standing:
        """How an account stands as far as is known without asking a shared store.

        What was settled in a calendar window never becomes less, so that old news is sound.
        """
        sure = draw.store.inline or draw.budget.window.seconds is None
        return self.last_seen(draw) if sure else NEVER_SEEN

    # -- what happened --------------------------------------------------------------

    def took(self, purchase: Purchase) -> None:
        """Everything is reserved."""
        for taken in purchase.taken:
            if not taken.store.inline:
                for draw, standing in zip(taken.draws, taken.standings, strict=True):
                    self._seen.note(draw, standing)
            self.alerts.reserved(purchase, taken)

    def refused(self, purchase: Purchase, error: BudgetExceededError) -> None:
        """A budget kept the call back."""
        self.alerts.refused(purchase, error)
        self.books.refused(purchase, error)

    def settled(self, purchase: Purchase, taken: Taken, used: Sequence[int]) -> None:
        """One hold was settled."""
        if not taken.store.inline:
            for draw, standing, amount in zip(taken.draws, taken.standings, used, strict=True):
                self._seen.note(draw, standing._replace(settled=standing.settled + amount))
        self.alerts.settled(purchase, taken, used)

    def owe(self, lost: Taken, used: Sequence[int], now: float) -> None:
        """A call went on without its store, and cost something: to be booked when the store is back."""
        self.arrears.owe(lost, used, now)

    def pay(self) -> None:
        """Book what is owed, as far as stores can be reached. One thread at a time; the next waits."""
        self.arrears.pay()

    # -- watching ------------------------------------------------------------------

    def remaining(self, **who: Any) -> list[Remaining]:
        """How every budget stands for ``who``."""
        self.pay()
        request, now = asked_by(who), self.wall()
        found: dict[str, Draw] = {}
        for budget in self.budgets:
            if not budget.holds_for(request):
                continue
            store = self.store_of(budget)
            for place in self.places:
                asked = (who.get("tier", place.tier), who.get("deployment", place.deployment))
                if asked == (place.tier, place.deployment) and budget.holds_at(
                    place.tier, place.deployment, place.model
                ):
                    for draw in budget.draws(request, place.tier, place.deployment, now, store):
                        found.setdefault(draw.account, draw)
        left: list[Remaining] = []
        for draw in found.values():
            draw.store.flush()
            (standing,) = draw.store.standings(lines_of((draw,)))
            left.append(draw.budget.remains(draw, standing))
        return left

    def status(self) -> dict[str, Any]:
        """The budgets as plain data; how they stand for somebody is what ``remaining`` says."""
        return {
            budget.name: {
                "per": list(budget.per),
                "window": budget.window.spec,
                "mode": budget.mode,
                "limits": {
                    limit.unit: {
                        kind: None if amount is None else float(limit.told(amount))
                        for kind, amount in (("hard", limit.hard), ("soft", limit.soft))
                    }
                    for limit in budget.limits
                },
                "refused": self.alerts.refusals.get(budget.name, 0),
            }
            for budget in (*self.budgets, *self.caps, *self.run_budgets)
        }

    def uses(self) -> list[BudgetUse]:
        """How far each hard limit was used at most, since this client began."""
        from .advice import BudgetUse

        return [
            BudgetUse(
                budget.name,
                limit.told(limit.hard),
                limit.told(self.alerts.peaks.get((budget.name, limit.unit), 0)),
            )
            for budget in self.budgets
            for limit in budget.limits
            if limit.hard is not None
        ]

    def check_prices(self) -> None:
        """Raises ``ConfigError`` where a hard limit in dollars can meet a model without a price."""
        for budget in (*self.budgets, *self.caps, *self.run_budgets):
            if not budget.hard or all(limit.unit != "usd" or limit.hard is None for limit in budget.limits):
                continue
            for place in self.places:
                if budget.holds_at(place.tier, place.deployment, place.model) and place.price is None:
                    raise ConfigError(
                        f"{place.name}: no price is known for {place.model!r}, and budget {budget.name!r} "
                        "has a hard limit in dollars: give the deployment price=Price(...)"
                    )

    def close(self) -> None:
        """Settle and write what is waiting, and let go of stores and ledger."""
        with ExitStack() as all_of_them:  # one that fails must not save the others
            all_of_them.callback(self._let_go)
            for store in self.stores():
                all_of_them.callback(store.close)
            all_of_them.callback(self.pay)

    async def aclose(self) -> None:
        async with AsyncExitStack() as all_of_them:
            all_of_them.callback(self._let_go)
            for store in self.stores():
                all_of_them.push_async_callback(store.aclose)
            all_of_them.callback(self.pay)

    def _let_go(self) -> None:
        if self._emit is not None:
            for store in self.stores():
                store.unlisten(self._emit)
        if self.ledger is not None:
            self.ledger.close()

    def renew(self) -> None:
        """After a fork; stores and ledger see to themselves."""
        self._seen.renew()
        self.arrears.renew()
        self.books.renew()
        self.alerts.renew()
        self._child = True
        self._keeps((*self.budgets, *self.caps, *self.run_budgets))


def _of_places(budget: Budget) -> bool:
    """Whether it may hold in one place and not in another."""
    return bool(PLACES & budget.where.keys() or PLACES & set(budget.per))


def _steers(budget: Budget) -> bool:
    return budget.on_soft == "downgrade" and budget.mode == "enforce"
