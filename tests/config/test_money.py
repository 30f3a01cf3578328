"""Budgets, stores, ledgers and prices in a file: what is read, what is built, what is doubted."""

from __future__ import annotations

import json
import stat
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.conftest import Write
from stores.ground import Server
from tierllm import BudgetExceededError, ConfigError, Deployment, Tier, TieredClient
from tierllm.config import Config, Finding, check
from tierllm.cost.budget import Budget
from tierllm.cost.ledger import Entry, UsageLedger
from tierllm.events import Event, StoreTrouble
from tierllm.stores import DiskStore, MemoryStore, RedisStore
from tierllm.testing import FakeClock, FakeProvider

TIERS = """
[[tiers]]
name = "gold"
max_concurrency = 8
max_waiting = 8
max_tokens = 100
[[tiers.deployments]]
model = "big"
provider = "fake"
price = {input_usd_per_mtok = 1, output_usd_per_mtok = 10}

[[tiers]]
name = "silver"
max_concurrency = 8
max_waiting = 8
max_tokens = 100
[[tiers.deployments]]
model = "small"
provider = "fake"
price = {input_usd_per_mtok = 0.1, output_usd_per_mtok = 1}
"""
NO_ENVIRONMENT: dict[str, str] = {}


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        server = Server(Path(directory))
        yield server.url
        server.stop()


def config_of(text: str, tiers: str = TIERS) -> Config:
    return Config.parse(tomllib.loads(text + tiers))


def doubts(config: Config, environ: dict[str, str] = NO_ENVIRONMENT) -> list[Finding]:
    """What ``check`` says, but that these providers are fakes."""
    return [finding for finding in check(config, environ) if finding.key != "providers.fake"]


def refusal(text: str, tiers: str = TIERS) -> str:
    with pytest.raises(ConfigError) as caught:
        config_of(text, tiers)
    return str(caught.value)


def one_budget(text: str) -> Budget:
    (budget,) = config_of(f"[[budgets]]\n{text}").arguments()["budgets"]
    assert isinstance(budget, Budget)
    return budget


class TestBudgets:
    def test_every_keyword(self) -> None:
        budget = one_budget(
            """
            hard_usd = "0.05"
            soft_usd = 0.04
            hard_tokens = 1000
            soft_tokens = 900
            hard_calls = 10
            soft_calls = 9
            per = ["user", "tier"]
            window = "day"
            tz = "Europe/Berlin"
            where = {plan = "free", tier = ["gold", "silver"]}
            on_exceed = ["downgrade", "clamp"]
            on_soft = "downgrade"
            fail = "open"
            scope = "process"
            mode = "observe"
            name = "mine"
            """
        )
        assert [(limit.unit, limit.hard, limit.soft) for limit in budget.limits] == [
            ("usd", 50_000_000, 40_000_000),
            ("tokens", 1000, 900),
            ("calls", 10, 9),
        ]
        assert (budget.per, budget.window.spec, str(budget.window.zone)) == (
            ("user", "tier"),
            "day",
            "Europe/Berlin",
        )
        assert budget.where == {"plan": {"free"}, "tier": {"gold", "silver"}}
        assert budget.on_exceed == ("downgrade", "clamp")
        assert (budget.on_soft, budget.fail, budget.scope, budget.mode, budget.name) == (
            "downgrade",
            "open",
            "process",
            "observe",
            "mine",
        )

    def test_what_is_left_out_is_as_in_code(self) -> None:
        plain, in_file = Budget(hard_usd=1), one_budget("hard_usd = 1")
        for name in ("limits", "per", "where", "on_exceed", "on_soft", "fail", "scope", "mode", "name"):
            assert getattr(plain, name) == getattr(in_file, name)

    @given(st.integers(0, 9_000_000 * 10**9))
    def test_money_is_what_is_written(self, nano: int) -> None:
        written = f"{nano // 10**9}.{nano % 10**9:09}"
        assert one_budget(f'hard_usd = "{written}"').limits[0].hard == nano
        if nano < 10**15:  # more digits than that are no float
            assert one_budget(f"hard_usd = {written}").limits[0].hard == nano

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "budgets[0]: give it a limit, such as hard_usd=10"),
            ("hard_usd = -1", "budgets[0].hard_usd: give dollars, 0 or more"),
            ("hard_usd = 'a lot'", "budgets[0].hard_usd: give dollars, 0 or more"),
            ("hard_usd = '1e-12'", "budgets[0].hard_usd: give a nano-dollar at least, or 0"),
            ("hard_usd = 1\nsoft_usd = 1e-10", "budgets[0].soft_usd: give a nano-dollar at least, or 0"),
            ("hard_usd = true", "budgets[0].hard_usd: should be a whole number, or a number, or a string"),
            ("hard_tokens = 1.5", "budgets[0].hard_tokens: should be a whole number"),
            ("hard_usd = 1\nsoft_usd = 2", "budgets[0].soft_usd: give less than hard_usd=1"),
            ("hard_usd = 1\nper = 'usr'", "budgets[0].per: one or several of user, tenant"),
            (
                "hard_usd = 1\nper = ['user', 'call']",
                "budgets[0].per: 'client', ",
            ),
            ("hard_usd = 1\nwindow = 'dayly'", "budgets[0].window: give 'day', 'week'"),
            ("hard_usd = 1\ntz = 'Berlin'", "budgets[0].tz: give the name of a time zone"),
            ("hard_usd = 1\nwhere = {plam = 'free'}", "budgets[0].where: 'plam' is none of user"),
            ("hard_usd = 1\nwhere = {plan = []}", "budgets[0].where: give a name or several"),
            ("hard_usd = 1\non_exceed = 'stop'", "budgets[0].on_exceed: one or several of reject"),
            ("hard_usd = 1\non_soft = 'stop'", "budgets[0].on_soft: should be 'warn' or 'downgrade'"),
            ("hard_usd = 1\non_soft = 'downgrade'", "budgets[0].on_soft: give it a soft limit"),
            ("hard_usd = 1\nwindows = 'day'", "budgets[0].windows: there is no such key; did you mean"),
            ("hard_usd = 1\nname = 'a|b'", "budgets[0].name: give a name without '|'"),
            (
                "hard_usd = 1\n[[budgets]]\nhard_calls = 1",
                "budgets[1].name: another budget is called so ('client-total'); give it a name of its own",
            ),
        ],
    )
    def test_what_makes_no_sense(self, text: str, told: str) -> None:
        message = refusal(f"[[budgets]]\n{text}\n")
        assert message.startswith(f"the configuration: {told}"), message
        assert "\n" not in message

    def test_a_table_in_place_of_a_list(self) -> None:
        assert "budgets: should be a list; write [[budgets]]" in refusal("[budgets]\nhard_usd = 1\n")

    def test_the_client_keeps_to_them(self, write: Write) -> None:
        path = write('[[budgets]]\nhard_calls = 1\nper = "user"\n' + TIERS)
        with TieredClient.from_file(path) as client:
            client.complete("hi", user="u1")
            with pytest.raises(BudgetExceededError):
                client.complete("hi", user="u1")
            client.complete("hi", user="u2")


class TestStores:
    def test_a_directory_beside_the_file_outlives_the_client(self, write: Write, tmp_path: Path) -> None:
        path = write(
            '[[budgets]]\nhard_calls = 1\n[store]\nkind = "disk"\ndirectory = "state"\nlease_s = 9\n' + TIERS
        )
        with TieredClient.from_file(path) as client:
            assert isinstance(client._setup.treasury.store, DiskStore)
            client.complete("hi")
        assert (tmp_path / "state" / "cache.db").is_file()
        with TieredClient.from_file(path) as client, pytest.raises(BudgetExceededError):
            client.complete("hi")

    def test_memory(self) -> None:
        config = config_of('[[budgets]]\nhard_calls = 1\nwindow = "day"\n[store]\nkind = "memory"\n')
        with TieredClient.from_config(config, clock=FakeClock()) as client:
            assert isinstance(client._setup.treasury.store, MemoryStore)
            client.complete("hi")
            with pytest.raises(BudgetExceededError):
                client.complete("hi")

    @pytest.mark.parametrize("form", ["url_env", "default", "url"])
    def test_redis(self, redis_url: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv({"default": "REDIS_URL"}.get(form, "OUR_REDIS"), redis_url)
        named = {"url_env": 'url_env = "OUR_REDIS"', "default": "", "url": f'url = "{redis_url}"'}[form]
        text = f"""
            [[budgets]]
            hard_calls = 1
            [store]
            kind = "redis"
            namespace = "test-{form}"
            timeout_s = 5
            retry_s = 0
            {named}
            """
        with TieredClient.from_config(config_of(text)) as client:
            assert isinstance(client._setup.treasury.store, RedisStore)
            client.complete("hi")
        with TieredClient.from_config(config_of(text)) as client, pytest.raises(BudgetExceededError):
            client.complete("hi")

    def test_an_address_that_is_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("REDIS_URL", raising=False)
        config = config_of('[[budgets]]\nhard_calls = 1\n[store]\nkind = "redis"\n')
        with pytest.raises(
            ConfigError, match=r"store\.url_env: the environment variable REDIS_URL is not set"
        ):
            config.arguments()
        assert "store.url_env" in {f.key for f in check(config, NO_ENVIRONMENT)}
        assert doubts(config, {"REDIS_URL": "redis://localhost"}) == []
        assert config.arguments(store=None)["store"] is None

    def test_an_address_that_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_URL", "verysecret@host")
        with pytest.raises(
            ConfigError, match=r"store\.url_env: .* REDIS_URL should be an address such as"
        ) as caught:
            config_of('[store]\nkind = "redis"\n').arguments()
        assert "verysecret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "store.kind: should be one of 'memory', 'disk', 'redis'"),
            ("kind = 'rediss'", "store.kind: should be one of 'memory', 'disk', 'redis'"),
            ("kind = 'disk'", "store.directory: is missing"),
            ("kind = 'disk'\ndirectory = ''", "store.directory: should not be empty"),
            ("kind = 'disk'\ndirectory = 'x'\nlease_s = 0", "store.lease_s: should be greater than 0"),
            (
                "kind = 'disk'\ndirectory = 'x'\ntimeout = 1",
                "store.timeout: there is no such key; did you mean",
            ),
            ("kind = 'redis'\nretry_s = -1", "store.retry_s: should be greater than or equal to 0"),
            ("kind = 'redis'\nnamespace = '{a}'", "store.namespace: "),
            ("kind = 'redis'\nurl = 'localhost'", "store.url: should be an address such as redis://"),
            ("kind = 'redis'\nurl = 'redis://:verysecret@host'", "store.url: should hold no password; "),
            ("kind = 'redis'\nurl = 'redis://h?password=verysecret'", "store.url: should hold no password; "),
            ("kind = 'redis'\npassword = 'verysecret'", "store.password: a key has no place in this file; "),
            (
                "kind = 'redis'\nurl_env = 'redis://:verysecret@h'",
                "store.url_env: should be the name of an",
            ),
            ("kind = 'redis'\nurl = 'redis://verysecret@h'", "store.url: should hold no password; "),
            (
                "kind = 'redis'\nurl = 'rediss://h?ssl_password=verysecret'",
                "store.url: should hold no password; ",
            ),
            ("kind = 'redis'\nurl = 'REDIS://localhost'", "store.url: should be an address such as redis://"),
            ("kind = 'redis'\nurl = 'redis://h:99999'", "store.url: should be an address such as redis://"),
            ("kind = 'redis'\nurl = 'redis://h/abc'", "store.url: should be an address such as redis://"),
            ("kind = 'redis'\nurl = 'redis://h?db=x'", "store.url: should be an address such as redis://"),
            ("kind = 'redis'\nurl = 'redis://h?foo=1'", "store.url: should have no other options"),
            ("kind = 'redis'\nlease_s = 1e300", "store.lease_s: should be less than or equal to 86400"),
            ("kind = 'disk'\ndirectory = 'x'\ntimeout_s = 1e300", "store.timeout_s: should be less than"),
            ('kind = "disk"\ndirectory = "a\\u0000"', "store.directory: should be a path, without a zero"),
            ("kind = 'redis'\nurl = 'redis://h'\nurl_env = 'X'", "store: give url or url_env, not both"),
        ],
    )
    def test_what_makes_no_sense(self, text: str, told: str) -> None:
        message = refusal(f"[store]\n{text}\n")
        assert message.startswith(f"the configuration: {told}"), message
        assert "verysecret" not in message
        assert "\n" not in message

    @pytest.mark.parametrize("level", ["file", "tier"])
    def test_breakers_meet_in_it(self, write: Write, level: str) -> None:
        shared = "breaker = {shared = true, consecutive_failures = 1, failure_rate = false}\n"
        tiers = TIERS.replace("[[tiers.deployments]]", shared + "[[tiers.deployments]]")
        store = '[store]\nkind = "disk"\ndirectory = "state"\n'
        path = write(shared + store + TIERS if level == "file" else store + tiers)
        with TieredClient.from_file(path) as client:
            breaker = client._setup.lines["gold"].lines[0].breaker
            assert breaker is not None
            breaker.force_open()
            client.complete("hi")
        with TieredClient.from_file(path) as client:
            assert client.complete("hi").tier == "silver"

    def test_breakers_with_nowhere_to_meet(self) -> None:
        told = "breaker.shared: there is no store to share them in; add a [store] of kind"
        assert told in refusal("[breaker]\nshared = true\n")
        assert told in refusal("[breaker]\nshared = true\n[store]\nkind = 'memory'\n")
        assert f"tiers[1].deployments[0].{told}" in refusal("", TIERS + "breaker = {shared = true}\n")


class TestLedgers:
    def test_a_file_beside_the_file(self, write: Write, tmp_path: Path) -> None:
        path = write('[ledger]\npath = "usage.db"\nretention_days = 30\nmax_waiting = 5\n' + TIERS)
        with TieredClient.from_file(path) as client:
            client.complete("hi")
        ledger = UsageLedger(tmp_path / "usage.db", read_only=True)
        assert ledger.total().calls == 1
        ledger.close()

    def test_none(self) -> None:
        assert config_of("ledger = false\n").arguments()["ledger"] is False

    def test_what_is_not_in_the_file_is_left_to_the_client(self) -> None:
        assert not {"ledger", "store", "prices", "budgets"} & set(config_of("").arguments())

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("ledger = true\n", "ledger: should be a table, or false for none"),
            ("[ledger]\nretention_days = 0\n", "ledger.retention_days: should be greater than 0"),
            ("[ledger]\npaht = 'x'\n", "ledger.paht: there is no such key; did you mean 'path'?"),
            ('[ledger]\npath = "a\\u0000b"\n', "ledger.path: should be a path, without a zero byte"),
            ("[ledger]\npath = '~no-such-user/x'\n", "ledger.path: should begin with the home of a user"),
        ],
    )
    def test_what_makes_no_sense(self, text: str, told: str) -> None:
        assert refusal(text).startswith(f"the configuration: {told}")

    def test_its_directory_is_made(self, write: Write, tmp_path: Path) -> None:
        with TieredClient.from_file(write('[ledger]\npath = "logs/usage.db"\n' + TIERS)) as client:
            client.complete("hi")
        assert (tmp_path / "logs" / "usage.db").is_file()
        assert stat.S_IMODE((tmp_path / "logs").stat().st_mode) == 0o700

    def test_it_goes_by_the_time_of_its_rows(self, write: Write) -> None:
        path = write('[ledger]\npath = "usage.db"\nretention_days = 30\n' + TIERS)
        with TieredClient.from_file(path, clock=FakeClock()) as client:
            client.complete("hi")
            assert client.usage().calls == 1
        memory = config_of("[ledger]\nretention_days = 30\n")
        with TieredClient.from_config(memory, clock=FakeClock()) as client:
            client.complete("hi")
            assert client.usage().calls == 1

    def test_the_client_tells_of_its_trouble(self, write: Write) -> None:
        heard: list[Event] = []
        config = Config.load(write('[ledger]\npath = "usage.db"\n' + TIERS))
        with TieredClient.from_config(config, listeners=[heard.append]) as client:
            client.ledger.post(Entry(id="bad", trace_id="t", at=-1.0))
            assert client.ledger.flush()
        assert [event.store for event in heard if isinstance(event, StoreTrouble)] == ["ledger"]

    def test_a_change_of_directory_moves_nothing(
        self, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write('[ledger]\npath = "usage.db"\n' + TIERS)
        monkeypatch.chdir(tmp_path)
        config = Config.load("tierllm.toml")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        TieredClient.from_config(config).close()
        assert (tmp_path / "usage.db").is_file()

    def test_a_place_where_it_cannot_be(self, write: Write) -> None:
        config = Config.load(write('[ledger]\npath = "/dev/null/usage.db"\n' + TIERS))
        with pytest.raises(ConfigError, match=r"tierllm\.toml: ledger: "):
            config.arguments()


LIST = {
    "format": 1,
    "source": "a test",
    "as_of": "2026-11-01",
    "vendors": {
        "fake": {
            "called": [],
            "makes": ["big"],
            "also": [],
            "models": [{"model": "big", "names": ["big"], "prices": [{"input": 3, "output": 4}]}],
        }
    },
}


PRICE = "input_usd_per_mtok = 1\noutput_usd_per_mtok = 1"


class TestPrices:
    def unpriced(self) -> str:
        return "\n".join(line for line in TIERS.splitlines() if not line.startswith("price"))

    def test_a_list_beside_the_file_and_own_prices(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "prices.json").write_text(json.dumps(LIST))
        path = write(
            """
            [prices]
            file = "prices.json"
            [prices.models.small]
            input_usd_per_mtok = "0.1"
            output_usd_per_mtok = 0.2
            as_of = 2026-10-01
            source = "our contract"
            above = {200_000 = {input_usd_per_mtok = 0.3, output_usd_per_mtok = 0.4}}
            [prices.models.small.service.flex]
            input_usd_per_mtok = 0.05
            output_usd_per_mtok = 0.1
            above = {100 = {input_usd_per_mtok = 0.07, output_usd_per_mtok = 0.14}}
            """
            + self.unpriced()
        )
        book = Config.load(path).arguments()["prices"]
        assert book.find("big", "fake").price.input_usd_per_mtok == 3
        price = book.find("small").price
        assert (price.input_usd_per_mtok, price.as_of) == (Decimal("0.1"), "2026-10-01")
        assert price.rates(200_001).output_usd_per_mtok == Decimal("0.4")
        assert price.rates(101, "flex").input_usd_per_mtok == Decimal("0.07")
        with TieredClient.from_file(path) as client:
            assert client.complete("hi", sla="silver").cost_usd

    @pytest.mark.parametrize("content", [None, "[]", "{"])
    def test_a_list_that_cannot_be_read(self, write: Write, tmp_path: Path, content: str | None) -> None:
        if content is not None:
            (tmp_path / "prices.json").write_text(content)
        config = Config.load(write('[prices]\nfile = "prices.json"\n' + TIERS))
        with pytest.raises(ConfigError, match=r"tierllm\.toml: prices: .*make it anew with `tierllm prices"):
            config.arguments()
        (found,) = doubts(config)
        assert (found.severity, found.key) == ("error", "prices.file")

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("input_usd_per_mtok = 1", "prices.models.m.output_usd_per_mtok: is missing"),
            (
                "input_usd_per_mtok = -1\noutput_usd_per_mtok = 1",
                "prices.models.m.input_usd_per_mtok: give dollars per million tokens",
            ),
            (
                f"{PRICE}\n[prices.models.m.above.200_000]\n{PRICE}\n[prices.models.m.above.200000]\n{PRICE}",
                "prices.models.m.above: should have each number of input tokens once",
            ),
            (
                f"{PRICE}\n[prices.models.m.above.many]\n{PRICE}",
                "prices.models.m.above.many: should be a number of input tokens",
            ),
            (
                f"{PRICE}\nas_of = 'then'",
                "prices.models.m.as_of: give a day",
            ),
        ],
    )
    def test_what_makes_no_sense(self, text: str, told: str) -> None:
        message = refusal(f"[prices.models.m]\n{text}\n")
        assert message.startswith(f"the configuration: {told}"), message


class TestOverrides:
    FULL = (
        '[[budgets]]\nhard_calls = 5\n[breaker]\nshared = true\n[store]\nkind = "disk"\ndirectory = "state"\n'
        '[ledger]\npath = "usage.db"\n' + TIERS
    )

    def test_what_is_replaced_is_not_built(self, write: Write, tmp_path: Path) -> None:
        ours = MemoryStore()
        config = Config.load(write(self.FULL))
        arguments = config.arguments(store=ours, ledger=False)
        assert (arguments["store"], arguments["ledger"]) == (ours, False)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["tierllm.toml"]
        with TieredClient(**arguments) as client:
            client.complete("hi")
        assert not (tmp_path / "state").exists()

    def test_reading_and_checking_makes_nothing(self, write: Write, tmp_path: Path) -> None:
        check(Config.load(write(self.FULL)), NO_ENVIRONMENT)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["tierllm.toml"]

    def test_the_client_closes_store_and_ledger(self, write: Write, tmp_path: Path) -> None:
        client = TieredClient.from_file(write(self.FULL))
        client.complete("hi")
        store = client._setup.treasury.store
        assert isinstance(store, DiskStore)
        ledger = client._setup.treasury.ledger
        assert ledger is not None
        assert ledger.flush()
        files = {file.name for file in tmp_path.iterdir()}
        assert {"usage.db", "usage.db-wal"} <= files
        client.close()
        assert store._books is None
        assert not {file.name for file in tmp_path.iterdir()} & {"usage.db-wal", "usage.db-shm"}

    @pytest.mark.parametrize("how", ["seen before", "seen by the client"])
    def test_a_client_that_is_refused_leaves_nothing_open(
        self, write: Write, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unpriced = self.FULL.replace("hard_calls = 5", "hard_usd = 5")
        unpriced = unpriced.replace("price = {input_usd_per_mtok = 1, output_usd_per_mtok = 10}\n", "")
        path = write(unpriced)
        standing_in = {} if how == "seen before" else {"fake": FakeProvider(name="fake")}
        closed: list[UsageLedger] = []
        close = UsageLedger.close
        monkeypatch.setattr(UsageLedger, "close", lambda self: (closed.append(self), close(self)))
        with pytest.raises(ConfigError, match=r"no price is known for .?big.?, and budget"):
            TieredClient.from_config(Config.load(path), providers=standing_in)
        if how == "seen before":
            assert [file.name for file in tmp_path.iterdir()] == ["tierllm.toml"]
        else:
            assert len(closed) == 1
            assert not (tmp_path / "usage.db-wal").exists()

    @pytest.mark.parametrize(
        "budget", [Budget(hard_usd=1), Budget(hard_calls=1, where={"tier": "golf"})], ids=["price", "place"]
    )
    def test_a_client_that_refuses_itself_closes_the_ledger_it_made(
        self, tmp_path: Path, budget: Budget, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed: list[UsageLedger] = []
        close = UsageLedger.close
        monkeypatch.setattr(UsageLedger, "close", lambda self: (closed.append(self), close(self)))
        tiers = [Tier("gold", [Deployment("no-such-model", FakeProvider())])]
        with pytest.raises(ConfigError):
            TieredClient(tiers, budgets=[budget], ledger=tmp_path / "usage.db")
        assert len(closed) == 1
        assert [file.name for file in tmp_path.iterdir()] == ["usage.db"]  # and no log beside it

    def test_a_refused_client_does_not_close_what_is_the_callers(self, write: Write, tmp_path: Path) -> None:
        ours = UsageLedger(tmp_path / "ours.db")
        ours.close = lambda: pytest.fail("closed")  # type: ignore[method-assign]
        with pytest.raises(ConfigError):
            TieredClient.from_file(write(self.FULL), ledger=ours, deadline_s=-1)
        del ours.close
        ours.close()


SOUND = (
    """
[store]
kind = "disk"
directory = "state"
[[budgets]]
hard_usd = 10
per = "user"
window = "day"
"""
    + TIERS
)
Change = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], object]


def found(change: Change) -> list[Finding]:
    """The findings once ``change(file, its budget, its first deployment)`` was made."""
    data = tomllib.loads(SOUND)
    change(data, data["budgets"][0], data["tiers"][0]["deployments"][0])
    return doubts(Config.parse(data))


def without_price(data: dict[str, Any], *_: object) -> None:
    data["tiers"][0]["deployments"][0].pop("price")


class TestFindings:
    def test_a_sound_file_has_none(self) -> None:
        assert found(lambda *_: None) == []

    @pytest.mark.parametrize(
        ("change", "severity", "key", "words"),
        [
            pytest.param(
                without_price,
                "error",
                "tiers[0].deployments[0].price",
                "no price is known for big, and budget 'user-day' has a hard limit in dollars",
                id="no price under a hard limit",
            ),
            pytest.param(
                lambda c, b, d: (
                    without_price(c),
                    c["budgets"].clear(),
                    c.pop("store"),
                    d.update(provider="own"),
                    c.update(providers={"own": {"kind": "openai", "base_url": "http://localhost"}}),
                ),
                "warning",
                "tiers[0].deployments[0].price",
                "no price is known for big: its calls have no cost_usd",
                id="no price",
            ),
            pytest.param(
                lambda c, b, d: c.pop("store"),
                "warning",
                "budgets[0]",
                "each process has a limit of its own",
                id="memory",
            ),
            pytest.param(
                lambda c, b, d: (
                    c.update(store={"kind": "memory"}),
                    b.update(window="total", scope="process"),
                ),
                "warning",
                "budgets[0]",
                "its window is all time, but every restart begins at 0",
                id="memory, for ever",
            ),
            pytest.param(
                lambda c, b, d: b.update(on_exceed=["clamp", "downgrade"], where={"tier": "silver"}),
                "warning",
                "budgets[0].on_exceed",
                "nowhere to downgrade to",
                id="downgrade from the lowest tier",
            ),
            pytest.param(
                lambda c, b, d: (
                    b.update(on_exceed="downgrade", where={"tier": "gold"}),
                    c["tiers"][0].update(fallback=False),
                ),
                "warning",
                "budgets[0].on_exceed",
                "nowhere to downgrade to",
                id="downgrade without fallback",
            ),
            pytest.param(
                lambda c, b, d: (c["tiers"].pop(), b.update(soft_usd=1, on_soft="downgrade")),
                "warning",
                "budgets[0].on_soft",
                "there is no tier to downgrade to",
                id="soft downgrade from the only tier",
            ),
            pytest.param(
                lambda c, b, d: b.update(hard_usd="0.001"),
                "warning",
                "budgets[0].hard_usd",
                "one answer of 100 tokens from gold/big may take $0.001001 of $0.001",
                id="less than one answer in dollars",
            ),
            pytest.param(
                lambda c, b, d: (b.update(hard_tokens=4000), c["tiers"][0].pop("max_tokens")),
                "warning",
                "budgets[0].hard_tokens",
                "one answer of 4096 tokens from gold/big may take 4097 tokens of 4000 tokens",
                id="less than one answer in tokens",
            ),
            pytest.param(
                lambda c, b, d: c["budgets"].clear(),
                "warning",
                "store",
                "nothing is kept in it",
                id="a store for nothing",
            ),
            pytest.param(
                lambda c, b, d: c.update(ledger={"retention_days": 30}),
                "warning",
                "ledger.retention_days",
                "without a path the ledger is in memory",
                id="retention without a path",
            ),
            pytest.param(
                lambda c, b, d: c.update(ledger={"path": "usage.db", "max_rows": 5}),
                "warning",
                "ledger.max_rows",
                "it is for a ledger in memory",
                id="max_rows with a path",
            ),
        ],
    )
    def test_each_is_found_by_itself(self, change: Change, severity: str, key: str, words: str) -> None:
        others = ("tiers", "tiers[0]", "tiers[1]", "tiers[0].fallback", "providers.own.api_key_env")
        told = [finding for finding in found(change) if finding.key not in others]
        assert [(finding.severity, finding.key) for finding in told] == [(severity, key)]
        assert words in str(told[0])
        assert told[0].remedy

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda c, b, d: b.update(mode="observe", hard_usd="0.001"), id="observed"),
            pytest.param(lambda c, b, d: b.update(hard_usd="0.001", on_exceed="clamp"), id="clamped"),
            pytest.param(lambda c, b, d: b.update(hard_usd=0), id="nothing may be spent"),
            pytest.param(
                lambda c, b, d: (c.pop("store"), b.update(scope="process")), id="each process its own"
            ),
            pytest.param(
                lambda c, b, d: (c.pop("store"), b.update(per="call", window="total")), id="one call"
            ),
            pytest.param(
                lambda c, b, d: (without_price(c), b.update(where={"tier": "silver"})), id="elsewhere"
            ),
            pytest.param(
                lambda c, b, d: (without_price(c), b.pop("hard_usd"), b.update(hard_calls=1)), id="calls"
            ),
            pytest.param(
                lambda c, b, d: b.update(on_exceed="downgrade", where={"tier": "gold"}), id="a tier below"
            ),
            pytest.param(
                lambda c, b, d: (c["budgets"].clear(), c.update(breaker={"shared": True})), id="breakers"
            ),
            pytest.param(
                lambda c, b, d: c.update(ledger={"retention_days": 30, "path": "x.db"}), id="a ledger"
            ),
        ],
    )
    def test_what_is_sound_is_left_alone(self, change: Change) -> None:
        assert found(change) == []

    @pytest.mark.parametrize(
        ("where", "told"),
        [
            (
                {"tier": ["gold", "slver"]},
                "budgets[0].where.tier: there is no such tier; did you mean 'silver'?",
            ),
            (
                {"deployment": "bigg"},
                "budgets[0].where.deployment: there is no such deployment; did you mean 'big'?",
            ),
            ({"model": "xyz"}, "budgets[0].where.model: there is no such model; known are big, small"),
            ({"tier": "gold", "model": "small"}, "budgets[0].where: no deployment is all that is said here"),
        ],
        ids=["tier", "deployment", "model", "nowhere"],
    )
    @pytest.mark.parametrize("mode", ["enforce", "observe"])
    def test_a_budget_that_would_never_hold_is_refused(self, where: Any, told: str, mode: str) -> None:
        data = tomllib.loads(SOUND)
        data["budgets"][0] |= {"where": where, "mode": mode}
        with pytest.raises(ConfigError) as caught:
            Config.parse(data)
        assert str(caught.value).startswith(f"the configuration: {told}")
        name = next(iter(where))
        with pytest.raises(ConfigError, match=f"there is no {name} |never holds"):
            TieredClient.from_config(config_of(""), budgets=[Budget(hard_calls=1, where=where)], ledger=False)

    @pytest.mark.parametrize(
        ("provider", "model"),
        [
            ({"kind": "local"}, "anything"),
            ({"kind": "openai", "base_url": "https://api.openai.com:443/v1"}, "gpt-5-mini"),
            ({"kind": "openai", "api_key_env": "KEY_A"}, "gpt-5-mini"),
        ],
        ids=["local", "port", "openai"],
    )
    def test_what_the_client_has_a_price_for_has_one_here(
        self, provider: dict[str, Any], model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KEY_A", "a")
        data = tomllib.loads(SOUND)
        data.pop("store")
        data["providers"] = {"ours": provider}
        data["tiers"][0]["deployments"] = [{"model": model, "provider": "ours"}]
        config = Config.parse(data)
        assert not [finding for finding in check(config) if finding.key.endswith(".price")]
        with TieredClient.from_config(config) as client:
            assert client._setup.treasury.places[0].price is not None

    def test_an_error_of_check_is_one_of_the_client(self) -> None:
        data = tomllib.loads(SOUND)
        without_price(data)
        data.pop("store")
        with pytest.raises(ConfigError, match="no price is known for 'big', and budget 'user-day'"):
            TieredClient.from_config(Config.parse(data), providers={"fake": FakeProvider(name="fake")})

    def test_keys_of_one_account_are_told_apart_as_the_client_does(self) -> None:
        data = tomllib.loads(SOUND)
        data["providers"] = {"two": {"kind": "openai", "api_key_env": ["KEY_A", "KEY_B"]}}
        data["tiers"][0]["deployments"][0]["provider"] = "two"
        data["budgets"][0]["where"] = {"deployment": "big#2"}
        keys = {"KEY_A": "a", "KEY_B": "b"}
        assert not [f for f in check(Config.parse(data), keys) if f.key.startswith("budgets")]
        data["budgets"][0]["where"] = {"deployment": "big#3"}
        with pytest.raises(
            ConfigError, match=r"budgets\[0\]\.where\.deployment: there is no such deployment"
        ):
            Config.parse(data)
