"""Each rule of ``check`` finds what it is for, and leaves a sound configuration alone."""

from __future__ import annotations

import tomllib

import pytest

from tierllm.config import Config, check

SOUND = """
[client]
deadline_s = 10
[timeouts]
total_s = 4
[providers.openai]
kind = "openai"
[providers.home]
kind = "openai"
base_url = "http://localhost:8000/v1"

[[tiers]]
name = "gold"
max_concurrency = 32
objective = {latency_p95_s = 2}
[[tiers.deployments]]
model = "big"
provider = "openai"
price = {input_usd_per_mtok = 1, output_usd_per_mtok = 2}

[[tiers]]
name = "silver"
max_concurrency = 32
[[tiers.deployments]]
model = "small"
provider = "home"
price = {input_usd_per_mtok = 0, output_usd_per_mtok = 0}
"""
KEYS = {"OPENAI_API_KEY": "sk-x", "KEY_A": "sk-a", "KEY_B": "sk-b"}


def findings(change, environ=KEYS):
    data = tomllib.loads(SOUND)
    change(data, data["tiers"][0], data["tiers"][1])
    found = check(Config.parse(data), environ)
    assert all(f.severity == "warning" and f.remedy for f in found)
    return {(f.key, f.problem) for f in found}


def test_a_sound_configuration_has_no_findings():
    assert check(Config.parse(tomllib.loads(SOUND)), KEYS) == []


def first_deployment(tier, **settings):
    tier["deployments"][0].update(settings)


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        (lambda c, g, s: c["tiers"].remove(s), "tiers[0]", "there is no fallback"),
        (lambda c, g, s: g.update(fallback=False), "tiers[0].fallback", "there is no fallback: gold"),
        (lambda c, g, s: g.update(fallback=False), "tiers[1]", "no call steps down to silver"),
        (
            lambda c, g, s: first_deployment(s, provider="openai"),
            "tiers",
            "every deployment is at api.openai.com",
        ),
        (lambda c, g, s: s.update(deployments=g["deployments"]), "tiers[1]", "silver is the same as gold"),
        (
            lambda c, g, s: g["deployments"].append(dict(g["deployments"][0])),
            "tiers[0].deployments[1]",
            "this is deployments[0] again",
        ),
        (
            lambda c, g, s: (c["client"].clear(), c["timeouts"].clear()),
            "tiers[0].objective.latency_p95_s",
            "is given 300 s",
        ),
        (
            lambda c, g, s: (c["client"].clear(), c["timeouts"].update(total_s=False)),
            "tiers[0].objective.latency_p95_s",
            "for ever",
        ),
        (
            lambda c, g, s: g["objective"].update(first_token_p95_s=0.5),
            "tiers[0].objective.first_token_p95_s",
            "is given 60 s",
        ),
        (
            lambda c, g, s: (
                g["timeouts"].update(total_s=1) if "timeouts" in g else g.update(timeouts={"total_s": 1})
            ),
            "tiers[0].timeouts.total_s",
            "sooner than the objective",
        ),
        (
            lambda c, g, s: c["timeouts"].update(total_s=10),
            "tiers[0].timeouts.total_s",
            "uses up the deadline of 10 s",
        ),
        (
            lambda c, g, s: c.update(retry={"attempts": 9, "base_s": 1}),
            "tiers[0].deployments[0].retry",
            "9 attempts wait",
        ),
        (lambda c, g, s: g.pop("max_concurrency"), "tiers[0].max_concurrency", "nothing bounds"),
        (
            lambda c, g, s: (g.pop("max_concurrency"), g.update(max_waiting=3)),
            "tiers[0].max_waiting",
            "there is no queue",
        ),
        (lambda c, g, s: c["client"].clear(), "tiers[0].max_waiting", "has no bound"),
        (
            lambda c, g, s: first_deployment(g, weight=2),
            "tiers[0].deployments[0].weight",
            "count for nothing",
        ),
        (
            lambda c, g, s: g["deployments"][0].pop("price"),
            "tiers[0].deployments[0].price",
            "no price is known for big",
        ),
        (lambda c, g, s: c.update(breaker=False), "tiers[1].deployments[0].breaker", "the breaker is off"),
        (
            lambda c, g, s: first_deployment(g, labels=["eu", "eu"]),
            "tiers[0].deployments[0].labels",
            "'eu' stands there more than once",
        ),
        (
            lambda c, g, s: g["deployments"].append({"model": "big", "provider": "home"}),
            "tiers[0].deployments[1].name",
            "call this one big#2",
        ),
        (
            lambda c, g, s: c["providers"].update(spare={"kind": "local"}),
            "providers.spare",
            "no deployment uses",
        ),
        (
            lambda c, g, s: c["providers"].update(home={"kind": "fake"}),
            "providers.home",
            "makes its answers up",
        ),
        (
            lambda c, g, s: c["providers"].update(home={"kind": "local", "model_path": "~/none.gguf"}),
            "providers.home.model_path",
            "there is no such file",
        ),
        (
            lambda c, g, s: c["providers"]["home"].update(base_url="http://far/v1", api_key_env="KEY_A"),
            "providers.home.base_url",
            "in the clear",
        ),
        (
            lambda c, g, s: c["providers"]["home"].update(api_key_env=["KEY_A", "KEY_A"]),
            "providers.home.api_key_env",
            "KEY_A stands there more than once",
        ),
        (
            lambda c, g, s: c["providers"]["home"].update(api_key_env=["KEY_A", "KEY_C"]),
            "providers.home.api_key_env",
            "KEY_C is not set",
        ),
    ],
)
def test_each_rule(change, key, words):
    found = findings(change)
    assert any(k == key and words in problem for k, problem in found), found


def test_a_second_key_is_a_way_out_of_a_lone_tier():
    def change(config, gold, silver):
        config["tiers"].remove(silver)
        config["providers"]["openai"]["api_key_env"] = ["KEY_A", "KEY_B"]

    assert not any("there is no fallback" in problem for _, problem in findings(change))


def test_a_deadline_serves_an_objective_as_well_as_a_timeout():
    assert not any(
        "objective" in key
        for key, _ in findings(lambda c, g, s: (c["timeouts"].clear(), c["client"].update(deadline_s=6)))
    )
