"""What it takes to find a call's rule among fifty, and what plans and contracts say of it.

    python tests/benchmarks/bench_routing.py

Each decision is measured beside a bare call of a client (one tier, a provider that answers at once, no
rules), in turn in one run: microseconds, and how many of them would make one bare call. ``names``: fifty
rules by tenant, plan and tag, as contracts make them. ``mixed``: names, hours, tokens, loads, budgets,
classes and importance. ``loads``: fifty that ask for fifty different loads, which no index shortens.
``terms``: the contract filled in, and its terms beside its plan's, among a thousand contracts. Then what a
call of a client takes longer with rules, with a contract, and with fifty rules and sticky sessions.

Ends with an error where a decision takes longer than it may, or a call with rules and sessions.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable

from tierllm import Deployment, Response, StickySessions, Tier, TieredClient, Usage
from tierllm.admission.plans import ServicePlan
from tierllm.providers import BaseProvider
from tierllm.routing.ask import ask
from tierllm.routing.router import Router
from tierllm.routing.rules import Rule
from tierllm.sla.contract import Contract
from tierllm.sla.terms import ServiceTerms

MOST_US = 10.0
MOST_MORE_US = 15.0
"""For a whole call, with fifty rules and sticky sessions, than for the same call without them."""
TIERS = ["gold", "silver", "bronze"]
PROMPT = "Summarise the meeting in three sentences."


class Ready(BaseProvider):
    """Answers at once."""

    name = "ready"
    waits = False

    def complete(self, call, scope):
        return Response(text="fine", finish_reason="stop", usage=Usage(input_tokens=5, output_tokens=1))

    async def acomplete(self, call, scope):
        return self.complete(call, scope)


def best_us(works: dict[str, Callable[[], object]], calls: int = 400, rounds: int = 100) -> dict[str, float]:
    """The best of several rounds of each, taken in turn."""
    best = dict.fromkeys(works, float("inf"))
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        for name, work in works.items():
            begun = time.perf_counter()
            for _ in range(calls):
                work()
            best[name] = min(best[name], (time.perf_counter() - begun) / calls * 1e6)
    return best


def names() -> list[Rule]:
    rules = [Rule(f"tenant {n}", tenant=f"t{n}", min_tier="silver") for n in range(30)]
    rules += [Rule(f"plan {n}", plan=f"p{n}", tag=["vip", f"x{n}"], tier="gold") for n in range(15)]
    return [
        *rules,
        *(Rule(f"route {n}", route=f"r{n}", max_tier="silver") for n in range(4)),
        Rule(tier="gold"),
    ]


def mixed() -> list[Rule]:
    rules = [Rule(f"vip {n}", contract=f"c{n}", importance="high", min_tier="gold") for n in range(10)]
    rules += [Rule(f"plan {n}", plan=["free", f"p{n}"], tag=f"x{n}", max_tier="silver") for n in range(10)]
    rules += [Rule(f"load {n}", load=0.8 + n / 100, plan=f"p{n}", tier="silver") for n in range(5)]
    rules += [Rule(f"full {n}", forecast=1.0, tenant=[f"t{n}", "t"], tier="bronze") for n in range(5)]
    rules += [Rule(f"long {n}", tokens=(10_000 + n, None), min_tier="silver") for n in range(5)]
    rules += [Rule(f"late {n}", hours="22:00-06:00", route=f"r{n}", tier="bronze") for n in range(4)]
    rules += [Rule(f"poor {n}", budget_left=0.1 + n / 100, max_tier="bronze") for n in range(4)]
    rules += [Rule("proofs", tag="proof", set_class="high"), Rule("urgent", priority=(8, None), tier="gold")]
    rules += [Rule("easy", request_class="low", tools=False, tier="bronze")]
    rules += [Rule("hard", request_class="high", min_tier="silver"), Rule("tools", tools=True, tier="gold")]
    return [
        *rules,
        Rule("weekend", hours="sat-sun", priority=(None, 0), max_tier="silver"),
        Rule(balance=0.3),
    ]


def loads() -> list[Rule]:
    return [Rule(load=0.5 + n / 100, tier="silver") for n in range(50)]


def given(rule: Rule) -> dict[str, object]:
    """A rule's conditions on names."""
    return {option: getattr(rule, option) for option in ("name", "tenant", "plan", "tag", "route")}


def main() -> int:
    bound = {
        "load": lambda tier: (0.4, 0.5),
        "budget_left": lambda request: 0.7,
        "tokens": lambda request: 900,
        "classify": lambda text: ("medium", 0.4),
    }
    client = TieredClient([Tier("gold", [Deployment("m", Ready())])])
    works: dict[str, Callable[[], object]] = {"bare": lambda: client.complete(PROMPT)}
    calls = {
        "plain": ask(PROMPT, {}),
        "known": ask(PROMPT, {"tenant": "t29", "plan": "p3", "contract": "c9", "tags": ["a", "b"]}),
        "high": ask(PROMPT, {"importance": "high", "priority": 5, "tags": ["proof"], "user": "u"}),
    }
    for said, rules in (("names", names()), ("mixed", mixed()), ("loads", loads())):
        assert len(rules) == 50, (said, len(rules))
        table = Router(rules, scorer=len).bound(TIERS, **bound)
        for kind, request in calls.items():
            works[f"{said}, {kind}"] = lambda table=table, request=request: table.decide(request)
    contracts = [Contract(f"c{n}", tenants=[f"t{n}"], plan="pro", min_tier="silver") for n in range(1000)]
    terms = ServiceTerms([ServicePlan("pro", max_priority=5)], contracts, tiers=TIERS)
    tenant = ask(PROMPT, {"tenant": "t500", "user": "u"})
    works["terms"] = lambda: terms.terms_of(terms.filled(tenant))
    one = [Tier("gold", [Deployment("m", Ready())])]
    for_gold = [Rule(**{**given(rule), "tier": "gold"}) for rule in names()]
    routed = TieredClient(one, router=Router(for_gold))
    promising = TieredClient(
        one, plans=[ServicePlan("pro")], contracts=[Contract("acme", tenants=["t500"], plan="pro")]
    )
    works["routed"] = lambda: routed.complete(PROMPT, tenant="t500")
    works["promised"] = lambda: promising.complete(PROMPT, tenant="t500")
    sticky = TieredClient(one, router=Router(for_gold), sessions=StickySessions())
    works["sticky"] = lambda: sticky.complete(PROMPT, tenant="t500", session="s")
    works["of a session"] = lambda: client.complete(PROMPT, tenant="t500", session="s")
    works["named"] = lambda: client.complete(PROMPT, tenant="t500")
    found = best_us(works)
    bare, named = found.pop("bare"), found.pop("named")
    print(f"{'a bare call':20}{bare:8.2f} µs, {named:.2f} with a tenant")
    for name, what in (("routed", "fifty rules by names"), ("promised", "a contract and a plan")):
        print(f"{'a call with':20}{found.pop(name) - named:8.2f} µs more for {what}")
    more_us = found.pop("sticky") - found.pop("of a session")
    print(f"fifty rules and sticky sessions: {more_us:.2f} µs more for a whole call")
    failures = 0
    if more_us > MOST_MORE_US:
        print(f"  more than {MOST_MORE_US} µs")
        failures += 1
    for name, us in found.items():
        print(f"{name:20}{us:8.2f} µs{bare / us:8.1f} to a bare call")
        if us > MOST_US and not name.startswith("loads"):
            print(f"  more than {MOST_US} µs")
            failures += 1
    for each in (client, routed, promising, sticky):
        each.close()
    print("bounds: missed" if failures else "bounds: kept")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
