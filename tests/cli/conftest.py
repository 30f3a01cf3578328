"""Commands, run in this process or as a real one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tierllm.cli import main

FAKES = """
[providers.fake]
kind = "fake"
[timeouts]
total_s = 8

[[tiers]]
name = "gold"
max_concurrency = 8
[[tiers.deployments]]
model = "big"
[[tiers.deployments]]
model = "big-us"
price = {input_usd_per_mtok = 1, output_usd_per_mtok = 2}

[[tiers]]
name = "silver"
[[tiers.deployments]]
model = "small"
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration of fakes, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tierllm.toml"
    path.write_text(FAKES)
    return path


@pytest.fixture
def tierllm(capsys: pytest.CaptureFixture[str]) -> Command:
    """``tierllm(*arguments)`` in this process."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def process() -> Command:
    """``python -m tierllm`` as a process of its own."""

    def run(*arguments: str, stdin: bytes = b"") -> Ran:
        ran = subprocess.run(
            [sys.executable, "-m", "tierllm", *arguments],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=60,
        )
        return Ran(ran.returncode, ran.stdout.decode(), ran.stderr.decode())

    return run
