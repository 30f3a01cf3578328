"""What plans and contracts together say of each call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ..admission.consent import Consent
from ..admission.plans import Plans, ServicePlan
from ..admission.promised import check_tiers, did_you_mean, limit_of, same_limit
from ..admission.rate_limit import RateLimit
from ..errors import ConfigError
from ..events import Event, PriorityLowered, emitter
from ..types import Objective, Request
from .contract import Contract

__all__ = ["ServiceTerms", "Terms"]

KEPT = 16_384
"""So many pairs of plan and contract are remembered, of those that there are."""

UNLISTED = ""
"""Stands for the plans that callers make up: what they say is nothing, and one pair is enough for all."""


class Terms(NamedTuple):
    """What holds for one call by its plan and its contract.

    No tier below ``min_tier`` or above ``max_tier``; no priority above ``max_priority`` (quotas come on top
    of that). ``shifts``: it may be sent to the next tier where one sheds. ``plan`` is its plan, where that is
    listed. ``observed`` are the terms as they would be if plans and contracts that only observe held too;
    ``None`` where that is the same. ``floor_by``, ``cap_by``: whose words ``min_tier`` and ``max_tier`` are.
    """

    min_tier: str | None = None
    max_tier: str | None = None
    max_priority: int | None = None
    shifts: bool = True
    plan: str | None = None
    contract: str | None = None
    observed: Terms | None = None
    floor_by: str = "plan"
    cap_by: str = "plan"


class ServiceTerms:
    """The plans and contracts of one client, whose tiers are ``tiers``, best first. Thread-safe.

    ``emit`` hears of each priority that was lowered, outside locks. Raises ``ConfigError`` for names that
    are there twice, tiers and plans that there are not, and a tenant of two contracts.
    """

    def __init__(
        self,
        plans: Iterable[ServicePlan] = (),
        contracts: Iterable[Contract] = (),
        *,
        tiers: Sequence[str],
        emit: Callable[[Event], None] | None = None,
    ) -> None:
        self.plans = Plans(plans, emit=emit)
        self._rank = {tier: number for number, tier in enumerate(tiers)}
        for plan in self.plans:
            check_tiers(f"ServicePlan({plan.name!r}", plan.min_tier, plan.max_tier, tiers)
        self._contracts: dict[str, Contract] = {}
        self._by_tenant: dict[str, str] = {}
        for contract in contracts:
            self._add(contract, tiers)
        limits = ((name, limit_of("contract", each)) for name, each in self._contracts.items())
        self._limits = {name: limit for name, limit in limits if limit is not None}
        self._counts = {name: _Counts() for name in self._contracts}
        self._emit = emitter(() if emit is None else (emit,))
        self._lock = threading.Lock()
        self._known: dict[tuple[str | None, str | None], Terms] = {}

    def _add(self, contract: Contract, tiers: Sequence[str]) -> None:
        if not isinstance(contract, Contract):
            raise ConfigError(f"contracts=[...]: give Contract(...), not {type(contract).__name__}")
        where = f"Contract({contract.name!r}"
        if contract.name in self._contracts:
            raise ConfigError(f"contracts=[...]: two are called {contract.name!r}; take one of them out")
        check_tiers(where, contract.min_tier, contract.max_tier, tiers)
        if contract.plan is not None and self.plans.get(contract.plan) is None:
            hint = did_you_mean(contract.plan, [plan.name for plan in self.plans]) or "add it to plans=[...]"
            raise ConfigError(f"{where}, plan={contract.plan!r}): there is no such plan; {hint}")
        for tenant in contract.tenants:
            other = self._by_tenant.setdefault(tenant, contract.name)
            if other != contract.name:
                raise ConfigError(
                    f"{where}, tenants=...): {tenant!r} has the contract {other!r} already; which one holds? "
                    "Leave it out of one, whose calls then name it"
                )
        self._contracts[contract.name] = contract

    # -- a call ----------------------------------------------------------------

    def contract_of(self, request: Request) -> str | None:
        """The contract that a call names, or else that of its tenant.

        Raises ``ConfigError`` for one that there is not: what was promised must not be lost by a slip of the
        pen.
        """
        name = request.contract
        if name is None:
            tenant = request.tenant
            return None if tenant is None else self._by_tenant.get(tenant)
        if name not in self._contracts:
            listed = ", ".join(self._contracts) or "none: add it to contracts=[...]"
            hint = did_you_mean(name, self._contracts) or f"there are {listed}"
            raise ConfigError(f"contract={name!r}: there is no such contract; {hint}")
        return name

    def settled(self, request: Request) -> tuple[Request, Terms]:
        """The request with its tenant's contract and its contract's plan, where it names none; and its terms.

        A contract that only observes fills in no plan. A plan that is not listed says nothing, and is no way
        out of the contract's. Raises ``ConfigError`` for a contract that there is not.
        """
        name, plan = self.contract_of(request), request.plan
        listed = plan if plan is None or plan in self.plans else UNLISTED
        if name is not None and (plan is None or listed is UNLISTED):
            contract = self._contracts[name]
            if contract.mode == "enforce" and contract.plan is not None:
                listed = contract.plan
                plan = plan or contract.plan
        found = self._known.get((listed, name))
        if found is None:
            found = self._together(listed, name)
            if len(self._known) < KEPT:
                self._known[listed, name] = found
        if name != request.contract or plan != request.plan:
            request = Request(**{**request.__dict__, "contract": name, "plan": plan})
        return request, found

    def knows(self, plan: str) -> bool:
        """Whether that plan is listed; where none is, any name is as good as another."""
        return plan in self.plans or not len(self.plans)

    def filled(self, request: Request) -> Request:
        """The request, as ``settled`` has it."""
        return self.settled(request)[0]

    def terms_of(self, request: Request) -> Terms:
        """What holds for a call, as ``settled`` has it."""
        return self.settled(request)[1]

    def _together(self, plan_name: str | None, contract_name: str | None) -> Terms:
        contract = None if contract_name is None else self._contracts.get(contract_name)
        plan = self.plans.get(plan_name)
        terms = self._of([each for each in (plan, contract) if each is not None and each.mode == "enforce"])
        if plan_name is None and contract is not None:
            plan = self.plans.get(contract.plan)  # it would be filled in
        would = self._of([each for each in (plan, contract) if each is not None])
        terms, would = (each._replace(contract=contract_name) for each in (terms, would))
        terms, would = (
            terms._replace(plan=plan_name or None),
            would._replace(plan=None if plan is None else plan.name),
        )
        same = would._replace(plan=terms.plan) == terms
        return terms if same else terms._replace(observed=would)

    def _of(self, sayings: Sequence[ServicePlan | Contract]) -> Terms:
        """The plan first, the contract after it."""
        floor = cap = most = None
        floor_by = cap_by = "plan"
        shifts = True
        for each in sayings:
            by = "contract" if isinstance(each, Contract) else "plan"
            if each.min_tier is not None and (floor is None or self._rank[each.min_tier] < self._rank[floor]):
                floor, floor_by = each.min_tier, by
            if each.max_tier is not None and (cap is None or self._rank[each.max_tier] > self._rank[cap]):
                cap, cap_by = each.max_tier, by
            if each.max_priority is not None:
                most = each.max_priority if most is None else min(most, each.max_priority)
            shifts = shifts if each.shifts is None else each.shifts
        return Terms(floor, cap, most, shifts, floor_by=floor_by, cap_by=cap_by)

    def priority_of(
        self, request: Request, priority: int, now: float, *, trace_id: str = ""
    ) -> tuple[int, tuple[str, ...]]:
        """The priority that a call is granted, and warnings where it claimed another.

        To be asked once a call, after ``filled``: what is granted counts against the plan's quota.
        """
        granted, told = self._by_contract(request, priority, now, trace_id)
        granted, warning = self.plans.priority_of(request.plan, granted, now, trace_id=trace_id)
        return granted, told if warning is None else (*told, warning)

    def _by_contract(
        self, request: Request, priority: int, now: float, trace_id: str
    ) -> tuple[int, tuple[str, ...]]:
        name = request.contract
        contract = None if name is None else self._contracts.get(name)
        if contract is None:
            return priority, ()
        most = contract.max_priority
        if (
            contract.mode == "observe" and request.plan is None
        ):  # its plan is none of the call's, but would be
            plan = self.plans.get(contract.plan)
            bounds = [each.max_priority for each in (plan, contract) if each is not None]
            most = min((each for each in bounds if each is not None), default=None)
        lowered = most is not None and priority > most
        with self._lock:
            counts = self._counts[contract.name]
            counts.calls += 1
            counts.lowered += lowered
        if most is None or not lowered:
            return priority, ()
        self._emit(
            PriorityLowered(
                trace_id=trace_id,
                plan=request.plan or "",
                claimed=priority,
                granted=most,
                mode=contract.mode,
                contract=contract.name,
            )
        )
        said = f"contract {name!r}: priority {priority}"
        if contract.mode == "observe":
            return priority, (f"observed only: {said} would be lowered to {most}, the highest it allows",)
        return most, (f"{said} was lowered to {most}, the highest it allows",)

    def weight_of(self, request: Request) -> float:
        """What the call's tenant weighs in a queue, as its plan has it."""
        return self.plans.weight_of(request.plan)

    # -- what a client is made of --------------------------------------------------

    def rate_limits(self) -> list[RateLimit]:
        """What plans and contracts limit, for all deployments: the same objects each time."""
        return [*self.plans.rate_limits(), *self._limits.values()]

    def consents(self) -> list[Consent]:
        """What those on the plans and under the contracts have agreed to; nothing of those that observe."""
        own = [
            each.of(contract=contract.name)
            for contract in self._contracts.values()
            if contract.mode == "enforce"
            for each in contract.consent
        ]
        return [*self.plans.consents(), *own]

    def objectives(self) -> dict[str, Objective]:
        """What was promised, by contract: its own objective, or else that of its plan."""
        found: dict[str, Objective] = {}
        for contract in self._contracts.values():
            plan = self.plans.get(contract.plan)
            objective = contract.objective or (None if plan is None else plan.objective)
            if objective is not None:
                found[contract.name] = objective
        return found

    def plan_objectives(self) -> dict[str, Objective]:
        """What was promised, by plan."""
        return {plan.name: plan.objective for plan in self.plans if plan.objective is not None}

    @property
    def contracts(self) -> tuple[Contract, ...]:
        """All of them, in their order."""
        return tuple(self._contracts.values())

    # -- over time -------------------------------------------------------------

    def inherit(self, older: ServiceTerms) -> None:
        """Take over from those before a change of the configuration: what was claimed stays claimed, and
        limits that are still the same go on. Before ``rate_limits`` is asked; the older ones work on."""
        self.plans.inherit(older.plans)
        self._lock = older._lock
        for name in self._contracts.keys() & older._contracts.keys():
            self._counts[name] = older._counts[name]
        for name, limit in self._limits.items():
            earlier = older._limits.get(name)
            if earlier is not None and same_limit(earlier, limit):
                self._limits[name] = earlier

    def status(self, now: float | None = None) -> dict[str, dict[str, Any]]:
        """The plans, as ``Plans.status`` has it."""
        return self.plans.status(now)

    def contracts_status(self) -> dict[str, dict[str, Any]]:
        """By contract: its bounds, and how many calls it had and how many of them claimed too much."""
        with self._lock:
            counts = {name: (each.calls, each.lowered) for name, each in self._counts.items()}
        return {
            name: {
                "mode": contract.mode,
                "plan": contract.plan,
                "tenants": len(contract.tenants),
                "min_tier": contract.min_tier,
                "max_tier": contract.max_tier,
                "max_priority": contract.max_priority,
                "calls": counts[name][0],
                "above_max_priority": counts[name][1],
            }
            for name, contract in self._contracts.items()
        }

    def renew(self) -> None:
        """After a fork: the locks may belong to the parent."""
        self.plans.renew()
        self._lock = threading.Lock()


class _Counts:
    """The calls under one contract. Its owner holds the lock."""

    __slots__ = ("calls", "lowered")

    def __init__(self) -> None:
        self.calls = 0
        self.lowered = 0
