"""Looking whether a file has changed."""

from __future__ import annotations

import hashlib
import math
import os
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ClientClosedError, ConfigError, TierLLMError
from ..events import log, log_failure

if TYPE_CHECKING:
    from .reloading import Reloading

__all__ = ["Watch"]


class _Seen(NamedTuple):
    """A file's state, as far as it can be told without reading it."""

    written_at_ns: int
    size: int
    inode: int
    device: int


class Watch:
    """Reloads a client where its file has changed: ``look()`` looks once, ``start()`` makes a thread look.

    A file is read once it stands still: two looks in a row have to find it alike, so that one that is being
    written is not taken for whole. What counts is the content: a file that was only touched changes nothing,
    one that was replaced as a whole (an editor's rename) is seen. One that is gone leaves everything as it
    was, and is told of once. It keeps no client alive. Raises ``ConfigError`` for an ``every_s`` that makes
    no sense.
    """

    def __init__(self, client: Reloading, every_s: float = 2.0) -> None:
        number = isinstance(every_s, int | float) and not isinstance(every_s, bool)
        if not (number and 0 < every_s < math.inf):
            raise ConfigError(f"watch(every_s={every_s!r}): give seconds above 0")
        self.every_s = every_s
        self._client = weakref.ref(client)
        self._path: Path | None = None
        self._last: _Seen | None = None
        self._read: _Seen | None = None
        self._content = b""
        self._gone = False
        self._looking = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> bool:
        """Look once. Whether the client goes by another configuration for it."""
        client = self._client()
        if client is None:
            self._over.set()
            return False
        with self._looking:
            if self._over.is_set() or not self._changed(client):
                return False
            try:
                return bool(client.reload())
            except ClientClosedError:
                self._over.set()
            except ConfigError as error:
                log.warning("the configuration stays as it was: %s", error)  # looked at again when it changes
            return False

    def _changed(self, client: Reloading) -> bool:
        """Whether there is something else in the file than when it was read last."""
        origin = client._origin
        path = None if origin is None else origin.config.path
        if path is None:  # it goes by no file now
            return False
        if path != self._path:
            self._path, self._last, self._read, self._content = path, None, None, b""
        try:
            stat = os.stat(path)
            seen = _Seen(stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev)
            last, self._last = self._last, seen
            if seen == self._read or seen != last:
                return False
            content = hashlib.sha256(path.read_bytes()).digest()
        except OSError as error:
            if not self._gone:
                self._gone = True
                log.warning("%s cannot be read (%s): the configuration stays as it was", path, error.strerror)
            self._last = self._read = None
            return False
        if self._gone:
            self._gone = False
            log.info("%s is there again", path)
        before, self._content, self._read = self._content, content, seen
        return content != before

    # -- life ------------------------------------------------------------------

    def start(self) -> None:
        """Look every ``every_s`` seconds from now on, in a thread of its own."""
        over = self._over
        self._thread = threading.Thread(target=self._run, args=(over,), name="tierllm-watch", daemon=True)
        self._thread.start()

    def _run(self, over: threading.Event) -> None:
        while not over.wait(self.every_s):
            try:
                self.look()
            except TierLLMError as error:
                log.error("looking at a configuration failed: %s", error)
            except Exception:
                log_failure("looking at a configuration failed")

    def close(self) -> None:
        """Look no more. Safe to call twice, from any thread."""
        self._over.set()

    def renew(self) -> None:
        """After a fork: this process has no such thread yet."""
        running, over = self._thread is not None, self._over.is_set()
        self._looking, self._over = threading.Lock(), threading.Event()
        if over:
            self._over.set()
        elif running:
            self.start()
