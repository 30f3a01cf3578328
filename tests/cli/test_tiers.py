"""``tierllm tiers``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Command
from tierllm.routing.decision_log import DecisionLog
from tierllm.types import Request, Response, Trace

TEXT = """
[providers.openai]
kind = "openai"
[providers.fake]
kind = "fake"
[shadow]
to = "bronze"
judge = "format"

[[tiers]]
name = "gold"
purpose = "hard questions"
objective = {latency_p95_s = 4.0, first_token_p95_s = 1.5, availability = 0.999, cost_usd = 0.02}
[[tiers.deployments]]
model = "gpt-5.2"
provider = "openai"
[[tiers.deployments]]
model = "gpt-5.2"
name = "eu"
purpose = "what must stay in the EU"
provider = "openai"
price = {input_usd_per_mtok = "1.75", output_usd_per_mtok = 14}
context_window = 128_000

[[tiers]]
name = "silver"
[[tiers.deployments]]
model = "nobody-knows"
provider = "fake"
quality = 0.6

[[tiers]]
name = "bronze"
[[tiers.deployments]]
model = "house"
provider = "fake"
price = {input_usd_per_mtok = 0, output_usd_per_mtok = 0}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    path = tmp_path / "tierllm.toml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "decisions.jsonl"
    decisions = DecisionLog(path)
    for number, (tier, name, score) in enumerate(
        [
            ("gold", "eu", 1.0),
            ("gold", "eu", 0.5),
            ("silver", "nobody-knows", 0.25),
            ("gold", "gpt-5.2", None),
        ]
    ):
        trace = Trace(f"t{number}", None, tier)
        trace.served, trace.deployment, trace.outcome = tier, name, "ok"
        decisions.note(trace, Request(messages=({"role": "user", "content": "secret"},)), None, Response("x"))
        if score is not None:
            decisions.feedback(trace.id, score)
    for number, (cache, degraded) in enumerate((("hit", ()), (None, ("short",)))):
        trace = Trace(f"c{number}", None, "gold")
        trace.served, trace.deployment, trace.outcome = "gold", "eu", "ok"
        trace.cache, trace.degraded = cache, degraded
        decisions.note(trace, Request(messages=({"role": "user", "content": "x"},)), None, Response("x"))
        decisions.feedback(trace.id, 0.0)
    decisions.close()
    return path


def cells(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


def test_levels_purposes_prices_and_windows(tierllm: Command, config: Path) -> None:
    ran = tierllm("tiers")
    assert (ran.code, ran.err) == (0, "")
    head, gold, eu, silver, bronze, *notes = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert head == "tier model purpose objective $ in $ out window quality n"
    assert gold.startswith(
        "1 gold gpt-5.2 hard questions p95 4 s, first token p95 1.5 s, 99.9 %, $0.02 1.75 14 "
    )
    assert gold.endswith("- -")
    assert eu == "gpt-5.2 (eu) what must stay in the EU 1.75 14 128,000 - -"
    assert silver == "2 silver nobody-knows - - - - 0.600* -"
    assert bronze == "3 bronze house - 0 0 - - -"
    assert notes == [
        "$ in and $ out: dollars per million tokens",
        "* as the configuration says; it was not measured",
    ]


def test_quality_comes_from_what_was_said(tierllm: Command, config: Path, log: Path) -> None:
    ran = tierllm("tiers", "--log", str(log))
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert lines[2].endswith("0.750 2")  # neither from a cache nor where the load took something away
    assert lines[3].endswith("0.250 1")
    assert lines[1].endswith("- -")
    assert lines[-1] == "3 of 6 calls in the log have an answer that somebody judged"
    assert "secret" not in ran.out


def test_a_comparison_tells_of_both_places(tierllm: Command, config: Path, tmp_path: Path) -> None:
    path = tmp_path / "compared.jsonl"
    decisions = DecisionLog(path)
    trace = Trace("t", None, "gold")
    trace.served, trace.deployment, trace.outcome = "gold", "eu", "ok"
    decisions.note(trace, Request(messages=({"role": "user", "content": "x"},)), None, Response("x"))
    decisions.compared("t", weak=0.25, strong=0.75)
    decisions.close()
    told = json.loads(tierllm("tiers", "--log", str(path), "--json").out)
    gold, _, bronze = told["tiers"]
    assert (gold["deployments"][1]["quality"], gold["deployments"][1]["judged"]) == (0.75, 1)
    assert (bronze["deployments"][0]["quality"], bronze["deployments"][0]["judged"]) == (0.25, 1)


def test_as_json(tierllm: Command, config: Path, log: Path) -> None:
    told = json.loads(tierllm("tiers", "--config", str(config), "--log", str(log), "--json").out)
    assert told["file"] == str(config)
    assert told["log"] == {"file": str(log), "calls": 6, "judged": 3}
    gold, silver, _ = told["tiers"]
    assert (gold["level"], gold["tier"], gold["purpose"]) == (1, "gold", "hard questions")
    assert gold["objective"] == {
        "latency_p95_s": 4.0,
        "first_token_p95_s": 1.5,
        "availability": 0.999,
        "cost_usd": "0.02",
    }
    assert gold["deployments"][1] == {
        "name": "eu",
        "model": "gpt-5.2",
        "provider": "openai",
        "purpose": "what must stay in the EU",
        "input_usd_per_mtok": "1.75",
        "output_usd_per_mtok": "14",
        "context_window": 128_000,
        "quality": 0.75,
        "judged": 2,
        "quality_said": None,
    }
    assert silver["objective"] is None
    assert silver["deployments"][0]["input_usd_per_mtok"] is None


def test_several_keys_are_one_line(tierllm: Command, config: Path, tmp_path: Path) -> None:
    text = TEXT.replace('kind = "openai"', 'kind = "openai"\napi_key_env = ["ONE", "TWO"]', 1)
    config.write_text(text)
    path = tmp_path / "keys.jsonl"
    decisions = DecisionLog(path)
    for number, name in enumerate(("eu", "eu#2")):
        trace = Trace(f"t{number}", None, "gold")
        trace.served, trace.deployment, trace.outcome = "gold", name, "ok"
        decisions.note(trace, Request(messages=({"role": "user", "content": "x"},)), None, Response("x"))
        decisions.feedback(trace.id, float(number))
    decisions.close()
    lines = cells(tierllm("tiers", "--log", str(path)).out)
    assert lines[2][-2:] == ["0.500", "2"]


def test_the_log_of_the_configuration_is_read_where_none_is_named(
    tierllm: Command, config: Path, log: Path, tmp_path: Path
) -> None:
    asked = tierllm("tiers", "--log", str(log))
    config.write_text('[decisions]\npath = "logs/own.jsonl"\n' + TEXT)
    without = tierllm("tiers")
    assert without.code == 0
    assert "calls in the log" not in without.out  # nothing was written to it yet
    assert tierllm("tiers", "--log", str(log)) == asked
    (tmp_path / "logs").mkdir()
    log.rename(tmp_path / "logs" / "own.jsonl")
    assert tierllm("tiers") == asked
    told = json.loads(tierllm("tiers", "--json").out)
    assert Path(told["log"]["file"]) == tmp_path / "logs" / "own.jsonl"


def test_what_is_not_there(tierllm: Command, config: Path, tmp_path: Path) -> None:
    ran = tierllm("tiers", "--config", "nowhere.toml")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("tierllm tiers: nowhere.toml: there is no such file")
    ran = tierllm("tiers", "--log", str(tmp_path / "nothing.jsonl"))
    assert ran.code == 1
    assert "nothing.jsonl" in ran.err
    (tmp_path / "other.txt").write_text("something else\n{}\n")
    ran = tierllm("tiers", "--log", str(tmp_path / "other.txt"))
    assert (ran.code, ran.out) == (1, "")
    assert "other.txt: this is no decision log" in ran.err
    (tmp_path / "empty.jsonl").write_text("")
    assert tierllm("tiers", "--log", str(tmp_path / "empty.jsonl")).code == 0


def test_names_that_a_terminal_would_obey(tierllm: Command, config: Path) -> None:
    config.write_text(TEXT.replace('purpose = "hard questions"', 'purpose = "hard\\u001b[31m"'))
    assert "\x1b" not in tierllm("tiers").out
