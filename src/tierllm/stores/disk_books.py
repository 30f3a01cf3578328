"""The accounts, holds and owners of a disk store, as rows. All within one transaction of the caller's.

a:<account>      [reserved, settled, {slot: settled} or null, expires_at]
h:<owner>-<n>    an open hold: [[account, amount], …]
m:<owner>-<n>    a hold that is no longer open: "swept" (given back, yet to be settled)
                 or "gone" (settled before it was reserved)
o:<owner>        [start of the machine, end of the lease on the clock since then]
d:<name>         a document
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import cast

from ..pipeline.clock import Clock
from .account import Account
from .base import Hold, Line, Settlement, Standing, Verdict
from .disk_shelf import Damaged, Shelf
from .exact import exact

__all__ = ["Books"]

GRACE_S = 86_400.0
"""Accounts outlive their windows by so long, in case the clock is set back."""

CAP_S = 10 * 365 * 86_400.0
"""Nothing is kept longer than this after its last use."""

GONE_S = 3600.0
"""How long a hold that was given back before it came is remembered."""

SWEPT_AT_ONCE = 500
"""Holds of dead owners that one step gives back: it keeps everybody waiting meanwhile."""


class Books:
    """The book-keeping on one open ``shelf``.

    ``wall`` tells seconds since 1970, ``clock`` those since the start of the machine named ``boot``.
    """

    def __init__(self, shelf: Shelf, boot: str, clock: Clock, wall: Callable[[], float]) -> None:
        self.shelf = shelf
        self._boot = boot
        self._clock = clock
        self._wall = wall

    # -- accounts --------------------------------------------------------------

    def reserve(self, hold: Hold, lease_s: float) -> Verdict:
        accounts = [self._account(line.account) for line in hold.lines]
        ok, standings = _look(hold, accounts)
        if not ok and self.sweep():
            accounts = [self._account(line.account) for line in hold.lines]
            ok, standings = _look(hold, accounts)
        id = hold.id.encode()
        if self._row(b"h:" + id) is not None:
            return Verdict(True, standings)
        if not ok or self._row(b"m:" + id) is not None:
            return Verdict(False, standings)
        for account, line in zip(accounts, hold.lines, strict=True):
            account.reserved += line.amount
            account.expires_at = max(account.expires_at, line.expires_at)
            self._keep(line.account, account)
        self.shelf.set(b"h:" + id, _packed([[line.account, line.amount] for line in hold.lines]))
        self.hold_lease(hold.owner, lease_s)
        return Verdict(True, standings)

    def settle(self, settlement: Settlement) -> None:
        hold, amounts, slots = settlement
        id = hold.id.encode()
        is_open = self.shelf.delete(b"h:" + id)
        if not is_open:
            mark = self._row(b"m:" + id)
            if mark != b'"swept"':
                self.shelf.set(b"m:" + id, b'"gone"', expire=GONE_S)
                return
            self.shelf.delete(b"m:" + id)
        for line, amount, slot in zip(hold.lines, amounts, slots, strict=True):
            account = self._account(line.account)
            if is_open:
                account.reserved = max(account.reserved - line.amount, 0)
            account.settle(exact(amount), slot, line.oldest)
            account.expires_at = max(account.expires_at, line.expires_at)
            self._keep(line.account, account)

    def standings(self, lines: Sequence[Line]) -> tuple[Standing, ...]:
        with self.shelf.at_one_moment() if len(lines) > 1 else nullcontext():
            return tuple(self._account(line.account).standing(line.oldest) for line in lines)

    def _account(self, name: str) -> Account:
        account = Account()
        key = _account_key(name)
        raw = self._row(key)
        if raw is None:
            return account
        match _unpacked(key, raw):
            case [int(reserved), int(settled), slots, int(expires_at) | float(expires_at)] if reserved >= 0:
                account.reserved, account.settled, account.expires_at = reserved, settled, expires_at
            case _:
                raise Damaged("an account cannot be read", key)
        if slots is not None:
            try:
                account.slots = {int(slot): amount for slot, amount in cast("dict[str, int]", slots).items()}
            except (AttributeError, ValueError):
                raise Damaged("an account cannot be read", key) from None
            if not all(type(amount) is int for amount in account.slots.values()):
                raise Damaged("an account cannot be read", key)
        return account

    def _keep(self, name: str, account: Account) -> None:
        row = [account.reserved, account.settled, account.slots, account.expires_at]
        life_s = None  # while anything is reserved, whatever becomes of the clock
        if not account.reserved:
            life_s = min(max(account.expires_at - self._wall(), 0.0) + GRACE_S, CAP_S)
        self.shelf.set(_account_key(name), _packed(row), expire=life_s)

    # -- owners ----------------------------------------------------------------

    def hold_lease(self, owner: str, lease_s: float, *, at_least: float = 2 / 3) -> None:
        """See that the lease of ``owner`` lasts ``at_least`` that part of ``lease_s`` from now."""
        until, now = self._lease_until(owner.encode()), self._clock()
        if until is None or not now + lease_s * at_least <= until <= now + lease_s:
            self.shelf.set(b"o:" + owner.encode(), _packed([self._boot, now + lease_s]))

    def end_lease(self, owner: str) -> None:
        if not self.shelf.under(b"h:" + owner.encode() + b"-", 1):
            self.shelf.delete(b"o:" + owner.encode())

    def sweep(self) -> int:
        """Give back what owners had reserved whose lease is over; how many holds that were, at most 500."""
        now, swept = self._clock(), 0
        for key in self.shelf.under(b"o:"):
            try:
                until = self._lease_until(key[2:])
            except Damaged:  # what cannot be read holds nothing
                until = None
            if until is not None and until > now:
                continue
            holds = self.shelf.under(b"h:" + key[2:] + b"-", SWEPT_AT_ONCE - swept + 1)
            for hold in holds[: SWEPT_AT_ONCE - swept]:
                self._sweep_hold(hold)
                swept += 1
            if len(holds) > 0 and swept == SWEPT_AT_ONCE:
                break  # and the rest next time
            self.shelf.delete(key)
        return swept

    def _sweep_hold(self, key: bytes) -> None:
        match _unpacked(key, self._row(key) or b"[]"):
            case list(lines) if all(_is_line(line) for line in lines):
                pass
            case _:
                raise Damaged("a hold cannot be read", key)
        for name, amount in lines:
            account = self._account(name)
            account.reserved = max(account.reserved - amount, 0)
            self._keep(name, account)
        self.shelf.delete(key)
        self.shelf.set(b"m:" + key[2:], b'"swept"', expire=GRACE_S)

    def _lease_until(self, owner: bytes) -> float | None:
        """When the lease of ``owner`` ends on this machine's clock; ``None`` if it has none."""
        key = b"o:" + owner
        raw = self._row(key)
        if raw is None:
            return None
        match _unpacked(key, raw):
            case [str(boot), int(until) | float(until)]:
                return until if boot == self._boot else None
        raise Damaged("a lease cannot be read", key)

    # -- rows ------------------------------------------------------------------

    def document(self, name: str) -> bytes | None:
        return self._row(_document_key(name))

    def keep_document(self, name: str, value: bytes, ttl_s: float | None) -> None:
        self.shelf.set(_document_key(name), value, expire=ttl_s)

    def _row(self, key: bytes) -> bytes | None:
        try:
            found: bytes | None = self.shelf.get(key)
        except Damaged as damaged:
            raise Damaged(str(damaged), key) from None
        return found


def _look(hold: Hold, accounts: list[Account]) -> tuple[bool, tuple[Standing, ...]]:
    """Whether all of ``hold`` may be reserved, and how the accounts stand."""
    standings = tuple(
        account.standing(line.oldest) for account, line in zip(accounts, hold.lines, strict=True)
    )
    ok = all(
        line.limit is None or standing.settled + standing.reserved + line.amount <= line.limit
        for standing, line in zip(standings, hold.lines, strict=True)
    )
    return ok, standings


def _is_line(line: object) -> bool:
    match line:
        case [str(), int(amount)]:
            return amount >= 0
    return False


def _account_key(name: str) -> bytes:
    return b"a:" + name.encode("utf-8", "surrogatepass")


def _document_key(name: str) -> bytes:
    return b"d:" + name.encode("utf-8", "surrogatepass")


def _packed(row: object) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode()


def _unpacked(key: bytes, raw: bytes) -> object:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise Damaged("a row cannot be read", key) from None
