"""``tierllm explain``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tierllm import Deployment, Tier, TieredClient
from tierllm.routing.decision_log import DecisionLog
from tierllm.testing import Fail, FakeProvider
from tierllm.types import Candidate, Request, Trace


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "decisions.jsonl"
    decisions = DecisionLog(path)
    for name in ("a1", "a2"):
        trace = Trace(name, "gold", "gold", "silver", "mini", outcome="ok", duration_s=1.8, plan="premium")
        trace.candidates = [Candidate("gold", "big\x1b[31m", "breaker"), Candidate("silver", "mini")]
        decisions.note(trace, Request(messages=()))
    decisions.feedback("a2", 0.25)
    decisions.close()
    return path


def test_a_call_is_explained(tierllm: Any, log: Path) -> None:
    ran = tierllm("explain", "a1", "--log", str(log))
    assert ran == (
        0,
        "asked gold (plan premium); gold/big\\u001b[31m open; served by silver/mini; 1.8 s\n",
        "",
    )


def test_feedback_is_told(tierllm: Any, log: Path) -> None:
    assert tierllm("explain", "a2", "--log", str(log)).out.endswith("feedback: 0.25 (explicit)\n")


def test_all_of_it_as_json(tierllm: Any, log: Path) -> None:
    ran = tierllm("explain", "a2", "--log", str(log), "--json")
    told = json.loads(ran.out)
    assert (told["id"], told["served"], told["quality"]) == ("a2", "silver", 0.25)
    assert told["explained"].startswith("asked gold")
    assert "\x1b" not in ran.out


@pytest.mark.parametrize("name", ["a", "nobody", "\x1b"])
def test_an_id_that_is_not_there(tierllm: Any, log: Path, name: str) -> None:
    ran = tierllm("explain", name, "--log", str(log))
    assert (ran.code, ran.out) == (1, "")
    assert "has no call" in ran.err
    assert "response.trace.id" in ran.err
    assert "\x1b" not in ran.err


def test_a_log_that_is_not_there(tierllm: Any, tmp_path: Path) -> None:
    ran = tierllm("explain", "a1", "--log", str(tmp_path / "no"))
    assert ran.code == 1
    assert "there is no decision log" in ran.err


CONFIG = """
[decisions]
path = "logs/decisions.jsonl"
[providers.fake]
kind = "fake"
[[tiers]]
name = "gold"
[[tiers.deployments]]
model = "big"
provider = "fake"
"""


@pytest.fixture
def config(tmp_path: Path, log: Path) -> Path:
    """A configuration whose log that is, by a path relative to the file."""
    (tmp_path / "logs").mkdir()
    log.rename(tmp_path / "logs" / "decisions.jsonl")
    path = tmp_path / "tierllm.toml"
    path.write_text(CONFIG)
    return path


def test_the_configuration_says_where_the_log_is(
    tierllm: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tierllm("explain", "a2", "--log", str(tmp_path / "logs" / "decisions.jsonl"))
    assert told.code == 0
    assert tierllm("explain", "a2", "--config", str(config)) == told
    monkeypatch.chdir(tmp_path)
    assert tierllm("explain", "a2") == told
    ran = tierllm("explain", "nobody")
    assert ran.code == 1
    assert "decisions.jsonl has no call 'nobody'" in ran.err
    ran = tierllm("explain", "a2", "--log", "other.jsonl")
    assert (ran.code, ran.out) == (1, "")  # what is named goes before what is configured
    assert "other.jsonl" in ran.err


def test_nothing_says_where_the_log_is(
    tierllm: Any, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config.write_text(CONFIG.replace('[decisions]\npath = "logs/decisions.jsonl"\n', ""))
    ran = tierllm("explain", "a2")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == ("tierllm explain: tierllm.toml has no [decisions]; name the decision log with --log\n")
    config.unlink()
    ran = tierllm("explain", "a2")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "tierllm explain: tierllm.toml: there is no such file; name the decision log with --log\n"
    )


def test_what_a_real_client_has_done_by_another_process(process: Any, tmp_path: Path) -> None:
    path = tmp_path / "log"
    tiers = [
        Tier("gold", [Deployment("big", FakeProvider(answer=lambda call: Fail.unavailable()))]),
        Tier("silver", [Deployment("mini", FakeProvider())]),
    ]
    with TieredClient(tiers, decisions=path, retry=False) as client:
        response = client.complete("hello", sla="gold", user="ann")
        client.feedback(response.trace.id, 1.0)  # type: ignore[union-attr]
        mine = client.explain(response)
        assert client.explain(response.trace.id) == mine  # type: ignore[union-attr]
    ran = process("explain", response.trace.id, "--log", str(path))  # type: ignore[union-attr]
    assert ran.code == 0
    assert ran.out == f"{mine}\nfeedback: 1 (explicit)\n"
    assert "gold/big was out of service (503); served by silver/mini" in mine


def test_numbers_that_are_none_are_null(tierllm: Any, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"v": 1, "kind": "call", "id": "a", "cost_usd": NaN, "scores": {"x": 1e999}}\n')
    ran = tierllm("explain", "a", "--log", str(path), "--json")
    told = json.loads(ran.out, parse_constant=lambda constant: pytest.fail(constant))
    assert (told["cost_usd"], told["scores"]) == (None, {"x": None})


def test_a_name_begins_no_line(tierllm: Any, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"v": 1, "kind": "call", "id": "a", "plan": "x\\n$ all is well", "outcome": "ok"}\n')
    assert tierllm("explain", "a", "--log", str(path)).out.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_no_log_and_is_not_waited_for(tierllm: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    ran = tierllm("explain", "a", "--log", str(tmp_path / "pipe"))
    assert ran.code == 1
    assert "no regular file" in ran.err
