"""Random rules and calls, and the plainest way to find the rule for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hypothesis import strategies as st

from tierllm.admission.schedule import Hours
from tierllm.routing.router import Decision, Router
from tierllm.routing.routing_table import RoutingTable
from tierllm.routing.rules import Rule
from tierllm.types import Request

TIERS = ["gold", "silver", "bronze"]
CLASSES = ["low", "medium", "high"]
HOURS = ["mon-fri 08:00-18:00", "22:00-06:00", "sat-sun", "mon 09:00-12:00", "tue,thu", "08:00-20:00"]
MONDAY = datetime(2026, 11, 2, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class World:
    """All that is not in the request. ``found`` is what a scorer says: a class, ``"?"`` where it fails,
    ``None`` where there is none."""

    loads: dict[str, tuple[float, float]]
    left: float | None = None
    tokens: int = 100
    wall_s: float = MONDAY
    found: str | None = None

    def table(self, rules: Sequence[Rule]) -> RoutingTable:
        return Router(rules, scorer=len).bound(
            TIERS,
            load=lambda tier: self.loads[tier or "nowhere"],
            budget_left=lambda request: self.left,
            tokens=lambda request: self.tokens,
            wall=lambda: self.wall_s,
            classify=self._classify,
        )

    def _classify(self, text: str) -> tuple[str, float]:
        if self.found is None:
            return "nobody asks", 0.0
        if self.found == "?":
            raise ValueError(text)
        return self.found, 0.5


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Mostly of few conditions, so that they match often."""
    some = draw(st.sets(st.sampled_from(CONDITIONS), max_size=3))
    given = {}
    for option in sorted(some):
        given[option] = draw(STRATEGIES[option])
    if "load" in given and given.get("below_load", 9.0) <= given["load"]:
        del given["below_load"]
    if {"load", "forecast", "below_load"} & given.keys():
        given["of"] = draw(st.sampled_from([None, *TIERS]))
    outcome = draw(st.sampled_from(["tier", "bounds", "floor", "set_class", "nothing"]))
    if outcome == "tier":
        given["tier"] = draw(st.sampled_from(TIERS))
    elif outcome == "bounds":
        best, worst = sorted(draw(st.tuples(st.integers(0, 2), st.integers(0, 2))))
        given |= {"max_tier": TIERS[best], "min_tier": TIERS[worst]}
        given["balance"] = draw(st.none() | st.sampled_from([0.0, 0.3, 1.0]))
    elif outcome == "floor":
        given["min_tier"] = draw(st.sampled_from(TIERS))
    elif outcome == "set_class":
        given["set_class"] = draw(st.sampled_from(CLASSES))
    elif not some:
        given["tier"] = "gold"
    return Rule(**given)


def several(low: int, high: int) -> st.SearchStrategy[tuple[int | None, int | None]]:
    number = st.integers(low, high)
    both = st.tuples(number, number).map(lambda pair: (min(pair), max(pair)))
    return both | st.tuples(number, st.none()) | st.tuples(st.none(), number)


STRATEGIES: dict[str, st.SearchStrategy[object]] = {
    "plan": st.sampled_from(["free", "pro", ["free", "pro"]]),
    "contract": st.sampled_from(["acme", "globex"]),
    "tenant": st.sampled_from(["a", "b", ["a", "b"]]),
    "user": st.sampled_from(["u1", "u2"]),
    "tag": st.sampled_from(["x", "y", ["x", "y"], ["y", "z"]]),
    "route": st.sampled_from(["chat", "code"]),
    "language": st.sampled_from(["en", "de"]),
    "importance": st.sampled_from(["low", "normal", "high", ["low", "normal"], ["normal", "high"]]),
    "request_class": st.sampled_from([*CLASSES, ["low", "medium"], ["medium", "high"]]),
    "priority": st.integers(-1, 3) | several(-1, 3),
    "tokens": several(0, 300),
    "tools": st.booleans(),
    "hours": st.sampled_from(HOURS),
    "load": st.sampled_from([0.0, 0.5, 0.9]),
    "forecast": st.sampled_from([0.5, 0.9]),
    "below_load": st.sampled_from([0.5, 0.9]),
    "budget_left": st.sampled_from([0.0, 0.2, 0.5, 1.0]),
}
CONDITIONS = [*sorted(STRATEGIES), *["request_class", "load", "tag"] * 2]  # what is the most entangled

level = st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.2])
worlds = st.builds(
    World,
    loads=st.fixed_dictionaries({tier: st.tuples(level, level) for tier in TIERS}),
    left=st.sampled_from([None, 0.0, 0.1, 0.2, 0.6, 1.0]),
    tokens=st.integers(0, 300),
    wall_s=st.integers(0, 7 * 1440).map(lambda minute: MONDAY + minute * 60.0),
    found=st.sampled_from([None, "?", *CLASSES]),
)


def or_none(pool: Sequence[str]) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(pool)


requests = st.builds(
    lambda tools, **given: Request(
        messages=({"role": "user", "content": "hello"},),
        **{name: value for name, value in given.items() if value is not None},
        **({"params": {"tools": [{}]}} if tools else {}),
    ),
    tools=st.booleans(),
    sla=or_none(TIERS),
    plan=or_none(["free", "pro", "other"]),
    contract=or_none(["acme", "globex", "other"]),
    tenant=or_none(["a", "b", "c"]),
    user=or_none(["u1", "u2", "u3"]),
    tags=st.lists(st.sampled_from("xyzw"), max_size=3).map(tuple),
    route=or_none(["chat", "code", "other"]),
    language=or_none(["en", "de", "fr"]),
    importance=or_none(["low", "normal", "high"]),
    request_class=or_none(CLASSES),
    priority=st.integers(-2, 4),
)


def holds(rule: Rule, request: Request, world: World) -> bool:
    """Whether all conditions but that on the class do."""
    for option in ("plan", "contract", "tenant", "user", "route", "language"):
        wanted = getattr(rule, option)
        if wanted is not None and getattr(request, option) not in wanted:
            return False
    if rule.importance is not None and (request.importance or "normal") not in rule.importance:
        return False
    if rule.tag is not None and not rule.tag & set(request.tags):
        return False
    for bounds, value in ((rule.priority, request.priority), (rule.tokens, world.tokens)):
        low, high = bounds or (None, None)
        if (low is not None and value < low) or (high is not None and value > high):
            return False
    if rule.tools is not None and rule.tools != bool(request.params.get("tools")):
        return False
    if rule.hours is not None:
        minute = int(world.wall_s - MONDAY) // 60 % (7 * 1440)
        if not Hours(rule.hours, size=1).hold_at(minute // 1440, minute % 1440):
            return False
    load, forecast = world.loads[rule.of or request.sla or TIERS[0]]
    for value, least, below in (
        (load, rule.load, rule.below_load),
        (forecast, rule.forecast, rule.below_forecast),
    ):
        if (least is not None and value < least) or (below is not None and value >= below):
            return False
    left = 1.0 if world.left is None else world.left
    return rule.budget_left is None or left <= rule.budget_left


def plainly(rules: Sequence[Rule], request: Request, world: World, scorer: bool) -> Decision:
    """The decision, rule by rule. ``scorer``: whether there is one."""
    cls, said, score, unsure, looked = (
        request.request_class,
        request.request_class is not None,
        None,
        False,
        False,
    )
    matched: Rule | None = None
    name = None
    for number, rule in enumerate(rules):
        if not holds(rule, request, world):
            continue
        if rule.request_class is not None:
            if cls is None and scorer and not looked:
                looked = True
                if world.found in CLASSES:
                    cls, score = world.found, 0.5
                else:
                    cls, unsure = "high", True
            if cls not in rule.request_class:
                continue
        if rule.set_class is not None:
            if not said:
                cls, said, unsure = rule.set_class, True, False
            continue
        matched, name = rule, rule.name or f"rules[{number}]"
        break
    outcomes = () if matched is None else (matched.tier, matched.min_tier, matched.balance)
    decides = matched if any(each is not None for each in outcomes) else None
    important = request.importance == "high" and "high" not in ((decides and decides.importance) or ())
    hard = cls == "high" and said and "high" not in ((decides and decides.request_class) or ())
    floor = important or hard or unsure
    if matched is None:
        matched = Rule(tier="gold")
        tier = None
    else:
        tier = matched.tier
    return Decision(name, tier, matched.min_tier, matched.max_tier, matched.balance, cls, score, floor)
