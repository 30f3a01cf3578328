"""From the lines of one configuration to those of the next: what goes on, goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .assembly import lend

if TYPE_CHECKING:
    from ..admission.pool import Pool
    from .tier_line import TierLine

__all__ = ["check_succession", "succeed"]

Lines = Mapping[str, "TierLine"]


def check_succession(new: Lines, old: Lines) -> None:
    """Raise ``ConfigError`` where ``new`` cannot take the place of ``old`` while calls are under way."""
    for chain in _chains(new):
        live = [pool for name in chain if (pool := _pool_in_use(new, old, name)) is not None]
        if any(not pool.joined(live[0]) for pool in live):
            raise ConfigError(
                f"tiers[{list(new).index(chain[0])}].admission.borrow: {chain[0]} cannot begin to borrow "
                f"from {chain[1]} while both are in use; leave it as it was, or restart with it"
            )


def succeed(new: Lines, old: Lines) -> None:
    """Let the lines in ``new`` take the place of those of the same names in ``old``.

    Before any call comes to them, and after ``check_succession``. It does not fail.
    """
    chains = list(_chains(new))
    for line in old.values():
        if line.pool is not None:
            line.pool.unlink()
    joined = [(name, chain) for chain in chains for name in chain]
    for name, chain in joined:
        live = next((pool for each in chain if (pool := _pool_in_use(new, old, each)) is not None), None)
        fresh = new[name].pool
        if live is not None and fresh is not None and _pool_in_use(new, old, name) is None:
            fresh.join(live)
    for name, line in new.items():
        older = old.get(name)
        if older is not None and older is not line:
            line.inherit(older)
    lend(list(new.values()))


def _chains(lines: Lines) -> Iterator[list[str]]:
    """Names of tiers of which each borrows from the next one."""
    chain: list[str] = []
    for (name, upper), (below, lower) in pairwise(lines.items()):
        borrows = upper.admission is not None and upper.admission.borrow and lower.pool is not None
        if borrows:
            chain = [*(chain or [name]), below]
        elif chain:
            yield chain
            chain = []
    if chain:
        yield chain


def _pool_in_use(new: Lines, old: Lines, name: str) -> Pool | None:
    """The pool that goes on under this name."""
    older = old.get(name)
    return None if older is None or new[name].pool is None else older.pool
