"""``tierllm estimate``."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.conftest import Command
from cli.conftest import Ran as Ran
from tierllm import Price
from tierllm.cli.prompts import Batch, PromptError, read
from tierllm.cost.estimator import CostEstimator

TIERS = """
[[budgets]]
hard_usd = 5
[store]
kind = "redis"
[ledger]
path = "usage.db"
[providers.openai]
kind = "openai"
[providers.ours]
kind = "openai"
base_url = "http://localhost:1/v1"

[[tiers]]
name = "gold"
[[tiers.deployments]]
model = "gpt-5.2"
provider = "openai"

[[tiers]]
name = "silver"
prompt = "Answer in one sentence, and leave out what is not asked for."
max_tokens = 100
[[tiers.deployments]]
model = "our-model"
provider = "ours"
price = {input_usd_per_mtok = 1, output_usd_per_mtok = 2}
"""
PROMPT = "Why does a queue grow without bound once more comes in than goes out?"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
QUANTILES = ("p50", "p90", "max")

Put = Callable[..., str]


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("OPENAI_API_KEY", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tiers(tmp_path: Path) -> Path:
    path = tmp_path / "tierllm.toml"
    path.write_text(TIERS)
    return path


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def put(name: str, content: object) -> str:
        raw = content if isinstance(content, bytes) else None
        text = content if isinstance(content, str) else json.dumps(content) if raw is None else ""
        (tmp_path / name).write_bytes(text.encode() if raw is None else raw)
        return name

    return put


def told(ran: Ran) -> dict[str, dict[str, object]]:
    assert (ran.code, ran.err) == (0, "")
    found: dict[str, dict[str, object]] = json.loads(ran.out)["tiers"]
    return found


class TestTiers:
    def test_each_tier_has_a_line(self, tierllm: Command, tiers: Path, put: Put) -> None:
        ran = tierllm("estimate", put("p.txt", PROMPT), "--max-tokens", "300")
        assert ran.code == 0
        head, gold, silver, *notes = ran.out.splitlines()
        columns = ["tier", "model", "input", *(f"{what} {q}" for what in ("output", "$") for q in QUANTILES)]
        assert re.split(r"  +", head) == columns
        assert gold.split()[:2] == ["gold", "gpt-5.2"]
        assert gold.split()[3:6] == ["300"] * 3
        assert silver.split()[3:6] == ["100"] * 3
        assert silver.split()[2].startswith("~")
        assert notes[0].startswith("~ silver: input is not counted")

    def test_as_the_client_has_it(self, tierllm: Command, tiers: Path, put: Put) -> None:
        found = told(tierllm("estimate", put("p.txt", PROMPT), "--max-tokens", "300", "--json"))
        assert list(found) == ["gold", "silver"]
        alone = CostEstimator().estimate(PROMPT, model="gpt-5.2", max_tokens=300)
        assert alone.cost_usd is not None
        assert found["gold"]["input_tokens"] == {
            "p50": alone.input_tokens,
            "p90": alone.input_tokens,
            "max": alone.input_tokens,
            "exact": True,
        }
        assert {q: Decimal(usd) for q, usd in found["gold"]["cost_usd"].items()} == {  # type: ignore[attr-defined]
            q: getattr(alone.cost_usd, q) for q in ("p50", "p90", "max", "mean")
        }

    def test_from_one_tier_down(self, tierllm: Command, tiers: Path, put: Put) -> None:
        name = put("p.txt", PROMPT)
        assert list(told(tierllm("estimate", name, "--sla", "silver", "--json"))) == ["silver"]
        ran = tierllm("estimate", name, "--sla", "slver")
        assert (ran.code, ran.out) == (1, "")
        assert "silver" in ran.err

    def test_nothing_is_made_or_needed(self, tierllm: Command, tiers: Path, put: Put, tmp_path: Path) -> None:
        assert tierllm("estimate", put("p.txt", PROMPT)).code == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["p.txt", "tierllm.toml"]

    def test_what_a_budget_would_refuse(self, tierllm: Command, tiers: Path, put: Put) -> None:
        tiers.write_text(TIERS.replace("hard_usd = 5", 'hard_usd = "0.01"\nper = "call"'))
        name = put("p.txt", PROMPT)
        assert "gold would refuse: BudgetExceededError: budget 'call'" in tierllm("estimate", name).out
        found = told(tierllm("estimate", name, "--json"))
        assert [found[tier]["refused"] for tier in ("gold", "silver")] == [1, 0]

    def test_a_model_without_a_price(self, tierllm: Command, tiers: Path, put: Put) -> None:
        tiers.write_text(
            TIERS.replace("price = {", "params = {}\n#").replace("hard_usd = 5", "hard_tokens = 9999")
        )
        ran = tierllm("estimate", put("p.txt", PROMPT))
        assert "silver: no price is known for our-model" in ran.out
        silver = next(line for line in ran.out.splitlines() if line.startswith("silver "))
        assert silver.split()[-3:] == ["-"] * 3

    def test_a_broken_configuration(self, tierllm: Command, tiers: Path, put: Put) -> None:
        tiers.write_text("tiers = []")
        ran = tierllm("estimate", put("p.txt", PROMPT), "--config", "tierllm.toml")
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith("tierllm estimate: tierllm.toml: tiers: there is no tier")


class TestModel:
    def test_what_the_client_would_accept(self, tierllm: Command, tiers: Path, put: Put) -> None:
        """Of the same vendor under a table of another name, and of a model that is free."""
        tiers.write_text(
            """
            budgets = [{hard_usd = 5}]
            [providers.main]
            kind = "openai"
            base_url = "https://api.openai.com:443/v1"
            api_key_env = "KEY"
            [providers.here]
            kind = "local"
            [[tiers]]
            name = "gold"
            deployments = [{model = "gpt-5.2", provider = "main"}]
            [[tiers]]
            name = "silver"
            deployments = [{model = "own", provider = "here"}]
            """
        )
        ran = tierllm("estimate", put("p.txt", PROMPT), "--max-tokens", "100", "--json")
        assert (ran.code, ran.err) == (0, "")
        told = json.loads(ran.out)["tiers"]
        assert Decimal(told["gold"]["cost_usd"]["max"]) > 0
        assert Decimal(told["silver"]["cost_usd"]["max"]) == 0

    def test_no_configuration_is_needed(self, tierllm: Command, put: Put) -> None:
        ran = tierllm("estimate", put("p.txt", PROMPT), "--model", "gpt-5-mini", "--max-tokens", "50")
        assert ran.code == 0
        head, line, _ = ran.out.splitlines()
        assert head.split()[0] == "model"
        assert line.split()[0] == "gpt-5-mini"
        assert line.split()[2] == "50"

    def test_its_own_price(self, tierllm: Command, put: Put) -> None:
        arguments = ("--model", "m", "--price-in", "0.3", "--price-out", "0", "--json")
        (found,) = told(tierllm("estimate", put("p.txt", PROMPT), *arguments)).values()
        price = Price(input_usd_per_mtok="0.3", output_usd_per_mtok=0)
        alone = CostEstimator().estimate(PROMPT, model="m", price=price)
        assert alone.cost_usd is not None
        assert Decimal(found["cost_usd"]["max"]) == alone.cost_usd.max  # type: ignore[index]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ((), "there is no tierllm.toml here: give --config FILE, or a model by itself with --model"),
            (("--model", "m", "--sla", "gold"), "leave --config and --sla out"),
            (("--model", "m", "--config", "x.toml"), "leave --config and --sla out"),
            (("--model", "m", "--price-in", "1"), "--price-in and --price-out go together"),
            (("--config", "x.toml", "--price-in", "1", "--price-out", "1"), "go with --model"),
            (("--model", "m", "--price-in", "-1", "--price-out", "1"), "'-1': give dollars per million"),
            (("--model", "m", "--max-tokens", "0"), "'0': give a whole number above 0"),
        ],
    )
    def test_arguments_that_do_not_go_together(
        self, tierllm: Command, put: Put, arguments: tuple[str, ...], words: str
    ) -> None:
        ran = tierllm("estimate", put("p.txt", PROMPT), *arguments)
        assert (ran.code, ran.out) == (2, "")
        assert words in " ".join(ran.err.split())


class TestForms:
    ALONE = ("--model", "gpt-5-mini", "--max-tokens", "50", "--json")

    @pytest.mark.parametrize("name", ["m.json", "m", "m.dat"])
    def test_messages(self, tierllm: Command, put: Put, name: str) -> None:
        (found,) = told(tierllm("estimate", put(name, MESSAGES), *self.ALONE)).values()
        alone = CostEstimator().estimate(MESSAGES, model="gpt-5-mini", max_tokens=50)
        assert found["input_tokens"]["p50"] == alone.input_tokens  # type: ignore[index]

    def test_json_in_a_text_is_a_text(self, tierllm: Command, put: Put) -> None:
        text = json.dumps(MESSAGES)
        (found,) = told(tierllm("estimate", put("p.txt", text), *self.ALONE)).values()
        alone = CostEstimator().estimate(text, model="gpt-5-mini")
        assert found["input_tokens"]["p50"] == alone.input_tokens  # type: ignore[index]

    @pytest.mark.parametrize(
        "content", [PROMPT, "{ of a set }", "[1, 2]", "[]", '{"a": 1}', '"quoted"', "[" * 100_000]
    )
    def test_what_only_looks_like_json_is_a_text(self, put: Put, content: str) -> None:
        asked = read(put("prompt", content))
        assert not isinstance(asked, Batch)
        assert asked.prompt == ({"role": "user", "content": content},)

    @pytest.mark.parametrize("name", ["b.jsonl", "b.ndjson", "b"])
    def test_a_batch(self, tierllm: Command, tiers: Path, put: Put, name: str) -> None:
        lines = [{"prompt": PROMPT, "max_tokens": 7, "id": 1}, MESSAGES, {"messages": MESSAGES}, PROMPT]
        content = "\n\n".join(map(json.dumps, lines)) + "\n"
        ran = tierllm("estimate", put(name, content), "--max-tokens", "40")
        assert ran.out.startswith("4 calls together\n")
        found = told(tierllm("estimate", name, "--max-tokens", "40", "--json"))
        assert found["gold"]["output_tokens"]["max"] == 7 + 3 * 40  # type: ignore[index]
        estimator = CostEstimator()
        inputs = [
            estimator.estimate(prompt, model="gpt-5.2").input_tokens
            for prompt in (PROMPT, MESSAGES, MESSAGES, PROMPT)
        ]
        assert found["gold"]["input_tokens"]["p50"] == sum(inputs)  # type: ignore[index]

    def test_tools_count(self, put: Put, tierllm: Command) -> None:
        tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
        plain, with_tools = (
            told(tierllm("estimate", put("p.json", asked), *self.ALONE))["gpt-5-mini"]["input_tokens"]
            for asked in ({"prompt": PROMPT}, {"prompt": PROMPT, "tools": [tool]})
        )
        assert with_tools["p50"] > plain["p50"]  # type: ignore[index]

    @given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
    def test_any_text_survives_a_line(self, texts: list[str]) -> None:
        lines = [json.dumps({"prompt": text}, ensure_ascii=False) for text in texts]
        lines = [json.dumps(json.loads(line)) if _lone(line) else line for line in lines]
        given_in = SimpleNamespace(buffer=io.BytesIO("\n".join(lines).encode()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", given_in)
            asked = read("-")
        found = asked if isinstance(asked, Batch) else [asked]
        assert [each.prompt[0]["content"] for each in found] == texts

    def test_stdin(self, process: Command) -> None:
        arguments = ("estimate", "-", "--model", "gpt-5-mini", "--json")
        ran = process(*arguments, stdin=json.dumps(MESSAGES).encode())
        assert json.loads(ran.out)["file"] == "-"
        ran = process(*arguments)
        assert (ran.code, ran.err) == (2, "tierllm estimate: stdin: there is nothing in it\n")


def _lone(line: str) -> bool:
    """Whether there are lone surrogates in it, which UTF-8 does not have."""
    return any("\ud800" <= sign <= "\udfff" for sign in line)


class TestNoPrompt:
    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("nothing.txt", "", "nothing.txt: there is nothing in it"),
            ("blank.jsonl", "\n \n", "blank.jsonl: there is nothing in it"),
            ("a.bin", b"\x89PNG\r\n\x1a\n\xff\xfe", "a.bin: this is no text in UTF-8"),
            ("b.bin", b"a\0b", "b.bin: this is no text, but something binary"),
            ("wide.txt", "verysecret".encode("utf-16"), "wide.txt: this is no text in UTF-8"),
            ("a.json", '["verysecret', "a.json: this is not valid JSON"),
            ("b.json", '[\n"verysecret",', "b.json: this is not valid JSON (line 2, column 14)"),
            ("c.json", "[" * 100_000, "c.json: this is JSON that cannot be read: too deep, or too large"),
            ("d.json", "1" * 5000, "d.json: this is JSON that cannot be read: too deep, or too large"),
            ("e.json", "3", "e.json: give a text, a list of "),
            ("f.json", '{"verysecret": 1}', "f.json: give a text, a list of "),
            ("g.json", '{"prompt": "a", "messages": []}', "g.json: give a text, a list of "),
            ("h.json", '["verysecret"]', "h.json: message 0 is a str"),
            ("i.json", "[]", "i.json: the prompt has no messages"),
            (
                "j.json",
                '{"prompt": "a", "n": 3}',
                "j.json: 'n' is not known; beside a prompt there may be max_",
            ),
            ("k.json", '{"prompt": "a", "max_tokens": 0}', "k.json: max_tokens=0: give a whole number"),
            ("l.jsonl", '"a"\n\n"b', "l.jsonl, line 3: this is not valid JSON"),
            ("m.jsonl", '"a"\n""', "m.jsonl, line 2: the prompt is empty"),
        ],
    )
    def test_a_sentence_and_exit_code_2(
        self, tierllm: Command, put: Put, name: str, content: object, words: str
    ) -> None:
        ran = tierllm("estimate", put(name, content), "--model", "gpt-5-mini")
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith(f"tierllm estimate: {words}"), ran.err
        assert "verysecret" not in ran.err
        assert ran.err.count("\n") == 1

    def test_no_file(self, tierllm: Command, tmp_path: Path) -> None:
        ran = tierllm("estimate", "nowhere.txt", "--model", "gpt-5-mini")
        assert (ran.code, ran.err) == (2, "tierllm estimate: nowhere.txt: there is no such file\n")
        ran = tierllm("estimate", str(tmp_path), "--model", "gpt-5-mini")
        assert ran.code == 2
        assert "this is a directory; give a file" in ran.err

    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_prompt_or_none(self, raw: bytes) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))
            with contextlib.suppress(PromptError):  # and nothing else
                asked = read("-")
                assert list(asked) if isinstance(asked, Batch) else asked.prompt
