"""The decision log: what it keeps, that it loses nothing, and that it never stands in anybody's way."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm import ConfigError
from tierllm.errors import BudgetExceededError, CircuitOpenError
from tierllm.events import Event, StoreTrouble
from tierllm.routing import decision_writer
from tierllm.routing.course import Course
from tierllm.routing.decision_line import encoded
from tierllm.routing.decision_log import DecisionLog
from tierllm.routing.decision_rows import find_decision, read_decisions
from tierllm.routing.difficulty import Choice
from tierllm.types import Attempt, Candidate, Request, Response, Trace, Usage, Waited

SECRET = "xylophone"
QUESTION = ({"role": "user", "content": f"Why does the {SECRET} ring?"},)


class Wall:
    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


def trace(name: str = "t1", **more: Any) -> Trace:
    made = Trace(name, "gold", "gold", "silver", "mini", 1_790_000_000.0, 1.8, outcome="ok")
    for field, value in more.items():
        setattr(made, field, value)
    return made


def request(**more: Any) -> Request:
    return Request(messages=QUESTION, **more)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def ids(path: Path) -> list[str]:
    return [row.id for row in read_decisions(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "decisions.jsonl"


# -- what a line holds ---------------------------------------------------------------


def test_a_line_tells_the_whole_decision(path: Path) -> None:
    told = trace(
        plan="premium",
        contract="acme",
        rule="daytime",
        config="0123456789ab",
        request_class="medium",
        scores={"difficulty": 0.25},
        degraded=("short",),
        warnings=("careful",),
        cache="miss",
        waits=[Waited("pool", "gold", 0.25)],
        candidates=[Candidate("gold", "big", "breaker"), Candidate("silver", "mini")],
        attempts=[
            Attempt(
                "gold", "big", "b", 0.0, outcome="rejected", error=CircuitOpenError("x", retry_after_s=12.0)
            ),
            Attempt("silver", "mini", "m", 0.1, 1.7, 0.4, "ok", cost_usd=Decimal("0.00210")),
        ],
    )
    course = Course("s:s1")
    course.choice = Choice("weak", 0.25, 0.965, explored=False)
    usage = Usage(input_tokens=9, output_tokens=4, cached_input_tokens=2)
    asked = request(
        user="u1", tenant="acme", session="s1", tags=("a", "b"), route="faq", importance="high", priority=3
    )
    log = DecisionLog(path)
    log.note(told, asked, course, Response("text", usage=usage, tier="silver", model="m-1"))
    (line,) = lines(path)
    assert line.pop("session") != "s1"
    assert line == {
        "v": 1,
        "kind": "call",
        "id": "t1",
        "at": 1_790_000_000.0,
        "outcome": "ok",
        "duration_s": 1.8,
        "asked": "gold",
        "granted": "gold",
        "served": "silver",
        "deployment": "mini",
        "model": "m-1",
        "plan": "premium",
        "contract": "acme",
        "rule": "daytime",
        "config": "0123456789ab",
        "request_class": "medium",
        "scores": {"difficulty": 0.25},
        "arm": "weak",
        "score": 0.25,
        "propensity": 0.965,
        "explored": False,
        "degraded": ["short"],
        "warnings": ["careful"],
        "cache": "miss",
        "waits": [{"kind": "pool", "where": "gold", "seconds": 0.25}],
        "candidates": [
            {"tier": "gold", "deployment": "big", "reason": "breaker"},
            {"tier": "silver", "deployment": "mini"},
        ],
        "attempts": [
            {
                "tier": "gold",
                "deployment": "big",
                "model": "b",
                "outcome": "rejected",
                "started_s": 0.0,
                "latency_s": 0.0,
                "error": "CircuitOpenError",
                "retry_after_s": 12.0,
            },
            {
                "tier": "silver",
                "deployment": "mini",
                "model": "m",
                "outcome": "ok",
                "started_s": 0.1,
                "latency_s": 1.7,
                "first_token_s": 0.4,
                "cost_usd": "0.00210",
            },
        ],
        "user": "u1",
        "tenant": "acme",
        "tags": ["a", "b"],
        "route": "faq",
        "importance": "high",
        "priority": 3,
        "input_tokens": 9,
        "output_tokens": 4,
        "cached_input_tokens": 2,
        "cost_usd": "0.00210",
    }


def test_a_line_comes_back_as_a_row(path: Path) -> None:
    log = DecisionLog(path)
    log.note(trace(), request(user="u1", tags=["x"]), None, Response("a", cost_usd=Decimal("0.5")))
    (row,) = read_decisions(path)
    assert (row.id, row.served, row.deployment, row.user, row.tags) == ("t1", "silver", "mini", "u1", ("x",))
    assert row.cost_usd == Decimal("0.5")
    assert row.raw["v"] == 1


def test_a_cached_answer_costs_nothing(path: Path) -> None:
    log = DecisionLog(path)
    log.note(trace(cache="hit"), request(), None, Response("a", cached=True, cost_usd=Decimal("0.5")))
    assert next(iter(read_decisions(path))).cost_usd == 0


@pytest.mark.parametrize("prompts", ["none", "hashed", "text"])
def test_prompt_text_is_kept_only_where_that_is_asked_for(path: Path, prompts: Any) -> None:
    log = DecisionLog(path, prompts=prompts)
    log.bind(buckets=lambda text: [len(text), 7])
    error = BudgetExceededError(f"no {SECRET}", budget="daily")
    told = trace(attempts=[Attempt("gold", "big", outcome="rejected", error=error)])
    log.note(told, request(), None, Response(f"the {SECRET} rings"))
    (line,) = lines(path)
    assert (SECRET in path.read_text()) == (prompts == "text")
    assert line.get("text") == (QUESTION[0]["content"] if prompts == "text" else None)
    assert line.get("buckets") == ([len(QUESTION[0]["content"]), 7] if prompts == "hashed" else None)
    assert line["attempts"][0]["budget"] == "daily"


def test_hashed_prompts_are_what_the_scorer_has_read(path: Path) -> None:
    from array import array

    course = Course()
    course.choice = Choice("strong", 0.5, 0.5, buckets=array("I", [3, 1, 2]))
    DecisionLog(path, prompts="hashed").note(trace(), request(), course, None)
    assert next(iter(read_decisions(path))).buckets == (3, 1, 2)


def test_long_prompts_are_cut(path: Path) -> None:
    asked = Request(messages=({"role": "user", "content": "a" * 50_000 + "the end"},))
    DecisionLog(path, prompts="text").note(trace(), asked, None, None)
    (row,) = read_decisions(path)
    assert row.text is not None
    assert len(row.text) <= 4_001
    assert row.text.endswith("the end")


NAMES = ("ann-smith", "acme-corp", "session-77")


@pytest.mark.parametrize("who", ["full", "hashed", "none"])
def test_who_is_named_as_far_as_that_is_wanted(path: Path, who: Any) -> None:
    log = DecisionLog(path, who=who, salt=b"secret")
    user, tenant, session = NAMES
    warned = trace(warnings=(f"budget 'daily' of user={user} is soft", "something else"))
    log.note(warned, request(user=user, tenant=tenant, session=session), None, None)
    log.note(trace("t2"), request(user=user, tenant=tenant, session=session), None, None)
    text = path.read_text()
    assert [name in text for name in NAMES] == [who == "full", who == "full", False]
    one, two = read_decisions(path)
    assert (one.user, one.tenant, one.session) == (two.user, two.tenant, two.session)
    assert [value is None for value in (one.user, one.tenant, one.session)] == [who == "none"] * 3
    assert one.raw["warnings"][-1] == "something else"


def test_pseudonyms_depend_on_the_salt(tmp_path: Path) -> None:
    found = []
    for number, salt in enumerate((b"", b"a", b"b" * 64, b"b" * 64 + b"c", b"b" * 64 + b"d")):
        path = tmp_path / str(number)
        DecisionLog(path, who="hashed", salt=salt).note(trace(), request(user="ann"), None, None)
        found.append(next(iter(read_decisions(path))).user)
    assert len(set(found)) == 5


@pytest.mark.parametrize("who", ["hashed", "none"])
def test_warnings_that_name_somebody_are_left_out_however_they_spell_the_name(path: Path, who: Any) -> None:
    log = DecisionLog(path, who=who)
    named = [
        "budget 'daily' (user='jane\\tdoe'): $2 used",
        "observed only: budget 'daily' (user=a): too much",
    ]
    told = "no price is known for 'gpt': its calls count as free"
    warned = trace(warnings=(*named, told, "jane\\tdoe is slow"))
    log.note(warned, request(user="jane\tdoe"), None, None)
    log.note(warned, request(user="a"), None, None)  # a name that is in every text
    one, two = read_decisions(path)
    assert one.raw["warnings"] == [told]
    assert told in two.raw["warnings"]
    assert not any(each.startswith(("budget", "observed")) for each in two.raw["warnings"])


@given(st.text(), st.floats(), st.text())
def test_every_line_is_one_line_of_plain_ascii(name: str, number: float, tag: str) -> None:
    line = encoded({"id": name, "scores": {tag: number, "list": [number]}})
    assert line.isascii()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line, parse_constant=lambda constant: pytest.fail(constant))["id"] == name


def test_what_is_no_plain_data_is_left_out_and_told_once_a_minute(path: Path) -> None:
    heard: list[Event] = []
    wall = Wall()
    log = DecisionLog(path, clock=wall)
    log.bind(emit=heard.append)
    for _ in range(3):
        log.note(trace(), request(tags=(object(),)), None, None)
    log.note(trace("good"), request(), None, None)
    assert log.status()["unfit"] == 3
    assert len(heard) == 1
    assert ids(path) == ["good"]
    wall.now += 61
    log.note(trace(), request(tags=(object(),)), None, None)
    assert len(heard) == 2


# -- feedback ------------------------------------------------------------------------


def test_feedback_joins_its_call_and_people_have_the_last_word(path: Path) -> None:
    log = DecisionLog(path)
    for name in ("a", "b", "c", "d"):
        log.note(trace(name), request(), None, None)
    log.feedback("a", 0.2)
    log.feedback("a", 0.9)  # thought better of it
    log.feedback("a", 0.0, source="judge")
    log.feedback("b", 0.1, source="judge")
    log.feedback("b", 0.5, source="edited")
    log.feedback("b", 0.3, source="judge")
    log.compared("c", weak=0.25, strong=1, weak_usd=0.001, strong_usd=0.02)
    log.feedback("nobody", 1.0)
    a, b, c, d = read_decisions(path)
    assert (a.quality, a.quality_source) == (0.9, "explicit")
    assert (b.quality, b.quality_source) == (0.5, "edited")
    assert (c.quality, c.weak_quality, c.strong_quality, c.weak_usd) == (None, 0.25, 1.0, 0.001)
    assert d.quality is None
    assert a.to_dict()["quality"] == 0.9


def calls_and_words(path: Path) -> tuple[int, int]:
    found = read_decisions(path)
    return len(list(found)), found.feedback


def test_made_up_ids_do_not_drive_calls_out_of_the_log(path: Path) -> None:
    wall = Wall()
    log = DecisionLog(path, max_bytes=20_000, keep=1, clock=wall)
    for number in range(20):
        log.note(trace(f"n{number}"), request(), None, None)
    for number in range(3_000):
        log.feedback(f"nobody{number}", 1.0)
        log.feedback("n1", number / 3_000)  # over and over
    for number in range(20):
        log.feedback(f"n{number}", 1.0)
    assert log.status()["refused"] > 5_500
    rows = list(read_decisions(path))
    assert [row.id for row in rows] == [f"n{number}" for number in range(20)]
    assert all(row.quality is not None for row in rows)
    wall.now += 60
    before = log.status()["refused"]
    log.feedback("another process noted it", 1.0)
    assert log.status()["refused"] == before


def test_of_unknown_calls_as_much_is_written_as_of_known_ones(path: Path) -> None:
    log = DecisionLog(path, clock=Wall())
    for number in range(500):
        log.note(trace(f"mine{number}"), request(), None, None)
        log.feedback(f"theirs{number}", 1.0)  # another worker's calls, told here
    assert log.status()["refused"] == 0


def test_an_id_of_any_length_is_no_line_of_any_length(path: Path) -> None:
    log = DecisionLog(path)
    log.feedback("x" * 1_000_000, 1.0)
    log.note(trace("big", warnings=("w" * 300_000,)), request(), None, None)
    log.note(trace("small"), request(), None, None)
    assert path.stat().st_size < 2_000
    assert (log.status()["refused"], log.status()["unfit"]) == (1, 1)
    assert ids(path) == ["small"]


@pytest.mark.parametrize("usd", [-1.0, 1e308, float("nan"), float("inf")], ids=repr)
def test_what_nobody_pays_is_no_cost(path: Path, usd: float) -> None:
    log = DecisionLog(path)
    log.note(trace("a"), request(), None, None)
    log.compared("a", weak=0.5, strong=0.5, weak_usd=usd, strong_usd=0.5)
    with path.open("a") as file:
        file.write('{"v":1,"kind":"call","id":"b","cost_usd":"-3"}\n')
        said = {"v": 1, "kind": "compared", "id": "b", "weak": 1, "strong": 1, "weak_usd": usd}
        file.write(json.dumps(said) + "\n")
    a, b = read_decisions(path)
    assert (a.weak_usd, a.strong_usd) == (None, 0.5)
    assert (b.cost_usd, b.weak_quality, b.weak_usd) == (None, 1.0, None)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), float("inf"), True, "1", None], ids=repr)
def test_what_is_no_score_is_refused(path: Path, score: Any) -> None:
    log = DecisionLog(path)
    with pytest.raises(ConfigError, match="0"):
        log.feedback("a", score)
    with pytest.raises(ConfigError, match="0"):
        log.compared("a", weak=score, strong=0.5)
    assert path.read_bytes() == b""


def test_scores_in_a_file_are_not_believed_either(path: Path) -> None:
    DecisionLog(path).note(trace("a"), request(), None, None)
    with path.open("a") as file:
        for score in ("NaN", "7", "true", '"1"', "1e999", "null"):
            file.write(f'{{"v": 1, "kind": "feedback", "id": "a", "score": {score}}}\n')
    decisions = read_decisions(path)
    (row,) = decisions
    assert row.quality is None
    assert (decisions.feedback, decisions.skipped) == (0, 6)


# -- reading -------------------------------------------------------------------------


def test_lines_of_a_newer_version_are_read_as_far_as_they_are_understood(path: Path) -> None:
    path.write_text(
        '{"v": 9, "kind": "call", "id": "a", "served": "gold", "mood": "ok", "attempts": 7, "cost_usd": 3}\n'
        '{"v": 9, "kind": "weather", "id": "a"}\n'
        '{"id": "b", "at": "noon", "tags": [1, "x"], "buckets": [1, -2, "y"], "propensity": 7}\n'
    )
    decisions = read_decisions(path)
    a, b = decisions
    assert (a.served, a.raw["mood"], a.cost_usd) == ("gold", "ok", Decimal(3))
    assert (b.at, b.tags, b.buckets, b.propensity) == (0.0, ("x",), (1,), None)
    assert decisions.skipped == 0


@given(st.lists(st.one_of(st.binary(), st.from_regex(rb'\{"(id|kind|score)": ?.*\}')), max_size=8))
def test_whatever_a_file_holds_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, raw: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("any") / "log"
    path.write_bytes(b"\n".join(raw))
    decisions = read_decisions(path)
    rows = list(decisions)
    assert len(rows) + decisions.skipped <= len(path.read_bytes().split(b"\n"))


def test_a_torn_line_is_skipped_counted_and_ended_by_whoever_writes_next(path: Path) -> None:
    log = DecisionLog(path)
    log.note(trace("a"), request(), None, None)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    decisions = read_decisions(path)
    assert ([row.id for row in decisions], decisions.skipped) == (["a"], 1)
    log.note(trace("b"), request(), None, None)
    assert ([row.id for row in decisions], decisions.skipped) == (["a", "b"], 1)


def test_a_call_is_found_by_its_id(path: Path) -> None:
    log = DecisionLog(path, max_bytes=400, keep=9)
    for name in ("a", "b", 'c"é'):
        log.note(trace(name), request(user="a"), None, None)
        log.feedback(name, 0.5)
    assert [find_decision(path, name).quality for name in ("a", "b", 'c"é')] == [0.5] * 3  # type: ignore[union-attr]
    assert log.find("b").id == "b"  # type: ignore[union-attr]
    assert log.find("x") is None


@pytest.mark.parametrize("made", ["missing", "directory"])
def test_where_there_is_no_log_that_is_said(tmp_path: Path, made: str) -> None:
    path = tmp_path / "log"
    if made == "directory":
        path.mkdir()
    with pytest.raises(ConfigError, match="decision log"):
        list(read_decisions(path))


# -- files ---------------------------------------------------------------------------


def test_files_are_rotated_by_size_and_read_in_order(path: Path) -> None:
    log = DecisionLog(path, max_bytes=600, keep=3)
    for number in range(40):
        log.note(trace(f"n{number}"), request(), None, None)
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == [path.name, *(f"{path.name}.{n}" for n in (1, 2, 3)), f"{path.name}.lock"]
    assert all(file.stat().st_size <= 600 for file in path.parent.iterdir())
    found = ids(path)
    assert found == [f"n{number}" for number in range(40 - len(found), 40)]
    assert len(found) >= 3 * 2


def test_keep_0_begins_anew(path: Path) -> None:
    log = DecisionLog(path, max_bytes=300, keep=0)
    for number in range(10):
        log.note(trace(f"n{number}"), request(), None, None)
    assert ids(path) == ["n9"]


def test_a_rotation_that_was_interrupted_loses_nothing(path: Path) -> None:
    log = DecisionLog(path, max_bytes=250, keep=4)
    for number in range(4):
        log.note(trace(f"n{number}"), request(), None, None)
    os.replace(f"{path}.2", f"{path}.3.tmp")
    os.replace(f"{path}.3.tmp", f"{path}.4")  # as if it had been killed on the way
    before = set(ids(path))
    log.note(trace("next"), request(), None, None)
    assert set(ids(path)) == {*before, "next"}


def test_a_line_longer_than_a_file_may_be_has_one_of_its_own(path: Path) -> None:
    log = DecisionLog(path, max_bytes=300, keep=5)
    for name in ("a", "b" * 900, "c"):
        log.note(trace(name), request(), None, None)
    assert ids(path) == ["a", "b" * 900, "c"]


def test_a_line_without_end_is_passed_over(path: Path) -> None:
    DecisionLog(path).note(trace("a"), request(), None, None)
    with path.open("ab") as file:
        file.write(b'{"id":"b","x":"' + b"y" * 30_000_000 + b'"}\n')
        file.write(b'{"v":1,"kind":"call","id":"c"}\n' + b"z" * 10_000_000)
    tracemalloc.start()
    found = read_decisions(path)
    assert [row.id for row in found] == ["a", "c"]
    assert found.skipped == 2
    assert find_decision(path, "c") is not None
    assert find_decision(path, "b") is None
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 25_000_000


def test_files_belong_to_their_owner(path: Path) -> None:
    log = DecisionLog(path, max_bytes=250)
    for number in range(3):
        log.note(trace(f"n{number}"), request(), None, None)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize(
    "text",
    [
        "[tiers]\n",
        "{}",
        '{"name": "app",\n "v": 1}\n',
        '{"a": 1}\n',
        "\n[x]",
        "{" * 2_000_000,
        '["v", "kind"]\n',
    ],
    ids=["TOML", "empty", "JSON", "lines", "blank", "long", "list"],
)
def test_another_kind_of_file_is_not_touched(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError, match="is no decision log"):
        DecisionLog(path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "text", ["{", '{"v":1,"ki', '{"v":1\n', '{"kind": "call", "v": 1, "id": "a"}\n'], ids=repr
)
def test_a_log_whose_first_line_is_torn_or_rewritten_is_one(path: Path, text: str) -> None:
    path.write_text(text)
    DecisionLog(path).note(trace("b"), request(), None, None)
    assert ids(path)[-1] == "b"


@pytest.mark.parametrize(
    "options",
    [
        {"max_bytes": 0},
        {"keep": -1},
        {"keep": True},
        {"max_waiting": 1.5},
        {"prompts": "all"},
        {"who": "some"},
        {"salt": "text"},
        {"path": ""},
        {"path": "/"},
        {"path": "missing/log"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DecisionLog(**{"path": path, **options})


def test_a_relative_path_is_meant_as_it_was_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = DecisionLog("log")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    log.note(trace("a"), request(), None, None)
    assert ids(tmp_path / "log") == ["a"]


# -- trouble -------------------------------------------------------------------------


def test_what_cannot_be_written_waits_is_told_and_is_written_later(path: Path) -> None:
    heard: list[Event] = []
    wall = Wall()
    log = DecisionLog(path, max_waiting=3, clock=wall)
    log.bind(emit=heard.append)
    log.note(trace("before"), request(), None, None)
    home = path.parent
    kept = home.with_name("kept")
    home.rename(kept)
    for number in range(5):
        log.note(trace(f"n{number}"), request(), None, None)
        wall.now += 2
    assert [type(event) for event in heard] == [StoreTrouble]
    assert log.status()["trouble"]
    assert (log.status()["waiting"], log.status()["lost"]) == (3, 2)
    wall.now += 60
    log.note(trace("n5"), request(), None, None)
    assert len(heard) == 2
    kept.rename(home)
    wall.now += 2
    log.note(trace("n6"), request(), None, None)  # lost, too, but it has the rest written
    assert [getattr(event, "ok", None) for event in heard] == [False, False, True]
    assert ids(path) == ["before", "n0", "n1", "n2"]
    status = log.status()
    assert (status["waiting"], status["lost"], status["written"], status["trouble"]) == (0, 4, 4, None)


def test_after_a_failure_it_is_not_tried_with_every_call(path: Path) -> None:
    wall = Wall()
    log = DecisionLog(path, clock=wall)
    shutil.rmtree(path.parent)
    tried: list[object] = []
    log.bind(emit=lambda event: None, soon=lambda work: tried.append(work))
    log.note(trace(), request(), None, None)
    assert log.flush() is False
    for _ in range(100):
        log.note(trace(), request(), None, None)
    assert len(tried) == 1
    wall.now += 1.5
    log.note(trace(), request(), None, None)
    assert len(tried) == 2


def test_nobody_listens_so_the_log_of_the_program_hears_it(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = DecisionLog(path)
    path.unlink()
    path.mkdir()
    with caplog.at_level(logging.INFO, "tierllm"):
        log.note(trace(), request(), None, None)
        path.rmdir()
        log.close()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert ids(path) == ["t1"]


def test_a_client_on_its_way_out_still_writes(path: Path) -> None:
    def closed(work: Callable[[], object]) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    log = DecisionLog(path)
    log.bind(soon=closed)
    log.note(trace(), request(), None, None)
    assert ids(path) == ["t1"]


def test_while_a_flush_hangs_what_lines_are_made_of_is_not_kept(path: Path) -> None:
    """A file on a network that does not answer: requests may be large, lines are not."""
    wall = Wall()
    log = DecisionLog(path, clock=wall)
    go, at_it = threading.Event(), threading.Event()
    append = log._writer.file.append

    def hangs(lines: Any, **options: Any) -> Any:
        at_it.set()
        assert go.wait(10)
        return append(lines, **options)

    log._writer.file.append = hangs  # type: ignore[method-assign]
    flush = threading.Thread(target=log.note, args=(trace("first"), request(), None, None))
    flush.start()
    assert at_it.wait(10)
    log.bind(soon=lambda work: None)
    made = []
    for number in range(3):
        asked = request()
        made.append(weakref.ref(asked))
        log.note(trace(f"n{number}"), asked, None, None)
        wall.now += 0.2
    log.note(trace("unfit"), request(tags=(object(),)), None, None)
    del asked
    assert [each() is None for each in made] == [False, True, True]
    go.set()
    flush.join(10)
    log.close()
    assert ids(path) == ["first", "n0", "n1", "n2"]
    assert log.status()["unfit"] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_waits_for_no_flush_that_hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decision_writer.FORK_S <= 1.0
    monkeypatch.setattr(decision_writer, "FORK_S", 0.01)
    log = DecisionLog(path)
    go, at_it = threading.Event(), threading.Event()
    append = log._writer.file.append

    def hangs(lines: Any, **options: Any) -> Any:
        at_it.set()
        assert go.wait(10)
        return append(lines, **options)

    log._writer.file.append = hangs  # type: ignore[method-assign]
    flush = threading.Thread(target=log.note, args=(trace("first"), request(), None, None))
    flush.start()
    assert at_it.wait(10)
    child = os.fork()
    if child == 0:
        os._exit(len(log._writer._queue))
    assert os.waitpid(child, 0)[1] == 0
    go.set()
    flush.join(10)
    log.note(trace("second"), request(), None, None)
    assert ids(path) == ["first", "second"]


def test_a_listener_may_use_the_log(path: Path) -> None:
    log = DecisionLog(path)
    log.bind(emit=lambda event: log.feedback("t1", 0.5))
    log.note(trace(), request(tags=(object(),)), None, None)
    log.note(trace(), request(), None, None)
    assert next(iter(read_decisions(path))).quality == 0.5


FULL = """
import resource, sys
from tierllm.routing.decision_log import DecisionLog
from tierllm.types import Request, Trace

log = DecisionLog(sys.argv[1], max_bytes=10**9)
log.bind(emit=lambda event: print(event.ok))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
log.bind(soon=lambda work: None)
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
for number in range(100):
    log.note(Trace(f"n{number}"), Request(messages=()))
assert log.flush() is False
written = open(sys.argv[1], "rb").read()
assert 4_000 < len(written) <= 5_000 and written.endswith(b"\\n"), len(written)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
assert log.flush() is True
print(log.status()["written"])
"""


def test_on_a_full_disk_no_line_is_torn_and_none_is_lost(path: Path) -> None:
    """A limit on the size of files cuts a write short, as a full disk does."""
    ran = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.split()) == (0, ["False", "True", "100"]), ran.stderr
    decisions = read_decisions(path)
    assert ([row.id for row in decisions], decisions.skipped) == ([f"n{n}" for n in range(100)], 0)


# -- many at once --------------------------------------------------------------------


def test_threads_lose_and_tear_nothing(path: Path) -> None:
    log = DecisionLog(path, max_bytes=20_000, keep=1_000)
    wall = threading.Barrier(8)

    def work(mine: int) -> None:
        wall.wait()
        for number in range(150):
            log.note(trace(f"{mine}-{number}"), request(), None, None)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found = ids(path)
    assert len(found) == len(set(found)) == 8 * 150
    for mine in range(8):
        own = [name for name in found if name.startswith(f"{mine}-")]
        assert own == [f"{mine}-{number}" for number in range(150)]


WRITER = """
import sys
from tierllm.routing.decision_log import DecisionLog
from tierllm.types import Request, Trace

path, name, count, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
log = DecisionLog(path, max_bytes=50_000 if size > 1_000 else 3_000, keep=10_000)
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    log.note(Trace(f"{name}-{number}", warnings=("w" * size,)), Request(messages=()))
    if size > 1_000:
        print(number, flush=True)
log.close()
print(log.status(), file=sys.stderr)
"""


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    begun: list[subprocess.Popen[str]] = []

    def begin(name: str, count: int, size: int) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, path, name, str(count), str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun.append(child)
        return child

    yield begin
    for child in begun:
        child.kill()
        child.communicate()


def go(*children: subprocess.Popen[str]) -> None:
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()


def test_processes_lose_and_tear_nothing(path: Path, start: Callable[..., subprocess.Popen[str]]) -> None:
    """Files are small, so that somebody rotates all the time while others are writing."""
    children = [start(f"p{mine}", 400, 100) for mine in range(4)]
    go(*children)
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
    decisions = read_decisions(path)
    found = [row.id for row in decisions]
    assert decisions.skipped == 0
    assert len(found) == len(set(found)) == 4 * 400
    for mine in range(4):
        assert [name for name in found if name.startswith(f"p{mine}-")] == [
            f"p{mine}-{n}" for n in range(400)
        ]
    assert len(list(path.parent.glob("decisions.jsonl.*"))) > 100


@pytest.mark.parametrize("locks", [True, False], ids=["with the lock", "without"])
def test_who_reads_meanwhile_sees_each_line_once(
    path: Path, start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    if not locks:

        def alone(path: str, patience_s: float, *, reading: bool = False) -> None:
            raise PermissionError("not for you")

        monkeypatch.setattr("tierllm.routing.decision_file._alone", alone)
    child = start("p", 600, 100)
    go(child)
    seen = 0
    while child.poll() is None:
        found = ids(path)
        assert found == [f"p-{number}" for number in range(len(found))]
        seen = max(seen, len(found))
    assert seen > 0
    assert len(ids(path)) == 600


def test_kill_9_tears_one_line_at_most_and_loses_none_that_was_written(
    path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    rng = random.Random(7)
    written: set[str] = set()
    for round_ in range(5):
        child = start(f"k{round_}", 100_000, 8_000)
        go(child)
        assert child.stdout is not None
        for _ in range(rng.randrange(3, 40)):
            written.add(f"k{round_}-{int(child.stdout.readline())}")
        child.send_signal(signal.SIGKILL)
        child.wait()
    decisions = read_decisions(path)
    found = [row.id for row in decisions]
    assert written <= set(found)
    assert len(found) == len(set(found))
    assert decisions.skipped <= 5
    DecisionLog(path).note(trace("after"), request(), None, None)
    assert ids(path)[-1] == "after"


def test_a_process_that_sits_on_the_lock_keeps_nobody_waiting_for_long(path: Path) -> None:
    import fcntl

    heard: list[Event] = []
    log = DecisionLog(path)
    log.bind(emit=heard.append)
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        log.note(trace("a"), request(), None, None)
        assert log.status()["waiting"] == 1
        assert len(heard) == 1
        assert ids(path) == []  # reading goes on without it
    log.close()
    assert ids(path) == ["a"]


def test_a_lock_that_was_tidied_away_is_made_anew(path: Path) -> None:
    log = DecisionLog(path)
    log.note(trace("a"), request(), None, None)
    os.unlink(f"{path}.lock")
    log.note(trace("b"), request(), None, None)
    assert ids(path) == ["a", "b"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_does_not_write_what_waited_in_its_parent(path: Path) -> None:
    log = DecisionLog(path)
    log.bind(soon=lambda work: None)  # so that lines wait
    log.note(trace("parents"), request(), None, None)
    child = os.fork()
    if child == 0:
        try:
            log.note(trace("childs"), request(), None, None)
            log.flush()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    log.close()
    assert sorted(ids(path)) == ["childs", "parents"]


def test_flushes_in_the_background_take_many_lines_at_once(path: Path) -> None:
    log = DecisionLog(path)
    begun: list[threading.Thread] = []

    def soon(work: Callable[[], object]) -> None:
        begun.append(threading.Thread(target=work))
        begun[-1].start()

    log.bind(soon=soon)
    for number in range(500):
        log.note(trace(f"n{number}"), request(), None, None)
    log.close()
    for thread in begun:
        thread.join()
    assert ids(path) == [f"n{number}" for number in range(500)]
    assert len(begun) < 100
