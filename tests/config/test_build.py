"""From the file to the client."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tierllm import ConfigError, Objective, Price, TieredClient
from tierllm.config import Config, check
from tierllm.testing import FakeClock, FakeProvider

client_of = TieredClient.from_config

FULL = """
[client]
deadline_s = 20
simple_reply = {"*" = {en = "Later, please.", "*" = "Bald."}}
[retry]
attempts = 2
base_s = 0.1
[retry_budget]
share = 0.5
[breaker]
open_s = 5
failure_rate = false
[timeouts]
total_s = 30
between_tokens_s = false
[fallback]
content_filter = "next"
[providers.main]
kind = "openai"
api_key_env = ["KEY_ONE", "KEY_TWO"]
base_url = "http://localhost:1/v1"
[providers.other]
kind = "fake"
latency_s = 0.5

[[tiers]]
name = "gold"
max_concurrency = 32
max_waiting = 8
max_wait_s = 2
prompt = "Be kind."
max_tokens = 100
temperature = 0.5
reasoning_effort = "low"
defaults = {top_p = 0.9}
choose = "weighted"
fallback = {content_filter = "raise"}
objective = {latency_p95_s = 4.0, availability = 0.999}
timeouts = {first_token_s = 2}
breaker = {window = 7}
[[tiers.deployments]]
model = "big"
provider = "main"
weight = 3
price = {input_usd_per_mtok = 1.25, output_usd_per_mtok = "10"}
context_window = 128_000
params = {seed = 1}
drop = ["temperature"]
labels = ["eu"]
[[tiers.deployments]]
model = "big-us"
provider = "other"
name = "us"
retry = false
breaker = false
timeouts = {total_s = 9}

[[tiers]]
name = "silver"
fallback = false
[[tiers.deployments]]
model = "small"
provider = "other"
"""

ONE_TIER = """
[[tiers]]
name = "only"
[[tiers.deployments]]
model = "m"
"""


@pytest.fixture
def client(write, monkeypatch):
    monkeypatch.setenv("KEY_ONE", "sk-1")
    monkeypatch.setenv("KEY_TWO", "sk-2")
    with client_of(Config.load(write(FULL))) as client:
        yield client


def test_tiers_and_deployments(client):
    gold, silver = client.tiers
    first, _, us = gold.deployments
    assert (gold.max_concurrency, gold.max_waiting, gold.max_wait_s) == (32, 8, 2)
    assert (gold.prompt, gold.defaults, gold.choose) == ("Be kind.", {"top_p": 0.9}, "weighted")
    assert (gold.ceilings.max_tokens, gold.ceilings.temperature, gold.ceilings.reasoning_effort) == (
        100,
        0.5,
        "low",
    )
    assert gold.objective == Objective(latency_p95_s=4.0, availability=0.999)
    assert gold.fallback.content_filter == "raise"
    assert silver.fallback is False
    assert (first.model, first.weight, first.context_window) == ("big", 3, 128_000)
    assert (first.params, first.drop, first.labels) == ({"seed": 1}, {"temperature"}, {"eu"})
    assert first.price == Price(input_usd_per_mtok=Decimal("1.25"), output_usd_per_mtok=10)
    assert (us.name, us.retry, us.breaker) == ("us", False, False)
    assert client.deadline_s == 20
    assert client.fallback.content_filter == "next"


def test_each_key_is_a_deployment_with_its_own_breaker(client):
    first, second, _ = client.tiers[0].deployments
    assert first.model == second.model == "big"
    assert first.provider is not second.provider
    assert first.breaker is not second.breaker
    assert list(client.status()["tiers"]["gold"]["deployments"]) == ["big", "big#2", "us"]


def test_one_provider_for_all_deployments_of_an_account(client):
    assert client.tiers[0].deployments[2].provider is client.tiers[1].deployments[0].provider


def test_a_nearer_table_changes_only_the_keys_it_names(client):
    first, _, us = client.tiers[0].deployments
    assert (first.timeouts.total_s, first.timeouts.first_token_s, first.timeouts.between_tokens_s) == (
        30,
        2,
        None,
    )
    assert (us.timeouts.total_s, us.timeouts.first_token_s) == (9, 2)
    settings = first.breaker.settings
    assert (settings.open_s, settings.failure_rate, settings.window) == (5, None, 7)
    silver = client.tiers[1].deployments[0]
    assert silver.breaker is silver.timeouts is None  # the client's own hold


def test_overrides_replace_what_the_file_says(write):
    clock, fake = FakeClock(), FakeProvider()
    config = Config.load(write(FULL))
    client = client_of(config, providers={"main": fake, "other": fake}, clock=clock, deadline_s=1)
    assert client.clock is clock
    assert client.deadline_s == 1
    assert client.complete("hi", sla="silver").text
    fake.journal.assert_count(1, model="small")


def test_the_simple_reply_at_the_end(write):
    fake = FakeProvider()
    fake.down()
    client = client_of(Config.load(write(FULL)), providers={"main": fake, "other": fake}, clock=FakeClock())
    assert client.complete("hi", language="en").text == "Later, please."
    assert client.complete("hi", language="de").text == "Bald."


def test_missing_keys_are_named_when_building_not_when_loading(write, monkeypatch):
    monkeypatch.delenv("KEY_ONE", raising=False)
    monkeypatch.setenv("KEY_TWO", "")
    path = write(FULL)
    config = Config.load(path)
    with pytest.raises(ConfigError) as caught:
        client_of(config)
    first, *rest = str(caught.value).splitlines()
    assert first == f"{path}: 2 problems"
    assert "providers.main.api_key_env: the environment variable KEY_ONE is not set" in rest[0]
    assert "KEY_TWO" in rest[1]


@pytest.mark.parametrize(
    ("table", "sent"),
    [
        ("", "sk-openai"),
        ('api_key_env = "MY_KEY"', "sk-mine"),
        ('base_url = "https://elsewhere/v1"', "none-needed"),  # OpenAI's key is not for others
        ('base_url = "https://elsewhere/v1"\napi_key_env = "MY_KEY"', "sk-mine"),
    ],
)
def test_which_key_is_sent_where(write, monkeypatch, table, sent):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("MY_KEY", "sk-mine")
    client = client_of(Config.load(write(f'[providers.p]\nkind = "openai"\n{table}\n{ONE_TIER}')))
    assert client.tiers[0].deployments[0].provider._clients._key() == sent


def test_the_local_model_is_not_loaded_by_building(write):
    client = client_of(Config.load(write(f'[providers.p]\nkind = "local"\nn_ctx = 512\n{ONE_TIER}')))
    assert client.tiers[0].deployments[0].provider.name == "p"


def test_a_stand_in_for_a_provider_that_is_not_there_is_refused(write):
    path = write(FULL)
    for name, told in (("mian", "did you mean 'main'?"), ("openai", "known are main, other")):
        with pytest.raises(ConfigError) as caught:
            TieredClient.from_file(path, providers={name: FakeProvider(), "other": FakeProvider()})
        assert f"providers={{'{name}': …}}: the file has no provider of this name; {told}" in str(
            caught.value
        )


def test_a_variable_with_the_looks_of_a_key_is_not_named(write):
    names = ["AKIAIOSFODNN7EXAMPLE", "SKSECRET0123", "SK_LIVE_51"]
    config = Config.load(write(FULL.replace('"KEY_ONE", "KEY_TWO"', str(names)[1:-1])))
    findings = check(config, {})
    with pytest.raises(ConfigError) as caught:
        client_of(config)
    for told in (str(caught.value), "".join(map(str, findings))):
        assert not any(name in told for name in names)
        assert told.count("providers.main.api_key_env: an environment variable with the looks of a key") == 3
