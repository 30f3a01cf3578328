"""``tierllm train-router``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from routing.logged import questions, write
from tierllm.routing.learned_scorer import LearnedScorer


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write(tmp_path_factory.mktemp("good") / "log", list(questions(900)), users=60))


@pytest.fixture
def poor(tmp_path: Path) -> str:
    return str(write(tmp_path / "poor", list(questions(40))))


def test_a_scorer_a_curve_and_a_table(tierllm: Any, log: str, tmp_path: Path) -> None:
    out, curve = tmp_path / "scorer.json", tmp_path / "curve.svg"
    ran = tierllm("train-router", log, "--out", str(out), "--curve", str(curve), "--share", "0.4")
    assert (ran.code, ran.err) == (0, "")
    for told in (
        "900 calls in the log, 900 to learn from",
        "outcomes of the weak model (bronze)",
        "doubly robust; 630 calls of 42 groups by user",
        "APGR (chance: .5)",
        "strong for 40%",
        "of 60 would have gone to the weak model",
        "\n    100%",
        "better than chance",
        f"written: {out}",
    ):
        assert told in ran.out
    scorer = LearnedScorer.load(out)
    assert scorer.samples == 900
    assert scorer.score("prove the theorem") > scorer.score("hello thanks")
    assert "always gold" in "".join(ElementTree.parse(curve).getroot().itertext())


def test_too_little_is_exit_3_and_writes_no_scorer_unless_forced(
    tierllm: Any, poor: str, tmp_path: Path
) -> None:
    out, curve = tmp_path / "scorer.json", tmp_path / "curve.svg"
    ran = tierllm("train-router", poor, "--out", str(out), "--curve", str(curve))
    assert ran.code == 3
    assert "no claim can be made" in ran.out
    assert "too few outcomes of the strong model" in ran.out
    assert "--force" in ran.err
    assert not out.exists()
    assert "no claim can be made" in curve.read_text()
    assert tierllm("train-router", poor, "--out", str(out), "--force").code == 3
    assert LearnedScorer.load(out).samples == 40


def test_fewer_may_be_enough_for_somebody(tierllm: Any, poor: str) -> None:
    assert "too few outcomes" not in tierllm("train-router", poor, "--min-outcomes", "5").out


def test_json(tierllm: Any, log: str, poor: str) -> None:
    told = json.loads(tierllm("train-router", log, "--json").out)
    assert told["claim"] is True
    assert (told["weak"], told["strong"], told["grouped_by"]) == ("bronze", "gold", "user")
    assert told["evaluation"]["apgr"]["low"] > 0.5
    assert len(told["evaluation"]["curve"]) == 21
    assert told["outcomes"]["weak"] + told["outcomes"]["strong"] == 900
    told = json.loads(tierllm("train-router", poor, "--json").out)
    assert (told["claim"], bool(told["doubts"])) == (False, True)


def test_the_settings_of_a_scorer(tierllm: Any, log: str, tmp_path: Path) -> None:
    like, out = tmp_path / "like.json", tmp_path / "out.json"
    LearnedScorer(buckets=1024, salt=b"mine").save(like)
    assert tierllm("train-router", log, "--scorer", str(like), "--out", str(out), "--force").code in (0, 3)
    made = LearnedScorer.load(out)
    assert (made.buckets, made.salt) == (1024, b"mine")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["missing"], 1, "there is no decision log"),
        (["LOG", "--weak", "gold", "--strong", "gold"], 1, "two different tiers"),
        (["LOG", "--share", "2"], 2, "give a share from 0 to 1"),
        (["LOG", "--min-outcomes", "0"], 2, "above 0"),
        (["LOG", "--scorer", "missing.json"], 1, "missing.json"),
        (["LOG", "--out", "no/such/place.json"], 1, "no/such/place.json cannot be written"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_what_cannot_be_done_is_said(
    tierllm: Any,
    log: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = tierllm("train-router", *(log if each == "LOG" else each for each in arguments))
    assert ran.code == code
    assert told in ran.err
    assert "Traceback" not in ran.err


def test_lines_that_cannot_be_read_are_counted(tierllm: Any, poor: str) -> None:
    with open(poor, "a") as file:
        file.write('{"v": 1, "kind": "call", "id": "torn')
    assert "1 lines could not be read" in tierllm("train-router", poor).out


@pytest.mark.parametrize("option", ["--out", "--curve"])
@pytest.mark.parametrize("target", ["poor", "poor.1", "poor.lock", "link"])
def test_the_log_is_never_written_over(tierllm: Any, poor: str, option: str, target: str) -> None:
    path = Path(poor).with_name(target)
    Path(poor).with_name("link").symlink_to(poor)
    Path(f"{poor}.1").write_bytes(b"")
    before = Path(poor).read_bytes()
    ran = tierllm("train-router", poor, option, str(path), "--force")
    assert ran.code == 1
    assert "give another file" in ran.err
    assert Path(poor).read_bytes() == before
    assert Path(f"{poor}.1").read_bytes() == b""


def test_two_files_are_two(tierllm: Any, poor: str, tmp_path: Path) -> None:
    name = str(tmp_path / "x")
    assert "give another file" in tierllm("train-router", poor, "--out", name, "--curve", name).err


def test_what_is_not_written_is_said_with_why(tierllm: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    out, curve = str(tmp_path / "o"), str(tmp_path / "c")
    ran = tierllm("train-router", str(tmp_path / "empty"), "--out", out, "--curve", curve, "--force")
    assert ran.code == 3
    assert f"{out} is not written; there is nothing to learn from" in ran.err
    assert f"{curve} is not written; nothing could be judged" in ran.err


def test_a_log_without_prompts_and_a_file_that_is_none(tierllm: Any, tmp_path: Path) -> None:
    log = write(tmp_path / "log", list(questions(5)), prompts="none")
    assert 'prompts="hashed"' in tierllm("train-router", str(log)).out
    (tmp_path / "other").write_bytes(bytes(range(256)) * 10)
    assert "this is no decision log" in tierllm("train-router", str(tmp_path / "other")).out
