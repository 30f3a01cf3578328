"""The store of the processes of one machine: a directory with an SQLite database."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from ..errors import ConfigError, StoreUnavailableError
from ..pipeline.clock import Clock
from .base import Hold, Line, Settlement, Standing, Store, Verdict
from .boot import boot_clock
from .disk_fork import close_before_fork
from .disk_place import Place
from .exact import expect_exact
from .lease import Lease
from .trouble import Health

if TYPE_CHECKING:
    from .disk_books import Books

__all__ = ["DiskStore"]

T = TypeVar("T")

TRIES = 8
"""Of these all but the first come after something damaged was moved aside."""

FORGOTTEN = "the store starts afresh, and what was spent until now is forgotten"


class DiskStore(Store):
    """Shared by all processes of one machine that use the same ``directory``. Thread-safe.

    What it holds outlives them. The directory is made with mode 0700; it must be on a local disk,
    yours, and not writable by others. A step waits up to ``timeout_s`` for other processes. What a
    process reserved is given back ``lease_s`` after it died, and when the machine is started anew.

    A damaged database is moved aside within the directory and the store starts afresh: **what was
    spent is forgotten then**, which a ``StoreTrouble`` event says. Nothing found in the directory is
    ever executed. Raises ``ConfigError`` where the directory is not safe.

    ``wall_clock`` tells seconds since 1970. ``clock``, for leases, must be one for all processes; left
    out, it is the machine's time since its start.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        lease_s: float = 60.0,
        timeout_s: float = 2.0,
        clock: Clock | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        if not timeout_s > 0:
            raise ConfigError(f"DiskStore: timeout_s must be above 0, not {timeout_s:g}")
        boot, boot_time = boot_clock()
        self._boot, self._clock = (boot, boot_time) if clock is None else ("given", clock)
        self._wall_clock = wall_clock
        self._place = Place(directory, timeout_s)
        try:
            self._place.prepare()
        except OSError:
            pass  # said by the first use, as trouble that may pass
        self.health = Health(
            f"disk {self._place.directory}", lambda: self.emit, retry_s=0.0, clock=time.monotonic
        )
        self._lease = Lease(self, lease_s)
        self._lock = threading.Lock()
        self._books: Books | None = None
        close_before_fork(self)

    def __repr__(self) -> str:
        return f"<DiskStore {str(self._place.directory)!r}>"

    # -- accounts --------------------------------------------------------------

    def reserve(self, hold: Hold) -> Verdict:
        expect_exact(hold)
        self._lease.begin(hold.id)
        verdict = self._write(lambda books: books.reserve(hold, self.owner, self._lease.lease_s))
        if not verdict.ok:
            self._lease.end((hold.id,))
        return verdict

    def post(self, settlement: Settlement) -> None:
        if settlement.hold.id in self._lease.open:  # else it was never tried, or is settled
            super().post(settlement)

    def apply(self, batch: Sequence[Settlement]) -> None:
        def settle(books: Books) -> None:
            for settlement in batch:
                books.settle(settlement)

        self._write(settle)
        self._lease.end([settlement.hold.id for settlement in batch])

    def standings(self, lines: Sequence[Line]) -> tuple[Standing, ...]:
        return self._read(lambda books: tuple(map(books.standing, lines)))

    # -- documents -------------------------------------------------------------

    def load(self, name: str) -> bytes | None:
        return self._read(lambda books: books.document(name))

    def swap(self, name: str, value: bytes, expected: bytes | None, ttl_s: float | None = None) -> bool:
        def swap(books: Books) -> bool:
            if books.document(name) != expected:
                return False
            books.keep_document(name, value, ttl_s)
            return True

        return self._write(swap)

    # -- the lease -------------------------------------------------------------

    def renew_lease(self) -> None:
        def renew(books: Books) -> None:
            books.hold_lease(self.owner, self._lease.lease_s, at_least=1.0)
            books.sweep()

        self._write(renew)

    def end_lease(self) -> None:
        self._write(lambda books: books.end_lease(self.owner))

    # -- the database ----------------------------------------------------------

    def _read(self, work: Callable[[Books], T]) -> T:
        return self._do(work)

    def _write(self, work: Callable[[Books], T]) -> T:
        def within(books: Books) -> T:
            with books.shelf.transact():
                return work(books)

        return self._do(within)

    def _do(self, work: Callable[[Books], T]) -> T:
        """Do ``work`` with the books, again where something damaged had to be moved aside first."""
        if not self._lock.acquire(timeout=self._place.timeout_s):
            raise self.health.failed(f"{self.health.name} is kept busy by other threads")
        news: list[str] = []
        trouble: Exception | None = None
        try:
            for _ in range(TRIES):
                try:
                    return work(self._open(news))
                except Exception as error:
                    trouble = error
                    if not self._mended(error, news):
                        break
        finally:
            self._lock.release()
            for text in news:
                self.health.tell(text, ok=False)
            if trouble is None:
                self.health.well()
        assert trouble is not None
        try:
            raise self._unavailable(trouble) from trouble
        finally:
            del trouble  # or it would hold this frame, and the frame it

    def _open(self, news: list[str]) -> Books:
        from .disk_books import Books
        from .disk_shelf import Shelf
        from .disk_trouble import is_damage

        books, place = self._books, self._place
        if books is not None:
            if place.identity() == books.shelf.identity:
                return books
            self._let_go()
            news.append(f"{self.health.name}: the database was deleted or replaced; {FORGOTTEN}")
        place.prepare()
        with place.alone():
            before = place.identity()
            try:
                shelf = Shelf(place)
            except Exception as error:
                if not is_damage(error):
                    raise
                self._set_aside(before or place.identity(), error, news)
                shelf = Shelf(place)
        self._books = Books(shelf, self._boot, self._clock, self._wall_clock)
        return self._books

    def _mended(self, error: Exception, news: list[str]) -> bool:
        """Whether what was wrong has been moved aside. A connection in doubt is closed."""
        from .disk_shelf import Damaged
        from .disk_trouble import is_damage

        books = self._books
        if books is None:
            return False
        shelf = books.shelf
        try:
            if isinstance(error, Damaged) and error.key is not None:
                shelf.set_aside(error.key)
                news.append(
                    f"{self.health.name}: {error}; the row is kept aside, and starts afresh: what it said is "
                    "forgotten"
                )
                return True
            if is_damage(error):
                identity = shelf.identity
                self._let_go()
                with self._place.alone():
                    self._set_aside(identity, error, news)
                return True
            if shelf.in_doubt:
                self._let_go()
        except Exception:
            self._let_go()
        return False

    def _set_aside(self, identity: tuple[int, int] | None, error: Exception, news: list[str]) -> None:
        name = self._place.set_aside(identity)
        if name is not None:
            news.append(f"{self.health.name}: {error}; the database was moved to {name}; {FORGOTTEN}")

    def _unavailable(self, error: Exception) -> StoreUnavailableError:
        from .disk_trouble import why

        if isinstance(error, StoreUnavailableError):
            return self.health.failed(str(error))
        return self.health.failed(f"{self.health.name} cannot be used ({why(error, self._place.timeout_s)})")

    def _let_go(self) -> None:
        books, self._books = self._books, None
        if books is not None:
            books.shelf.close()

    # -- life ------------------------------------------------------------------

    def close(self) -> None:
        self._lease.close()
        self.flush()
        with self._lock:
            self._let_go()

    def before_fork(self) -> None:
        """No thread is at work in the database while the process forks, and it is closed."""
        self._locked = self._lock.acquire(timeout=self._place.timeout_s)
        if self._locked:
            self._let_go()

    def after_fork(self) -> None:
        if self._locked:
            self._lock.release()

    def renew(self) -> None:
        super().renew()
        self._lock = threading.Lock()
        self._parents, self._books = self._books, None  # if it could not be closed, it is not closed here
        self.health.renew()
        self._lease.renew()
