"""Looking whether a file has changed."""

from __future__ import annotations

import math
import os
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..config.file import Config
from ..config.reading import fingerprint
from ..errors import ClientClosedError, ConfigError, TierLLMError
from ..events import log, log_failure

if TYPE_CHECKING:
    from .origin import Origin
    from .reloading import Reloading

__all__ = ["Watch"]


MOST_LOOKS = 64
"""After so many looks at the latest, a file that lacks something else is tried again."""


class _Seen(NamedTuple):
    """A file's state, as far as it can be told without reading it."""

    written_at_ns: int
    changed_at_ns: int
    size: int
    inode: int
    device: int

    @classmethod
    def of(cls, path: Path) -> _Seen:
        stat = os.stat(path)
        return cls(stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino, stat.st_dev)


@dataclass(slots=True)
class _Refused:
    """A content that the client could not go by. ``pause``: after so many looks it is tried again, and then
    after twice as many; ``None``: it makes no sense by itself, whenever it is read."""

    content: bytes
    error: str
    pause: int | None
    looks: int = 0

    def due(self) -> bool:
        self.looks += 1
        return self.pause is not None and self.looks >= self.pause


class Watch:
    """Reloads a client where its file has changed: ``look()`` looks once, ``start()`` makes a thread look.

    A file is read once it stands still: two looks in a row have to find it alike, so that one that is being
    written is not taken for whole. What counts is the content, beside that of the configuration by which the
    client goes, whoever made it: a file that was only touched changes nothing, one that was replaced as a
    whole (an editor's rename) is seen. One that is gone leaves everything as it was, and is told of once.
    One that makes sense, but lacks something else (a price list, a key in the environment), is tried again,
    less and less often. It keeps no client alive. Raises ``ConfigError`` for an ``every_s`` that makes no
    sense.
    """

    def __init__(self, client: Reloading, every_s: float = 2.0) -> None:
        number = isinstance(every_s, int | float) and not isinstance(every_s, bool)
        if not (number and 0 < every_s < math.inf):
            raise ConfigError(f"watch(every_s={every_s!r}): give seconds above 0")
        self.every_s = every_s
        self._client = weakref.ref(client)
        self._path: Path | None = None
        self._last: _Seen | None = None
        self._read: tuple[_Seen, bytes | None] | None = None
        """How the file stood when it was read, and what the client went by."""
        self._refused: _Refused | None = None
        self._gone = False
        self._looking = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> bool:
        """Look once. Whether the client goes by another configuration for it; not while somebody else looks,
        such as the one whose reload this is heard of by."""
        client = self._client()
        if client is None:
            self._over.set()
            return False
        looking = self._looking
        if not looking.acquire(blocking=False):
            return False
        try:
            origin = client._origin
            config = None if origin is None else origin.config
            if self._over.is_set() or origin is None or config is None or config.path is None:
                return False
            content = self._changed(config, config.path)
            return content is not None and self._act(client, origin, config, content)
        finally:
            looking.release()

    def _changed(self, config: Config, path: Path) -> bytes | None:
        """What is in the file, where it is to be tried; ``None``: it holds already, or was refused before."""
        if path != self._path:
            self._path, self._last, self._read, self._refused = path, None, None, None
        try:
            seen = _Seen.of(path)
            last, self._last = self._last, seen
            if seen != last:
                return None
            due = self._refused is not None and self._refused.due()
            if self._read == (seen, config.content) and not due:
                return None
            content = path.read_bytes()
            self._last = _Seen.of(path)
        except OSError as error:
            if not self._gone:
                self._gone = True
                log.warning("%s cannot be read (%s): the configuration stays as it was", path, error.strerror)
            self._last = self._read = None
            return None
        if self._gone:
            self._gone = False
            log.info("%s is there again", path)
        if self._last != seen:  # it was written to meanwhile
            return None
        self._read = seen, config.content
        found = fingerprint(content)
        if found == config.content:
            self._refused = None
            return None
        known = self._refused is not None and self._refused.content == found
        return None if known and not due else content

    def _act(self, client: Reloading, origin: Origin, config: Config, content: bytes) -> bool:
        """Go by the very bytes that were looked at: in the file there may be others by now."""
        path, found = self._path, fingerprint(content)
        assert path is not None
        before = self._refused
        if before is not None and before.content != found:
            before = None
        makes_sense = False

        def read() -> Config:
            nonlocal makes_sense
            if origin.config is not config:  # somebody else was quicker; looked at again, if need be
                return origin.config
            new = Config.load(path, content)
            makes_sense = True
            return new

        self._refused = None
        try:
            return bool(client._go_by(origin, read, str(path), None if before is None else before.error))
        except ClientClosedError:
            self._over.set()
        except ConfigError as error:
            if before is None or str(error) != before.error:
                log.warning("the configuration stays as it was: %s", error)
            pause = 2 if before is None or before.pause is None else min(2 * before.pause, MOST_LOOKS)
            self._refused = _Refused(found, str(error), pause if makes_sense else None)
        return False

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
