"""llama.cpp models loaded in this process, each once, and what a fork does to them."""

from __future__ import annotations

import ctypes
import os
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from ..errors import ConfigError, UsageError

__all__ = ["Model", "Models", "Settings", "models"]

BATCH_TOKENS = 128
"""Prompt tokens read at a stretch; between two stretches, as between two tokens, a run can stop."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What makes two loaded models the same."""

    path: Path
    n_ctx: int
    n_threads: int
    n_parallel: int


class Model:
    """Loaded weights; freed with the last reference. ``server`` is ``None`` in a forked child."""

    __slots__ = ("__weakref__", "server")

    def __init__(self, server: Any) -> None:
        self.server = server


class Models:
    """The models loaded in this process, each once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: WeakValueDictionary[Settings, Model] = WeakValueDictionary()
        self._used = False
        self._inherited = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)

    def get(self, settings: Settings) -> Model:
        with self._lock:
            if self._inherited:
                raise UsageError(
                    "the local model was loaded before this process was forked, and llama.cpp does not "
                    "survive a fork: make the first call after forking, or start processes with 'spawn'"
                )
            model = self._models.get(settings)
            if model is None:
                self._used = True
                model = self._models[settings] = Model(_started(settings))
            return model

    def _forked(self) -> None:
        """In the child llama.cpp's threads are gone, and whoever joins one of them hangs or aborts.

        So nothing of it is ever freed here, and the process ends without C++ destructors, as
        ``multiprocessing`` children do anyway.
        """
        self._lock = threading.Lock()
        if not self._used or self._inherited:
            return
        self._inherited = True
        for model in self._models.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(model.server))
            model.server = None
        libc = ctypes.CDLL(None)
        if hasattr(libc, "on_exit"):
            libc.on_exit(libc._exit, None)


models = Models()


def _started(settings: Settings) -> Any:
    """``_start`` in a thread of its own, out of reach of Ctrl-C.

    Ctrl-C is raised in the main thread, and in the middle of ``_start`` it would free a server whose
    loop has not begun. So it is raised once the server is whole.
    """
    server: Any = None
    failure: BaseException | None = None

    def start() -> None:
        nonlocal server, failure
        try:
            server = _start(settings)
        except BaseException as exc:  # the caller is to get whatever it is
            failure = exc
        finally:
            over.set()

    over = threading.Event()  # Thread.join, once interrupted, takes the thread for ended
    thread = threading.Thread(target=start, name="tierllm-load", daemon=False)
    try:
        thread.start()
        over.wait()
    finally:
        if thread.ident is not None:
            over.wait()  # again, where a signal broke off the first
    try:
        if failure is not None:
            raise failure
        return server
    finally:
        failure = None  # or it and this frame would refer to each other


def _start(settings: Settings) -> Any:
    try:
        import xllamacpp
    except ImportError as exc:
        raise ConfigError('the local model needs xllamacpp: run `pip install "tierllm[local]"`') from exc
    path = settings.path
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as exc:
        raise ConfigError(f"Local(model_path={str(path)!r}): cannot be read ({exc.strerror})") from exc
    if magic != b"GGUF":
        raise ConfigError(f"Local(model_path={str(path)!r}): not a GGUF file")

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {path.stem}
    params.n_ctx = settings.n_ctx * settings.n_parallel  # llama.cpp divides it among its slots
    params.n_parallel = settings.n_parallel
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.n_threads
    params.cache_ram_mib = 0  # or prompts of the past pile up to 8 GB
    params.fit_params = False
    params.verbosity = -1
    # The server object opens a loopback port whether wanted or not: nobody is to get in there.
    params.api_keys = [secrets.token_urlsafe(32)]
    params.ui = params.endpoint_slots = False
    params.endpoint_metrics = True
    params.cors_origins = ""
    params.n_threads_http = 1
    try:
        server = xllamacpp.Server(params)
        # Freed before its loop has begun, a server waits for the loop's end for ever, and all of
        # Python with it. An answer from the loop says that it has.
        server.handle_metrics()
        return server
    except (RuntimeError, ValueError) as exc:
        raise ConfigError(
            f"llama.cpp could not load {str(path)!r}: the file may be cut off, of an unknown kind, "
            f"or too large for the memory with n_ctx={settings.n_ctx}"
        ) from exc
