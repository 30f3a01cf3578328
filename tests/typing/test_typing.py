"""``api.py`` through the type checkers, both strict. An ignore that nothing needs is an error too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
API = Path(__file__).with_name("api.py")


def check(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"


def test_mypy(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("mypy")
    cache = request.config.cache
    assert cache is not None
    check("mypy", "--strict", "--warn-unused-ignores", "--cache-dir", str(cache.mkdir("mypy")), str(API))


def test_pyright() -> None:
    pytest.importorskip("pyright")
    if shutil.which("node") is None:
        pytest.skip("pyright needs Node.js, and there is none on the PATH")
    check("pyright", "--project", str(API.parent), "--pythonpath", sys.executable)
