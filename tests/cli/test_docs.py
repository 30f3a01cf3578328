"""The commands and files in docs/cli.md and docs/config.md do what the pages say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tierllm.config import Config

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)


def commands():
    for block in blocks("cli.md", "console"):
        for command in re.split(r"^\$ tierllm ", block, flags=re.M)[1:]:
            arguments, _, shown = command.partition("\n")
            yield arguments, shown


@pytest.mark.parametrize(("arguments", "shown"), list(commands()))
def test_a_command_shows_what_the_page_shows(tierllm, tmp_path, monkeypatch, arguments, shown):
    monkeypatch.chdir(tmp_path)
    Path("tierllm.toml").write_text(blocks("cli.md", "toml")[0])
    ran = tierllm(*shlex.split(arguments))
    assert ran.code == (1 if '"passed": false' in shown else 0), ran
    for line in shown.splitlines():
        assert line in ran.out


@pytest.mark.parametrize("page", ["cli.md", "config.md"])
def test_files_can_be_read(page):
    import tomllib

    for block in blocks(page, "toml"):
        Config.parse(tomllib.loads(block))


def test_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block in blocks("config.md", "python"):
        exec(compile(block, "docs/config.md", "exec"), namespace)
