"""A model in this process: llama.cpp through xllamacpp, without HTTP and without a key."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import (
    ConfigError,
    ContextWindowExceededError,
    InvalidRequestError,
    ProviderError,
    ProviderUnavailableError,
    TierLLMError,
)
from ..pipeline.scope import Cancelled
from .base import BaseProvider
from .crossing import within
from .llama import Model, Settings, models
from .openai_chat import ChunkReader, refuse_ours
from .parsing import parsed
from .weights import smollm2_path

if TYPE_CHECKING:
    from ..pipeline.scope import Invocation
    from ..types import Call, Chunk, Response

__all__ = ["Local"]

MAX_TOKENS = 256
"""The bound on an answer where the call names none: small models like to go on for ever."""

_OURS = frozenset({"stream_options", "return_progress"})

Data = Mapping[str, Any]
Said = Data | BaseException | None
"""What a run says: pieces of its answer, at last ``None``, or else why there is none."""


class Local(BaseProvider):
    """A GGUF model that runs inside this process; every model name is served by the same weights.

    ``model_path``: a GGUF file; left out, SmolLM2-135M-Instruct, downloaded on first use (98 MB).
    ``n_ctx``: tokens of context for one call, prompt and answer together.
    ``n_threads``: threads that compute. ``n_parallel``: calls served at once; others queue up.
    ``seed``: of the sampling, where a call gives none; ``None`` samples afresh each time.

    The model is loaded by the first call, or by ``load()``, and shared by all ``Local``s of a
    process with the same weights and sizes. One instance serves all threads and event loops.
    Cancelled, late or abandoned calls stop within a token, or 128 tokens of a prompt. A process
    forked after the model was loaded cannot use it: ``UsageError``.
    """

    free = True

    def __init__(
        self,
        model_path: str | os.PathLike[str] | None = None,
        *,
        n_ctx: int = 2048,
        n_threads: int = 1,
        n_parallel: int = 1,
        seed: int | None = None,
        name: str = "local",
    ) -> None:
        for option, value in (("n_ctx", n_ctx), ("n_threads", n_threads), ("n_parallel", n_parallel)):
            if value < 1:
                raise ConfigError(f"Local({option}={value!r}): give a number of at least 1")
        self.name = name
        self._seed = seed
        self._path = None if model_path is None else Path(model_path).expanduser()
        self._sizes = (n_ctx, n_threads, n_parallel)
        self._model: Model | None = None

    @property
    def origin(self) -> object:  # type: ignore[override]
        """The file as it is now, and what else changes an answer."""
        return [_file(self._path), self._seed, self._sizes[0]]

    def __repr__(self) -> str:
        return f"Local({str(self._path) if self._path else 'SmolLM2-135M-Instruct'!r}, name={self.name!r})"

    def load(self) -> None:
        """Load the model now: about 0.3 s, in which other threads of this Python stand still.

        Raises ``ConfigError`` where xllamacpp or the weights are missing.
        """
        self._loaded()

    def close(self) -> None:
        """Let go of the model; it is freed once nobody uses it. A later call loads it again."""
        self._model = None

    def complete(self, call: Call, scope: Invocation) -> Response:
        for chunk in self.stream(call, scope):
            scope.feed(chunk)
        return self._whole(call, scope)

    async def acomplete(self, call: Call, scope: Invocation) -> Response:
        async for chunk in self.astream(call, scope):
            scope.feed(chunk)
        return self._whole(call, scope)

    def stream(self, call: Call, scope: Invocation) -> Iterator[Chunk]:
        inbox: queue.SimpleQueue[Said] = queue.SimpleQueue()
        run = _Run(self._loaded, self._request(call), inbox.put)

        def leave() -> None:
            inbox.put(Cancelled())

        reader = ChunkReader(scope, self.name)
        scope.on_cancel(leave)
        run.start()
        try:
            while True:
                try:
                    said = inbox.get(timeout=scope.remaining_s())
                except queue.Empty:
                    raise scope.timed_out() from None
                if said is None:
                    break
                yield from reader.read(_checked(said))
            yield from reader.last()
        finally:
            run.stopped = True
            scope.off_cancel(leave)

    async def astream(self, call: Call, scope: Invocation) -> AsyncIterator[Chunk]:
        inbox: asyncio.Queue[Said] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(said: Said) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, said)

        run = _Run(self._loaded, self._request(call), tell)
        reader = ChunkReader(scope, self.name)
        run.start()
        try:
            while True:
                said = await within(scope, inbox.get())
                if said is None:
                    break
                for chunk in reader.read(_checked(said)):
                    yield chunk
            for chunk in reader.last():
                yield chunk
        finally:
            run.stopped = True

    def _whole(self, call: Call, scope: Invocation) -> Response:
        response = scope.finished()
        wanted = call.options(self.name).get("response_format", call.params.get("response_format"))
        response.parsed = parsed(response.text, wanted)
        return response

    def _request(self, call: Call) -> dict[str, Any]:
        refuse_ours(call, self.name, also=_OURS)
        given = {**call.params, **call.options(self.name)}
        request = {key: value for key, value in given.items() if value is not None}
        if "max_completion_tokens" not in request:
            request.setdefault("max_tokens", MAX_TOKENS)
        if self._seed is not None:
            request.setdefault("seed", self._seed)
        wanted = request.get("response_format")
        if isinstance(wanted, type):
            request["response_format"] = _schema_of(wanted)
        request |= {
            "model": call.model,
            "messages": [dict(message) for message in call.messages],
            "stream": True,  # whole answers too: only a stream can be stopped
            "stream_options": {"include_usage": True},
            "return_progress": True,
        }
        return request

    def _loaded(self) -> Model:
        model = self._model
        if model is None or model.server is None:
            path = smollm2_path() if self._path is None else self._path
            model = self._model = models.get(Settings(path.resolve(), *self._sizes))
        return model


class _Run:
    """One answer being made in a thread of its own, until it ends or ``stopped`` is set.

    The thread is no daemon: one that came back from C++ into an interpreter that is gone would
    crash the process. Instead it stops once the main thread has ended.
    """

    __slots__ = ("_model", "_request", "_say", "stopped")

    def __init__(
        self, model: Callable[[], Model], request: dict[str, Any], say: Callable[[Said], object]
    ) -> None:
        self._model = model
        self._request = request
        self._say = say
        self.stopped = False

    def start(self) -> None:
        threading.Thread(target=self._answer, name="tierllm-local", daemon=False).start()

    def _answer(self) -> None:
        end: Said = None
        try:
            self._model().server.handle_chat_completions(self._request, self._take)
        except TierLLMError as exc:
            end = exc
        except (RuntimeError, TypeError, ValueError) as exc:  # before any token: a request it cannot read
            end = _refusal(detail=str(exc))
            end.__cause__ = exc
        except BaseException as exc:  # the caller waits in another thread, and must hear of anything
            end = exc
        self._tell(end)
        del end  # it refers to this frame, through its traceback

    def _take(self, data: Data) -> bool:
        """Called by llama.cpp for each piece; answering True ends the run. Must not raise."""
        if not self.stopped and threading.main_thread().is_alive():
            self._tell(data)
            return self.stopped
        return True

    def _tell(self, said: Said) -> None:
        try:
            self._say(said)
        except RuntimeError:  # the event loop that asked is closed
            self.stopped = True


def _file(path: Path | None) -> list[object] | None:
    """What tells a file from one that takes its place; ``None``: tierllm's own, which never changes."""
    if path is None:
        return None
    where = os.path.realpath(path)
    try:
        found = path.stat()
    except OSError:  # loading it will tell
        return [where]
    return [where, found.st_size, found.st_mtime_ns]


def _checked(said: Data | BaseException) -> Data:
    if isinstance(said, BaseException):
        raise said
    if "error" in said:
        raise _error(said["error"])
    return said


def _error(error: Data) -> ProviderError:
    kind, status, detail = error.get("type"), error.get("code"), error.get("message")
    if kind == "exceed_context_size_error":
        tokens, window = error.get("n_prompt_tokens"), error.get("n_ctx")
        return ContextWindowExceededError(
            f"the prompt has {tokens} tokens, the context window {window}: shorten it or raise Local(n_ctx=)",
            status=status,
            detail=detail,
        )
    if kind in ("invalid_request_error", "not_supported_error"):
        return _refusal(status=status, detail=detail)
    return ProviderUnavailableError(f"the local model failed ({kind})", status=status, detail=detail)


def _schema_of(model: type) -> dict[str, Any]:
    """A pydantic model class as the ``json_schema`` response format that llama.cpp enforces."""
    schema = getattr(model, "model_json_schema", None)
    if schema is None:
        raise ConfigError(f"response_format={model.__name__}: give a pydantic model class or a dict")
    return {"type": "json_schema", "json_schema": {"name": model.__name__, "schema": schema()}}


def _refusal(*, detail: str | None, status: int | None = 400) -> InvalidRequestError:
    return InvalidRequestError(
        "the local model cannot take this request; see .detail", status=status, detail=detail
    )
