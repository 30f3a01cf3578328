"""``tierllm demo``."""

from __future__ import annotations

import re

import pytest

from tierllm import ConfigError
from tierllm.cli import demo, stage
from tierllm.cli.story import Story
from tierllm.testing import FakeClock, FakeProvider


def test_the_whole_story_in_no_time(tierllm):
    ran = tierllm("demo", "--fast")
    assert ran.code == 0
    assert ran.out.startswith("tierllm demo. On fake models in virtual time, as --fast asks for.\n")
    served = re.findall(
        r"^ *[\d.]+  (?:normal|gold down|both down|recovery) +(gold|silver|bronze) ", ran.out, re.M
    )
    runs = [tier for at, tier in enumerate(served) if tier != served[at - 1] or at == 0]
    assert runs == ["gold", "silver", "bronze", "silver", "gold"]
    assert "gold's breaker is open: 3 consecutive failures" in ran.out
    assert "gold's breaker is closed: probe succeeded" in ran.out
    assert "; none lost\n" in ran.out


def test_fast_plays_to_a_process_too(process):
    ran = process("demo", "--fast", "--seconds", "30")
    assert (ran.code, ran.err) == (0, "")


def test_fakes_in_real_time(tierllm):
    ran = tierllm("demo", "--fake", "--seconds", "1")
    assert "On fake models, as --fake asks for." in ran.out
    assert "; none lost\n" in ran.out


def test_where_the_real_model_cannot_be_had_it_says_why(tierllm, monkeypatch):
    def missing():
        raise ConfigError("xllamacpp is not installed")

    monkeypatch.setattr(demo, "_real", missing)
    ran = tierllm("demo", "--seconds", "1")
    assert "On fake models, since the real one cannot be had: xllamacpp is not installed\n" in ran.out


def test_a_model_that_is_really_out_fails_the_demo(tierllm, monkeypatch):
    broken = FakeProvider()
    broken.down()
    monkeypatch.setattr(demo, "_real", lambda: (broken, "m", "On a broken model."))
    ran = tierllm("demo", "--seconds", "1")
    assert ran.code == 1
    assert "no answer: every admissible place failed" in ran.out
    assert "gold was not seen to recover" in ran.out


@pytest.mark.parametrize("width", [60, 90, 140])
def test_in_color(width, monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(stage, "REFRESH_S", 0.0)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert demo.run(_arguments()) == 0
    out = capsys.readouterr().out
    assert "none lost" in out
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= width


def test_no_text_is_taken_for_markup(monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setenv("COLUMNS", "200")
    model = FakeProvider(answer=lambda call: "See [/answer] and [local].")
    why = 'No room in [/tmp/x]: pip install "tierllm[local]".'
    played = stage.rich_stage()
    assert played is not None
    clock = FakeClock()
    with played:
        Story(model, "m", why, 60.0, played, clock, clock.advance).tell()
        played.news(0.0, "gold", "open", "by [/hand]")
        played.close(["All [/told]."])
    out = capsys.readouterr().out
    for text in (why, "See [/answer] and [local].", "by [/hand]", "All [/told]."):
        assert text in out


@pytest.mark.parametrize("seconds", ["3600", "1e7"])
def test_a_long_demo(tierllm, seconds):
    ran = tierllm("demo", "--fast", "--seconds", seconds)
    assert (ran.code, ran.err) == (0, "")


def test_without_rich_plain(monkeypatch):
    monkeypatch.setattr(stage.importlib.util, "find_spec", lambda name: None)
    assert stage.rich_stage() is None


def _arguments():
    from argparse import Namespace

    return Namespace(fast=True, fake=False, seconds=60.0)
