"""The OpenAI provider against a real model behind a real, OpenAI-compatible HTTP server."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from providers.servers import Caller, asked, took
from tierllm.errors import ContextWindowExceededError, ProviderTimeoutError, ProviderUnavailableError
from tierllm.providers.openai import OpenAI
from tierllm.types import Chunk, Timeouts

At = Callable[..., OpenAI]

SERVE = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.port = 512, 1, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.verbosity = 0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
time.sleep(600)
"""


def weights() -> Path:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip('no local server: pip install "tierllm[local]"')
    try:
        from tierllm.providers.weights import smollm2_path

        return Path(smollm2_path())
    except Exception as exc:
        pytest.skip(f"no local weights: {exc}")


class LocalServer:
    def __init__(self) -> None:
        command = [sys.executable, "-c", SERVE, str(weights())]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        address = next((line for line in self.process.stdout if line.startswith("http")), "").strip()
        assert address, "the local server did not start"
        self.base_url = f"{address}/v1"

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture(scope="module")
def local() -> Iterator[LocalServer]:
    server = LocalServer()
    yield server
    server.kill()


def test_a_plain_answer_and_a_stream(local: LocalServer, caller: Caller, form: str, openai_at: At) -> None:
    provider = openai_at(local.base_url, api_key=None)
    answer = caller.ask(provider, form, prompt="Say hello.", max_tokens=8, temperature=0)
    assert answer.text
    assert answer.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.output_tokens <= 8
    assert answer.usage.input_tokens > 5
    assert answer.request_id


def test_the_two_forms_say_the_same(local: LocalServer, openai_at: At) -> None:
    provider, caller = openai_at(local.base_url), Caller("sync")
    ask = {"prompt": "Count to five.", "max_tokens": 12, "temperature": 0, "seed": 1}
    whole, streamed = (caller.ask(provider, form, **ask) for form in ("complete", "stream"))
    assert whole.text == streamed.text
    assert whole.finish_reason == streamed.finish_reason


def test_a_prompt_longer_than_the_context(
    local: LocalServer, caller: Caller, form: str, openai_at: At
) -> None:
    with pytest.raises(ContextWindowExceededError) as caught:
        caller.ask(openai_at(local.base_url), form, prompt="long " * 2_000, max_tokens=4)
    assert caught.value.status == 400
    assert "long long" not in str(caught.value)


def test_an_answer_that_takes_too_long(local: LocalServer, openai_at: At) -> None:
    began = time.monotonic()
    with pytest.raises(ProviderTimeoutError) as caught:
        Caller("sync").ask(
            openai_at(local.base_url),
            "stream",
            max_tokens=400,
            timeouts=Timeouts(total_s=0.25),
            ignore_eos=True,
        )
    assert caught.value.phase == "total"
    assert took(began, 0.25)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_server_killed_in_the_middle_of_a_stream(mode: str, openai_at: At) -> None:
    server, caller = LocalServer(), Caller(mode)
    provider = openai_at(server.base_url)
    call, scope = asked("Tell me a story.", streaming=True, max_tokens=400, ignore_eos=True)
    chunks: list[Chunk] = []

    def seen(chunk: Chunk) -> None:
        chunks.append(chunk)
        if len(chunks) == 3:
            server.kill()

    with pytest.raises(ProviderUnavailableError):
        caller.stream(provider, call, scope, seen)
    assert len(chunks) >= 3
    assert scope.finish_reason is None
    with pytest.raises(ProviderUnavailableError):  # and now the connection is refused
        caller.ask(provider, "complete")
    if caller.runner is not None:
        caller.runner.close()
