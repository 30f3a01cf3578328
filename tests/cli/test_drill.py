"""``tierllm drill``."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def drill(tierllm, fakes):
    """The report of a drill and its exit code."""

    def drill(*arguments):
        ran = tierllm("drill", str(fakes), *arguments, "--json")
        return ran.code, json.loads(ran.out)

    return drill


def answered(report):
    return [phase["answered"] for phase in report["phases"]]


def test_gold_fails_and_comes_back(drill):
    code, report = drill("--down", "gold")
    assert code == 0
    assert (report["passed"], report["lost"], report["asked"]) == (True, 0, ["gold"])
    normal, outage, recovery = answered(report)
    assert (normal, outage) == ({"gold": 60}, {"silver": 60})
    assert recovery["gold"] > 0
    assert 0 < report["recovered_after_s"]["gold"] < 61  # the second open time
    assert report["phases"][1]["reasons"]["gold/big: breaker"] > 50
    told = [moment["text"] for moment in report["timeline"]]
    assert told[0] == "gold fails (5xx)"
    assert "gold/big: breaker open (3 consecutive failures)" in told
    assert told[-1] == "gold answers again"


def test_it_is_the_same_each_time(drill):
    assert drill("--down", "gold", "--with", "429") == drill("--down", "gold", "--with", "429")


@pytest.mark.parametrize("fault", ["5xx", "429", "hang", "slow", "cut"])
def test_each_fault_is_survived_by_falling_back(drill, fault):
    code, report = drill("--down", "gold", "--with", fault)
    assert (code, report["lost"]) == (0, 0)
    assert report["phases"][1]["answered"]["silver"] > 0


def test_everything_down_loses_calls_and_fails(drill):
    code, report = drill("--down", "gold", "--down", "silver", "--calls", "20")
    assert code == 1
    assert report["lost"] >= 20
    assert list(report["errors"]) == ["AllTiersFailedError"]
    assert set(report["recovered_after_s"]) == {"gold", "silver"}
    assert None not in report["recovered_after_s"].values()


def test_one_deployment_of_a_tier(drill):
    code, report = drill("--down", "gold/big")
    assert code == 0
    assert answered(report) == [{"gold": 60}] * 3
    assert any("gold/big: breaker closed" in moment["text"] for moment in report["timeline"])


def test_a_stream_cut_in_the_middle_is_lost(drill):
    code, report = drill("--down", "gold", "--with", "cut", "--stream", "--calls", "10")
    assert code == 1
    assert "StreamInterruptedError" in report["errors"]


def test_a_call_without_any_bound_is_seen(drill, fakes):
    fakes.write_text(fakes.read_text().replace("total_s = 8", "total_s = false"))
    code, report = drill("--down", "gold", "--with", "hang", "--calls", "5")
    assert code == 1
    assert report["errors"] == {"no end in sight (set a timeout or a deadline)": 5}


def test_a_simple_reply_is_an_answer(drill, fakes):
    fakes.write_text('[client]\nsimple_reply = "Later."\n' + fakes.read_text())
    code, report = drill("--down", "gold", "--down", "silver", "--sla", "gold", "--calls", "10")
    assert (code, report["lost"]) == (0, 0)
    assert report["phases"][1]["answered"] == {"simple_reply": 10}


def test_no_keys_are_needed(drill, fakes, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    fakes.write_text(fakes.read_text().replace('"fake"', '"openai"'))
    assert drill("--down", "gold")[0] == 0


def test_in_words(tierllm, fakes):
    ran = tierllm("drill", "--down", "gold", "--calls", "10")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "gold down (5xx); calls to gold, one every 1 s, in virtual time"
    assert lines[2].split() == ["phase", "calls", "answered", "by", "no", "answer", "p50", "p95"]
    assert lines[-2].startswith("gold answered again ")
    assert lines[-1].startswith("every one of ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--down", "gld"), "--down='gld': there is no such tier; did you mean 'gold'?"),
        (("--down", "gold/x"), "--down='gold/x': the deployments of gold are big, big-us"),
        (("--down", "gold", "--sla", "x"), "--sla='x': there is no such tier; the tiers are gold, silver"),
    ],
)
def test_unknown_names(tierllm, fakes, arguments, told):
    ran = tierllm("drill", str(fakes), *arguments)
    assert (ran.code, ran.err) == (1, f"tierllm drill: {told}\n")
