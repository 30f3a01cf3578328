"""Which rule decides: the first that matches, whatever it asks, and always the same."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.ruled import TIERS, World, plainly, requests, rules, worlds
from tierllm.errors import ConfigError
from tierllm.routing.ask import ask
from tierllm.routing.questions import Scale, Span
from tierllm.routing.router import Decision, Router
from tierllm.routing.rules import Rule
from tierllm.sla.terms import Terms
from tierllm.types import Request


def decided(
    listed: list[Rule], *, scorer: Any = None, bound: dict[str, Any] | None = None, **options: Any
) -> Decision:
    table = Router(listed, scorer=scorer).bound(TIERS, **(bound or {}))
    return table.decide(ask("How?", options))


# -- the promise ------------------------------------------------------------------------------


@settings(max_examples=250, deadline=None)
@given(st.lists(rules(), max_size=12), st.lists(requests, min_size=1, max_size=4), worlds)
def test_it_finds_what_asking_rule_by_rule_finds(
    listed: list[Rule], asked: list[Request], world: World
) -> None:
    logging.getLogger("tierllm").setLevel(logging.CRITICAL)
    try:
        table = world.table(listed)
        for request in asked:
            found = table.decide(request)
            assert found == plainly(listed, request, world, scorer=True)
            assert table.decide(request) == found  # and the same again
    finally:
        logging.getLogger("tierllm").setLevel(logging.NOTSET)


@settings(max_examples=200, deadline=None)
@given(st.lists(rules(), max_size=12), requests, worlds)
def test_it_does_so_without_a_scorer(listed: list[Rule], request: Request, world: World) -> None:
    listed = [rule for rule in listed if rule.balance is None]
    table = Router(listed).bound(
        TIERS,
        load=lambda tier: world.loads[tier or ""],
        budget_left=lambda request: world.left,
        tokens=lambda request: world.tokens,
        wall=lambda: world.wall_s,
    )
    assert table.decide(request) == plainly(listed, request, world, scorer=False)


@settings(max_examples=100, deadline=None)
@given(st.lists(rules(), max_size=8), requests, worlds)
def test_uncertain_goes_up(listed: list[Rule], request: Request, world: World) -> None:
    """The floor of a call that nobody can judge is no lower than that of a difficult one, where the same
    rule decides about both; and its difficulty is no reason for the weaker model."""
    if request.request_class is not None:
        return
    failed = World(world.loads, world.left, world.tokens, world.wall_s, "?")
    difficult = World(world.loads, world.left, world.tokens, world.wall_s, "high")
    one, other = failed.table(listed).decide(request), difficult.table(listed).decide(request)
    assert one[:5] == other[:5]
    assert one.floor >= other.floor


def test_a_hundred_rules_are_no_other_than_three() -> None:
    listed = [Rule(f"u{n}", user=f"u{n}", tier=TIERS[n % 3]) for n in range(100)]
    assert decided(listed, user="u77").rule == "u77"
    assert decided(listed, user="u100") == Decision()


# -- what a rule says ---------------------------------------------------------------------------


def test_the_first_match_wins() -> None:
    listed = [
        Rule("vip", tag="vip", tier="gold"),
        Rule("free", plan="free", tier="bronze"),
        Rule(tier="silver"),
    ]
    assert decided(listed, plan="free", tags=["vip"]).tier == "gold"
    assert decided(listed, plan="free").tier == "bronze"
    assert decided(listed) == Decision(rule="rules[2]", tier="silver")


def test_a_rule_that_says_nothing_is_an_exception() -> None:
    listed = [Rule("as it is", tenant="acme"), Rule(max_tier="bronze")]
    assert decided(listed, tenant="acme") == Decision(rule="as it is")


def test_without_a_match_nothing_is_said() -> None:
    assert decided([Rule(plan="free", tier="bronze")]) == Decision()
    assert decided([]) == Decision()


def test_bounds_and_balance_come_along() -> None:
    listed = [Rule(min_tier="bronze", max_tier="silver", balance=0.3)]
    found = decided(listed, scorer=len)
    assert (found.min_tier, found.max_tier, found.balance) == ("bronze", "silver", 0.3)


# -- classes ----------------------------------------------------------------------------------


def test_the_class_is_found_out_once_and_only_where_a_rule_asks() -> None:
    asked = []

    def classify(text: str) -> tuple[str, float]:
        asked.append(text)
        return "medium", 0.4

    listed = [
        Rule(plan="free", tier="bronze"),
        Rule(request_class="high", tier="gold"),
        Rule(request_class=["medium"], tier="silver"),
    ]
    bound = {"classify": classify}
    assert decided(listed, scorer=len, bound=bound, plan="free").request_class is None
    assert asked == []
    found = decided(listed, scorer=len, bound=bound)
    assert (found.tier, found.request_class, found.score) == ("silver", "medium", 0.4)
    assert asked == ["How?"]


def test_the_caller_knows_best() -> None:
    listed = [Rule(set_class="low"), Rule(request_class="high", tier="gold"), Rule(tier="bronze")]
    assert decided(listed, request_class="high").tier == "gold"
    assert decided(listed).tier == "bronze"


def test_a_rule_sets_the_class_and_the_search_goes_on() -> None:
    listed = [
        Rule(tag="proof", set_class="high"),
        Rule(tag="proof", set_class="low"),
        Rule(request_class="high", tier="gold"),
    ]
    found = decided(listed, tags=["proof"])
    assert (found.tier, found.request_class) == ("gold", "high")


def test_a_class_that_a_rule_has_set_is_not_found_out() -> None:
    listed = [Rule(tag="proof", set_class="high"), Rule(request_class="low", tier="bronze")]
    found = decided(listed, scorer=len, bound={"classify": lambda text: ("low", 0.1)}, tags=["proof"])
    assert (found.tier, found.request_class, found.score) == (None, "high", None)


def test_a_rule_may_correct_what_a_scorer_says() -> None:
    listed = [
        Rule(request_class="medium", route="legal", set_class="high"),
        Rule(request_class="high", tier="gold"),
        Rule(tier="bronze"),
    ]
    bound = {"classify": lambda text: ("medium", 0.4)}
    assert decided(listed, scorer=len, bound=bound, route="legal").tier == "gold"
    assert decided(listed, scorer=len, bound=bound).tier == "bronze"


def test_what_nobody_says_matches_no_class() -> None:
    listed = [
        Rule(request_class="high", tier="gold"),
        Rule(request_class=["medium", "high"], min_tier="silver"),
        Rule(request_class="high", min_tier="bronze"),
        Rule(request_class="low", min_tier="gold"),
        Rule("rest", max_tier="silver"),
    ]
    assert decided(listed) == Decision(rule="rest", max_tier="silver")


@pytest.mark.parametrize("outcome", [{}, {"max_tier": "gold"}], ids=str)
def test_a_rule_that_decides_nothing_takes_no_importance_away(outcome: dict[str, Any]) -> None:
    said = ["low", "medium", "high"]
    about = decided([Rule("audit", importance=["normal", "high"], **outcome)], importance="high")
    assert (about.rule, about.floor) == ("audit", True)
    assert decided([Rule("all", request_class=said, **outcome)], request_class="high").floor
    assert not decided([Rule(importance="high", min_tier="bronze")], importance="high").floor


@pytest.mark.parametrize(
    "said", [("high", float("nan")), ("dreadful", 0.2), None, ValueError("the prompt is: How?")], ids=str
)
def test_a_scorer_that_fails_makes_a_call_difficult(said: Any, caplog: pytest.LogCaptureFixture) -> None:
    def classify(text: str) -> Any:
        if isinstance(said, Exception):
            raise said
        return said

    listed = [Rule(request_class="high", tier="gold"), Rule(tier="bronze")]
    found = decided(listed, scorer=len, bound={"classify": classify})
    assert (found.tier, found.request_class, found.score, found.floor) == ("gold", "high", None, True)
    assert "How?" not in caplog.text


def test_a_call_that_shows_no_prompt_is_difficult() -> None:
    table = Router([Rule(request_class="high", tier="gold")], scorer=len).bound(TIERS)
    assert table.decide(Request(messages=())).tier == "gold"


def test_a_scorer_alone_gives_classes_too() -> None:
    listed = [Rule(request_class="low", tier="bronze"), Rule(request_class="high", tier="gold")]
    router = Router(listed, scorer=lambda text: len(text) / 100, classes=(0.1, 0.5))
    table = router.bound(TIERS)
    assert table.decide(ask("short", {})).tier == "bronze"
    assert table.decide(ask("x" * 60, {})).tier == "gold"
    assert table.decide(ask("x" * 20, {})).tier is None


# -- what is said to matter -----------------------------------------------------------------------


def test_an_important_call_is_not_left_to_its_difficulty() -> None:
    assert decided([], importance="high") == Decision(floor=True)
    assert decided([Rule("all", balance=0.2)], scorer=len, importance="high").floor
    assert not decided([Rule("all", balance=0.2)], scorer=len).floor


def test_but_a_rule_that_speaks_of_it_has_the_say() -> None:
    listed = [Rule(importance="high", plan="free", balance=0.5), Rule(balance=0.2)]
    assert not decided(listed, scorer=len, importance="high", plan="free").floor
    assert decided(listed, scorer=len, importance="high").floor  # it speaks of others


def test_nor_is_one_that_is_said_to_be_difficult() -> None:
    assert decided([], request_class="high").floor
    assert decided([Rule(tag="x", set_class="high")], tags=["x"]).floor
    assert not decided([Rule(request_class="high", balance=0.5)], scorer=len, request_class="high").floor
    assert not decided([], request_class="medium").floor


def test_one_that_says_nothing_of_its_importance_is_of_the_normal_one() -> None:
    listed = [Rule(importance=["low", "normal"], tier="bronze")]
    assert decided(listed).tier == "bronze"
    assert decided(listed, importance="high").tier is None


# -- what is asked for ------------------------------------------------------------------------------


def test_the_load_is_that_of_the_tier_that_a_call_starts_in_or_of_the_one_named() -> None:
    loads = {"gold": (0.95, 1.2), "silver": (0.2, 0.3), "bronze": (0.0, 0.0)}
    bound = {"load": lambda tier: loads[tier]}
    assert decided([Rule(load=0.9, tier="silver")], bound=bound).tier == "silver"
    assert decided([Rule(load=0.9, tier="bronze")], bound=bound, sla="silver").tier is None
    assert decided([Rule(forecast=1.1, of="gold", max_tier="bronze")], bound=bound, sla="silver").max_tier
    assert decided([Rule(load=0.9, below_forecast=1.0, tier="silver")], bound=bound).tier is None
    both = [Rule(load=0.9, of="silver", tier="gold"), Rule(load=0.9, of="gold", tier="bronze")]
    assert decided(both, bound=bound).tier == "bronze"
    assert decided([Rule(below_load=0.2, of="silver", tier="silver")], bound=bound).tier is None


def test_a_load_is_asked_for_once_and_only_where_it_matters() -> None:
    asked: list[str | None] = []

    def load(tier: str | None) -> tuple[float, float]:
        asked.append(tier)
        return 0.5, 0.5

    listed = [Rule(plan="free", tier="gold"), *(Rule(load=0.6 + n / 100, tier="gold") for n in range(9))]
    decided(listed, bound={"load": load}, plan="free")
    assert asked == []
    decided(listed, bound={"load": load})
    assert asked == ["gold"]


def test_tokens_and_budgets_are_asked_for_once() -> None:
    asked: list[str] = []
    bound = {
        "tokens": lambda request: asked.append("tokens") or 700,
        "budget_left": lambda request: asked.append("budget") or None,
    }
    listed = [
        Rule(tokens=(1000, None), tier="gold"),
        Rule(tokens=(None, 600), tier="gold"),
        Rule(budget_left=0.9, tier="gold"),
        Rule(budget_left=0.95, tier="gold"),
        Rule(tokens=(600, 700), budget_left=1.0, tier="bronze"),
    ]
    assert decided(listed, bound=bound).tier == "bronze"
    assert asked == ["tokens", "budget"]


def test_a_priority_counts_as_far_as_it_is_granted() -> None:
    table = Router([Rule(priority=5, tier="gold")]).bound(TIERS)
    request = ask("How?", {"priority": 9})
    assert table.decide(request).tier == "gold"
    assert table.decide(request, Terms(max_priority=3)).tier is None
    assert table.decide(request, Terms()).tier == "gold"


def test_numbers_are_compared_exactly() -> None:
    large = 2**60
    listed = [
        Rule("more", priority=large + 1, tier="gold"),
        Rule("most", priority=(large, large), tier="silver"),
    ]
    assert decided(listed, priority=large).rule == "most"
    assert decided(listed, priority=large + 1).rule == "more"
    assert decided(listed, priority=large - 1).rule is None


def test_a_load_that_is_no_number_meets_no_condition() -> None:
    listed = [Rule(load=0.0, tier="gold"), Rule(below_load=9.0, tier="gold"), Rule(plan="free", tier="gold")]
    nan = float("nan")
    assert decided(listed, bound={"load": lambda tier: (nan, nan)}) == Decision()


@pytest.mark.parametrize("wall_s", [float("nan"), 1e300, -1e300])
def test_a_mad_clock_does_not_fail_a_call(wall_s: float) -> None:
    assert decided([Rule(hours="sat-sun", tier="gold")], bound={"wall": lambda: wall_s}) == Decision()


# -- settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule(tier="gould"), "rules[0]: tier='gould': there is no such tier; did you mean 'gold'?"),
        (Rule("vip", min_tier="x"), "rules[0] ('vip'): min_tier='x': there is no such tier; the tiers are"),
        (Rule(load=0.5, of="sylver"), "of='sylver': there is no such tier; did you mean 'silver'?"),
        (
            Rule(min_tier="gold", max_tier="silver"),
            "rules[0]: min_tier='gold' is above max_tier='silver': min_tier is the floor",
        ),
    ],
    ids=["tier", "bound", "of", "order"],
)
def test_rules_for_other_tiers_are_refused(rule: Rule, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Router([rule]).bound(TIERS)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"rules": Rule(tier="gold")},
        {"rules": ["gold"]},
        {"rules": [Rule("a", tier="gold"), Rule("a", tier="silver")]},
        {"scorer": 3},
        {"scorer": dict},
        {"scorer": len, "weak": ""},
        {"scorer": len, "weak": "gold", "strong": "gold"},
        {"scorer": len, "balance": 1.5},
        {"scorer": len, "balance": True},
        {"scorer": len, "explore": -0.1},
        {"scorer": len, "explore": float("nan")},
        {"scorer": len, "classes": (0.5, 0.2)},
        {"scorer": len, "classes": 0.5},
        {"scorer": len, "judge": 0.5},
        {"mode": "off"},
        {"balance": 0.5},
        {"weak": "bronze"},
        {"judge": len},
        {"rules": [Rule(balance=0.5)]},
    ],
    ids=lambda given: ",".join(f"{k}={v!r}" for k, v in given.items())[:60],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Router(**given)


@pytest.mark.parametrize(
    "arms", [{"weak": "gould"}, {"strong": "x"}, {"weak": "gold"}, {"strong": "bronze"}], ids=str
)
def test_the_weak_tier_comes_after_the_strong_one(arms: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        Router(scorer=len, **arms).bound(TIERS)


def test_it_shows_what_it_is() -> None:
    assert repr(Router([Rule(tier="gold")])) == "<Router of 1 rules>"


@pytest.mark.parametrize(
    ("options", "terms", "of"),
    [
        ({}, Terms(max_tier="bronze"), "bronze"),
        ({"sla": "silver"}, Terms(max_tier="gold"), "silver"),
        ({"sla": "gold"}, Terms(max_tier="silver"), "silver"),
        ({"sla": "bronze"}, Terms(min_tier="silver"), "silver"),
        ({"min_tier": "silver"}, Terms(max_tier="bronze"), "silver"),
        ({"min_tier": "bronze"}, None, "gold"),
        ({"sla": "nowhere", "min_tier": "nowhere"}, None, "gold"),
    ],
    ids=str,
)
def test_the_load_is_that_of_the_tier_that_plan_and_contract_let_it_start_in(
    options: dict[str, Any], terms: Terms | None, of: str
) -> None:
    asked: list[str | None] = []

    def load(tier: str | None) -> tuple[float, float]:
        asked.append(tier)
        return 0.0, 0.0

    table = Router([Rule(load=0.5, tier="bronze")]).bound(TIERS, load=load)
    table.decide(Request(messages=({"role": "user", "content": "hello"},), **options), terms)
    assert asked == [of]


@pytest.mark.parametrize("tokens", [(None, 500), (0, None), (0, 10)])
def test_a_call_that_shows_no_prompt_meets_no_condition_on_its_length(tokens: Any) -> None:
    table = Router([Rule(tokens=tokens, tier="bronze"), Rule("rest", tier="gold")]).bound(TIERS)
    assert table.decide(Request(messages=())).rule == "rest"
    assert table.decide(Request(messages=({"role": "user", "content": ""},))).rule == (
        "rest" if tokens[0] else "rules[0]"
    )


@given(
    st.lists(
        st.tuples(st.none() | st.integers(0, 6), st.none() | st.integers(0, 6), st.booleans()), max_size=6
    )
)
def test_a_scale_knows_which_spans_a_number_is_in(
    given_spans: list[tuple[int | None, int | None, bool]],
) -> None:
    spans = {number: Span(*span) for number, span in enumerate(given_spans)}
    scale = Scale(spans, len(spans) + 1)
    for value in (-1, *range(7), 0.5, 3.5, 9):
        held = scale.at(value)
        assert held >> len(spans) == 1  # who does not ask
        for number, (low, high, open_) in spans.items():
            inside = (low is None or value >= low) and (
                high is None or value < high or (value == high and not open_)
            )
            assert bool(held >> number & 1) == inside, (value, spans[number])
