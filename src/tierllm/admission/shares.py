"""Who has had how much: the counters by which tenants share a queue."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from ..errors import ConfigError

__all__ = ["Account", "Line", "Rivals", "TenantShares"]

LEAST_SHARE = 1 / 8
"""Of an equal share among those who wait at once, what newcomers leave to a tenant that has had more."""


class Line(Protocol):
    """Where a tenant waits, and what has to be told when its turn comes sooner."""

    def sooner(self) -> None: ...


class Account:
    """What one tenant has had, in tokens divided by its weight.

    ``counter`` is what orders it; ``pending`` the part of it that is only estimated yet, for ``open``
    calls that are on their way. It waits in ``lines``; the last of its places to leave one was among
    ``rivals``.
    """

    __slots__ = ("counter", "lines", "open", "pending", "rivals", "tenant")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.counter = 0.0
        self.pending = 0.0
        self.open = 0
        self.lines: dict[Line, None] = {}
        self.rivals: Rivals | None = None

    @property
    def settled(self) -> float:
        """The counter without what is only estimated."""
        return self.counter - self.pending


class Rivals:
    """The tenants that wait at one priority, and so compete.

    ``weight`` is the sum of their weights, ``mark`` the least counter that a newcomer starts with,
    ``last`` who was the last to have nothing left there.
    """

    __slots__ = ("last", "mark", "weight")

    def __init__(self) -> None:
        self.weight = 0.0
        self.mark = 0.0
        self.last: Account | None = None

    def lowest(self) -> Account | None:
        """Whoever of those that wait has had least."""
        raise NotImplementedError


class TenantShares:
    """A virtual token counter for each tenant: what it was served, divided by its weight.

    A call is charged by estimate when it is let through and settled with what it used. The tenant with
    the smallest counter is next; one that comes back with nothing waiting is lifted to the smallest
    settled counter of those that wait at its priority (nobody: of the one that left last), so that
    nobody saves up turns by staying away. Where ever new tenants would keep that floor down for good,
    it rises by itself, slowly: a tenant that waits gets at least an eighth of an equal share.

    **Bound.** Let two tenants have waited at one priority all through an interval, without a call let
    through at another. With u the most that one call used, d the most by which a charge missed what was
    used (both divided by the weight) and m the number of the two's calls on their way at once (no more
    than the pool's size), what the calls let through in the interval used, divided by the weights,
    differs by no more than

    - u + m·d, where both begin with equal counters and no call on its way;
    - 2·(u + m·d), in any interval after such a beginning.

    For a call of f is let through only while f's counter is the smaller one; a counter differs from
    what its calls let through will have used by their errors, at most m·d for both together; and the
    call adds u. With exact estimates it is one call. (Sheng et al., "Fairness in Serving Large Language
    Models", arXiv 2401.00588: there a call is charged token by token as it is served, and the bound is
    twice the larger of one prompt and all tokens on their way.)

    ``weights`` are the tenants' own and go before the weight that a call brings along. Of tenants with
    nothing waiting about ``most`` are remembered; those who have had least are forgotten first, which
    costs nothing while the floor is above them. Not thread-safe: the pool holds its lock.

    Raises ``ConfigError`` where a weight is not a positive number or ``most`` is less than one.
    """

    def __init__(self, weights: Mapping[str, float] | None = None, *, most: int = 10_000) -> None:
        self._weights = dict(weights or {})
        for tenant, weight in self._weights.items():
            if not 0 < weight < math.inf:
                raise ConfigError(f"the weight of tenant {tenant!r} has to be above 0, not {weight}")
        if most < 1:
            raise ConfigError(f"shares have to remember at least one tenant, not {most}")
        self._most = most
        self._accounts: dict[str, Account] = {}
        self._waiting = 0  # how many of them wait anywhere
        self._last: Account | None = None

    def weigh(self, like: TenantShares) -> bool:
        """Take over the weights of others; what was served counts on. Whether they are the same."""
        same = self._weights == like._weights
        self._weights = like._weights
        return same

    def weight_of(self, tenant: str, weight: float = 1.0) -> float:
        """The tenant's own weight, or else the one given."""
        return self._weights.get(tenant, weight)

    def charge(self, tenant: str, tokens: float, weight: float = 1.0) -> None:
        """A call of ``tenant`` is let through and may use so many tokens."""
        account = self.account(tenant)
        last = self._last
        if last is not account and not account.lines:  # it passed without waiting: came, and left
            if last is not None and account.counter < last.settled:
                account.counter = last.settled
            self._last = account
        step = tokens / self._weights.get(tenant, weight)
        account.counter += step
        account.pending += step
        account.open += 1

    def settle(self, tenant: str, charged: float, used: float, weight: float = 1.0) -> None:
        """The call that was charged so much is over and has used so much; once for each charge."""
        weight = self._weights.get(tenant, weight)
        account = self._accounts.get(tenant)
        if account is None:  # forgotten meanwhile
            if used <= charged:
                return
            account = self.account(tenant)
            account.counter = self._last.settled if self._last is not None else 0.0
        account.open = max(0, account.open - 1)
        account.pending = max(0.0, account.pending - charged / weight) if account.open else 0.0
        account.counter += (used - charged) / weight
        rivals = account.rivals
        if rivals is not None and rivals.weight > 0:
            rivals.mark += used / rivals.weight * LEAST_SHARE
        if used < charged:
            for line in account.lines:
                line.sooner()

    def account(self, tenant: str) -> Account:
        """The tenant's account, a new one where it has none."""
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = Account(tenant)
            if len(self._accounts) - self._waiting > self._most:
                self._forget(account)
        return account

    def returned(self, account: Account, rivals: Rivals) -> None:
        """It had nothing waiting in a queue and is about to wait there, among ``rivals``."""
        if not account.lines:
            self._waiting += 1
        rivals.mark = self._floor(rivals)
        if account.counter < rivals.mark:
            account.counter = rivals.mark

    def counter_of(self, tenant: str, rivals: Rivals) -> float:
        """The counter of ``tenant``, as it would be if it came to wait among ``rivals`` now."""
        account = self._accounts.get(tenant)
        if account is not None and account.lines:
            return account.counter
        floor = self._floor(rivals)
        return floor if account is None else max(account.counter, floor)

    def _floor(self, rivals: Rivals) -> float:
        """The smallest settled counter among ``rivals``, and never less than it was."""
        other = rivals.lowest() or rivals.last or self._last
        return rivals.mark if other is None else max(rivals.mark, other.settled)

    def left(self, account: Account, rivals: Rivals) -> None:
        """Nothing of it waits in a queue any more; what waited last was among ``rivals``."""
        rivals.last = self._last = account
        if not account.lines:
            self._waiting -= 1
        if len(self._accounts) - self._waiting > self._most:
            self._forget(account)

    def _forget(self, but: Account) -> None:
        """Drop a quarter of those with nothing waiting: the ones who have had least."""
        idle = [a for a in self._accounts.values() if not a.lines and a is not but]
        idle.sort(key=lambda a: a.counter)
        for account in idle[: max(1, self._most // 4)]:
            del self._accounts[account.tenant]

    def status(self) -> dict[str, float]:
        """The counter of each tenant that is remembered, above the smallest of them."""
        accounts = self._accounts.values()
        least = min((a.counter for a in accounts), default=0.0)
        return {a.tenant: a.counter - least for a in accounts}

    def renew(self) -> None:
        """After a fork: what waits and what is on its way belongs to the parent."""
        for account in self._accounts.values():
            account.counter = account.settled
            account.pending, account.open = 0.0, 0
        self.recount()

    def recount(self) -> None:
        """Lines were made or dropped without ``returned`` or ``left``."""
        self._waiting = sum(1 for account in self._accounts.values() if account.lines)
