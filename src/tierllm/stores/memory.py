"""The store of one process: a lock and dictionaries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from .account import Account
from .base import Hold, Line, Settlement, Standing, Store, Verdict

__all__ = ["MemoryStore"]

GRACE_S = 86_400.0
"""Accounts outlive their windows by so long, in case the clock is set back."""

LOOK_EVERY = 1024
"""Expired accounts and documents are looked for once in so many reservations, or changes of documents."""

GONE_KEPT = 1024
"""Holds that were settled without being open are remembered: a reservation may come late."""


class MemoryStore(Store):
    """Shared by the threads and tasks of one process; gone with it. Thread-safe, never fails.

    ``clock`` tells the seconds since 1970.
    """

    inline = True
    shared = False
    name = "memory"

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.clock = clock
        self._lock = threading.RLock()
        self._accounts: dict[str, Account] = {}
        self._open: set[str] = set()
        self._gone: dict[str, None] = {}
        self._documents: dict[str, tuple[bytes, float | None]] = {}
        self._reserved = 0
        self._look_at = LOOK_EVERY
        self._swapped = 0

    def reserve(self, hold: Hold) -> Verdict:
        accounts = self._accounts
        found: list[Account] = []
        standings: list[Standing] = []
        ok = True
        with self._lock:
            for line in hold.lines:
                account = accounts.get(line.account)
                if account is None:
                    account = accounts[line.account] = Account()
                    account.expires_at = line.expires_at
                elif line.expires_at > account.expires_at:
                    account.expires_at = line.expires_at
                standing = account.standing(line.oldest)
                limit = line.limit
                if limit is not None and standing.settled + standing.reserved + line.amount > limit:
                    ok = False
                found.append(account)
                standings.append(standing)
            if hold.id in self._open:
                return Verdict(True, tuple(standings))
            ok = ok and hold.id not in self._gone
            if ok:
                for account, line in zip(found, hold.lines, strict=True):
                    account.reserved += line.amount
                self._open.add(hold.id)
            self._reserved += 1
            if self._reserved >= self._look_at:
                self._forget_expired()
        return Verdict(ok, tuple(standings))

    def post(self, settlement: Settlement) -> None:
        self._settle(settlement.sound())  # nothing here waits

    def flush(self) -> bool:
        return True

    def apply(self, batch: Sequence[Settlement]) -> None:
        for settlement in batch:
            self._settle(settlement)

    def _settle(self, settlement: Settlement) -> None:
        hold, amounts, slots = settlement
        accounts, open = self._accounts, self._open
        with self._lock:
            if hold.id not in open:
                self._gone[hold.id] = None
                if len(self._gone) > GONE_KEPT:
                    del self._gone[next(iter(self._gone))]
                return
            open.discard(hold.id)
            for line, amount, slot in zip(hold.lines, amounts, slots, strict=True):
                account = accounts.get(line.account)
                if account is None:  # it was dropped
                    continue
                account.reserved -= line.amount
                account.settle(amount, slot, line.oldest)

    def standings(self, lines: Sequence[Line]) -> tuple[Standing, ...]:
        with self._lock:
            found = [(self._accounts.get(line.account), line.oldest) for line in lines]
            return tuple(
                Standing(0, 0) if account is None else account.standing(oldest) for account, oldest in found
            )

    def drop(self, account: str) -> None:
        """Forget an account that nobody will draw on again."""
        with self._lock:
            self._accounts.pop(account, None)

    def _forget_expired(self) -> None:
        long_ago = self.clock() - GRACE_S
        for name, account in tuple(self._accounts.items()):
            if account.expires_at < long_ago and not account.reserved:
                del self._accounts[name]
        for name in tuple(self._documents):
            self._document(name)
        self._swapped = 0
        self._look_at = self._reserved + max(LOOK_EVERY, len(self._accounts))

    # -- documents -------------------------------------------------------------

    def load(self, name: str) -> bytes | None:
        with self._lock:
            return self._document(name)

    def swap(self, name: str, value: bytes, expected: bytes | None, ttl_s: float | None = None) -> bool:
        with self._lock:
            if self._document(name) != expected:
                return False
            self._documents[name] = (value, None if ttl_s is None else self.clock() + ttl_s)
            self._swapped += 1
            if self._swapped >= max(LOOK_EVERY, len(self._documents)):
                self._forget_expired()
            return True

    def _document(self, name: str) -> bytes | None:
        value, expires_at = self._documents.get(name, (None, None))
        if expires_at is not None and expires_at <= self.clock():
            del self._documents[name]
            return None
        return value

    # -- life ------------------------------------------------------------------

    def renew(self) -> None:
        """The child goes on from what the parent had settled; what the parent reserved is the parent's."""
        super().renew()
        self._lock = threading.RLock()
        self._open.clear()
        self._gone.clear()
        for account in self._accounts.values():
            account.reserved = 0
