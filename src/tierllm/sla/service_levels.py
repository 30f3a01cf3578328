"""What a client's tiers and customers were promised, and how well that is kept."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..events import ObjectiveBurning, ObjectiveRecovered
from ..types import Objective
from .attainment import DEGRADED, ELSEWHERE, MIN_SAMPLES, Attainment
from .counting import Account, Kind, account_of, kind_of, served_elsewhere
from .report import Whose
from .subjects import Due, Subject, checked, named
from .windows import WINDOWS_S

if TYPE_CHECKING:
    from ..events import Event
    from ..pipeline.clock import Clock
    from ..types import Request, Response, Trace
    from .report import Report

__all__ = ["MAX_TENANTS", "ServiceLevels"]

MAX_TENANTS = 256
"""So many tenants' attainment is kept, the ones last seen: 16 MB at most."""

LONGEST_S = WINDOWS_S[-1]

MOVED = ("load", "shift", "pinned")
"""Why a tier let a call begin in another one: what it sends away it must not hide."""


class ServiceLevels:
    """Counts each call that ends: for the tier it was granted, its contract and, where asked, its tenant.

    ``tiers``, ``contracts`` and ``plans`` are the objectives by name; who has none is not watched. With
    ``tenants`` the tier's objective is also kept for each tenant apart, for the ``max_tenants`` last seen.
    ``deadline_s`` is the deadline of calls that name none. Thread-safe; ``emit`` is called outside of all
    locks. See ``docs/objectives.md`` for what counts.
    """

    def __init__(
        self,
        tiers: Mapping[str, Objective],
        *,
        contracts: Mapping[str, Objective] | None = None,
        plans: Mapping[str, Objective] | None = None,
        tenants: bool = False,
        max_tenants: int = MAX_TENANTS,
        min_samples: int = MIN_SAMPLES,
        deadline_s: float | None = None,
        clock: Clock = time.monotonic,
        emit: Callable[[Event], None] | None = None,
    ) -> None:
        if isinstance(max_tenants, bool) or not isinstance(max_tenants, int) or max_tenants < 1:
            raise ConfigError(f"max_tenants={max_tenants!r}: give a number of tenants, 1 or more")
        self.clock = clock
        self.min_samples = min_samples
        self.max_tenants = max_tenants
        self.deadline_s = deadline_s
        self._emit = emit
        self._tiers = {
            name: self._new(Whose(tier=name), checked("tiers", name, each)) for name, each in tiers.items()
        }
        self._contracts = {
            name: self._new(Whose(contract=name), checked("contracts", name, each))
            for name, each in (contracts or {}).items()
        }
        self._plans = {
            name: self._new(Whose(plan=name), checked("plans", name, each))
            for name, each in (plans or {}).items()
        }
        self._tenants: OrderedDict[tuple[str, str], Subject] | None = OrderedDict() if tenants else None
        self._heir: ServiceLevels | None = None
        self._due = Due()  # of contracts and tenants, which may be many
        self._lock = threading.RLock()

    def _new(self, whose: Whose, objective: Objective, like: Attainment | None = None) -> Subject:
        layout = None if like is None else like.layout
        return Subject(whose, Attainment(objective, min_samples=self.min_samples, layout=layout))

    # -- counting ----------------------------------------------------------------

    def count(
        self,
        trace: Trace,
        request: Request,
        response: Response | None,
        error: BaseException | None,
        *,
        driven: str = "",
    ) -> None:
        """A call has ended, with ``response`` or with ``error``. Called once for each call.

        ``driven`` is how it was made: ``"stream"``, or ``"read"`` once its consumer had seen the end.
        """
        tier = None if trace.granted is None else self._tiers.get(trace.granted)
        contract = None if trace.contract is None else self._contracts.get(trace.contract)
        plan = None if trace.plan is None else self._plans.get(trace.plan)
        left = [
            self._tiers[each.tier]
            for each in trace.candidates
            if each.reason in MOVED and each.deployment == "*" and each.tier in self._tiers
        ]
        if tier is None and contract is None and plan is None and not left:
            return
        now, kind = self.clock(), kind_of(trace, response, error, read=driven == "read")
        if kind != "cached":  # by whichever tier: no call has gone there
            for each in left:
                if each.attainment.apart(now, "moved"):
                    self._look(each, now)
        account = account_of(trace, request, response)
        marks: tuple[int, ...] = ()
        if kind == "answered" and response is not None:
            if response.degraded:
                marks = (DEGRADED,)
            if response.tier != trace.granted and served_elsewhere(trace, response):
                marks = (*marks, ELSEWHERE)
        unbegun = driven == "stream" and account.first_token_s is None
        if tier is not None:
            if self._count(tier, now, kind, request, account, marks, unbegun):
                self._look(tier, now)
            if self._tenants is not None and request.tenant is not None:
                tenant = self._tenant(tier, request.tenant)
                if self._count(tenant, now, kind, request, account, marks, unbegun):
                    self._due.add(tenant)
        if contract is not None and self._count(contract, now, kind, request, account, marks, unbegun):
            self._due.add(contract)
        if plan is not None and self._count(plan, now, kind, request, account, marks, unbegun):
            self._due.add(plan)
        due = self._due.next(now)
        if due is not None:
            self._look(due, now)

    def _count(
        self,
        subject: Subject,
        now: float,
        kind: Kind,
        request: Request,
        account: Account,
        marks: tuple[int, ...],
        unbegun: bool,
    ) -> bool:
        """Whether a look is worth its while."""
        attainment = subject.attainment
        latency_s, first_token_s, cost_usd = account
        if kind == "answered":
            return attainment.count(now, latency_s, first_token_s, True, cost_usd, marks)
        told: str = kind
        if kind == "late":
            given_s = request.deadline_s or self.deadline_s
            if given_s is not None and not request.defer_ok:
                latency_s = max(latency_s, given_s)  # or it was turned away: it could not be done in that
            if latency_s >= (attainment.time_s or 0.0):
                kind = "failed"
            told = "impatient"
        if kind == "failed":
            return attainment.count(now, latency_s, first_token_s, False, cost_usd, unbegun=unbegun)
        if kind == "late" or kind == "cancelled":
            return attainment.apart(
                now, told, waited_s=latency_s, first_token_s=first_token_s, unbegun=unbegun
            )
        return attainment.apart(now, kind)

    def _tenant(self, tier: Subject, name: str) -> Subject:
        heir, tenants, key = self._heir, self._tenants, (tier.whose.tier or "", name)
        assert tenants is not None
        if heir is not None and heir._tenants is not None and heir._tiers.get(key[0]) is tier:
            return heir._tenant(tier, name)  # this call began before a reload, and may be the tenant's first
        with self._lock:
            found = tenants.get(key)
            if found is None:
                found = tenants[key] = self._new(
                    Whose(tier.whose.tier, tenant=name), tier.attainment.objective, tier.attainment
                )
                if len(tenants) > self.max_tenants:
                    _, gone = tenants.popitem(last=False)
                    self._due.drop(gone)
            else:
                tenants.move_to_end(key)
        return found

    def _look(self, subject: Subject, now: float) -> None:
        """Tell whose error budgets have begun to burn, or burn no longer."""
        for change, left in subject.attainment.look(now):
            if self._emit is None:
                continue
            if change.burning:
                self._emit(
                    ObjectiveBurning(
                        subject=str(subject.whose),
                        goal=change.goal,
                        burn_rate=change.rate,
                        window_s=change.window_s,
                        budget_left=left,
                    )
                )
            else:
                self._emit(
                    ObjectiveRecovered(subject=str(subject.whose), goal=change.goal, after_s=change.after_s)
                )

    # -- telling -----------------------------------------------------------------

    def report(
        self,
        tier: str | None = None,
        contract: str | None = None,
        tenant: str | None = None,
        window_s: float | None = None,
        plan: str | None = None,
    ) -> Report:
        """How well one subject's promises were kept over ``window_s`` (the longest, unless given).

        Name a tier, a contract, a plan, or a tier and a tenant; nothing, where only one thing is promised.
        Raises ``ConfigError`` for what has no objective, and for a window that is not kept.
        """
        if plan is not None:
            if not tier is contract is tenant is None:
                raise ConfigError(
                    "attainment: name a plan, a contract, or a tier (and its tenant): one of them"
                )
            subject = named("plan", plan, self._plans)
        else:
            subject = self._found(tier, contract, tenant)
        now = self.clock()
        self._look(subject, now)
        asked_s = LONGEST_S if window_s is None else float(window_s)
        return subject.attainment.report(now, asked_s, subject.whose)

    def _found(self, tier: str | None, contract: str | None, tenant: str | None) -> Subject:
        if contract is not None:
            if tier is not None or tenant is not None:
                raise ConfigError("attainment: name a contract, or a tier (and its tenant), not both")
            return named("contract", contract, self._contracts)
        if tier is None:
            every = {**self._tiers} if tenant is not None else {**self._tiers, **self._contracts}
            if len(self._tiers) + (0 if tenant is not None else len(self._contracts)) != 1:
                known = ", ".join(every) or "none"
                raise ConfigError(f"attainment: name one tier or contract; those with an objective: {known}")
            found = next(iter(every.values()))
        else:
            found = named("tier", tier, self._tiers)
        if tenant is None:
            return found
        if self._tenants is None:
            raise ConfigError(f"tenant={tenant!r}: attainment is not kept by tenant here; ask for that first")
        with self._lock:
            kept = self._tenants.get((found.whose.tier or "", tenant))
        if kept is None:  # nothing of theirs has been counted, or not lately
            kept = self._new(Whose(found.whose.tier, tenant=tenant), found.attainment.objective)
        return kept

    def status(self) -> dict[str, Any]:
        """Everything, as plain data: of each tier and contract all windows, of each tenant the longest."""
        now = self.clock()
        with self._lock:
            tenants = [] if self._tenants is None else [*self._tenants.values()]
        for subject in (*self._tiers.values(), *self._contracts.values(), *self._plans.values(), *tenants):
            self._look(subject, now)
        by_tier: dict[str, dict[str, Any]] = {}
        for subject in tenants:
            told = subject.attainment.report(now, LONGEST_S, subject.whose).to_dict()
            by_tier.setdefault(subject.whose.tier or "", {})[subject.whose.tenant or ""] = told
        return {
            "tiers": {name: subject.status(now) for name, subject in self._tiers.items()},
            "contracts": {name: subject.status(now) for name, subject in self._contracts.items()},
            "plans": {name: subject.status(now) for name, subject in self._plans.items()},
            "tenants": by_tier,
        }

    # -- life --------------------------------------------------------------------

    def inherit(self, older: ServiceLevels) -> None:
        """Go on with the counts of ``older`` where a subject and its objective are the same.

        Both then count into the same windows, so calls that end under the older one are not lost, nor the
        tenants that are seen there first.
        """
        if older.min_samples != self.min_samples:
            return
        older._heir = self
        for mine, theirs in (
            (self._tiers, older._tiers),
            (self._contracts, older._contracts),
            (self._plans, older._plans),
        ):
            for name, subject in [*mine.items()]:
                before = theirs.get(name)
                if before is not None and before.attainment.objective == subject.attainment.objective:
                    mine[name] = before
        if self._tenants is None or older._tenants is None:
            return
        with older._lock:
            kept = [*older._tenants.items()]
        with self._lock:
            for key, subject in kept:
                tier = self._tiers.get(key[0])
                if tier is not None and tier.attainment.objective == subject.attainment.objective:
                    self._tenants[key] = subject
            while len(self._tenants) > self.max_tenants:
                self._tenants.popitem(last=False)

    def renew(self) -> None:
        """After a fork: locks of one's own. What was counted stays."""
        self._lock = threading.RLock()
        self._due.renew()
        if self._heir is not None:
            self._heir.renew()
        subjects = [*self._tiers.values(), *self._contracts.values(), *self._plans.values()]
        subjects += (self._tenants or {}).values()
        for subject in subjects:
            subject.attainment.renew()
