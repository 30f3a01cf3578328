"""Ctrl-C while a model loads: the server is whole before anyone hears of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from tierllm.errors import ConfigError
from tierllm.providers.llama import Settings, models
from tierllm.providers.weights import smollm2_path

PARAMS = types.SimpleNamespace


def fake_llama(monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
    module: Any = types.ModuleType("xllamacpp")
    module.Server = server
    module.CommonParams = lambda: PARAMS(model=PARAMS(), cpuparams=PARAMS(), cpuparams_batch=PARAMS())
    monkeypatch.setitem(sys.modules, "xllamacpp", module)
    monkeypatch.setattr(models, "_used", models._used)


def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    return Settings(path, 512, 1, 1)


@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
def test_ctrl_c_is_raised_once_the_loop_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Server:
        def __init__(self, params: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            said.append("loaded")

        def handle_metrics(self) -> None:
            said.append("runs")

    fake_llama(monkeypatch, Server)
    with pytest.raises(KeyboardInterrupt):
        models.get(settings(tmp_path))
    assert said == ["loaded", "runs"]
    monkeypatch.setattr(os, "kill", lambda *args: None)
    model = models.get(settings(tmp_path))
    assert isinstance(model.server, Server)


def test_a_failure_to_load_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(params: Any) -> Any:
        raise RuntimeError("no")

    fake_llama(monkeypatch, broken)
    with pytest.raises(ConfigError, match="cpp could not load"):
        models.get(settings(tmp_path))


INTERRUPTED = """
import signal, sys, xllamacpp
real = xllamacpp.Server

def server(params):
    signal.setitimer(signal.ITIMER_REAL, 0.01)  # while llama.cpp loads; raised as soon as it returns
    return real(params)

xllamacpp.Server = server
signal.signal(signal.SIGALRM, signal.default_int_handler)
from tierllm.providers import Local
Local(sys.argv[1], n_ctx=512).load()
"""


@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
def test_ctrl_c_while_a_real_model_loads_ends_the_process() -> None:
    pytest.importorskip("xllamacpp", reason="the local model needs xllamacpp")
    try:
        weights = smollm2_path()
    except ConfigError as exc:
        pytest.skip(f"{exc}")
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(weights)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert "KeyboardInterrupt" in done.stderr
