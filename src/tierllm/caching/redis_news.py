"""The thread that hears what other processes post, and finds out when Redis is well again."""

from __future__ import annotations

import os
import socket
import threading
import weakref
from typing import Protocol

from ..errors import StoreUnavailableError
from ..events import log, log_failure
from ..stores.redis_clients import Clients, Wire, load_redis

__all__ = ["Hearer", "News"]

CHECK_S = 5.0
"""After so long without news the connection is tried, and the board is looked at."""

LEAST_PAUSE_S = 0.05


class Hearer(Protocol):
    """Who is told."""

    @property
    def left_alone_s(self) -> float | None:
        """How long Redis is not to be asked; ``None``: it is well."""

    def look(self) -> None:
        """Ask what the board says of itself. May raise ``StoreUnavailableError``."""

    def told(self, value: bytes) -> None:
        """The board says ``value``. May raise ``StoreUnavailableError``."""


class News:
    """Tells ``hearer`` what is published on ``channel``, from a daemon thread.

    ``hearer`` is referred to weakly: once it is no longer used, the thread ends. When the connection is
    lost, it is made again after ``pause_s``; where the server lets nobody subscribe, the board is
    looked at as often. Trouble with the server is told by the one who looks. While ``hearer`` is in trouble,
    the board is looked at as soon as that is allowed, until it is well.
    """

    def __init__(self, hearer: Hearer, clients: Clients, channel: bytes, pause_s: float) -> None:
        self._hearer = weakref.ref(hearer, self._dropped)
        self._clients = clients
        self._channel = channel
        self._pause_s = max(pause_s, LEAST_PAUSE_S)
        self._pid = os.getpid()
        self._stop = threading.Event()
        self._busy = threading.Lock()  # while the hearer is told
        self._wire: Wire | None = None
        self._refused = False
        self._puzzled = False  # by what nobody has thought of
        errors = load_redis().exceptions
        self._failures: tuple[type[Exception], ...] = (errors.RedisError, OSError, EOFError, UnicodeError)
        self._answer: type[Exception] = errors.ResponseError
        self._thread = threading.Thread(target=self._run, name="tierllm-news", daemon=True)

    def start(self) -> None:
        """Raises ``RuntimeError`` where no thread can be started."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it does what it is for: where it fails, callers look after themselves."""
        return self._thread.is_alive() and not self._puzzled and not self._stop.is_set()

    def stop(self, wait_s: float) -> None:
        """End the thread soon. Nobody is told anything any more, if that under way ends within ``wait_s``."""
        if os.getpid() != self._pid:
            return
        self._stop.set()
        self._wake()
        if threading.current_thread() is not self._thread and self._busy.acquire(timeout=wait_s):
            self._busy.release()

    def _dropped(self, _: object) -> None:
        # may come in the middle of anything, so no lock is taken here
        if os.getpid() == self._pid:
            self._wake()

    def _wake(self) -> None:
        """A thread that waits on a socket sees it end."""
        waits_on: socket.socket | None = getattr(self._wire, "_sock", None)
        if waits_on is not None:
            try:
                waits_on.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it had ended

    def _run(self) -> None:
        while not self._stop.is_set() and self._hearer() is not None:
            try:
                self._try_to_follow()
                self._pass_on(None)
                self._rest()
            except Exception:
                if not self._puzzled:
                    log_failure("news of the cache's board cannot be heard just now")
                self._puzzled = True
                self._stop.wait(self._pause_s)

    def _try_to_follow(self) -> None:
        try:
            self._follow()
        except self._failures as error:
            self._tell_refused(error)
        finally:
            wire, self._wire = self._wire, None
            if wire is not None:
                wire.disconnect()

    def _rest(self) -> None:
        """A pause, and as long as Redis is left alone: some may have failed after the first."""
        rest_s = self._pause_s
        while rest_s > 0 and not self._stop.wait(rest_s):
            rest_s = self._left_alone_s() or 0.0

    def _left_alone_s(self) -> float | None:
        hearer = self._hearer()
        return None if hearer is None else hearer.left_alone_s

    def _wait_s(self) -> float:
        """How long to wait for news: in trouble until Redis may be asked whether it is well again."""
        left_s = self._left_alone_s()
        return min(self._pause_s if left_s is None else max(left_s, LEAST_PAUSE_S), CHECK_S)

    def _follow(self) -> None:
        """Until the connection is lost, or ``stop``."""
        wire = self._clients.new_wire()
        if wire is None:
            return
        self._wire = wire
        wire.connect()
        wire.send_command("SUBSCRIBE", self._channel, check_health=False)
        wire.read_response(disable_decoding=True, push_request=True)
        asked, answer_s, quiet_s = False, min(self._clients.timeout_s, CHECK_S), 0.0
        # after the subscription: what was posted before it is told by nobody
        goes_on = self._pass_on(None)
        while goes_on and not self._stop.is_set():
            wait_s = answer_s if asked else self._wait_s()
            if wire.can_read(timeout=wait_s):
                asked, quiet_s = False, 0.0
                reply = wire.read_response(disable_decoding=True, push_request=True)
                if isinstance(reply, list) and reply[0] == b"message":
                    goes_on = self._pass_on(reply[2])
            elif asked:
                return  # no answer: there is nobody any more
            else:
                quiet_s += wait_s
                if quiet_s >= CHECK_S:
                    wire.send_command("PING", check_health=False)
                    asked = True
                    goes_on = self._pass_on(None)  # what is lost without a word is noticed here
            if goes_on and self._left_alone_s() == 0:
                goes_on = self._pass_on(None)

    def _pass_on(self, value: bytes | None) -> bool:
        """Whether there is still somebody to be told."""
        with self._busy:
            hearer = self._hearer()
            if hearer is None or self._stop.is_set():
                return False
            try:
                if value is None:
                    hearer.look()
                else:
                    hearer.told(value)
            except StoreUnavailableError:
                pass  # it has told of it
            self._puzzled = False
            return True

    def _tell_refused(self, error: Exception) -> None:
        if isinstance(error, self._answer) and not self._refused:
            self._refused = True
            log.warning(
                "Redis at %s refuses SUBSCRIBE to this client (%s): invalidations by other processes are "
                "heard up to %g s later",
                self._clients.place,
                type(error).__name__,
                self._pause_s,
            )
