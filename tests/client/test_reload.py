"""Another configuration: what is refused, what changes, and what goes on."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from client.reloads import PRICED, Calls, Filed, Gate, tier, toml
from stores.ground import Server
from tierllm import BudgetExceededError, ConfigError, Deployment, ThrottledError, Tier, TieredClient
from tierllm.config import Config
from tierllm.errors import AllTiersFailedError, ClientClosedError
from tierllm.events import ConfigRejected, ConfigReloaded, TierRestored
from tierllm.testing import Fail, FakeClock, FakeProvider

Make = Callable[..., Filed]
NOW_S = 1_800_000_000.0


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Filed] = []

    def make(text: str, **overrides: Any) -> Filed:
        made.append(Filed(tmp_path / "tierllm.toml", text, **overrides))
        return made[-1]

    yield make
    for each in made:
        each.client.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def wait_until(true: Callable[[], bool]) -> None:
    """For what another thread is about to do."""
    for _ in range(2000):
        if true():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never came")


# -- what is asked ---------------------------------------------------------------


def test_what_changed_is_told_and_holds_at_once(make: Make) -> None:
    filed = make(toml(tier("gold"), tier("silver")))
    first = filed.client.complete("hi")
    changed = filed.become(toml(tier("gold", 'prompt = "Be brief."', models=("new",)), tier("silver")))
    assert changed == ("tiers.gold",)
    second = filed.client.complete("hi")
    assert (first.model, second.model) == ("gold", "new")
    config = Config.load(filed.path)
    assert (second.trace and second.trace.config) == config.digest != (first.trace and first.trace.config)
    (event,) = filed.heard(ConfigReloaded)
    assert (event.source, event.config, event.changed) == (str(filed.path), config.digest, changed)


def test_the_same_file_changes_nothing(make: Make) -> None:
    text = toml(tier("gold"), tier("silver"))
    filed = make(text)
    before = filed.client._setup
    assert not filed.client.reload()
    assert filed.become(f"# a remark\n{text}") == ()
    assert filed.client._setup is before
    assert not filed.heard(ConfigReloaded)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[tiers]]\nname =", "not valid TOML"),
        (toml(tier("gold", "max_concurrency = 'x'")), "max_concurrency"),
        (toml(tier("gold", "fallbak = false")), "did you mean 'fallback'"),
        (toml(tier("gold", deployment='provider = "openai"')), "OPENAI_API_KEY is not set"),
        (toml(tier("gold"), "[[budgets]]\nhard_usd = 1"), "no price is known"),
        (toml(tier("gold"), "[cache]"), "cache: a client keeps its cache for life"),
        (toml(tier("gold"), '[store]\nkind = "memory"'), "store: a client keeps its store for life"),
        (toml(tier("gold"), "ledger = false"), "ledger"),
    ],
    ids=["no-toml", "type", "key", "no-key-set", "no-price", "cache", "store", "ledger"],
)
def test_what_makes_no_sense_leaves_everything(
    make: Make, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    filed = make(toml(tier("gold"), tier("silver")))
    before = filed.client._setup
    with pytest.raises(ConfigError, match=said):
        filed.become(text)
    assert filed.client._setup is before
    assert filed.client.complete("hi").model == "gold"
    (event,) = filed.heard(ConfigRejected)
    assert said.split("'")[0] in event.error


def test_a_path_and_a_config_are_taken_as_well(make: Make, tmp_path: Path) -> None:
    filed = make(toml(tier("gold"), tier("silver")))
    other = tmp_path / "other.toml"
    other.write_text(toml(tier("gold", models=("other",))))
    assert filed.client.reload(other).changed == ("tiers.gold", "tiers.silver")
    assert filed.client.complete("hi").model == "other"
    other.write_text(toml(tier("gold", models=("again",))))
    assert filed.client.reload().changed == ("tiers.gold",)  # it goes by that file now
    parsed = Config.parse(
        {
            "providers": {"fake": {"kind": "fake"}},
            "tiers": Config.load(filed.path).model_dump(exclude_unset=True)["tiers"],
        }
    )
    assert filed.client.reload(parsed).changed == ("tiers.gold", "tiers.silver")
    with pytest.raises(ConfigError, match="no file"):
        filed.client.reload()
    with pytest.raises(ConfigError, match="give a Config or the path"):
        filed.client.reload(7)  # type: ignore[arg-type]


def test_a_client_made_in_code_does_not() -> None:
    with TieredClient([Tier("gold", [Deployment("m", FakeProvider())])]) as client:
        with pytest.raises(ConfigError, match="made in code"):
            client.reload()
        with pytest.raises(ConfigError, match="has no file"):
            client.watch()


def test_a_closed_client_refuses(make: Make) -> None:
    filed = make(toml(tier("gold")))
    filed.client.close()
    with pytest.raises(ClientClosedError):
        filed.become(toml(tier("gold", models=("new",))))


def test_what_the_application_gave_stays(make: Make) -> None:
    clock, fake = FakeClock(), FakeProvider()
    filed = make(toml(tier("gold")), clock=clock, providers={"fake": fake}, deadline_s=3.0)
    filed.become(toml(tier("gold", models=("new",)), head="[client]\ndeadline_s = 9"))
    assert filed.client.complete("hi").model == "new"
    assert fake.calls == 1
    assert filed.client._setup.deadline_s == 3.0
    assert filed.client.clock is clock


def test_a_listener_may_reload_in_its_turn(make: Make) -> None:
    filed = make(toml(tier("gold")))

    def again(event: object) -> None:
        if isinstance(event, ConfigReloaded) and filed.client.complete("x").model == "one":
            filed.become(toml(tier("gold", models=("two",))))

    filed.also = again
    filed.become(toml(tier("gold", models=("one",))))
    assert filed.client.complete("hi").model == "two"


# -- calls under way -----------------------------------------------------------------


def test_calls_under_way_end_as_they_began(make: Make, gate: Gate) -> None:
    old = toml(tier("gold", "max_tokens = 7", models=("old",)), tier("silver"))
    filed = make(old, providers={"fake": gate.fake})
    gate.shut()
    calls = Calls()
    calls.begin(filed.client)
    gate.came()
    ready = filed.client.ready(_request())
    stream = filed.client.stream("hi")
    filed.become(toml(tier("gold", "max_tokens = 9", models=("new",))))
    gate.open()
    calls.end()
    assert [answer.model for answer in calls.answers] == ["old"]
    assert ready.run().model == "old"
    with stream as chunks:
        list(chunks)
    assert stream.response.model == "old"
    assert filed.client.complete("hi").model == "new"


def test_a_call_that_comes_as_it_changes_goes_by_the_new_one(make: Make) -> None:
    """Between a client's look at its setup and the setup's own, another thread may have reloaded."""
    filed = make(toml(tier("gold", models=("old",))))
    old = filed.client._setup
    filed.become(toml(tier("gold", models=("new",))))
    gc.collect()
    assert old.ready(_request()).run().model == "new"


def test_nothing_piles_up(make: Make) -> None:
    filed = make(calls_of(9))
    for model in "abcabc":
        filed.become(calls_of(9, model=model))
        filed.become(calls_of(8, model=model))
    setup = filed.client._setup
    assert [place.model for place in setup.treasury.places] == ["c"]
    assert len(setup.treasury.stores()) == 1
    assert len(filed.client._origin.kept._made) < 12  # type: ignore[union-attr]


def test_cached_answers_of_what_is_the_same_are_found(make: Make) -> None:
    def cached(*silver: str, rule: str = "") -> str:
        return toml("[cache]\nserve_higher = false", tier("gold"), tier("silver", *silver), rule)

    filed = make(cached())
    assert [filed.client.complete("hi", sla=name).cached for name in ("gold", "silver")] == [False, False]
    filed.become(cached('prompt = "Be brief."'))
    assert [filed.client.complete("hi", sla=name).cached for name in ("gold", "silver")] == [True, False]
    filed.become(cached('prompt = "Be brief."', rule='[[rules]]\nuser = "u"\ntier = "gold"'))
    assert [filed.client.complete("hi", sla=name).cached for name in ("gold", "silver")] == [True, True]


def test_a_tier_that_is_gone_still_catches_those_that_fall(make: Make, gate: Gate) -> None:
    filed = make(toml(tier("gold", "retry = false"), tier("silver")), providers={"fake": gate.fake})
    gate.shut()
    usual = gate.fake._answer
    assert usual is not None
    gate.fake._answer = lambda call: (
        usual(call) and (Fail.unavailable() if call.model == "gold" else "caught")
    )
    calls = Calls()
    calls.begin(filed.client, sla="gold")
    gate.came()
    filed.become(toml(tier("bronze")))
    gate.open()
    calls.end()
    assert [(answer.tier, answer.text) for answer in calls.answers] == [("silver", "caught")]
    with pytest.raises(ConfigError, match="no such tier"):
        filed.client.complete("hi", sla="gold")


async def test_tasks_wait_and_end_as_threads_do(make: Make) -> None:
    """A queue of tasks, while the pool they wait for becomes another, again and again."""
    fake = FakeProvider(latency_s=0.002)
    filed = make(pooled(2, "max_waiting = 200"), providers={"fake": fake})
    tasks = [asyncio.ensure_future(filed.client.acomplete(f"{n}")) for n in range(60)]
    for size in (1, 3, 2, 1, 4, 2):
        filed.write(pooled(size, "max_waiting = 200", model=f"m{size}"))
        await asyncio.to_thread(filed.client.reload)
        tasks += [asyncio.ensure_future(filed.client.acomplete(f"later {n}")) for n in range(5)]
        await asyncio.sleep(0)
    answers = await asyncio.gather(*tasks)
    assert len(answers) == 90
    assert fake.peak_in_flight <= 4
    pool = filed.client._setup.lines["gold"].pool
    assert pool is not None
    assert (pool.in_use, pool.waiting) == (0, 0)
    assert {answer.model for answer in answers[60:65]} == {"m1"}


async def test_a_stream_ends_as_it_began(make: Make) -> None:
    filed = make(toml(tier("gold", models=("old",))))
    async with filed.client.astream("hi") as stream:
        first = await anext(aiter(stream))
        filed.write(toml(tier("gold", models=("new",))))
        await asyncio.to_thread(filed.client.reload)
        text = first.text + "".join([chunk.text async for chunk in stream])
    assert stream.response.model == "old"
    assert stream.response.text == text
    assert (await filed.client.acomplete("hi")).model == "new"


def _request() -> Any:
    from tierllm.routing.ask import ask

    return ask("hi", {})


# -- money ---------------------------------------------------------------------------


@pytest.fixture(params=["memory", "disk", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return '[store]\nkind = "memory"'
    if request.param == "disk":
        return f'[store]\nkind = "disk"\ndirectory = "{tmp_path / "state"}"'
    server: Server = request.getfixturevalue("running_server")
    with server.client() as client:
        client.flushall()
    return f'[store]\nkind = "redis"\nurl = "{server.url}"\ntimeout_s = 2'


def calls_of(hard: int, store: str = "", **more: str) -> str:
    budget = f'[[budgets]]\nhard_calls = {hard}\nper = "user"\nwindow = "day"\nname = "day"'
    return toml(tier("gold", deployment=PRICED, models=(more.get("model", "gold"),)), store, budget)


class TestBudgets:
    def test_spent_stays_spent(self, make: Make, store: str) -> None:
        filed = make(calls_of(3, store))
        for _ in range(2):
            filed.client.complete("hi", user="u")
        assert filed.become(calls_of(2, store)) == ("budgets",)  # lowered to what is spent
        with pytest.raises(BudgetExceededError):
            filed.client.complete("hi", user="u")
        filed.client.complete("hi", user="another")
        filed.become(calls_of(1, store))  # below it
        with pytest.raises(BudgetExceededError):
            filed.client.complete("hi", user="u")
        filed.become(calls_of(4, store, model="new"))  # raised, and a tier is another
        for _ in range(2):
            filed.client.complete("hi", user="u")
        with pytest.raises(BudgetExceededError):
            filed.client.complete("hi", user="u")
        (left,) = filed.client.remaining(user="u")
        assert (left.used, left.reserved, left.left) == (4, 0, 0)

    def test_what_calls_under_way_hold_counts(self, make: Make, store: str, gate: Gate) -> None:
        filed = make(calls_of(3, store), providers={"fake": gate.fake})
        gate.shut()
        calls = Calls()
        for _ in range(2):
            calls.begin(filed.client, user="u")
        gate.came(2)
        filed.become(calls_of(2, store, model="new"))
        with pytest.raises(BudgetExceededError, match="held by calls under way"):
            filed.client.complete("hi", user="u")
        filed.become(calls_of(3, store, model="newer"))
        calls.begin(filed.client, user="u")
        gate.came()
        with pytest.raises(BudgetExceededError):
            filed.client.complete("hi", user="u")
        gate.open()
        calls.end()
        assert not calls.errors
        (left,) = filed.client.remaining(user="u")
        assert (left.used, left.reserved, left.left) == (3, 0, 0)

    def test_a_budget_that_goes_and_comes_back_has_not_forgotten(self, make: Make, store: str) -> None:
        filed = make(calls_of(2, store))
        filed.client.complete("hi", user="u")
        filed.become(toml(tier("gold", deployment=PRICED), store))
        filed.client.complete("hi", user="u")
        filed.become(calls_of(2, store))
        filed.client.complete("hi", user="u")
        with pytest.raises(BudgetExceededError):
            filed.client.complete("hi", user="u")

    def test_the_ledger_and_what_was_learnt_go_on(self, make: Make) -> None:
        filed = make(calls_of(99))
        estimator = filed.client._setup.estimator
        filed.client.complete("hi", user="u")
        filed.become(calls_of(98, model="new"))
        filed.client.complete("hi", user="u")
        assert filed.client.usage(user="u").calls == 2
        assert filed.client._setup.estimator is estimator

    def test_a_run_goes_on_by_its_own_limits(self, make: Make) -> None:
        filed = make(calls_of(99))
        with filed.client.run(hard_calls=2) as run:
            filed.client.complete("hi")
            filed.become(calls_of(98, model="new"))
            filed.client.complete("hi")
            with pytest.raises(BudgetExceededError):
                filed.client.complete("hi")
            assert run.remaining[0].left == 0

    def test_prices_change(self, make: Make) -> None:
        def at(usd: int) -> str:
            return toml(
                tier("gold"),
                f"[prices.models]\ngold = {{input_usd_per_mtok = {usd}, output_usd_per_mtok = {usd}}}",
                "[[budgets]]\nhard_usd = 1",
            )

        filed = make(at(1))
        first = filed.client.complete("hi").cost_usd
        assert filed.become(at(2)) == ("prices",)
        second = filed.client.complete("hi").cost_usd
        assert first is not None
        assert second == 2 * first > Decimal(0)


# -- pools -------------------------------------------------------------------------------


def pooled(size: int, *more: str, model: str = "gold") -> str:
    return toml(tier("gold", f"max_concurrency = {size}", *more, models=(model,)))


class TestPools:
    @pytest.mark.parametrize("model", ["gold", "new"], ids=["same-model", "another-model"])
    def test_a_smaller_pool_waits_until_enough_have_left(self, make: Make, gate: Gate, model: str) -> None:
        filed = make(pooled(3), providers={"fake": gate.fake})
        gate.shut()
        before = Calls()
        for _ in range(3):
            before.begin(filed.client)
        gate.came(3)
        assert filed.become(pooled(1, "max_waiting = 9", model=model)) == ("tiers.gold",)
        pool = filed.client._setup.lines["gold"].pool
        assert pool is not None
        assert (pool.size, pool.in_use) == (1, 3)
        after = Calls()
        after.begin(filed.client)
        wait_until(lambda: pool.waiting == 1)
        assert gate.fake.calls == 3
        gate.open()
        before.end()
        after.end()
        assert gate.fake.peak_in_flight == 3
        assert not after.errors
        assert (pool.in_use, pool.waiting) == (0, 0)

    def test_those_who_wait_keep_their_places(self, make: Make, gate: Gate) -> None:
        filed = make(pooled(1, "max_waiting = 9"), providers={"fake": gate.fake})
        gate.shut()
        calls = Calls()
        calls.begin(filed.client, "holder")
        gate.came()
        pool = filed.client._setup.lines["gold"].pool
        assert pool is not None
        for number, priority in enumerate((1, 5, 3)):
            calls.begin(filed.client, f"old {priority}", priority=priority)
            wait_until(lambda number=number: pool.waiting == number + 1)
        filed.become(pooled(1, "max_waiting = 9", "admission = {age_s = 99}", model="new"))
        assert filed.client._setup.lines["gold"].pool is pool
        calls.begin(filed.client, "new 4", priority=4)
        wait_until(lambda: pool.waiting == 4)
        gate.open()
        calls.end()
        assert not calls.errors
        said = [str(entry.messages[-1]["content"]) for entry in gate.fake.journal]
        assert said == ["holder", "old 5", "new 4", "old 3", "old 1"]
        models = {str(entry.messages[-1]["content"]): entry.model for entry in gate.fake.journal}
        assert models["new 4"] == "new"
        assert models["old 5"] == models["old 1"] == "gold"

    def test_a_larger_pool_lets_in_who_waits(self, make: Make, gate: Gate) -> None:
        filed = make(pooled(1), providers={"fake": gate.fake})
        gate.shut()
        calls = Calls()
        calls.begin(filed.client)
        gate.came()
        pool = filed.client._setup.lines["gold"].pool
        assert pool is not None
        calls.begin(filed.client)
        wait_until(lambda: pool.waiting == 1)
        filed.become(pooled(2))
        gate.came()
        assert (pool.in_use, pool.waiting) == (2, 0)
        gate.open()
        calls.end()

    def test_load_and_records_go_on(self, make: Make) -> None:
        filed = make(pooled(4))
        for _ in range(3):
            filed.client.complete("hi")
        filed.become(pooled(2, model="new"))
        status = filed.client.status()["tiers"]["gold"]["pool"]
        assert (status["size"], status["peak"]) == (2, 1)

    def test_a_pool_asks_the_limits_that_hold_now(self, make: Make, gate: Gate) -> None:
        def limited(calls: int, model: str = "gold") -> str:
            account = f"[accounts.one]\nmax_concurrency = {calls}"
            return toml(tier("gold", deployment='account = "one"', models=(model,)), account)

        filed = make(limited(1), providers={"fake": gate.fake})
        gate.shut()
        before = Calls()
        before.begin(filed.client)
        gate.came()
        filed.become(limited(2, "new"))
        line = filed.client._setup.lines["gold"]
        assert line.pool is not None
        assert line.pool.gate is line
        after = Calls()
        for _ in range(3):
            after.begin(filed.client)
        gate.came(2)
        wait_until(lambda: line.pool is not None and line.pool.waiting == 1)
        gate.open()
        before.end()
        after.end()
        assert not after.errors
        assert gate.fake.peak_in_flight == 3  # a limit of other numbers begins anew

    def test_how_busy_a_tier_is_is_known_further(self, make: Make) -> None:
        filed = make(pooled(4))
        admission = filed.client._setup.lines["gold"].admission
        filed.become(pooled(2))
        now = filed.client._setup.lines["gold"].admission
        assert admission is not None
        assert now is not None
        assert now is not admission
        assert now.load is admission.load

    def test_weights_of_tenants_change(self, make: Make) -> None:
        filed = make(pooled(1))
        pool = filed.client._setup.lines["gold"].pool
        assert pool is not None
        filed.become(pooled(1, "admission = {weights = {acme = 3}, age_s = 5}"))
        assert pool.shares.weight_of("acme") == 3
        filed.become(pooled(1, "admission = {weights = {acme = 2}}", "max_wait_s = 9"))
        assert pool.shares.weight_of("acme") == 2

    def test_borrowing_changes_while_places_are_lent(self, make: Make, gate: Gate) -> None:
        def sharing(share: float, size: int = 2) -> str:
            upper = tier("gold", f"admission = {{max_concurrency = 1, borrow = {share}, on_full = 'refuse'}}")
            return toml(upper, tier("silver", f"max_concurrency = {size}"))

        filed = make(sharing(0.5), providers={"fake": gate.fake})
        gate.shut()
        calls = Calls()
        for _ in range(2):
            calls.begin(filed.client, sla="gold", fallback=False)
        gate.came(2)  # one of them in a place of silver's
        lines = filed.client._setup.lines
        silver = lines["silver"].pool
        assert silver is not None
        assert silver.in_use == 1
        filed.become(sharing(1.0, size=3))
        calls.begin(filed.client, sla="gold", fallback=False)
        gate.came()
        assert silver.in_use == 2
        filed.become(sharing(0.0, size=9))
        with pytest.raises(ThrottledError):
            filed.client.complete("hi", sla="gold", fallback=False)
        gate.open()
        calls.end()
        assert not calls.errors
        gold = filed.client._setup.lines["gold"].pool
        assert silver.in_use == 0
        assert gold is not None
        assert gold.in_use == 0
        filed.become(sharing(0.5))
        assert gold.joined(silver)

    def test_pools_in_use_cannot_begin_to_borrow(self, make: Make) -> None:
        apart = toml(tier("gold", "max_concurrency = 1"), tier("silver", "max_concurrency = 2"))
        filed = make(apart)
        with pytest.raises(ConfigError, match=r"tiers\[0\].admission.borrow: gold cannot begin to borrow"):
            filed.become(
                toml(
                    tier("gold", "admission = {max_concurrency = 1, borrow = 0.5}"),
                    tier("silver", "max_concurrency = 2"),
                )
            )
        assert filed.client.complete("hi").tier == "gold"

    def test_a_new_tier_lends_at_once(self, make: Make, gate: Gate) -> None:
        filed = make(pooled(1), providers={"fake": gate.fake})
        upper = tier("gold", "admission = {max_concurrency = 1, borrow = 0.5}")
        pool = filed.client._setup.lines["gold"].pool
        assert pool is not None
        lock = pool._lock
        filed.become(toml(upper, tier("silver", "max_concurrency = 2")))
        assert pool._lock is lock  # others may be inside
        gate.shut()
        calls = Calls()
        for _ in range(2):
            calls.begin(filed.client, sla="gold", fallback=False)
        gate.came(2)
        gate.open()
        calls.end()
        assert not calls.errors


class TestLoad:
    STEPS = """
[tiers.sampling]
dwell_s = {dwell}
emergencies = {{storm = ["short"]}}
[[tiers.sampling.steps]]
name = "short"
at = 1.5
max_tokens = 4
[[tiers.sampling.consent]]
steps = "all"
since = 2020-01-01
"""

    def sampled(self, *more: str, dwell: int = 60) -> str:
        gold = ["[[tiers]]", 'name = "gold"', "max_concurrency = 4", *more, self.STEPS.format(dwell=dwell)]
        return toml(*gold, '[[tiers.deployments]]\nmodel = "gold"', tier("silver"))

    @pytest.mark.parametrize("dwell", [60, 30], ids=["same-steps", "other-steps"])
    def test_an_emergency_goes_on(self, make: Make, dwell: int) -> None:
        filed = make(self.sampled(), clock=FakeClock(NOW_S))
        filed.client.emergency("storm")
        assert filed.client.complete("hi").degraded == ("short",)
        filed.become(self.sampled("max_tokens = 90", dwell=dwell))
        assert filed.client.emergencies() == {"storm"}
        assert filed.client.complete("hi").degraded == ("short",)
        filed.client.emergency("storm", on=False)
        assert filed.client.complete("hi").degraded == ()

    def test_what_steps_have_done_is_not_forgotten(self, make: Make) -> None:
        filed = make(self.sampled(), clock=FakeClock(NOW_S))
        filed.client.emergency("storm")
        filed.client.complete("hi")
        filed.become(self.sampled("max_tokens = 90"))
        filed.client.complete("hi")
        steps = filed.client.status()["tiers"]["gold"]["sampling"]["steps"]
        assert steps["short"]["calls"] == 2

    def test_a_consent_of_a_plan_comes_and_goes(self, make: Make) -> None:
        bare = self.sampled().replace('[[tiers.sampling.consent]]\nsteps = "all"\nsince = 2020-01-01\n', "")
        agreed = bare + '\n[plans.free]\nconsent = [{steps = "all", since = 2020-01-01}]'
        filed = make(bare, clock=FakeClock(NOW_S))
        filed.client.emergency("storm")
        assert filed.client.complete("hi", plan="free").degraded == ()
        assert filed.become(agreed) == ("plans.free",)
        assert filed.client.complete("hi", plan="free").degraded == ("short",)
        filed.become(bare)
        assert filed.client.complete("hi", plan="free").degraded == ()

    def test_hedges_that_were_saved_up_stay(self, make: Make) -> None:
        def hedged(*more: str) -> str:
            return toml(tier("gold", "hedge = {min_samples = 5}", *more, models=("a", "b")))

        filed = make(hedged())
        for _ in range(30):
            filed.client.complete("hi")
        before = filed.client.status()["tiers"]["gold"]["hedge"]
        filed.become(hedged("max_tokens = 9"))
        assert filed.client.status()["tiers"]["gold"]["hedge"] == before


# -- places ----------------------------------------------------------------------------------


class TestPlaces:
    TEXT = toml(tier("gold", "retry = false"), tier("silver", "retry = false"))
    CHANGED = toml(tier("gold", "retry = false", "max_tokens = 50"), tier("silver", "retry = false"))
    STRICTER = toml(
        tier("gold", "retry = false"), tier("silver", "retry = false"), head="[breaker]\nopen_s = 60"
    )

    def opened(self, make: Make) -> tuple[Filed, FakeClock, FakeProvider]:
        clock, fake = FakeClock(), FakeProvider()
        filed = make(self.TEXT, clock=clock, providers={"fake": fake})
        fake.down("gold")
        for _ in range(3):
            assert filed.client.complete("hi").tier == "silver"
        assert filed.client._setup.lines["gold"].lines[0].breaker.state == "open"  # type: ignore[union-attr]
        return filed, clock, fake

    @pytest.mark.parametrize("text", [CHANGED, STRICTER], ids=["same-rules", "other-rules"])
    def test_an_open_breaker_stays_open(self, make: Make, text: str) -> None:
        filed, clock, fake = self.opened(make)
        fake.up("gold")
        clock.advance(10)
        assert filed.become(text)
        breaker = filed.client._setup.lines["gold"].lines[0].breaker
        assert breaker is not None
        assert breaker.peek() == pytest.approx(20)
        with pytest.raises(AllTiersFailedError, match="CircuitOpenError"):
            filed.client.complete("hi", sla="gold", fallback=False)
        clock.advance(20.1)
        assert filed.client.complete("hi").tier == "gold"
        assert filed.heard(TierRestored)
        assert breaker.state == "closed"

    def test_one_that_is_forced_stays_so(self, make: Make) -> None:
        filed = make(self.TEXT, clock=FakeClock())
        breaker = filed.client._setup.lines["gold"].lines[0].breaker
        assert breaker is not None
        breaker.force_open()
        filed.become(self.STRICTER)
        assert filed.client.complete("hi").tier == "silver"
        filed.become(self.CHANGED)
        assert filed.client.complete("hi").tier == "silver"

    def test_failures_of_calls_under_way_count(self, make: Make, gate: Gate) -> None:
        filed = make(self.TEXT, providers={"fake": gate.fake})
        gate.shut()
        gate.fake._answer = lambda call: gate.__class__._answer(gate, call) and Fail.unavailable()
        calls = Calls()
        for _ in range(3):
            calls.begin(filed.client, fallback=False)
        gate.came(3)
        filed.become(self.CHANGED)
        gate.open()
        calls.end()
        assert len(calls.errors) == 3
        assert filed.client._setup.lines["gold"].lines[0].breaker.state == "open"  # type: ignore[union-attr]
        assert filed.client.status()["tiers"]["gold"]["deployments"]["gold"]["failed"] == 3

    def test_answers_of_calls_under_way_count(self, make: Make, gate: Gate) -> None:
        filed = make(self.TEXT, providers={"fake": gate.fake})
        gate.shut()
        calls = Calls()
        calls.begin(filed.client)
        gate.came()
        filed.become(self.CHANGED)
        filed.become(self.STRICTER)
        gate.open()
        calls.end()
        assert filed.client.status()["tiers"]["gold"]["deployments"]["gold"]["served"] == 1

    def test_a_pause_that_a_provider_asked_for_holds(self, make: Make, gate: Gate) -> None:
        filed = make(self.TEXT, providers={"fake": gate.fake})
        gate.shut()
        gate.fake._answer = lambda call: (
            gate.__class__._answer(gate, call) and Fail.rate_limited(retry_after_s=60)
        )
        calls = Calls()
        calls.begin(filed.client, fallback=False)
        gate.came()
        filed.become(self.CHANGED)
        filed.become(self.STRICTER)
        gate.open()
        calls.end()
        held = filed.client._setup.lines["gold"].lines[0].held_s()
        assert 50 < held <= 60

    def test_another_model_is_another_place(self, make: Make) -> None:
        filed, _, fake = self.opened(make)
        filed.become(toml(tier("gold", models=("better",)), tier("silver")))
        assert filed.client.complete("hi").model == "better"
        status = filed.client.status()["tiers"]["gold"]["deployments"]["better"]
        assert status["failed"] == 0
        fake.up("gold")

    def test_how_long_calls_take_is_known_further(self, make: Make) -> None:
        filed = make(self.TEXT)
        for _ in range(25):
            filed.client.complete("hi")
        line = filed.client._setup.lines["gold"].lines[0]
        filed.become(self.CHANGED)
        now = filed.client._setup.lines["gold"].lines[0]
        assert now is not line
        assert len(now.pace.history) == 25
        assert now.served == 25

    def test_a_tier_that_is_the_same_keeps_its_line(self, make: Make) -> None:
        filed = make(self.TEXT)
        lines = filed.client._setup.lines
        assert filed.become(self.CHANGED) == ("tiers.gold",)
        assert filed.client._setup.lines["silver"] is lines["silver"]
        plans = toml(tier("gold", "retry = false", "max_tokens = 50"), tier("silver", "retry = false"))
        assert filed.become(f"{plans}\n[plans.free]\nmax_priority = 3") == ("plans.free",)
        assert filed.client._setup.lines["silver"] is lines["silver"]
        assert "free" in filed.client.status()["plans"]

    def test_a_tier_that_comes_back_begins_anew(self, make: Make) -> None:
        filed, _, fake = self.opened(make)
        filed.become(toml(tier("silver", "retry = false")))
        fake.up("gold")
        filed.become(self.TEXT)
        assert filed.client.complete("hi").tier == "gold"


class TestLimits:
    def limited(self, rpm: int, *more: str, model: str = "gold") -> str:
        return toml(
            tier("gold", "retry = false", *more, models=(model,), deployment="rpm = 9\naccount = 'one'"),
            f"[accounts.one]\nrpm = {rpm}",
            '[[limits]]\nrpm = 3\nper = "user"\nname = "each"',
        )

    def test_what_was_taken_stays_taken(self, make: Make) -> None:
        filed = make(self.limited(5), clock=FakeClock())
        for _ in range(3):
            filed.client.complete("hi", user="u", fallback=False, deadline_s=1)
        filed.become(self.limited(5, "max_tokens = 9"))
        with pytest.raises(ThrottledError):
            filed.client.complete("hi", user="u", deadline_s=1)
        filed.become(self.limited(5, "max_tokens = 9", model="new"))
        for _ in range(2):
            filed.client.complete("hi", user="v", deadline_s=1)
        with pytest.raises(ThrottledError):  # five of the account's are taken
            filed.client.complete("hi", user="w", deadline_s=1)

    def test_a_limit_that_says_something_else_begins_anew(self, make: Make) -> None:
        filed = make(self.limited(3), clock=FakeClock())
        for user in "abc":
            filed.client.complete("hi", user=user, deadline_s=1)
        with pytest.raises(ThrottledError):
            filed.client.complete("hi", user="d", deadline_s=1)
        filed.become(self.limited(6))
        filed.client.complete("hi", user="d", deadline_s=1)

    def test_adaptive_concurrency_goes_on(self, make: Make, gate: Gate) -> None:
        def adaptive(*more: str, rules: str = "adaptive = {start = 2, most = 4}") -> str:
            return toml(tier("gold", "retry = false", *more, deployment=rules))

        filed = make(adaptive(), providers={"fake": gate.fake})
        gate.shut()
        calls = Calls()
        for _ in range(2):
            calls.begin(filed.client)
        gate.came(2)
        filed.become(adaptive("max_tokens = 9"))
        now = filed.client._setup.lines["gold"].lines[0].adaptive
        assert now is not None
        assert (now.in_flight, now.size) == (2, 2)
        filed.become(adaptive("max_tokens = 9", rules="adaptive = {start = 1, most = 1}"))
        last = filed.client._setup.lines["gold"].lines[0].adaptive
        assert last is not None
        assert (last.in_flight, last.size) == (2, 1)
        gate.open()
        calls.end()
        assert last.in_flight == 0
        assert filed.client.complete("hi").text


# -- providers -----------------------------------------------------------------------------


class TestProviders:
    def test_the_same_table_keeps_its_connections(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEY", "one")
        monkeypatch.setenv("FOO", "other")
        served = '[providers.eu]\nkind = "openai"\nbase_url = "http://localhost:1/v1"\napi_key_env = "KEY"'
        text = toml(served, tier("gold", deployment='provider = "eu"'))
        filed = make(text)
        (first,) = filed.client._setup.providers()
        filed.become(toml(served, tier("gold", "max_tokens = 5", deployment='provider = "eu"')))
        assert filed.client._setup.providers() == [first]
        monkeypatch.setenv("KEY", "two")  # the key was changed: the file says what it said
        assert filed.client.reload().changed == ("providers.eu",)
        (second,) = filed.client._setup.providers()
        assert second is not first
        assert filed.become(text.replace('"KEY"', '"FOO"')) == ("providers.eu", "tiers.gold")

    def fakes(self, monkeypatch: pytest.MonkeyPatch) -> list[Gate]:
        """Providers that files ask for are made here."""
        import tierllm.testing

        made: list[Gate] = []

        def fake(**_: object) -> FakeProvider:
            made.append(Gate())
            return made[-1].fake

        monkeypatch.setattr(tierllm.testing, "FakeProvider", fake)
        return made

    def test_one_no_longer_used_is_closed_after_its_last_call(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = self.fakes(monkeypatch)
        filed = make(toml(tier("gold")))
        ready = filed.client.ready(_request())
        made[0].shut()
        calls = Calls()
        calls.begin(filed.client)
        made[0].came()
        filed.become(
            toml(tier("gold"), head="[providers.other]\nkind = 'fake'\nseed = 3").replace(
                "[[tiers.deployments]]", "[[tiers.deployments]]\nprovider = 'other'"
            )
        )
        assert filed.client.complete("hi").text
        assert made[0].closed_times == 0
        made[0].open()
        calls.end()
        calls = Calls()
        gc.collect()
        assert made[0].closed_times == 0  # there is one that was made ready, and may still be sent
        assert ready.run().text
        del ready
        gc.collect()
        wait_until(lambda: made[0].closed_times == 1)
        assert made[1].closed_times == 0
        assert not filed.client._origin.retiring  # type: ignore[union-attr]

    def test_closing_the_client_closes_those_that_were_left(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = self.fakes(monkeypatch)
        filed = make(toml(tier("gold")))
        ready = filed.client.ready(_request())
        filed.become(toml(tier("gold")).replace('"fake"', '"fake"\nseed = 3'))
        filed.client.close()
        assert [each.closed_times for each in made] == [1, 1]
        with pytest.raises(ClientClosedError):
            ready.run()

    def test_stand_ins_are_the_applications_own(self, make: Make, gate: Gate) -> None:
        filed = make(toml(tier("gold")), providers={"fake": gate.fake})
        other = toml(tier("gold")).replace("providers.fake", "providers.mine")
        filed.become(other)
        filed.client.complete("hi")
        assert gate.closed_times == 0
        filed.become(toml(tier("gold")))
        filed.client.complete("hi")
        assert gate.fake.calls == 1

    def test_a_refused_configuration_leaves_nothing_open(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = self.fakes(monkeypatch)
        filed = make(toml(tier("gold", "max_concurrency = 1"), tier("silver", "max_concurrency = 2")))
        borrowing = toml(
            tier("gold", "admission = {max_concurrency = 1, borrow = 0.5}"),
            tier("silver", "max_concurrency = 2"),
        ).replace('"fake"', '"fake"\nseed = 3')
        with pytest.raises(ConfigError, match="borrow"):
            filed.become(borrowing)
        assert [each.closed_times for each in made] == [0, 1]
