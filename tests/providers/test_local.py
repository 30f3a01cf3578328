"""The model in this process: plumbing, since what a 135M model says is nobody's business."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tierllm.errors import (
    ConfigError,
    ContextWindowExceededError,
    DeadlineExceededError,
    InvalidRequestError,
    ProviderTimeoutError,
    UsageError,
)
from tierllm.pipeline.scope import Cancelled, Invocation, Scope
from tierllm.providers.llama import models
from tierllm.providers.local import MAX_TOKENS, Local
from tierllm.providers.weights import smollm2_path
from tierllm.types import Call, Chunk, Request, Response, Timeouts

pytest.importorskip("xllamacpp", reason="the local model needs xllamacpp: pip install 'tierllm[local]'")

FOX = ({"role": "user", "content": "Tell me a story about a fox."},)
ENDLESS = {"max_tokens": 1500, "ignore_eos": True}


@pytest.fixture(scope="session")
def weights() -> Path:
    try:
        return smollm2_path()
    except ConfigError as exc:
        pytest.skip(f"{exc}")


@pytest.fixture(scope="module")
def local(weights: Path) -> Iterator[Local]:
    provider = Local(weights, seed=1)
    provider.load()
    yield provider
    provider.close()


def asked(
    streaming: bool = True,
    messages: tuple[dict[str, Any], ...] = FOX,
    timeouts: Timeouts | None = None,
    deadline_s: float | None = None,
    extra: dict[str, Any] | None = None,
    **params: Any,
) -> tuple[Call, Invocation]:
    params.setdefault("max_tokens", 8)
    request = Request(messages=messages, params=params, extra={"local": extra} if extra else {})
    call = Call(request, model="gold", timeouts=timeouts)
    at = None if deadline_s is None else time.monotonic() + deadline_s
    return call, Invocation(call, Scope(time.monotonic, at), streaming=streaming)


Ask = Callable[..., Response]


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["complete", "stream"])
def ask(request: pytest.FixtureRequest, mode: str, local: Local) -> Ask:
    """Ask the model in each of the four forms; ``seen`` is called with each chunk of a stream."""
    streaming = request.param == "stream"

    async def consume(call: Call, scope: Invocation, seen: Callable[[Chunk], object]) -> None:
        async for chunk in local.astream(call, scope):
            scope.feed(chunk)
            seen(chunk)
            scope.back()

    def answer(seen: Callable[[Chunk], object] = bool, **kwargs: Any) -> Response:
        call, scope = asked(streaming, **kwargs)
        if not streaming:
            if mode == "sync":
                return scope.answered(local.complete(call, scope))
            return scope.answered(asyncio.run(local.acomplete(call, scope)))
        if mode == "async":
            asyncio.run(consume(call, scope, seen))
        else:
            for chunk in local.stream(call, scope):
                scope.feed(chunk)
                seen(chunk)
                scope.back()
        return scope.finished()

    return answer


def runs() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "tierllm-local"]


def all_quiet(within_s: float = 5.0) -> bool:
    end = time.monotonic() + within_s
    while runs() and time.monotonic() < end:
        time.sleep(0.01)
    return not runs()


# -- answers ------------------------------------------------------------------------


def test_an_answer_has_text_usage_and_a_reason(ask: Ask) -> None:
    response = ask()
    assert response.text
    assert response.finish_reason == "length"
    assert response.usage is not None
    assert response.usage.output_tokens == 8
    assert response.usage.input_tokens > 30
    assert response.request_id is not None
    assert response.model == "SmolLM2-135M-Instruct.Q4_1"  # what served it, and no path


def test_all_forms_say_the_same_for_one_seed(local: Local, ask: Ask) -> None:
    call, scope = asked(False, seed=7, max_tokens=12)
    assert ask(seed=7, max_tokens=12).text == local.complete(call, scope).text


def test_a_stream_comes_in_pieces(local: Local) -> None:
    chunks = list(local.stream(*asked(max_tokens=8)))
    assert len([c for c in chunks if c.text]) > 3
    assert [c.finish_reason for c in chunks if c.finish_reason] == ["length"]
    assert chunks[-1].usage is not None


def test_a_stop_word_ends_the_answer(ask: Ask) -> None:
    response = ask(stop=["."], max_tokens=64)
    assert response.finish_reason == "stop"
    assert "." not in response.text


def test_a_schema_is_enforced(ask: Ask) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    response = ask(
        response_format={"type": "json_schema", "json_schema": {"name": "N", "schema": schema}}, max_tokens=60
    )
    assert isinstance(json.loads(response.text)["n"], int)


def test_a_model_class_shapes_the_answer(local: Local) -> None:
    from pydantic import BaseModel

    class Verdict(BaseModel):
        good: bool

    response = local.complete(*asked(False, response_format=Verdict, max_tokens=60))
    assert isinstance(response.parsed, Verdict)
    with pytest.raises(ConfigError, match="response_format=int"):
        local.complete(*asked(False, response_format=int))


def test_an_answer_always_ends(local: Local) -> None:
    call, _ = asked(max_tokens=None)
    assert local._request(call)["max_tokens"] == MAX_TOKENS
    call, _ = asked(max_tokens=None, max_completion_tokens=9)
    assert "max_tokens" not in local._request(call)


def test_parameters_and_vendor_options_reach_the_model(local: Local) -> None:
    call, _ = asked(temperature=0.1, top_p=None, extra={"top_k": 3, "temperature": 0.2})
    request = local._request(call)
    assert request["temperature"] == 0.2
    assert request["top_k"] == 3
    assert "top_p" not in request
    assert request["seed"] == 1
    call, _ = asked(seed=5)
    request = local._request(call)
    assert request["seed"] == 5
    assert request["stream"] is True
    assert request["messages"] == list(FOX)


@pytest.mark.parametrize("name", ["model", "messages", "stream", "stream_options", "return_progress"])
def test_what_tierllm_sets_cannot_be_given(ask: Ask, local: Local, name: str) -> None:
    with pytest.raises(ConfigError, match=f"extra for 'local' cannot set {name}"):
        ask(extra={name: "x"})
    call, _ = asked()
    call.params = {name: "x"}
    with pytest.raises(ConfigError, match=f"parameters cannot set {name}"):
        local._request(call)


# -- failures -----------------------------------------------------------------------


def test_too_long_a_prompt(ask: Ask) -> None:
    with pytest.raises(
        ContextWindowExceededError, match=r"has \d+ tokens, the context window 2048"
    ) as caught:
        ask(messages=({"role": "user", "content": "fox " * 2500},))
    assert caught.value.status == 400
    assert not caught.value.retryable


def test_an_answer_that_fills_the_window_is_cut_off_and_says_so(weights: Path) -> None:
    small = Local(weights, n_ctx=256)
    call, scope = asked(False, **ENDLESS)
    response = small.complete(call, scope)
    assert response.finish_reason == "length"
    assert response.usage is not None
    assert response.usage.total_tokens <= 257


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": "hot"},
        {"messages": ({"content": "secret words"},)},
        {"messages": ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},)},
        {"stop": object()},
    ],
    ids=["field", "message", "image", "not json"],
)
def test_a_request_it_cannot_read(ask: Ask, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="cannot take this request") as caught:
        ask(**bad)
    assert caught.value.detail
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_model(tmp_path: Path, mode: str) -> None:
    absent, text, cut = tmp_path / "absent.gguf", tmp_path / "text.gguf", tmp_path / "cut.gguf"
    text.write_text("hello")
    cut.write_bytes(b"GGUF" + b"\3\0\0\0" + b"\xff" * 64)
    for path, why in ((absent, "cannot be read"), (text, "not a GGUF file"), (cut, "could not load")):
        call, scope = asked()
        with pytest.raises(ConfigError, match=why):
            if mode == "sync":
                list(Local(path).stream(call, scope))
            else:
                asyncio.run(Local(path).acomplete(call, scope))


def test_sizes_are_checked() -> None:
    for option in ("n_ctx", "n_threads", "n_parallel"):
        with pytest.raises(ConfigError, match=rf"Local\({option}=0\)"):
            Local(**{option: 0})


def test_without_xllamacpp(monkeypatch: pytest.MonkeyPatch, weights: Path) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ConfigError, match=re.escape('pip install "tierllm[local]"')):
        Local(weights, n_ctx=300).load()


# -- waiting and leaving ------------------------------------------------------------


def test_first_token_timeout(ask: Ask, request: pytest.FixtureRequest) -> None:
    phase = "first_token" if "stream" in request.node.callspec.id else "total"
    limits = Timeouts(first_token_s=0.15, total_s=0.15 if phase == "total" else None)
    started = time.monotonic()
    with pytest.raises(ProviderTimeoutError) as caught:
        ask(messages=({"role": "user", "content": "wolf " * 1500},), timeouts=limits)
    assert caught.value.phase == phase
    assert time.monotonic() - started < 1.5  # reading that prompt takes longer
    assert all_quiet()


def test_deadline(ask: Ask) -> None:
    with pytest.raises(DeadlineExceededError):
        ask(deadline_s=0.25, **ENDLESS)
    assert all_quiet()


def test_an_early_close_stops_the_model(local: Local) -> None:
    call, scope = asked(**ENDLESS)
    stream = local.stream(call, scope)
    next(stream)
    assert runs()
    stream.close()
    started = time.monotonic()
    assert all_quiet()
    assert time.monotonic() - started < 1.0


def test_cancelling_a_call_in_another_thread(local: Local) -> None:
    call, scope = asked(False, **ENDLESS)
    threading.Timer(0.2, scope.scope.cancel).start()
    with pytest.raises(Cancelled):
        local.complete(call, scope)
    assert all_quiet()


async def test_cancelling_a_task(local: Local) -> None:
    call, scope = asked(False, **ENDLESS)
    task = asyncio.create_task(local.acomplete(call, scope))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(all_quiet)


async def test_the_event_loop_stays_free(local: Local) -> None:
    call, scope = asked(False, max_tokens=60)
    task = asyncio.create_task(local.acomplete(call, scope))
    ticks = 0
    while not task.done():
        await asyncio.sleep(0.005)
        ticks += 1
    assert ticks > 10
    assert (await task).text


def test_a_loop_that_closed_stops_the_model(local: Local) -> None:
    loop = asyncio.new_event_loop()
    call, scope = asked(**ENDLESS)
    stream = local.astream(call, scope)
    loop.run_until_complete(anext(stream))
    loop.close()
    assert all_quiet()
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_until_complete(stream.aclose())


# -- sharing ------------------------------------------------------------------------


def test_calls_at_once_are_all_answered(local: Local) -> None:
    answers: queue.SimpleQueue[Response] = queue.SimpleQueue()

    def one(seed: int) -> None:
        call, scope = asked(False, seed=seed, max_tokens=12)
        answers.put(local.complete(call, scope))

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.qsize() == 5
    assert all(answers.get().text for _ in range(5))


def test_slots_share_no_context(weights: Path) -> None:
    wide = Local(weights, n_ctx=300, n_parallel=2)
    fitting = ({"role": "user", "content": "fox " * 200},)
    streams = [wide.stream(*asked(messages=fitting, max_tokens=4)) for _ in range(2)]
    assert [next(s) for s in streams]
    assert all(list(s)[-1].finish_reason for s in streams)


def test_equal_locals_share_a_model(weights: Path, local: Local) -> None:
    twin, other = Local(weights, name="twin"), Local(weights, n_ctx=300)
    assert twin._loaded() is local._loaded()
    assert other._loaded() is not local._loaded()
    other.close()
    other.close()
    call, scope = asked(False)
    assert twin.complete(call, scope).text  # freeing one leaves the others whole


def test_a_closed_one_frees_the_model_and_loads_it_again(weights: Path) -> None:
    mine = Local(weights, n_ctx=301)
    mine.load()
    loaded = len(models._models)
    mine.close()
    assert len(models._models) == loaded - 1
    call, scope = asked(False)
    assert mine.complete(call, scope).text
    mine.close()


def test_closing_right_after_loading(weights: Path) -> None:
    done = python(
        weights,
        """
        for n in range(12):
            local = Local(sys.argv[1], n_ctx=256 + n)
            local.load()
            local.close()
        print("whole")
        """,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", "")


def test_nobody_gets_in_by_the_back_door(local: Local) -> None:
    server = local._loaded().server
    for path, body in (
        ("/v1/chat/completions", b"{}"),
        ("/slots", None),
        ("/props", None),
        ("/metrics", None),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(server.listening_address + path, data=body)
        assert caught.value.code == 401
        caught.value.close()
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(server.listening_address + "/")
    assert caught.value.code in (401, 404)
    caught.value.close()


def test_not_picklable_and_no_secrets_in_repr(local: Local) -> None:
    import pickle

    with pytest.raises(UsageError):
        pickle.dumps(local)
    assert repr(Local(name="small")) == "Local('SmolLM2-135M-Instruct', name='small')"


# -- processes ----------------------------------------------------------------------

PROLOGUE = """
import os, sys, threading, time
from tierllm.pipeline.scope import Invocation, Scope
from tierllm.providers.local import Local
from tierllm.types import Call, Request
def asked(**params):
    call = Call(Request(messages=({"role": "user", "content": "hi"},), params=params), model="m")
    return call, Invocation(call, Scope(time.monotonic), streaming=True)
local = Local(sys.argv[1])
"""


def python(weights: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end in a process of its own; all its children have to end too."""
    code = PROLOGUE + textwrap.dedent(program)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(weights)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=30)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_nothing_is_written_and_the_exit_is_clean(weights: Path) -> None:
    done = python(weights, "print(len(list(local.stream(*asked(max_tokens=4)))) > 1)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_exit_with_unfinished_streams(weights: Path) -> None:
    done = python(
        weights,
        """
        streams = [local.stream(*asked(max_tokens=1900, ignore_eos=True)) for _ in range(2)]
        next(streams[0])
        threading.Thread(target=list, args=(streams[1],), daemon=True).start()
        time.sleep(0.1)
        started = time.monotonic()
        import atexit; atexit.register(lambda: print(time.monotonic() - started < 2))
        sys.exit(3)
        """,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "True\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_of_a_process_with_a_model_is_told_so_and_ends_well(weights: Path) -> None:
    done = python(
        weights,
        """
        list(local.stream(*asked(max_tokens=2)))
        unfinished = local.stream(*asked(max_tokens=200, ignore_eos=True)); next(unfinished)
        child = os.fork()
        if not child:
            for each in (local, Local(sys.argv[1], n_ctx=300)):
                try:
                    list(each.stream(*asked(max_tokens=2)))
                except Exception as exc:
                    print(type(exc).__name__, "fork" in str(exc), flush=True)
            local.close()
            sys.exit(5)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(len(list(local.stream(*asked(max_tokens=2)))) > 1)
        """,
    )
    assert done.stdout.split("\n")[:4] == ["UsageError True", "UsageError True", "5", "True"]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forking_before_the_first_call_is_fine(weights: Path) -> None:
    done = python(
        weights,
        """
        child = os.fork()
        spoke = len(list(local.stream(*asked(max_tokens=2)))) > 1
        if not child:
            sys.exit(6 if spoke else 1)
        print(spoke)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["True", "6"], "")


def test_importing_it_loads_no_model_library() -> None:
    code = "import sys, tierllm.providers.local; print('xllamacpp' in sys.modules, 'openai' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.dumps(out.split()) == '["False", "False"]'
