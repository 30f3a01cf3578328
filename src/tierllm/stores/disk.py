"""The store of the processes of one machine: a directory with an SQLite database."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from ..errors import ConfigError, StoreUnavailableError
from ..pipeline.clock import Clock
from .base import AT_ONCE, Hold, Line, Settlement, Standing, Store, Verdict
from .boot import boot_clock
from .disk_fork import close_before_fork
from .disk_place import Place
from .disk_turn import Busy, Turn
from .exact import expect_exact
from .lease import Lease
from .trouble import Health, NotDone

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
        if not 0 < timeout_s <= 86_400:
            raise ConfigError(f"DiskStore: timeout_s must be above 0 and at most a day, not {timeout_s:g}")
        boot, boot_time = boot_clock()
        self._boot, self._clock = (boot, boot_time) if clock is None else ("given", clock)
        self._wall_clock = wall_clock
        self._place = Place(directory, timeout_s)
        try:
            self._place.prepare()
        except OSError:
            pass  # said by the first use, as trouble that may pass
        self.name = f"disk {self._place.directory}"
        self.health = Health(self.name, self.tell, retry_s=0.0, clock=time.monotonic)
        self._unwritable = False
        self._lease = Lease(self, lease_s)
        self._parents: Books | None = None
        self._turn = Turn()
        self._books: Books | None = None
        close_before_fork(self)

    def __repr__(self) -> str:
        return f"<DiskStore {str(self._place.directory)!r}>"

    # -- accounts --------------------------------------------------------------

    def reserve(self, hold: Hold) -> Verdict:
        expect_exact(hold)
        new = self._lease.begin(hold.id)
        try:
            verdict = self._write(lambda books: books.reserve(hold, self._lease.lease_s))
        except NotDone:  # then there is nothing to give back
            if new:
                self._lease.end((hold.id,))
            raise
        if not verdict.ok:
            self._lease.end((hold.id,))
        return verdict

    def post(self, settlement: Settlement) -> None:
        if settlement.hold.id in self._lease.open:  # else it was never tried, or is settled
            super().post(settlement)

    def apply(self, batch: Sequence[Settlement]) -> None:
        for start in range(0, len(batch), AT_ONCE):
            self._settle(batch[start : start + AT_ONCE])

    def _settle(self, batch: Sequence[Settlement]) -> None:
        def settle(books: Books) -> None:
            for settlement in batch:
                books.settle(settlement)

        self._write(settle)
        self._lease.end([settlement.hold.id for settlement in batch])

    def standings(self, lines: Sequence[Line]) -> tuple[Standing, ...]:
        return self._do(lambda books: books.standings(lines))

    # -- documents -------------------------------------------------------------

    def load(self, name: str) -> bytes | None:
        return self._do(lambda books: books.document(name))

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
        def end(books: Books) -> None:
            books.end_lease(self.owner)
            books.sweep()

        self._write(end)

    # -- the database ----------------------------------------------------------

    def _write(self, work: Callable[[Books], T]) -> T:
        """Do ``work`` in one transaction. Raises ``NotDone`` unless it came as far as to be kept."""
        from .disk_trouble import is_full

        worked = False

        def within(books: Books) -> T:
            nonlocal worked
            with books.shelf.transact():
                worked = False  # it may be the second try
                done = work(books)
                worked = True
                return done

        try:
            return self._do(within, writes=True)
        except StoreUnavailableError as error:
            if worked and not is_full(error.__cause__):
                raise
            raise NotDone(str(error)) from error.__cause__

    def _do(self, work: Callable[[Books], T], *, writes: bool = False) -> T:
        """Do ``work`` with the books. All waiting together takes ``timeout_s`` at most."""
        from .disk_trouble import TROUBLE, why

        news: list[str] = []
        wait_s = self._place.timeout_s
        ends = time.monotonic() + wait_s
        try:
            done = self._turn.take(lambda: self._tried(work, ends, news), wait_s)
        except Busy as busy:
            raise self.health.failed(f"{self.name} is {busy}") from None
        except StoreUnavailableError as error:
            self._unwritable = self._unwritable or writes
            raise self.health.failed(str(error)) from error
        except TROUBLE as error:
            self._unwritable = self._unwritable or writes
            raise self.health.failed(f"{self.name} cannot be used ({why(error, wait_s)})") from error
        finally:
            for text in news:
                self.health.tell(text, ok=False)
        if writes or not self._unwritable:  # a full disk can still be read
            self._unwritable = False
            self.health.well()
        return done

    def _tried(self, work: Callable[[Books], T], ends: float, news: list[str]) -> T:
        """``work``, again where something damaged had to be moved aside first."""
        from .disk_trouble import TROUBLE

        if self._parents is not None:
            raise StoreUnavailableError(
                f"{self.name}: this process was forked in the midst of a transaction, and cannot use the "
                "database: start it anew"
            )
        for tries in range(TRIES):
            try:
                books = self._open(ends, news)
                books.shelf.wait_for(ends - time.monotonic())
                return work(books)
            except TROUBLE as error:
                if tries == TRIES - 1 or not self._mended(error, news):
                    raise
            finally:
                if self._books is not None and self._books.shelf.in_doubt:
                    self._let_go()
        raise AssertionError

    def _open(self, ends: float, news: list[str]) -> Books:
        from .disk_books import Books
        from .disk_shelf import Shelf
        from .disk_trouble import TROUBLE, is_damage

        books, place = self._books, self._place
        if books is not None and books.shelf.in_doubt:  # an interrupt came in the way of its end
            self._let_go()
        elif books is not None:
            if place.identity() == books.shelf.identity:
                return books
            self._let_go()
            news.append(f"{self.name}: the database was deleted or replaced; {FORGOTTEN}")
        place.prepare()
        with place.alone(ends - time.monotonic()):
            before = place.identity()
            try:
                shelf = Shelf(place)
            except TROUBLE as error:
                if not is_damage(error):
                    raise
                self._set_aside(before or place.identity(), error, news)
                shelf = Shelf(place)
        self._books = Books(shelf, self._boot, self._clock, self._wall_clock)
        return self._books

    def _mended(self, error: Exception, news: list[str]) -> bool:
        """Whether what was wrong has been moved aside. A connection in doubt is closed."""
        from .disk_shelf import Damaged
        from .disk_trouble import TROUBLE, is_damage

        books = self._books
        if books is None:
            return False
        shelf = books.shelf
        try:
            if isinstance(error, Damaged) and error.key is not None:
                shelf.set_aside(error.key)
                news.append(f"{self.name}: {error}; the row is kept aside, and what it said is forgotten")
                return True
            if is_damage(error):
                identity = shelf.identity
                self._let_go()
                with self._place.alone(self._place.timeout_s):
                    self._set_aside(identity, error, news)
                return True
        except TROUBLE:
            self._let_go()
        return False

    def _set_aside(self, identity: tuple[int, int] | None, error: Exception, news: list[str]) -> None:
        name = self._place.set_aside(identity)
        if name is not None:
            news.append(f"{self.name}: {error}; the database was moved to {name}; {FORGOTTEN}")

    def _let_go(self) -> None:
        books, self._books = self._books, None
        if books is not None:
            books.shelf.close()

    # -- life ------------------------------------------------------------------

    def close(self) -> None:
        self.flush()
        self._lease.close()
        try:
            self._turn.take(self._let_go, self._place.timeout_s)
        except Busy:
            pass  # somebody uses it still

    def before_fork(self) -> None:
        self._turn.before_fork(self._let_go)

    def after_fork(self) -> None:
        self._turn.after_fork()

    def renew(self) -> None:
        super().renew()
        if self._books is not None:  # it could not be closed; and closing it here would write to it
            self._parents, self._books = self._books, None
        self._turn = Turn()
        self._unwritable = False
        self.health.renew()
        self._lease.renew()
