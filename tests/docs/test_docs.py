"""The pages do what they say: README.md, CONTRIBUTING.md and docs/*.md, run from their own text.

```python           runs; the blocks of a page share one namespace and one working directory
```python no-run    is compiled only
```toml [FILE]      is a sound configuration; FILE is written into the working directory
```console run      its lines that begin with "$ tierllm" run, exit with 0, and print the lines shown
                    below them, in this order; "$ tierllm … || echo $?" exits with what is shown last

A failure shows the page and the line.
"""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import tomllib
import traceback
import types
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import tierllm
from tierllm.config import Config, check

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL
)
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    mark: str
    code: str

    def compiled(self) -> types.CodeType:
        padded = "\n" * self.line + self.code  # so that a traceback shows the page's own line
        return compile(padded, str(self.page), "exec", dont_inherit=True)


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        language, _, mark = found["info"].strip().partition(" ")
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, language, mark.strip(), found["code"])


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A fresh directory, a dummy key, no network beyond this machine, and no default client left over."""

    def refusing(connect: Any) -> Any:
        def connected(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
                raise AssertionError(f"a page must run offline, and this one connects to {address[0]}")
            return connect(self, address)

        return connected

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refusing(getattr(socket.socket, name)))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-dummy")
    monkeypatch.chdir(tmp_path)
    yield
    tierllm.configure(None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(f"page_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page):
        match block.language, block.mark:
            case "python", "no-run":
                block.compiled()
            case "python", "":
                execute(block, module)
            case "toml", name:
                Config.parse(tomllib.loads(block.code))
                if name:
                    Path(name).write_text(block.code, encoding="utf-8")
            case "console", "run":
                run(block)
            case (("python" | "console"), mark) if mark:
                pytest.fail(f"{page.name}:{block.line}: nobody knows the mark {mark!r}")


def execute(block: Block, module: types.ModuleType) -> None:
    try:
        exec(block.compiled(), module.__dict__)
        return
    except Exception as failure:
        error = failure
    steps = traceback.extract_tb(error.__traceback__)  # pytest itself would print the whole page
    line = next((s.lineno for s in reversed(steps) if s.filename == str(block.page)), block.line)
    source = block.page.read_text(encoding="utf-8").splitlines()[(line or 1) - 1]
    told = "".join(traceback.format_exception(error))
    pytest.fail(f"{block.page.name}:{line}: {source}\n{told}", pytrace=False)


def run(block: Block) -> None:
    for command in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
        line, *shown = command.splitlines()
        assert line.startswith("tierllm "), f"{block.page.name}:{block.line}: this cannot be run: {line}"
        line, may_fail, _ = line.partition(" || echo $?")
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(line)], capture_output=True, text=True, check=False
        )
        told, where = done.stdout, f"{block.page.name}:{block.line}: {line}\n{done.stdout}{done.stderr}"
        code = int(shown.pop()) if may_fail else 0
        assert done.returncode == code, where
        for each in shown:
            _, found, told = told.partition(each)
            assert found, f"{where}\ndoes not go on with: {each}"


def test_links_lead_somewhere() -> None:
    missing = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert missing == []


FILES = {"admission.md", "config.md", "degradation.md", "rate-limits.md"}
WANTED = ("is not set here", "a fake makes its answers up")
"""What is doubted about a file on a page, and rightly: no key is set where it is read."""

LEFT_OUT = {
    "config.md": ("every deployment is at localhost", "nothing bounds how many calls"),
    "degradation.md": ("there is no fallback", "the queue for gold has no bound"),
}
"""What a page leaves out for the sake of its subject."""


@pytest.mark.parametrize("page", sorted(FILES))
def test_nothing_is_doubtful_about_what_a_page_recommends(page: str) -> None:
    files = [each for each in blocks(ROOT / "docs" / page) if each.language == "toml"]
    assert files
    doubts = [
        f"{page}:{each.line}: {finding}"
        for each in files
        for finding in check(Config.parse(tomllib.loads(each.code)), {}, today=date(2026, 11, 20))
        if not any(words in finding.problem for words in (*WANTED, *LEFT_OUT.get(page, ())))
    ]
    assert doubts == []


def test_the_network_is_refused() -> None:
    with pytest.raises(AssertionError, match="must run offline"), socket.socket() as outside:
        outside.connect(("192.0.2.1", 80))


def test_every_benchmark_is_named() -> None:
    named = re.findall(r"tests/benchmarks/(\w+\.py)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert sorted(named) == sorted(path.name for path in (ROOT / "tests/benchmarks").glob("bench_*.py"))
