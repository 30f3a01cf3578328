"""Where a disk store lives: a directory of its own, and what is moved aside in it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError, StoreUnavailableError

__all__ = ["DATABASE", "Place"]

DATABASE = "cache.db"
_WITH_IT = ("-wal", "-shm", "-journal", "")
"""Files of one database, in the order in which they are moved: without its journal it is not read on."""

_Identity = tuple[int, int]


class Place:
    """A directory that nobody else may write to, with one database in it. ``used_by`` is a class's name."""

    def __init__(
        self, directory: str | os.PathLike[str], timeout_s: float, *, used_by: str = "DiskStore"
    ) -> None:
        self.directory = Path(directory).expanduser().absolute()
        self.database = self.directory / DATABASE
        self.timeout_s = timeout_s
        self._used_by = used_by

    def prepare(self) -> None:
        """Make the directory if there is none. Raises ``ConfigError`` if others may write to it."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name != "posix":
            return
        found = self.directory.stat()
        if found.st_uid != os.geteuid():
            raise ConfigError(
                f"{self._used_by}: {self.directory} belongs to another user: name a directory of your own"
            )
        if found.st_mode & 0o022:
            raise ConfigError(
                f"{self._used_by}: others may write to {self.directory}: chmod 700 it, or name a new one"
            )

    def make_file(self) -> None:
        """An empty database that only its owner can read, if there is none; SQLite copies the mode.

        One that is there is never opened but by SQLite: to close it would drop the locks of all
        connections that this process has to it, which is how POSIX wants it.
        """
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
        try:
            os.close(os.open(self.database, flags, 0o600))
        except FileExistsError:
            pass

    def identity(self) -> _Identity | None:
        """Which file the database is now; ``None``: there is none."""
        try:
            found = os.stat(self.database, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def is_plain_file(self) -> bool:
        """Whether the database is a file of ours, not a link, a directory or somebody else's."""
        found = os.stat(self.database, follow_symlinks=False)
        return stat.S_ISREG(found.st_mode) and (os.name != "posix" or found.st_uid == os.geteuid())

    def set_aside(self, identity: _Identity | None) -> str | None:
        """Move the database away unless it is another one by now; its new name. To be called alone."""
        if identity is None or self.identity() != identity:
            return None
        suffix = f".damaged-{time.strftime('%Y%m%dT%H%M%S')}-{os.urandom(3).hex()}"
        for extra in _WITH_IT:
            try:
                os.rename(f"{self.database}{extra}", f"{self.database}{suffix}{extra}")
            except FileNotFoundError:
                pass
        return DATABASE + suffix

    @contextmanager
    def alone(self, wait_s: float, lock: str = "open.lock") -> Iterator[None]:
        """No other process opens or moves the database meanwhile; or does what else has a ``lock``."""
        try:
            import fcntl
        except ImportError:  # not POSIX: files in use cannot be moved there either
            yield
            return
        flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(self.directory / lock, flags, 0o600)
        try:
            ends = time.monotonic() + wait_s
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > ends:
                        raise StoreUnavailableError(
                            f"the store in {self.directory} is being opened by another process for longer "
                            f"than {self.timeout_s:g} s"
                        ) from None
                    time.sleep(0.002)
            yield
        finally:
            try:
                fcntl.flock(handle, fcntl.LOCK_UN)  # a child forked meanwhile has the handle, too
            finally:
                os.close(handle)
