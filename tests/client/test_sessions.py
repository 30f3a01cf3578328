"""Sessions among all that sends calls elsewhere: budgets, load, shifts, rules, difficulty, callers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tierllm import (
    Admission,
    Budget,
    Cascade,
    Deployment,
    LearnedScorer,
    Objective,
    Request,
    Response,
    ResultCache,
    Router,
    Rule,
    ServicePlan,
    StickySessions,
    Tier,
    TieredClient,
)
from tierllm.pipeline.effects import Handler
from tierllm.stores import MemoryStore
from tierllm.testing import Fail, FakeProvider, Reply
from tierllm.types import Call

NAMES = ("gold", "silver", "bronze")


class Shared(MemoryStore):
    """A store of this process that says it is everybody's, and counts what is read."""

    shared = True
    read = 0

    def load(self, name: str) -> bytes | None:
        self.read += name.startswith("sticky:")
        return super().load(name)


class World:
    def __init__(self, *, per: Any = "session", tier: dict[str, Any] | None = None, **given: Any) -> None:
        self.now = 1.7e9
        self.fake = FakeProvider(answer=self.reply)
        self.tiers = [
            Tier(name, [Deployment(name[0], self.fake)], **(tier or {}).get(name, {})) for name in NAMES
        ]
        self.client = TieredClient(
            self.tiers,
            sessions=StickySessions(per=per),
            clock=lambda: self.now,
            retry=False,
            breaker=False,
            **given,
        )

    def reply(self, call: Call) -> Reply:
        return Reply("poor" if call.model == "b" and "hard" in call.request.text else "good")

    def call(self, text: str = "Hello", **given: Any) -> Response:
        self.now += 1
        return self.client.complete(text, **given)

    def tier(self, text: str = "Hello", **given: Any) -> str | None:
        return self.call(text, **given).tier

    def later(self, times: int = 20, **given: Any) -> set[str | None]:
        """Where its calls are answered, one a minute."""
        found = set()
        for _ in range(times):
            self.now += 60
            found.add(self.tier(**given))
        return found


def judge(request: Request, response: Response) -> float:
    return 0.0 if response.text == "poor" else 1.0


# -- where it is at home ------------------------------------------------------------------


def test_who_began_while_its_tier_was_out_comes_back() -> None:
    world = World()
    world.fake.script("g", Fail.unavailable())
    world.fake.script("s", Fail.unavailable())
    assert world.tier(session="s1") == "bronze"
    binding = world.client._setup.sticking.binding(session="s1")  # type: ignore[union-attr]
    assert binding is not None
    assert (binding.home[0], binding.place, binding.why) == (
        "gold",
        ("bronze", "b"),
        "ProviderUnavailableError 503",
    )
    assert world.tier(session="s1") == "bronze"
    assert world.later(session="s1") == {"gold"}
    assert binding.home == binding.place == ("gold", "g")


def test_who_began_while_its_tier_was_shifted_away_from_comes_back() -> None:
    world = World(tier={"gold": {"objective": Objective(latency_p95_s=4), "shift": True}})
    world.client.shift("gold", away=True, for_s=20)
    assert world.tier(session="s1") == "silver"
    assert world.later(session="s1") == {"gold"}


def test_who_began_over_a_soft_limit_comes_back_when_its_window_is_over() -> None:
    world = World(budgets=[Budget(soft_calls=1, per="user", on_soft="downgrade", window="1h")])
    assert world.tier(user="u", session="a") == "gold"
    assert world.tier(user="u", session="b") == "silver"
    assert world.tier(user="u", session="b") == "silver"
    world.now += 2 * 3600 - 60
    world.call(user="u", session="b")
    world.now += 2 * 3600
    assert world.tier(user="u", session="b") == "gold"


def test_who_is_granted_more_than_when_it_was_bound_goes_there() -> None:
    world = World(plans=[ServicePlan("free", max_tier="bronze"), ServicePlan("premium")])
    assert world.tier(user="u", plan="free") == "bronze"
    assert world.tier(user="u", plan="premium") == "gold"
    assert world.tier(user="u", plan="free") == "bronze"
    assert world.later(user="u", plan="premium") == {"gold"}


def test_a_rules_tier_holds_for_its_calls() -> None:
    world = World(router=Router([Rule(tag="title", tier="bronze")]))
    assert world.tier(session="s1", tags=["title"]) == "bronze"
    assert world.tier(session="s1") == "gold"
    assert world.tier(session="s1", tags=["title"]) == "bronze"
    assert world.later(session="s1") == {"gold"}


# -- what a caller names ----------------------------------------------------------------------


@pytest.mark.parametrize("who", [{"user": "u"}, {"session": "s"}], ids=["user", "session"])
def test_a_tier_that_was_named_once_is_nobodys_home(who: dict[str, str]) -> None:
    world = World()
    assert world.tier(sla="bronze", **who) == "bronze"
    assert world.tier(**who) == "gold"
    assert world.tier(sla="silver", **who) == "silver"
    assert world.later(**who) == {"gold"}


def test_an_important_call_lifts_nobody_and_is_nobodys_home() -> None:
    easy = Router(scorer=lambda text: -1.0, explore=0.0)
    world = World(router=easy)
    assert world.tier(session="s1", importance="high") == "gold"
    assert world.tier(session="s1") == "bronze"
    assert world.tier(session="s1", importance="high") == "gold"
    assert world.later(session="s1") == {"bronze"}


def test_who_always_names_its_tier_keeps_its_deployment() -> None:
    fake = FakeProvider()
    tier = Tier("gold", [Deployment(name, fake) for name in "abcd"], choose="weighted")
    client = TieredClient([tier], sessions=StickySessions())
    first = client.complete("Hello", session="s1", sla="gold").deployment
    assert {client.complete("Hello", session="s1", sla="gold").deployment for _ in range(20)} == {first}
    client.close()


# -- users, difficulty and cascades -----------------------------------------------------------


def hard(text: str) -> float:
    return 1.0 if "hard" in text else -1.0


@pytest.mark.parametrize(("who", "held"), [("user", False), ("session", True)])
@pytest.mark.parametrize("by", ["scorer", "cascade"])
def test_difficulty_goes_before_a_users_binding_and_not_before_a_sessions(
    who: str, held: bool, by: str
) -> None:
    given: dict[str, Any] = (
        {"router": Router(scorer=hard, explore=0.0)} if by == "scorer" else {"cascade": Cascade(judge)}
    )
    world = World(**given)
    assert world.tier("hard", **{who: "x"}) == "gold"
    assert world.later(text="easy", **{who: "x"}) == {"gold" if held else "bronze"}
    assert world.tier("hard", **{who: "x"}) == "gold"


def test_a_user_keeps_its_deployment_in_the_tier_that_difficulty_chose() -> None:
    fake = FakeProvider()
    tiers = [
        Tier("gold", [Deployment("g", fake)]),
        Tier("bronze", [Deployment(name, fake) for name in "abcd"], choose="weighted"),
    ]
    client = TieredClient(tiers, sessions=StickySessions(), router=Router(scorer=hard, explore=0.0))
    first = client.complete("easy", user="u").deployment
    assert {client.complete("easy", user="u").deployment for _ in range(20)} == {first}
    assert client.complete("hard", user="u").tier == "gold"
    assert client.complete("easy", user="u").deployment == first
    client.close()


def test_the_calls_of_a_user_teach_the_router() -> None:
    world = World(router=Router(scorer=LearnedScorer()))
    heard = [world.client.feedback(world.call(f"q {n}", user="u").trace.id, 1.0) for n in range(10)]  # type: ignore[union-attr]
    assert all(heard)


def test_a_session_that_a_cascade_began_with_is_at_home_in_the_cheap_tier() -> None:
    world = World(cascade=Cascade(judge))
    assert world.tier("easy", session="s1") == "bronze"
    assert world.tier("hard", session="s1") == "gold"
    assert world.later(text="easy", session="s1") == {"bronze"}


def test_a_session_that_a_rule_sends_to_the_cheap_tier_is_not_cascaded() -> None:
    world = World(router=Router([Rule(tag="bulk", tier="bronze")]), cascade=Cascade(judge))
    assert world.tier("easy", session="s1") == "bronze"
    assert world.tier("hard", session="s1", tags=["bulk"]) == "bronze"
    assert world.tier("hard", session="s1") == "gold"


# -- the tier that was chosen sends its calls on ----------------------------------------------


def bound_in_silver(**given: Any) -> World:
    """A session that difficulty has bound in the middle tier."""
    world = World(router=Router(scorer=hard, explore=0.0, weak="silver"), **given)
    assert world.tier("easy", session="s1") == "silver"
    return world


def test_a_tier_that_is_pinned_away_sends_its_sessions_on() -> None:
    world = bound_in_silver(tier={"silver": {"objective": Objective(latency_p95_s=4), "shift": True}})
    world.client.shift("silver", away=True, for_s=100)
    assert world.tier(session="s1") == "bronze"
    assert world.tier("easy", session="unbound") == "bronze"
    world.now += 100
    assert world.later(session="s1") == {"silver"}


def test_a_soft_limit_of_its_tier_sends_a_session_on() -> None:
    limit = Budget(soft_calls=3, where={"tier": "silver"}, on_soft="downgrade", window="1h")
    world = bound_in_silver(budgets=[limit])
    assert [world.tier(session="s1") for _ in range(4)] == ["silver", "silver", "bronze", "bronze"]


def test_a_limit_for_all_tiers_sends_a_session_one_tier_down_and_no_further() -> None:
    limit = Budget(soft_calls=1, per="session", on_soft="downgrade", window="1h")
    world = World(budgets=[limit])
    assert [world.tier(session="s1") for _ in range(6)] == ["gold", *["silver"] * 5]
    lower = bound_in_silver(budgets=[limit])
    assert [lower.tier(session="s1") for _ in range(4)] == ["silver"] * 4


def test_what_a_budget_put_last_is_asked_last() -> None:
    limit = Budget(soft_calls=1, per="session", on_soft="downgrade", window="1h")
    world = World(router=Router(scorer=hard, explore=0.0), budgets=[limit])
    assert world.tier("easy", session="s1") == "bronze"
    world.fake.script("b", Fail.unavailable())
    assert world.tier("easy", session="s1") == "silver"


def load(world: World, *names: str) -> list[str]:
    """These tiers are about to be full from now on; and which have been counted as shed from."""
    counted: list[str] = []
    for name in NAMES:
        admission = world.client._setup.lines[name].admission
        assert admission is not None
        admission.sheds = lambda priority, full=name in names: full  # type: ignore[method-assign, misc]
        admission.shed = lambda name=name: counted.append(name)  # type: ignore[method-assign, misc]
    return counted


@pytest.mark.parametrize(
    ("full", "served", "counted"),
    [
        (["silver"], "bronze", ["silver"]),
        (["gold"], "silver", []),
        (["gold", "silver"], "bronze", ["silver"]),
        (["gold", "silver", "bronze"], "silver", []),
    ],
    ids="+".join,
)
def test_load_sends_a_session_on_from_the_tier_that_it_is_in(
    full: list[str], served: str, counted: list[str]
) -> None:
    sheds = {"max_concurrency": 4, "admission": Admission(shed_at=0.9)}
    world = bound_in_silver(tier=dict.fromkeys(NAMES, sheds))
    seen = load(world, *full)
    assert world.tier(session="s1") == served
    assert seen == counted


def test_the_tier_that_difficulty_chose_sends_calls_on() -> None:
    sheds = {"max_concurrency": 4, "admission": Admission(shed_at=0.9)}
    world = World(router=Router(scorer=hard, explore=0.0, weak="silver"), tier=dict.fromkeys(NAMES, sheds))
    seen = load(world, "silver")
    assert world.tier("easy") == "bronze"
    assert world.tier("hard") == "gold"
    assert seen == ["silver"]


# -- what stands around it -------------------------------------------------------------------------


async def twice(call: Call, call_next: Handler) -> Response:
    await call_next(call)
    return await call_next(call)


def test_a_policy_that_calls_on_twice_finds_the_call_as_it_was() -> None:
    seen: list[tuple[Any, ...]] = []

    async def looks(call: Call, call_next: Handler) -> Response:
        assert call.course is not None
        before = (call.plan, call.course.fixed)
        response = await call_next(call)
        seen.append((before, (call.plan, call.course.fixed)))
        return response

    world = World(router=Router(scorer=hard, explore=0.0), policies=[twice, looks])
    assert world.tier("easy", session="s1") == "bronze"
    world.call("hard", session="s1")
    assert world.tier("hard", session="s1") == "bronze"
    assert all(before == after for before, after in seen)
    assert {fixed for _, (_, fixed) in seen} == {False}


def test_answers_from_the_cache_do_not_read_the_store_each_time() -> None:
    store = Shared()
    world = World(store=store, cache=ResultCache(ttl_s=600, default="always"))
    world.call(session="s0")
    store.read = 0
    assert all(world.call(session="s1").cached for _ in range(50))
    assert 1 <= store.read <= 11  # every five seconds


def test_by_user_shifts_rank_by_the_user_too() -> None:
    tier = {"gold": {"objective": Objective(latency_p95_s=4), "shift": True}}
    world = World(per="user", tier=tier)
    shifting = world.client._setup.lines["gold"].shifting
    assert shifting is not None
    keys: list[str] = []
    asked: Callable[[str, float], Any] = shifting.avoided

    def avoided(key: str, now: float) -> Any:
        keys.append(key)
        return asked(key, now)

    shifting.avoided = avoided  # type: ignore[method-assign]
    world.call(user="u", session="s1")
    world.call(user="u", session="s2")
    assert set(keys) == {"u:\0u"}
    keys.clear()
    world.call(session="s3")
    assert set(keys) == {"s:\0s3"}


# -- alone ---------------------------------------------------------------------------------------


def test_two_first_calls_at_once_share_a_table() -> None:
    lost = 0
    for _ in range(300):
        sticky = StickySessions()
        begin = threading.Barrier(2)

        def first(name: str, sticky: StickySessions = sticky, begin: threading.Barrier = begin) -> None:
            begin.wait()
            sticky.keep(name, ["a", "b"], usable=lambda place: place == "b")

        threads = [threading.Thread(target=first, args=(name,)) for name in ("s1", "s2")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lost += [sticky.keep(name, ["a", "b"]) for name in ("s1", "s2")] != ["b", "b"]
    assert lost == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_alone_it_survives_a_fork_in_the_middle_of_a_call() -> None:
    sticky = StickySessions()
    sticky.keep("s1", ["a"])
    places: Sequence[str] = ["a"]
    with sticky._alone._lock:
        child = os.fork()
        if child == 0:
            import signal

            signal.alarm(5)
            os._exit(0 if sticky.keep("s1", places) == "a" else 1)
    assert os.waitpid(child, 0)[1] == 0
