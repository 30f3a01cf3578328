"""The files beneath a decision log: appended to by several processes, rotated by whoever comes first."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from ..errors import ConfigError

__all__ = ["Appended", "DecisionFile", "files_of", "opened_for_reading"]

ONCE_BYTES = 1 << 20
"""As much is written at a time."""

FIRST_BYTES = 1 << 20

BEGINS = b'{"v":'
"""So begin the lines that are written here."""

POLL_S = 0.002

ROUNDS = 100
"""A reader without a lock looks so often for a moment in which nothing is moved."""


class Appended(NamedTuple):
    """How many of the lines are there now, wholly, and what kept the rest out."""

    lines: int
    error: OSError | None


class DecisionFile:
    """Lines in the file at ``path``; of older ones, ``path.1`` to ``path.<keep>``, the first is the newest.

    Any number of processes and threads may append. Each does so while it holds a lock beside the file
    (``path.lock``), so that nobody writes into a file that is being rotated, and what a full disk has cut in
    two is taken back. A process that is killed gives the lock back, too; half a line of its own stays, and is
    ended by whoever writes next.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int, keep: int) -> None:
        self.path = _absolute(path)
        self.max_bytes = max_bytes
        self.keep = keep
        self._check()

    def _check(self) -> None:
        """Raises ``ConfigError`` where there can be no such file."""
        where = f"the decision log {self.path!r}"
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except IsADirectoryError:
            raise ConfigError(f"{where} cannot be made: that is a directory; give a file in it") from None
        except OSError as error:
            raise ConfigError(
                f"{where} cannot be made: {error.strerror}; "
                "give a path in a directory that exists and may be written"
            ) from error
        try:
            if stat.S_ISREG(os.fstat(handle).st_mode) and not _is_log(handle):
                raise ConfigError(f"{self.path!r} is no decision log, and not touched: give another path")
        finally:
            os.close(handle)
        try:
            with _alone(self.path, 0.0):  # so that readers find a lock from the first line on
                pass
        except OSError:
            pass  # somebody has it, or a flush will tell

    def append(self, lines: Sequence[bytes], *, patience_s: float) -> Appended:
        """Write ``lines``, each ended by a newline, in this order. Waits so long for others that write."""
        done = 0
        try:
            with _alone(self.path, patience_s):
                while done < len(lines):
                    done += self._write(lines, done)
        except _CutShortError as error:
            return Appended(done + error.lines, error.cause)
        except OSError as error:
            return Appended(done, error)
        return Appended(done, None)

    def _write(self, lines: Sequence[bytes], begin: int) -> int:
        """As many lines as go into this file and into one write."""
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            end, total = begin, size + torn
            while end < len(lines) and total + len(lines[end]) <= self.max_bytes:
                total += len(lines[end])
                end += 1
                if total - size >= ONCE_BYTES:
                    break
            if end == begin and size > 0:
                self._rotate()
                return 0
            end = max(end, begin + 1)  # a line that is longer than a file may be has one of its own
            told = lines[begin:end]
            _write_wholly(handle, b"\n" * torn + b"".join(told), size, told)
            return end - begin
        finally:
            os.close(handle)

    def _rotate(self) -> None:
        """Make room for a new file: older ones move on by one, up to the first gap, or the last is lost."""
        if self.keep == 0:
            os.unlink(self.path)
            return
        free = next((n for n in range(1, self.keep) if not os.path.lexists(f"{self.path}.{n}")), self.keep)
        for number in range(free, 1, -1):
            os.replace(f"{self.path}.{number - 1}", f"{self.path}.{number}")
        os.replace(self.path, f"{self.path}.1")


class _CutShortError(Exception):
    """Not all was written."""

    def __init__(self, lines: int, cause: OSError) -> None:
        super().__init__(lines)
        self.lines = lines
        self.cause = cause


def _write_wholly(handle: int, text: bytes, size: int, told: Sequence[bytes]) -> None:
    """Raises ``_CutShortError`` after taking back what is no whole line."""
    written = 0
    try:
        while written < len(text):
            written += os.write(handle, memoryview(text)[written:])
    except OSError as error:
        left = written - (len(text) - sum(map(len, told)))  # an end for another's line comes first
        whole = 0
        for line in told:
            if left < len(line):
                break
            left -= len(line)
            whole += 1
        if left > 0:
            try:
                os.ftruncate(handle, size + written - left)
            except OSError:
                pass  # it stays torn: the next line begins anew, and readers pass over it
        raise _CutShortError(whole, error) from error


@contextmanager
def _alone(path: str, patience_s: float, *, reading: bool = False) -> Iterator[None]:
    """No other process appends or rotates meanwhile. Raises ``TimeoutError`` where one does for too long."""
    try:
        import fcntl
    except ImportError:  # not POSIX: there, one process only
        yield
        return
    lock, how = f"{path}.lock", fcntl.LOCK_SH if reading else fcntl.LOCK_EX
    flags = os.O_RDONLY if reading else os.O_RDWR | os.O_CREAT
    ends = time.monotonic() + patience_s
    while True:
        handle = os.open(lock, flags | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(handle, how | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > ends:
                        raise TimeoutError(f"{lock!r} is held by another process") from None
                    time.sleep(POLL_S)
            if not _is_at(handle, lock):
                continue  # somebody has tidied it away: those who come now lock another
            try:
                yield
            finally:
                fcntl.flock(handle, fcntl.LOCK_UN)  # a child forked meanwhile has the handle, too
            return
        finally:
            os.close(handle)


def _is_log(handle: int) -> bool:
    """Whether it is empty, or its first line is one of a log: a whole one, or one that was cut short."""
    head = os.pread(handle, FIRST_BYTES, 0)
    first, end, _ = head.partition(b"\n")
    if not head or first.startswith(BEGINS) or (first and BEGINS.startswith(first)):
        return True
    try:
        line = json.loads(first) if end or len(head) < FIRST_BYTES else None
    except (ValueError, RecursionError):
        return False
    return isinstance(line, dict) and "v" in line and "kind" in line


def _is_at(handle: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def files_of(path: str | os.PathLike[str]) -> list[str]:
    """All that belongs to the log at ``path``: its files, and its lock."""
    path = _absolute(path)
    return [*_listed(path), f"{path}.lock"]


def opened_for_reading(path: str | os.PathLike[str], *, patience_s: float) -> list[tuple[int, int]]:
    """Handles of all files of the log, oldest first, each with its size, as of one moment.

    Raises ``ConfigError`` where there is none.
    """
    path = _absolute(path)
    try:
        with _alone(path, patience_s, reading=True):
            return _handles(path)
    except OSError:  # no lock, none that may be read, or somebody sits on it
        for _ in range(ROUNDS):
            found = _handles(path)
            if _identities(_listed(path)) == [os.fstat(handle).st_ino for handle, _ in found]:
                return found  # nothing was moved meanwhile
            for handle, _ in found:
                os.close(handle)
        return _handles(path)


def _listed(path: str) -> list[str]:
    """The files of the log, oldest first."""
    directory, name = os.path.split(path)
    older = re.compile(re.escape(name) + r"\.([1-9][0-9]{0,5})")
    try:
        numbers = sorted((int(n[1]) for n in map(older.fullmatch, os.listdir(directory)) if n), reverse=True)
    except OSError:
        numbers = []
    return [*(f"{path}.{number}" for number in numbers), path]


def _identities(files: list[str]) -> list[int]:
    try:
        return [os.stat(each).st_ino for each in files]
    except OSError:
        return []


def _handles(path: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    try:
        for each in _listed(path):
            try:
                handle = os.open(each, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ConfigError(f"the decision log {each!r} cannot be read: {error.strerror}") from error
            found.append((handle, 0))
            status = os.fstat(handle)
            if stat.S_ISDIR(status.st_mode):
                raise ConfigError(f"the decision log {each!r} cannot be read: that is a directory")
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"the decision log {each!r} cannot be read: that is no regular file")
            found[-1] = (handle, status.st_size)
    except BaseException:
        for handle, _ in found:
            os.close(handle)
        raise
    if not found:
        raise ConfigError(f"there is no decision log at {path!r}")
    return found


def _absolute(path: str | os.PathLike[str]) -> str:
    """The path as it is meant now: a later change of directory must not move the log."""
    text = os.fsdecode(path)
    if not text or "\0" in text:
        raise ConfigError(f"DecisionLog({text!r}): give the path of a file")
    return os.path.realpath(text)
