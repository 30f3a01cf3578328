"""``tierllm complete``."""

from __future__ import annotations

import json

import pytest

from tierllm import Deployment, InvalidRequestError, ProviderUnavailableError, Tier, TieredClient
from tierllm.testing import Fail, FakeProvider
from tierllm.testing.answers import answer_to


@pytest.fixture
def fake(monkeypatch):
    """One provider for the file's tiers, to be scripted."""
    fake = FakeProvider()

    def client(file):
        tiers = [Tier("gold", [Deployment("big", fake)]), Tier("silver", [Deployment("small", fake)])]
        return TieredClient(tiers, retry=False)

    monkeypatch.setattr("tierllm.cli.complete._client", client)
    return fake


def test_the_file_in_the_working_directory(tierllm, fakes):
    assert tierllm("complete", "hi") == (0, answer_to("big", "hi") + "\n", "")
    assert tierllm("complete", "hi", "--sla", "silver").out == answer_to("small", "hi") + "\n"


def test_a_named_file_and_stdin(process, fakes):
    ran = process("complete", "-", "--config", str(fakes), "--sla", "silver", stdin="Grüß Gott".encode())
    assert ran.out == answer_to("small", "Grüß Gott") + "\n"


def test_streaming_prints_the_same(tierllm, fakes):
    assert tierllm("complete", "hi", "--stream") == tierllm("complete", "hi")


def test_json(tierllm, fakes):
    told = json.loads(tierllm("complete", "hi", "--json", "--max-tokens", "2").out)
    assert (told["tier"], told["deployment"], told["finish_reason"]) == ("gold", "big", "length")
    assert told["usage"]["output_tokens"] == 2
    assert "trace" not in told
    assert (
        json.loads(tierllm("complete", "hi", "--json", "--stream", "--trace").out)["trace"]["served"]
        == "gold"
    )


def test_options_reach_the_model(tierllm, fake):
    tierllm("complete", "hi", "--max-tokens", "7", "--temperature", "0.5", "--system", "Be brief.")
    call = fake.journal[0]
    assert dict(call.params) == {"max_tokens": 7, "temperature": 0.5}
    assert [m["role"] for m in call.messages] == ["system", "user"]


def test_the_trace_goes_to_stderr(tierllm, fake):
    fake.script("big", Fail.unavailable())
    ran = tierllm("complete", "hi", "--trace")
    assert ran.out == answer_to("small", "hi") + "\n"
    assert json.loads(ran.err)["served"] == "silver"


def test_a_failure_is_one_line_and_its_trace(tierllm, fake):
    fake.down()
    ran = tierllm("complete", "hi")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("tierllm complete: every admissible place failed: gold/big: ")
    assert ran.err.count("\n") == 1
    assert '"outcome": "failed"' in tierllm("complete", "hi", "--trace").err


def test_the_vendors_own_words_are_told_with_the_trace(tierllm, fake):
    refused = InvalidRequestError("cannot take this request; see .detail", detail="no such voice")
    fake.script("big", Fail.error(refused), repeat=2)
    assert tierllm("complete", "hi").err == "tierllm complete: cannot take this request; see --trace\n"
    assert "\ndetail: no such voice\n" in tierllm("complete", "hi", "--trace").err
    fake.down(fail=Fail.error(ProviderUnavailableError("out", detail="come back at ten")))
    assert tierllm("complete", "hi", "--trace").err.count("\ndetail: come back at ten\n") == 1


def test_a_stream_that_breaks_keeps_what_came(tierllm, fake):
    fake.script("big", Fail.cut_after(2))
    ran = tierllm("complete", "hi", "--stream")
    assert ran.code == 1
    assert ran.out == " ".join(answer_to("big", "hi").split()[:2]) + "\n"
    assert "the stream broke off" in ran.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("hi", "--sla", "gld"), "sla='gld': there is no such tier; did you mean 'gold'?"),
        ((" ",), "the prompt is empty"),
        (("hi", "--temperature", "9"), "temperature=9.0: give a number from 0 to 2"),
    ],
)
def test_what_makes_no_sense(tierllm, fakes, arguments, told):
    ran = tierllm("complete", *arguments)
    assert ran.code == 1
    assert told in ran.err


@pytest.mark.parametrize("option", ["--max-tokens", "--deadline"])
def test_numbers_above_zero(tierllm, option):
    ran = tierllm("complete", "hi", option, "0")
    assert ran.code == 2
    assert "above 0" in ran.err


def test_without_a_file_the_local_model(tierllm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tierllm.providers.local.Local", FakeProvider)
    ran = tierllm("complete", "hi")
    assert ran.out == answer_to("smollm2-135m", "hi") + "\n"
    assert ran.err == "tierllm complete: there is no tierllm.toml here, so the local model answers\n"
