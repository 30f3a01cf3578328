"""Reloading twice while calls are under way, in a forked child, while closing, and where it fails late."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tierllm.testing
from client.reloads import PRICED, Calls, Filed, Gate, tier, toml
from tierllm import BudgetExceededError, ConfigError, UsageError
from tierllm.client.origin import Origin
from tierllm.client.setup import Setup
from tierllm.config import Config
from tierllm.errors import ClientClosedError
from tierllm.events import ConfigReloaded
from tierllm.routing.decision_log import DecisionLog
from tierllm.testing import FakeClock, FakeProvider

Make = Callable[..., Filed]


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
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[Gate]:
    """Providers that files ask for are made here."""
    made: list[Gate] = []

    def fake(**_: object) -> FakeProvider:
        made.append(Gate())
        return made[-1].fake

    monkeypatch.setattr(tierllm.testing, "FakeProvider", fake)
    return made


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never came")


def seeded(text: str, seed: int) -> str:
    """With another provider under the same name."""
    return text.replace('[providers.fake]\nkind = "fake"', f'[providers.fake]\nkind = "fake"\nseed = {seed}')


class TestTwice:
    """A call outlasts two configurations: only the second takes away what it uses."""

    PLAN = '[plans.free]\nmax_tier = "gold"\n'

    def test_a_provider_stays_open(self, make: Make, fakes: list[Gate]) -> None:
        filed = make(toml(tier("gold")))
        fakes[0].shut()
        calls = Calls()
        calls.begin(filed.client)
        fakes[0].came()
        filed.become(toml(tier("gold"), head=self.PLAN))
        filed.become(seeded(toml(tier("gold"), head=self.PLAN), 3))
        gc.collect()
        assert len(filed.client._origin.retiring) == 1  # type: ignore[union-attr]
        threading.Event().wait(0.05)
        assert fakes[0].closed_times == 0
        fakes[0].open()
        calls.end()
        del calls
        gc.collect()
        wait_until(lambda: fakes[0].closed_times == 1)

    def test_a_log_stays_open(self, make: Make, fakes: list[Gate], monkeypatch: pytest.MonkeyPatch) -> None:
        closed: list[str] = []
        close = DecisionLog.close

        def closing(log: DecisionLog) -> None:
            closed.append(Path(log.path).name)
            close(log)

        monkeypatch.setattr(DecisionLog, "close", closing)
        one, two = '[decisions]\npath = "one"\n', '[decisions]\npath = "two"\n'
        filed = make(toml(tier("gold"), head=one))
        fakes[0].shut()
        calls = Calls()
        calls.begin(filed.client)
        fakes[0].came()
        filed.become(toml(tier("gold"), head=one + self.PLAN))
        filed.become(toml(tier("gold"), head=two + self.PLAN))
        gc.collect()
        threading.Event().wait(0.05)
        assert closed == []
        fakes[0].open()
        calls.end()
        del calls
        gc.collect()
        wait_until(lambda: closed == ["one"])


def test_a_shadow_outlasts_what_it_began_with(make: Make, fakes: list[Gate]) -> None:
    gold = tier("gold", deployment='provider = "fake"\n' + PRICED)
    silver = tier("silver", deployment='provider = "other"\n' + PRICED)
    head = '[shadow]\nto = "silver"\nshare = 1.0\nhard_usd = 9\n[providers.other]\nkind = "fake"\n'
    filed = make(toml(gold, silver, head=head))
    other = next(gate for gate in fakes if gate.fake is filed.client.tiers[1].deployments[0].provider)
    other.shut()
    assert filed.client.complete("hi").tier == "gold"
    other.came()
    filed.become(toml(gold, silver, head=head.replace('kind = "fake"', 'kind = "fake"\nseed = 4')))
    gc.collect()
    threading.Event().wait(0.05)
    assert other.closed_times == 0
    other.open()
    wait_until(lambda: filed.client.status()["shadow"]["counts"].get("compared") == 1)
    gc.collect()
    wait_until(lambda: other.closed_times == 1)


class TestMoney:
    def budget(self, calls: int, window: str = "day", scope: str = "shared") -> str:
        return (
            f'[[budgets]]\nhard_calls = {calls}\nper = "user"\nwindow = "{window}"\nname = "b"\n'
            f'scope = "{scope}"\n'
        )

    def test_rules_go_by_the_budgets_that_hold_now(self, make: Make) -> None:
        rule = '[[rules]]\nbudget_left = 0.5\ntier = "silver"\n'
        parts = tier("gold"), tier("silver")
        filed = make(toml(*parts, head=self.budget(4) + rule))
        assert [filed.client.complete("hi", user="u").tier for _ in range(3)] == ["gold", "gold", "silver"]
        filed.become(toml(*parts, head=self.budget(1000) + rule))
        assert filed.client.complete("hi", user="u").tier == "gold"
        filed.become(toml(*parts, head=self.budget(5) + rule))
        assert filed.client.complete("hi", user="u").tier == "silver"

    @pytest.mark.parametrize(
        ("before", "after"), [("1h", "1d"), ("1d", "1h"), ("1h", "total"), ("total", "1h")]
    )
    def test_another_window_is_another_account(self, make: Make, before: str, after: str) -> None:
        clock = FakeClock(1_800_000_000.0)
        filed = make(toml(tier("gold"), head=self.budget(2, before)), clock=clock)
        for _ in range(2):
            filed.client.complete("hi", user="u")
        filed.become(toml(tier("gold"), head=self.budget(2, after)))
        (left,) = filed.client.remaining(user="u")
        assert left.used == 0
        for _ in range(2):
            filed.client.complete("hi", user="u")
        with pytest.raises(BudgetExceededError) as refused:
            filed.client.complete("hi", user="u")
        wait_s = refused.value.retry_after_s
        assert (wait_s is None) == (after == "total")
        assert wait_s is None or wait_s <= 86_400 * 1.1

    def test_the_same_window_in_other_words_is_the_same(self, make: Make) -> None:
        filed = make(toml(tier("gold"), head=self.budget(2, "24h")))
        filed.client.complete("hi", user="u")
        filed.become(toml(tier("gold"), head=self.budget(2, "1d")))
        (left,) = filed.client.remaining(user="u")
        assert left.used == 1

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    @pytest.mark.parametrize(
        ("before", "after", "refused"),
        [("shared", "process", [True, False]), ("process", "shared", [False, True])],
        ids=["no-longer", "from-now-on"],
    )
    def test_a_forked_child(self, make: Make, before: str, after: str, refused: list[bool]) -> None:
        """What a hard budget in memory may do there is a matter of what holds now."""
        filed = make(toml(tier("gold"), head=self.budget(5, scope=before)))
        fork = multiprocessing.get_context("fork")
        told = fork.SimpleQueue()

        def is_refused() -> bool:
            try:
                filed.client.complete("hi", user="u")
            except UsageError:
                return True
            return False

        def child() -> None:
            first = is_refused()
            filed.become(toml(tier("gold"), head=self.budget(5, scope=after)))
            told.put([first, is_refused()])

        process = fork.Process(target=child)
        process.start()
        process.join(20)
        assert told.get() == refused
        assert not is_refused()

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_line_that_was_kept_has_locks_of_its_own_in_a_child(self, make: Make) -> None:
        """It was made with an earlier treasury, whose locks another thread may have held at the fork."""
        head = self.budget(9, scope="process")
        filed = make(toml(tier("gold"), tier("silver", "max_tokens = 10"), head=head))
        filed.become(toml(tier("gold"), tier("silver", "max_tokens = 20"), head=head))
        earlier = filed.client._setup.lines["gold"].lines[0].spending.treasury
        assert earlier is not filed.client._setup.treasury
        fork = multiprocessing.get_context("fork")
        told = fork.SimpleQueue()

        def child() -> None:
            told.put((earlier.arrears._paying.locked(), earlier._seen._lock.locked()))

        with earlier.arrears._paying, earlier._seen._lock:
            process = fork.Process(target=child)
            process.start()
        process.join(20)
        assert told.get() == (False, False)


class TestKeys:
    def text(self, keys: str) -> str:
        served = f'[providers.o]\nkind = "openai"\nbase_url = "http://localhost:1/v1"\napi_key_env = {keys}\n'
        return toml(tier("gold", models=("m",), deployment='provider = "o"\nrpm = 1'), head=served)

    def test_the_second_key_keeps_what_is_its_own(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the first one is taken out, it has that one's name."""

        class Keyed(FakeProvider):
            def __init__(self, key: str, *, name: str, **_: object) -> None:
                super().__init__(name=name)
                self.key = key

        monkeypatch.setattr("tierllm.providers.openai.OpenAI", Keyed)
        monkeypatch.setenv("KA", "a")
        monkeypatch.setenv("KB", "b")
        filed = make(self.text('["KA", "KB"]'), clock=FakeClock())
        _, second = filed.client._setup.lines["gold"].lines
        assert filed.client.complete("hi").deployment == "m"
        filed.become(self.text('["KB"]'))
        (left,) = filed.client._setup.lines["gold"].lines
        assert left.deployment.provider is second.deployment.provider
        assert [limit.limiter for limit in left.deployment.limits] == [
            limit.limiter for limit in second.deployment.limits
        ]
        assert filed.client.complete("hi").deployment == "m"  # only the first key's minute was used up
        assert left.breaker is not None
        left.breaker.force_open()
        filed.become(self.text('["KA", "KB"]'))
        states = [line.breaker.state for line in filed.client._setup.lines["gold"].lines if line.breaker]
        assert states == ["closed", "forced_open"]


class TestLateFailures:
    """What fails only as the whole is put together leaves no trace in what holds."""

    def broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise ConfigError("at the very end")

        monkeypatch.setattr("tierllm.client.setup.check_treasury", fail)

    def test_tenants_are_counted_on(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        head = "[client]\ntenant_attainment = true\n"
        gold = tier("gold", "objective = {latency_p95_s = 5.0}")
        filed = make(toml(gold, head=head))
        filed.client.complete("hi", tenant="a")
        with monkeypatch.context() as patched:
            self.broken(patched)
            with pytest.raises(ConfigError, match="at the very end"):
                filed.become(toml(gold, tier("silver"), head=head))
        filed.client.complete("hi", tenant="b")
        assert sorted(filed.client.status()["objectives"]["tenants"]["gold"]) == ["a", "b"]
        filed.become(toml(gold, tier("silver"), head=head))
        filed.client.complete("hi", tenant="c")
        assert sorted(filed.client.status()["objectives"]["tenants"]["gold"]) == ["a", "b", "c"]

    def test_the_log_reads_prompts_as_it_did(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        log = '[decisions]\npath = "d"\nprompts = "hashed"\n'
        parts = tier("gold"), tier("silver")
        router = '[router]\nscorer = {kind = "learned", buckets = 1024}\nbalance = 0.5\n'
        filed = make(toml(*parts, head=log + router))
        decisions = filed.client._setup.decisions
        assert decisions is not None
        before = decisions._buckets
        with monkeypatch.context() as patched:
            self.broken(patched)
            with pytest.raises(ConfigError, match="at the very end"):
                filed.become(toml(*parts, head=log + router.replace("1024", "2048")))
        assert decisions._buckets == before
        filed.become(toml(*parts, head=log + router.replace("1024", "2048")))
        assert decisions._buckets != before


def test_who_waits_in_a_tier_that_was_renamed_is_listed(make: Make) -> None:
    gate = Gate()
    filed = make(toml(tier("gold", "max_concurrency = 1")), providers={"fake": gate.fake})
    gate.shut()
    handles = [filed.client.submit("hi") for _ in range(3)]
    gate.came()
    wait_until(lambda: len(filed.client.queued()) == 2)
    filed.become(toml(tier("top", "max_concurrency = 1")))
    assert len(filed.client.queued()) == 2
    assert len(filed.client.queued("gold")) == 2
    assert filed.client.queued("top") == []
    filed.become(toml(tier("top", "max_concurrency = 2")))  # one pool, known to two configurations
    handles.append(filed.client.submit("hi"))
    gate.came()
    handles += [filed.client.submit("hi") for _ in range(2)]
    gate.came()
    wait_until(lambda: len(filed.client.queued()) == 3)
    gate.open()
    for handle in handles:
        handle.result(20)
    del handles
    gc.collect()
    assert filed.client.queued() == []
    with pytest.raises(ConfigError, match="no tier 'gold'"):
        filed.client.queued("gold")


@pytest.mark.parametrize("when", ["built", "succeeded", "turned"])
def test_what_is_closed_meanwhile_is_closed_once(
    make: Make, fakes: list[Gate], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Another thread closes the client while a reload puts its setup in place."""
    closed: list[str] = []
    close, succeed, built, became = DecisionLog.close, Setup.succeed, Setup.__init__, Origin.became
    threads: list[threading.Thread] = []

    def closing(log: DecisionLog) -> None:
        closed.append(Path(log.path).name)
        close(log)

    def in_another() -> threading.Thread:
        threads.append(threading.Thread(target=filed.client.close))
        threads[-1].start()
        return threads[-1]

    def building(setup: Setup, *given: Any, **more: Any) -> None:
        built(setup, *given, **more)
        in_another().join(20)

    def succeeding(setup: Setup, before: Setup) -> None:
        succeed(setup, before)
        in_another().join(20)

    def turning(origin: Origin, *given: Any) -> None:
        in_another()
        wait_until(lambda: filed.client._ground.host.closed)
        became(origin, *given)

    monkeypatch.setattr(DecisionLog, "close", closing)
    filed = make(toml(tier("gold"), head='[decisions]\npath = "one"\n'))
    other = seeded(toml(tier("gold"), head='[decisions]\npath = "two"\n'), 3)
    with monkeypatch.context() as patched:
        patched.setattr(Setup, "__init__", building if when == "built" else built)
        patched.setattr(Setup, "succeed", succeeding if when == "succeeded" else succeed)
        patched.setattr(Origin, "became", turning if when == "turned" else became)
        if when == "turned":
            assert filed.become(other)
        else:
            with pytest.raises(ClientClosedError):
                filed.become(other)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    gc.collect()
    wait_until(lambda: [each.closed_times for each in fakes] == [1, 1])
    wait_until(lambda: sorted(closed) == ["one", "two"])
    threading.Event().wait(0.02)
    assert [each.closed_times for each in fakes] == [1, 1]


def test_what_holds_no_path_may_come_from_another_directory(make: Make, tmp_path: Path) -> None:
    text = toml(
        tier("gold"),
        head='[store]\nkind = "memory"\n[ledger]\nmax_rows = 9\n[cache]\n[[cache.layers]]\nkind = "memory"\n'
        f"[decisions]\npath = '{tmp_path / 'd.jsonl'}'\n",
    )
    filed = make(text)
    ledger, log = filed.client._setup.treasury.ledger, filed.client._setup.decisions
    other = tmp_path / "other" / "tierllm.toml"
    other.parent.mkdir()
    other.write_text(text)
    assert filed.client.reload(other).changed == ()
    other.write_text(text.replace('name = "gold"', 'name = "gold"\nmax_tokens = 9'))
    assert filed.client.reload(other).changed == ("tiers.gold",)
    assert filed.client._setup.treasury.ledger is ledger
    assert filed.client._setup.decisions is log


def test_a_path_beside_the_file_is_another_one_elsewhere(make: Make, tmp_path: Path) -> None:
    text = toml(tier("gold"), head='[ledger]\npath = "l.db"\n')
    filed = make(text)
    other = tmp_path / "other" / "tierllm.toml"
    other.parent.mkdir()
    other.write_text(text)
    with pytest.raises(ConfigError, match="keeps its ledger for life"):
        filed.client.reload(other)


def test_another_number_is_another_configuration(make: Make) -> None:
    """1, 1.0 and true are equal in Python, and make three files, hashes and requests."""
    texts = [toml(tier("gold", f"defaults = {{n = {n}}}")) for n in ("1", "1.0", "true")]
    filed = make(texts[0])
    sent: list[object] = []
    for text in texts[1:]:
        assert filed.become(text) == ("tiers.gold",)
        trace = filed.client.complete("hi").trace
        assert trace is not None
        assert trace.config == Config.load(filed.path).digest
        sent.append(filed.client.tiers[0].defaults["n"])
    assert [type(each) for each in sent] == [float, bool]
    filed.write(toml(tier("gold", "defaults = {n = true}"), head="budgets = []"))
    done = filed.client.reload()  # another hash, and nothing else
    trace = filed.client.complete("hi").trace
    assert trace is not None
    assert (done.changed, done.config) == ((), trace.config)


def test_a_table_that_a_keyword_replaces_is_not_told_of(make: Make) -> None:
    filed = make(toml(tier("gold"), head="[plans.free]\nmax_priority = 3\n"), plans=[])
    assert filed.become(toml(tier("gold"), head="[plans.free]\nmax_priority = 4\n")) == ()
    assert not filed.heard(ConfigReloaded)
