"""The database of the disk layer: opened when it is used, and moved aside where it is damaged."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NoReturn, TypeVar

from ..errors import StoreUnavailableError
from ..stores.disk_place import Place
from ..stores.disk_turn import Busy, Turn
from ..stores.trouble import Health
from .disk_aside import keep_only

if TYPE_CHECKING:
    from .disk_rows import Rows

__all__ = ["DiskDatabase"]

T = TypeVar("T")

TRIES = 4
"""Of these all but the first come after something damaged was moved aside."""

FORGOTTEN = "the cache on the disk starts afresh"


class DiskDatabase:
    """Does work on the rows of the database at ``place``, for one thread at a time.

    ``prepare`` is called ahead of opening it.
    """

    def __init__(
        self,
        name: str,
        place: Place,
        max_bytes: int,
        quotas: Mapping[str, float],
        prepare: Callable[[], None],
    ) -> None:
        self.name = name
        self.rows: Rows | None = None
        self.turn = Turn()
        self._place = place
        self._max_bytes = max_bytes
        self._quotas = quotas
        self._prepare = prepare
        self._parents: Rows | None = None

    def do(self, work: Callable[[Rows], T], health: Health) -> T:
        """Do ``work``. All waiting together takes the place's ``timeout_s`` at most."""
        health.expect()
        news: list[str] = []
        wait_s = self._place.timeout_s
        ends = time.monotonic() + wait_s
        try:
            done = self.turn.take(lambda: self._tried(work, ends, news), wait_s)
        except Busy as busy:
            raise health.failed(f"{self.name} is {busy}") from None
        except Exception as error:
            self._failed(error, health)
        finally:
            for text in news:
                health.tell(text, ok=False)
        health.well()
        return done

    def _failed(self, error: Exception, health: Health) -> NoReturn:
        from ..stores.disk_trouble import TROUBLE, why

        if isinstance(error, StoreUnavailableError):
            raise health.failed(str(error)) from error
        if isinstance(error, TROUBLE):
            reason = why(error, self._place.timeout_s)
            raise health.failed(f"{self.name} cannot be used ({reason})") from error
        raise error

    def _tried(self, work: Callable[[Rows], T], ends: float, news: list[str]) -> T:
        """``work``, again where something damaged had to be moved aside first."""
        if self._parents is not None:
            raise StoreUnavailableError(
                f"{self.name}: this process was forked in the midst of a transaction, and cannot use the "
                "database: start it anew"
            )
        for tries in range(TRIES):
            try:
                rows = self._open(ends, news)
                rows.wait_for(ends - time.monotonic())
                return work(rows)
            except Exception as error:
                if tries == TRIES - 1 or not self._mended(error, ends, news):
                    raise
            finally:
                if self.rows is not None and self.rows.in_doubt:
                    self._let_go()
        raise AssertionError

    def _open(self, ends: float, news: list[str]) -> Rows:
        rows, place = self.rows, self._place
        if rows is not None and not rows.in_doubt:
            if place.identity() == rows.identity:
                return rows
            news.append(f"{self.name}: the database was deleted or replaced; {FORGOTTEN}")
        self._let_go()
        return self._open_anew(ends, news)

    def _open_anew(self, ends: float, news: list[str]) -> Rows:
        from ..stores.disk_trouble import TROUBLE, is_damage
        from .disk_rows import Rows

        (place := self._place).prepare()
        self._prepare()
        with place.alone(ends - time.monotonic()):
            before = place.identity()
            try:
                rows = Rows(place, self._max_bytes, self._quotas)
            except TROUBLE as error:
                if not is_damage(error):
                    raise
                self._set_aside(before or place.identity(), error, news)
                rows = Rows(place, self._max_bytes, self._quotas)
        self.rows = rows
        return rows

    def _mended(self, error: Exception, ends: float, news: list[str]) -> bool:
        """Whether what was wrong has been moved aside."""
        from ..stores.disk_shelf import Damaged
        from ..stores.disk_trouble import TROUBLE, is_damage

        rows = self.rows
        if rows is None:
            return False
        try:
            if isinstance(error, Damaged) and error.key is not None:
                try:
                    rows.set_aside(error.key)
                except TROUBLE as worse:
                    error = worse
                else:
                    news.append(f"{self.name}: {error}; it is kept aside, and counts as missed")
                    return True
            if is_damage(error):
                self._let_go()
                with self._place.alone(ends - time.monotonic()):
                    self._set_aside(rows.identity, error, news)
                return True
        except TROUBLE:
            self._let_go()
        return False

    def _set_aside(self, identity: tuple[int, int] | None, error: Exception, news: list[str]) -> None:
        """Only the last one is kept: there is no end to what may be damaged, but to the room there is."""
        name = self._place.set_aside(identity)
        if name is None:
            return
        news.append(f"{self.name}: {error}; the database was moved to {name}; {FORGOTTEN}")
        keep_only(self._place.database, name)

    def _let_go(self) -> None:
        rows, self.rows = self.rows, None
        if rows is not None:
            rows.close()

    # -- life ------------------------------------------------------------------

    def close(self) -> None:
        try:
            self.turn.take(self._let_go, self._place.timeout_s)
        except Busy:
            pass  # somebody uses it still

    def before_fork(self) -> None:
        self.turn.before_fork(self._let_go)

    def after_fork(self) -> None:
        self.turn.after_fork()

    def renew(self) -> None:
        if self.rows is not None:  # it could not be closed; and closing it here would write to it
            self._parents, self.rows = self.rows, None
        self.turn = Turn()
