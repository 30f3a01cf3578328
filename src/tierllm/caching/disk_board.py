"""The board of the disk layer: a file of lines, each added in one piece."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from io import FileIO
from typing import TypeVar

from ..errors import ConfigError, StoreUnavailableError
from ..stores.disk_place import Place
from ..stores.disk_turn import Busy, Turn
from ..stores.trouble import Health
from .disk_aside import move_aside
from .disk_notices import MOST_NUMBER, Notices, Unreadable, last_readable, line
from .disk_written import READ, add, replace
from .layer import Board, Notice

__all__ = ["DiskBoard"]

T = TypeVar("T")

NAME, LOCK = "notices", "notices.lock"

AT_ONCE = 16 * 1024
"""So many bytes are read where they are asked about; more take so long that an event loop would wait."""


class DiskBoard:
    """Notices in a file beside the database, which they outlive. Thread-safe.

    The file begins with a line that is like no other file's; it is added to under a lock, line by line,
    and replaced as a whole when it is long. A last line without an end was never said. Nothing known
    here is ever lost: a file that vanished, or says less than it did, is put right from what this process
    remembers; where that is nothing, or the file is damaged, the new one's floor is above all that was.
    """

    def __init__(self, place: Place, health: Health, wall_clock: Callable[[], float]) -> None:
        self._place = place
        self._health = health
        self._wall_clock = wall_clock
        self._file = place.directory / NAME
        self._path = str(self._file)
        self._turn = Turn()
        self._notices = Notices()
        self._seen: tuple[int, int, int] | None = None  # the file that has been read, and how far
        self._first = b""
        self._offset = 0
        self._news: list[str] = []

    def heard(self) -> int:
        """As ``Layer.heard``. News that would take their time are one number more, until they are read."""
        more = 0
        try:
            found = os.lstat(self._path)
            seen = self._seen
            if (found.st_ino, found.st_size, found.st_mtime_ns) == seen:
                return self._notices.number
            known = self._offset if seen is not None and seen[0] == found.st_ino else 0
            more = found.st_size - known
        except OSError:
            if self._seen is None and not os.path.lexists(self._place.database):
                return self._notices.number
        try:
            self._health.expect()
            if more > AT_ONCE:
                return self._notices.number + 1
            self._do(self._up_to_date, 0.0)
        except _Occupied:
            return self._notices.number + 1
        except StoreUnavailableError:
            pass  # it has been told; what is known goes on
        return self._notices.number

    def board(self, since: int) -> Board:
        return self._do(lambda: self._up_to_date().board(since))

    def post(self, notices: Sequence[Notice]) -> int:
        for each in notices:
            number = each.number
            if type(each.name) is not str or type(number) is not int or not 0 <= number <= MOST_NUMBER // 2:
                raise ConfigError(
                    f"Layer.post(notices=...): give names, and numbers from 0 to {MOST_NUMBER // 2}"
                )
        if not notices:
            return self._do(self._up_to_date).number
        number = self._do(lambda: self._alone(lambda: self._post(notices)))
        handle = -1
        try:  # by nobody's turn: it takes the disk's time
            handle = os.open(self._path, READ)
            os.fsync(handle)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            if handle >= 0:
                os.close(handle)
        return number

    def begin(self) -> None:
        """There is a file, from now on; where this one and the database were both missing, an empty one."""
        if not os.path.lexists(self._path):
            try:
                self._do(lambda: self._alone(self._begin))
            except StoreUnavailableError:
                pass  # it will seem to have vanished, which is safe

    def before_fork(self) -> None:
        self._turn.before_fork(lambda: None)

    def after_fork(self) -> None:
        self._turn.after_fork()

    def renew(self) -> None:
        """What was read is as true in the child."""
        self._turn = Turn()
        self._news = []
        self._health.renew()

    # -- one at a time -----------------------------------------------------------

    def _do(self, work: Callable[[], T], wait_s: float | None = None) -> T:
        try:
            done = self._turn.take(work, self._place.timeout_s if wait_s is None else wait_s)
        except Busy as busy:
            raise _Occupied(f"{self._health.name}: its notices are {busy}") from None
        except (OSError, ConfigError, Unreadable, StoreUnavailableError) as error:
            raise self._failed(error) from error
        finally:
            while self._news:
                self._health.tell(self._news.pop(), ok=False)
        self._health.well()
        return done

    def _failed(self, error: Exception) -> StoreUnavailableError:
        reason = f"{type(error).__name__}: {error}"
        return self._health.failed(f"{self._health.name}: its notices cannot be read or added to ({reason})")

    def _up_to_date(self) -> Notices:
        try:
            self._read()
        except (FileNotFoundError, Unreadable):
            if not self._is_new():
                self._alone(self._put_right)
        return self._notices

    def _is_new(self) -> bool:
        """Whether there has never been anything here, as far as it can be told."""
        if self._seen is not None or os.path.lexists(self._path):
            return False
        return not os.path.lexists(self._place.database)

    def _alone(self, work: Callable[[], T]) -> T:
        """As the only process that changes the file."""
        self._place.prepare()
        with self._place.alone(self._place.timeout_s, LOCK):
            return work()

    # -- read ------------------------------------------------------------------------

    def _read(self) -> None:
        """Read what is new. Raises ``FileNotFoundError``, or ``Unreadable``."""
        self._look(os.lstat(self._path))
        handle = os.open(self._path, READ)
        try:
            found = os.fstat(handle)  # ahead of reading: what comes between is found the next time
            with open(handle, "rb", buffering=0, closefd=False) as file:
                if not self._read_on(file):
                    file.seek(0)
                    self._read_all(file.readall())
            self._see(found)
        finally:
            os.close(handle)

    def _look(self, found: os.stat_result) -> None:
        """See that it is a file, and that nobody else can have written to it."""
        alone = os.name != "posix" or (found.st_uid == os.geteuid() and not found.st_mode & 0o022)
        if not alone or not stat.S_ISREG(found.st_mode):
            raise Unreadable("is not a file of ours alone")

    def _read_on(self, file: FileIO) -> bool:
        """Whether it is the same file, with all that it had, and maybe more lines at its end."""
        if self._seen is None or file.read(len(self._first)) != self._first:
            return False
        if file.seek(0, os.SEEK_END) < self._offset:
            return False
        file.seek(self._offset)
        more = file.readall()
        length = more.rfind(b"\n") + 1
        try:
            for each in more[:length].splitlines():
                self._notices.take(each)
        except Unreadable:
            return False  # as a whole it may read otherwise
        self._offset += length
        return True

    def _read_all(self, data: bytes) -> None:
        length = data.rfind(b"\n") + 1
        lines = data[:length].splitlines()
        found = Notices.read(lines)
        if not found.covers(self._notices):
            raise _SaysLess(found)
        self._keep(found, lines[0] + b"\n", length)

    def _keep(self, notices: Notices, first: bytes, length: int) -> None:
        self._seen = None  # an interrupt in between: then all of it is read again
        self._notices, self._first, self._offset = notices, first, length

    def _see(self, found: os.stat_result) -> None:
        """So far it has been read: a last line without an end is looked at again."""
        self._seen = found.st_ino, self._offset, found.st_mtime_ns

    # -- put right -------------------------------------------------------------------

    def _put_right(self) -> None:
        """So that the file says all that is known, or that nothing from before is valid."""
        known, afresh = self._notices, "entries made before are not valid any more"
        try:
            self._read()
            return
        except FileNotFoundError:
            if self._is_new():
                return
            if self._seen is not None:
                anew, what = known, "were deleted; those that were known here were put back"
            else:
                anew, what = self._afresh(known.number), f"were deleted; {afresh}"
        except _SaysLess as less:
            anew = less.found.joined(known)
            what = "had lost some of what they said; it was put back"
        except Unreadable as error:
            anew = self._afresh(max(known.number, self._last_readable()))
            what = f"are damaged (the file {error}) and were moved to {move_aside(self._file)}; {afresh}"
        self._replace(anew)
        if anew.number:  # or nothing was ever said
            self._news.append(f"{self._health.name}: its notices {what}")

    def _afresh(self, number: int) -> Notices:
        number = max(number + 1, self._now())
        return Notices(number, floor=number)

    def _now(self) -> int:
        """So high that numbers stay above those of a file that was lost."""
        return int(self._wall_clock() * 1000)

    def _last_readable(self) -> int:
        """The highest number that a damaged file tells of."""
        try:
            self._look(os.lstat(self._path))
            return last_readable(self._file.read_bytes())
        except (OSError, Unreadable):
            return 0

    # -- written ---------------------------------------------------------------------

    def _begin(self) -> None:
        self._put_right()
        if self._seen is None:
            self._replace(self._notices)

    def _post(self, notices: Sequence[Notice]) -> int:
        self._begin()
        number = max(self._notices.number + 1, *(each.number for each in notices), self._now())
        add(self._file, line(each._replace(number=number) for each in notices), self._offset)
        self._read()
        if self._notices.is_long:
            try:
                self._replace(self._notices.folded())
            except OSError:
                pass  # the next one tries again; everything is said
        return number

    def _replace(self, notices: Notices) -> None:
        """A new file in the place of the one there is, if any."""
        lines = list(notices.lines())
        found = replace(self._file, lines)
        self._keep(notices, lines[0], sum(map(len, lines)))
        self._see(found)


class _SaysLess(Unreadable):
    """It is sound, and does not say all that was said."""

    def __init__(self, found: Notices) -> None:
        super().__init__("says less than it did")
        self.found = found


class _Occupied(StoreUnavailableError):
    """By others here, who may be done soon."""
