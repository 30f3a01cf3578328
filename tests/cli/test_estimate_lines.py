"""``tierllm estimate``: options beside a prompt that make no sense, and how dollars are shown."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

from cli.conftest import Command


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ('"route": ["x"]', "route: give a text"),
        ('"route": {"a": 1}', "route: give a text"),
        ('"max_tokens": 99999999999999', "max_tokens: give a whole number up to 1,000,000,000"),
    ],
)
def test_a_wrong_option_names_its_line(tierllm: Command, tmp_path: Path, option: str, words: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "hi"}\n{"prompt": "hi", ' + option + "}\n")
    ran = tierllm("estimate", str(file), "--model", "gpt-5-mini")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"tierllm estimate: {file}, line 2: {words}\n"


def test_the_worst_case_is_not_shown_as_less_than_it_is(tierllm: Command, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("hi")
    asked = ["estimate", str(file), "--model", "m", "--price-in", "0.001", "--price-out", "0.001"]
    shown = tierllm(*asked, "--max-tokens", "1").out
    told = json.loads(tierllm(*asked, "--max-tokens", "1", "--json").out)
    worst = Decimal(told["tiers"]["m"]["cost_usd"]["max"])
    assert 0 < worst < Decimal("0.0000005")
    assert re.findall(r"\b0\.\d{6}\b", shown) == ["0.000000", "0.000000", "0.000001"]
