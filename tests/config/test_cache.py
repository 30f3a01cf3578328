"""A cache in a file: what is read, what is built, what is doubted."""

from __future__ import annotations

import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.conftest import Write
from stores.ground import Server
from tierllm import ConfigError, ResultCache, TieredClient
from tierllm.caching import DiskLayer, Layer, MemoryLayer, RedisLayer
from tierllm.config import Config, Finding, check
from tierllm.testing import FakeClock, FakeProvider

TIERS = """
[[tiers]]
name = "gold"
max_concurrency = 8
max_waiting = 8
[[tiers.deployments]]
model = "big"
provider = "fake"

[[tiers]]
name = "silver"
max_concurrency = 8
max_waiting = 8
[[tiers.deployments]]
model = "small"
provider = "fake"
"""
NO_ENVIRONMENT: dict[str, str] = {}
OPTIONS = (
    *("jitter", "stale_while_revalidate_s", "stale_if_error_s", "scope", "serve_higher", "default"),
    *("one_flight", "mode"),
)


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:  # short: a socket's path is bounded
        server = Server(Path(directory))
        yield server.url
        server.stop()


def config_of(text: str, tiers: str = TIERS) -> Config:
    return Config.parse(tomllib.loads(text + tiers))


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config_of(text)
    return str(caught.value)


def cache_of(text: str) -> ResultCache:
    cache = config_of(text).arguments()["cache"]
    assert isinstance(cache, ResultCache)
    return cache


def layer(text: str) -> Layer:
    (made,) = cache_of(f"[[cache.layers]]\n{text}\n").layers
    return made


class TestOptions:
    def test_every_keyword(self) -> None:
        cache = cache_of(
            """
            [cache]
            ttl_s = 600
            jitter = 0.2
            stale_while_revalidate_s = 30
            stale_if_error_s = 0
            scope = "user"
            serve_higher = false
            default = "always"
            one_flight = false
            write = "behind"
            mode = "observe"
            """
        )
        told = [getattr(cache, name) for name in OPTIONS]
        assert told == [0.2, 30, 0, "user", False, "always", False, "observe"]
        assert (cache.ttl_of("gold"), cache.stack.write) == (600, "behind")

    def test_what_is_left_out_is_as_in_code(self) -> None:
        plain, in_file = ResultCache(), cache_of("[cache]\n")
        for name in OPTIONS:
            assert getattr(plain, name) == getattr(in_file, name), name
        assert plain.ttl_of("gold") == in_file.ttl_of("gold")
        assert plain.stack.write == in_file.stack.write
        (ours,), (theirs,) = plain.layers, in_file.layers
        assert isinstance(ours, MemoryLayer)
        assert isinstance(theirs, MemoryLayer)
        assert (ours.max_bytes, ours.max_entries) == (theirs.max_bytes, theirs.max_entries)

    def test_without_a_table_there_is_none(self) -> None:
        assert "cache" not in config_of("").arguments()

    def test_times_by_tier(self) -> None:
        cache = cache_of('[cache.ttl_s]\ngold = 600\n"*" = 60.5\n')
        assert (cache.ttl_of("gold"), cache.ttl_of("silver")) == (600, 60.5)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("ttl_s = -1", "cache.ttl_s: give seconds, from 0 to a year, or some by tier"),
            ("ttl_s = true", "cache.ttl_s: should be a number"),
            ("ttl_s = 'long'", "cache.ttl_s: should be a number"),
            ("ttl_s = {gold = 'long'}", "cache.ttl_s.gold: should be a number"),
            ("ttl_s = {gold = 1e300}", "cache.ttl_s: give seconds, from 0 to a year"),
            ("ttl_s = {golf = 1}", "cache.ttl_s.golf: there is no such tier; did you mean 'gold'?"),
            ("jitter = 1", "cache.jitter: give a part from 0 to below 1"),
            ("stale_if_error_s = -1", "cache.stale_if_error_s: give seconds"),
            ("stale_while_revalidate_s = 1e300", "cache.stale_while_revalidate_s: give seconds"),
            ("scope = 'all'", "cache.scope: should be 'tenant', 'user', 'session' or 'shared'"),
            ("default = 'on'", "cache.default: should be 'auto', 'always' or 'off'"),
            ("default = 'refresh'", "cache.default: should be 'auto', 'always' or 'off'"),
            ("write = 'back'", "cache.write: should be 'through' or 'behind'"),
            ("mode = 'off'", "cache.mode: should be 'enforce' or 'observe'"),
            ("serve_higher = 1", "cache.serve_higher: should be true or false"),
            ("tll_s = 1", "cache.tll_s: there is no such key; did you mean 'ttl_s'?"),
            ("layers = []", "cache.layers: should have at least one entry"),
            ("layers = {kind = 'memory'}", "cache.layers: should be a list; write [[cache.layers]]"),
        ],
    )
    def test_what_makes_no_sense(self, text: str, told: str) -> None:
        message = refusal(f"[cache]\n{text}\n")
        assert message.startswith(f"the configuration: {told}"), message
        assert "\n" not in message

    def test_a_switch_in_place_of_a_table(self) -> None:
        assert refusal("cache = false\n").endswith("; leave it out for none")

    def test_the_client_keeps_answers(self, write: Write) -> None:
        fake = FakeProvider()
        with TieredClient.from_config(
            Config.load(write("[cache]\n" + TIERS)), providers={"fake": fake}
        ) as client:
            assert not client.complete("hi").cached
            assert client.complete("hi").cached
            assert client.cache.stats().hits == {"memory": 1}
        fake.journal.assert_count(1)

    def test_it_goes_by_the_clients_clock(self, write: Write) -> None:
        clock = FakeClock()
        config = Config.load(write("[cache]\nttl_s = 100\nstale_if_error_s = 0\njitter = 0\n" + TIERS))
        with TieredClient.from_config(config, clock=clock) as client:
            client.complete("hi")
            clock.advance(99)
            assert client.complete("hi").cached
            clock.advance(2)
            assert not client.complete("hi").cached
            client.cache.invalidate(everything=True)
            assert client.cache.boards.notices.number == int(clock() * 1000)

    def test_its_layers_do_too(self) -> None:
        clock = FakeClock()
        config = config_of('[[cache.layers]]\nkind = "memory"\nttl_s = 5\n')
        with TieredClient.from_config(config, clock=clock) as client:
            client.complete("hi")
            clock.advance(4)
            assert client.complete("hi").cached
            clock.advance(2)
            assert not client.complete("hi").cached


class TestLayers:
    def test_memory(self) -> None:
        made = layer(
            'kind = "memory"\nmax_bytes = 100_000\nmax_entries = 7\nttl_s = 5\nquotas = {gold = 0.5}'
        )
        assert isinstance(made, MemoryLayer)
        assert (made.max_bytes, made.max_entries, made.ttl_s) == (100_000, 7, 5)
        assert made.quotas == {"gold": 0.5}

    def test_what_is_left_out_is_as_in_code(
        self, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDIS_URL", redis_url)
        in_code = (MemoryLayer(), RedisLayer(redis_url), DiskLayer(tmp_path))
        tables = ('kind = "memory"', 'kind = "redis"', f'kind = "disk"\ndirectory = "{tmp_path}"')
        config = config_of("".join(f"[[cache.layers]]\n{table}\n" for table in tables))
        cache = config.arguments()["cache"]
        assert config.cache is not None
        for ours, theirs, written in zip(in_code, cache.layers, config.cache.layers, strict=True):
            assert type(ours) is type(theirs)
            assert repr(ours) == repr(theirs)
            assert ours.max_bytes == theirs.max_bytes == written.max_bytes  # type: ignore[attr-defined]
            assert ours.ttl_s == theirs.ttl_s
        cache.close()
        for each in in_code:
            each.close()

    def test_a_directory_beside_the_file_outlives_the_client(self, write: Write, tmp_path: Path) -> None:
        path = write(
            '[[cache.layers]]\nkind = "disk"\ndirectory = "answers"\nmax_bytes = 2_000_000\n'
            "quotas = {gold = 0.5, 'silver/acme' = 0.1, '*/acme' = 0.1}\ntimeout_s = 9\nretry_s = 0\n" + TIERS
        )
        with TieredClient.from_file(path) as client:
            client.complete("hi")
            (disk,) = client.cache.layers
            assert isinstance(disk, DiskLayer)
            assert disk.max_bytes == 2_000_000
            assert disk.quotas == {"gold": 0.5, "silver/acme": 0.1, "*/acme": 0.1}
        assert (tmp_path / "answers").is_dir()
        with TieredClient.from_file(path) as client:
            assert client.complete("hi").cached

    @pytest.mark.parametrize("form", ["url_env", "default", "url"])
    def test_redis(self, redis_url: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv({"default": "REDIS_URL"}.get(form, "OUR_REDIS"), redis_url)
        named = {"url_env": 'url_env = "OUR_REDIS"', "default": "", "url": f'url = "{redis_url}"'}[form]
        text = f"""
            [[cache.layers]]
            kind = "redis"
            namespace = "test-{form}"
            max_bytes = 1_000_000
            quotas = {{gold = 0.25}}
            timeout_s = 5
            retry_s = 0
            {named}
            """
        with TieredClient.from_config(config_of(text)) as client:
            client.complete("hi")
            (redis,) = client.cache.layers
            assert isinstance(redis, RedisLayer)
            assert (redis.max_bytes, redis.quotas) == (1_000_000, {"gold": 0.25})
        with TieredClient.from_config(config_of(text)) as client:
            assert client.complete("hi").cached

    def test_all_three(self, redis_url: str, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_URL", redis_url)
        path = write(
            '[[cache.layers]]\nkind = "memory"\n[[cache.layers]]\nkind = "redis"\nnamespace = "three"\n'
            'timeout_s = 5\n[[cache.layers]]\nkind = "disk"\ndirectory = "answers"\n' + TIERS
        )
        with TieredClient.from_file(path) as client:
            client.complete("hi")
            assert [layer.stats().entries for layer in client.cache.layers] == [1, 1, 1]

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "cache.layers[0].kind: should be one of 'memory', 'redis', 'disk'"),
            ("kind = 'ram'", "cache.layers[0].kind: should be one of 'memory', 'redis', 'disk'"),
            ("kind = 'disk'", "cache.layers[0].directory: is missing"),
            ("kind = 'disk'\ndirectory = ''", "cache.layers[0].directory: should not be empty"),
            ("kind = 'disk'\ndirectory = 'd'\nmax_bytes = 9", "cache.layers[0].max_bytes: should be greater"),
            ("kind = 'memory'\nmax_bytes = 9", "cache.layers[0].max_bytes: should be greater"),
            ("kind = 'memory'\nmax_bytes = 1e9", "cache.layers[0].max_bytes: should be a whole number"),
            ("kind = 'memory'\nmax_entries = 0", "cache.layers[0].max_entries: should be greater"),
            ("kind = 'memory'\nttl_s = 0", "cache.layers[0].ttl_s: should be greater than 0"),
            ("kind = 'memory'\nttl_s = 1e9", "cache.layers[0].ttl_s: should be less than"),
            (
                "kind = 'memory'\nmax_byte = 1",
                "cache.layers[0].max_byte: there is no such key; did you mean 'max_bytes'?",
            ),
            ("kind = 'memory'\ndirectory = 'd'", "cache.layers[0].directory: there is no such key"),
            ("kind = 'memory'\nquotas = {gold = 2}", "cache.layers[0].quotas: give a share from 0 to 1"),
            (
                "kind = 'redis'\nquotas = {gold = 0.7, silver = 0.7}",
                "cache.layers[0].quotas: they sum up to 1.4; 1 is the whole",
            ),
            (
                "kind = 'memory'\nquotas = {golf = 0.5}",
                "cache.layers[0].quotas.golf: there is no such tier; did you mean 'gold'?",
            ),
            (
                "kind = 'memory'\nquotas = {'golf/acme' = 0.5}",
                "cache.layers[0].quotas.golf/acme: there is no such tier; did you mean 'gold'?",
            ),
            ("kind = 'memory'\nquotas = {'*' = 0.5}", "cache.layers[0].quotas.*: there is no such tier"),
            ("kind = 'redis'\nretry_s = -1", "cache.layers[0].retry_s: should be greater than or equal to 0"),
            ("kind = 'redis'\nnamespace = '{a}'", "cache.layers[0].namespace: "),
            ("kind = 'redis'\nurl = 'localhost'", "cache.layers[0].url: should be an address such as"),
            ("kind = 'redis'\nurl = 'redis://:verysecret@h'", "cache.layers[0].url: should hold no password"),
            (
                "kind = 'redis'\npassword = 'verysecret'",
                "cache.layers[0].password: a key has no place in this file; a password comes from",
            ),
            (
                "kind = 'redis'\nurl_env = 'redis://:verysecret@h'",
                "cache.layers[0].url_env: should be the name of an environment variable",
            ),
            ("kind = 'redis'\nurl = 'redis://h'\nurl_env = 'X'", "cache.layers[0]: give url or url_env, not"),
            ("kind = 'redis'\n[[cache.layers]]\nkind = 'redis'", "cache.layers[1]: there is a redis layer"),
            (
                "kind = 'disk'\ndirectory = 'a'\n[[cache.layers]]\nkind = 'disk'\ndirectory = './a'",
                "cache.layers[1]: there is a disk layer already; take one of them out",
            ),
            (
                "kind = 'disk'\ndirectory = 'a'\n[[cache.layers]]\nkind = 'disk'\ndirectory = 'b'",
                "cache.layers[1]: there is a disk layer already; take one of them out",
            ),
            (
                "kind = 'redis'\nurl = 'redis://h?ssl_ca_certs=x'",
                "cache.layers[0].url: should have no other options than such a connection takes",
            ),
        ],
    )
    def test_what_makes_no_sense(self, text: str, told: str) -> None:
        message = refusal(f"[[cache.layers]]\n{text}\n")
        assert message.startswith(f"the configuration: {told}"), message
        assert "verysecret" not in message
        assert "\n" not in message

    def test_an_address_that_is_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("REDIS_URL", raising=False)
        config = config_of('[[cache.layers]]\nkind = "memory"\n[[cache.layers]]\nkind = "redis"\n')
        with pytest.raises(
            ConfigError, match=r"cache\.layers\[1\]\.url_env: the environment variable REDIS_URL is not set"
        ):
            config.arguments()
        assert "cache.layers[1].url_env" in {f.key for f in check(config, NO_ENVIRONMENT)}
        assert doubts(config, {"REDIS_URL": "redis://localhost"}) == []
        assert config.arguments(cache=None)["cache"] is None

    def test_an_address_that_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_URL", "verysecret@host")
        with pytest.raises(
            ConfigError,
            match=r"cache\.layers\[0\]\.url_env: .* REDIS_URL should be an address such as",
        ) as caught:
            config_of('[[cache.layers]]\nkind = "redis"\n').arguments()
        assert "verysecret" not in str(caught.value)

    @pytest.mark.parametrize(
        "url", ["verysecret@host", "redis://:verysecret@h/x", "redis://verysecret@h?ssl_ciphers=x"]
    )
    def test_check_looks_into_the_variable(self, url: str) -> None:
        found = doubts(config_of('[[cache.layers]]\nkind = "redis"\n'), {"REDIS_URL": url})
        (finding,) = [each for each in found if each.key != "cache.layers"]
        assert (finding.severity, finding.key) == ("error", "cache.layers[0].url_env")
        assert finding.problem.startswith("the environment variable REDIS_URL should ")
        assert "verysecret" not in str(finding)


class TestBuilding:
    FULL = '[ledger]\npath = "usage.db"\n[[cache.layers]]\nkind = "disk"\ndirectory = "answers"\n' + TIERS

    def test_reading_and_checking_makes_nothing(self, write: Write, tmp_path: Path) -> None:
        check(Config.load(write(self.FULL)), NO_ENVIRONMENT)
        assert [path.name for path in tmp_path.iterdir()] == ["tierllm.toml"]

    def test_what_is_replaced_is_not_built(self, write: Write, tmp_path: Path) -> None:
        with ResultCacheClosed() as ours:
            arguments = Config.load(write(self.FULL)).arguments(cache=ours, ledger=False)
            assert arguments["cache"] is ours
            assert [path.name for path in tmp_path.iterdir()] == ["tierllm.toml"]

    def test_what_was_made_is_closed_where_a_later_layer_fails(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDIS_URL", "redis://localhost")
        monkeypatch.setitem(sys.modules, "redis", None)
        closed = closings(monkeypatch, DiskLayer)
        path = write(self.FULL.replace("[[tiers]]", '[[cache.layers]]\nkind = "redis"\n[[tiers]]', 1))
        with pytest.raises(ConfigError, match="not installed"):
            Config.load(path).arguments()
        assert len(closed) == 1

    def test_it_is_closed_where_the_ledger_cannot_be_made(
        self, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed = closings(monkeypatch, DiskLayer)
        path = write(self.FULL.replace("usage.db", "/dev/null/usage.db"))
        with pytest.raises(ConfigError, match=r"tierllm\.toml: ledger: "):
            Config.load(path).arguments()
        assert len(closed) == 1

    def test_the_client_closes_it(self, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
        closed = closings(monkeypatch, DiskLayer)
        with TieredClient.from_file(write(self.FULL)) as client:
            client.complete("hi")
            assert closed == []
        assert len(closed) == 1

    def test_a_directory_that_others_may_write_to(self, write: Write, tmp_path: Path) -> None:
        (tmp_path / "answers").mkdir()
        (tmp_path / "answers").chmod(0o777)
        with pytest.raises(ConfigError, match=r"tierllm\.toml: cache: DiskLayer: others may write to"):
            Config.load(write(self.FULL)).arguments()


class ResultCacheClosed(ResultCache):
    """Closed in the end, whatever happens."""

    def __enter__(self) -> ResultCacheClosed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def closings(monkeypatch: pytest.MonkeyPatch, kind: type[Layer]) -> list[Layer]:
    closed: list[Layer] = []
    close = kind.close
    monkeypatch.setattr(kind, "close", lambda self: (closed.append(self), close(self)))
    return closed


def doubts(config: Config, environ: dict[str, str] = NO_ENVIRONMENT) -> list[Finding]:
    """What ``check`` says, but that these providers are fakes."""
    return [finding for finding in check(config, environ) if finding.key != "providers.fake"]


SOUND = (
    '[cache]\nttl_s = 60\n[[cache.layers]]\nkind = "memory"\n[[cache.layers]]\nkind = "disk"\n'
    'directory = "answers"\n' + TIERS
)


def found(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> list[Finding]:
    """The findings once ``change(file, its cache)`` was made."""
    data = tomllib.loads(SOUND)
    change(data, data["cache"])
    return doubts(Config.parse(data))


def warm(data: dict[str, Any], *numbers: int, **more: Any) -> None:
    for number in numbers:
        data["tiers"][number].update({"defaults": {"temperature": 0.7}, **more})


class TestFindings:
    def test_a_sound_file_has_none(self) -> None:
        assert found(lambda *_: None) == []

    def test_memory_alone_is_sound(self) -> None:
        assert found(lambda f, c: c.pop("layers")) == []

    @pytest.mark.parametrize(
        ("change", "key", "words"),
        [
            pytest.param(
                lambda f, c: warm(f, 0, 1), "cache", "every tier asks with a temperature above 0", id="warm"
            ),
            pytest.param(
                lambda f, c: [tier.update(temperature=0.5) for tier in f["tiers"]],
                "cache",
                "every tier asks with a temperature above 0",
                id="warm by the ceiling",
            ),
            pytest.param(
                lambda f, c: [
                    tier["deployments"][0].update(params={"temperature": 1}) for tier in f["tiers"]
                ],
                "cache",
                "every tier asks with a temperature above 0",
                id="warm by the deployment",
            ),
            pytest.param(
                lambda f, c: c.update(ttl_s={"gold": 60}),
                "cache.ttl_s",
                "nothing is said for silver",
                id="a tier left out",
            ),
            pytest.param(lambda f, c: c.update(ttl_s=0), "cache.ttl_s", "nothing is kept", id="no time"),
            pytest.param(
                lambda f, c: c.update(ttl_s={"*": 0}), "cache.ttl_s", "nothing is kept", id="no times"
            ),
            pytest.param(
                lambda f, c: c["layers"].reverse(),
                "cache.layers[1]",
                "memory is asked after disk, which takes longer",
                id="memory last",
            ),
            pytest.param(
                lambda f, c: (c.pop("layers"), c.update(write="behind")),
                "cache.write",
                "no layer to be waited for",
                id="behind nothing",
            ),
        ],
    )
    def test_each_rule(self, change: Any, key: str, words: str) -> None:
        (finding,) = found(change)
        assert (finding.severity, finding.key) == ("warning", key)
        assert words in finding.problem
        assert finding.remedy

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda f, c: warm(f, 0), id="one is warm"),
            pytest.param(lambda f, c: (warm(f, 0, 1), c.update(default="always")), id="always"),
            pytest.param(
                lambda f, c: (
                    warm(f, 0, 1),
                    [tier["deployments"][0].update(drop=["temperature"]) for tier in f["tiers"]],
                ),
                id="never sent",
            ),
            pytest.param(lambda f, c: warm(f, 0, 1, temperature=0), id="a ceiling of 0"),
            pytest.param(lambda f, c: c.update(ttl_s={"gold": 60, "silver": 0}), id="a tier at 0"),
            pytest.param(lambda f, c: c.update(ttl_s={"*": 60}), id="all others"),
            pytest.param(lambda f, c: c.update(write="behind"), id="behind"),
        ],
    )
    def test_what_is_meant_is_not_doubted(self, change: Any) -> None:
        assert found(change) == []

    def test_check_and_the_client_agree_on_warmth(self) -> None:
        """What ``check`` reads from the file is what the cache goes by."""
        data = tomllib.loads(SOUND)
        data["cache"].pop("layers")
        warm(data, 0, 1)
        with TieredClient.from_config(Config.parse(data)) as client:
            client.complete("hi")
            assert not client.complete("hi").cached
            assert client.complete("hi", temperature=0).cached is False
            assert client.complete("hi", temperature=0).cached
