"""What a shared store refused: why, for how long, and what of that is remembered here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..stores.base import Line, Standing
from .limit_shortfall import Need, Shortfall

if TYPE_CHECKING:
    from .limit_draw import Draw
    from .limit_take import Take

__all__ = [
    "CONCURRENCY",
    "LOOK_AGAIN_S",
    "SLOTS",
    "Part",
    "Refused",
    "Short",
    "recalled",
    "remember",
    "short_of",
]

SLOTS = 600
"""A window is counted in so many slots, and the one that is just beginning to leave it: 1/600 is lost."""

LOOK_AGAIN_S = 1.0
"""Other processes may give back what they took too much, unheard: after so long the store is asked again."""

CONCURRENCY = 4

LOOKS = 12
"""At so many moments of the window it is looked how much will have left it."""


class Part(NamedTuple):
    """What one line of a hold is about: a take, which of its numbers, and how many there may be.

    ``spares`` are the tiers whose takes the account leaves out. ``width_s`` is the length of a slot.
    """

    take: Take
    draw: Draw
    dimension: int
    name: str
    spares: frozenset[str]
    most: int
    width_s: float


class Refused(NamedTuple):
    """So much was too much: ``again_at`` the store is to be asked again, ``frees_at`` there is room."""

    amount: int
    again_at: float
    frees_at: float
    shortfall: Shortfall


class Short:
    """One account with too little left. ``wait_s`` bounds how long that can last, from above."""

    __slots__ = ("line", "over", "part", "standing", "wait_s")

    def __init__(self, line: Line, part: Part, standing: Standing, wall_s: float) -> None:
        self.line = line
        self.part = part
        self.standing = standing
        self.over = standing.settled + line.amount - part.most
        self.wait_s = LOOK_AGAIN_S
        if part.dimension == CONCURRENCY:
            usual_s = part.take.meter.usual_s
            if usual_s is not None:
                self.wait_s = min(LOOK_AGAIN_S, usual_s)
        elif self.over > 0:  # else it is in the way of calls that are being sent just now
            one_will_do = part.dimension == 0 and self.over == 1 and standing.first_slot is not None
            self.leaves(standing.first_slot or 0 if one_will_do else line.slot, wall_s)

    def leaves(self, slot: int, wall_s: float) -> None:
        """There is room when ``slot``, and whatever was before it, has left the window."""
        self.wait_s = max(0.0, (slot + 1 + SLOTS) * self.part.width_s - wall_s)

    def lookups(self) -> list[Line]:
        """What to ask the store to know better: how much is left from later and later slots on."""
        first, line = self.standing.first_slot, self.line
        if self.part.dimension == CONCURRENCY or self.over <= 0 or first is None:
            return []
        if self.part.dimension == 0 and self.over == 1:
            return []
        span = line.slot - first
        slots = sorted({first + span * at // LOOKS for at in range(LOOKS)})
        return [line._replace(amount=0, limit=None, oldest=slot + 1) for slot in slots]

    def told(self, lines: Sequence[Line], standings: Sequence[Standing], wall_s: float) -> None:
        """The answer to that."""
        for line, standing in zip(lines, standings, strict=True):
            if standing.settled + self.line.amount <= self.part.most:
                self.leaves(line.oldest - 1, wall_s)
                return

    def shortfall(self) -> Shortfall:
        limit, take = self.part.draw.limit, self.part.take
        return Shortfall(
            self.wait_s,
            limit.name,
            self.part.name,
            self.part.draw.bucket,
            limit.personal,
            False,
            self.line.amount,
            self.part.most,
            take.input_tokens,
            take.output_tokens,
            limit.mode,
        )


def short_of(
    lines: Sequence[Line], parts: Sequence[Part], standings: Sequence[Standing], wall_s: float
) -> list[Short]:
    """Which accounts have too little left, whether they are enforced or observed."""
    return [
        Short(line, part, standing, wall_s)
        for line, part, standing in zip(lines, parts, standings, strict=True)
        if standing.settled + standing.reserved + line.amount > part.most
    ]


def remember(short: Short, now: float) -> None:
    """So that the store need not be asked what it said a moment ago."""
    part, wait_s = short.part, short.wait_s
    again_s = wait_s if not part.dimension else min(wait_s, LOOK_AGAIN_S)  # tokens may be given back
    refused = Refused(short.line.amount, now + again_s, now + wait_s, short.shortfall())
    meter = part.take.meter
    meter.refused = {**(meter.refused or {}), (part.name, part.spares): refused}


def recalled(draw: Draw, need: Need, now: float, tier: str, *, peeks: bool = False) -> Shortfall | None:
    """What the store said of this bucket, if that still holds for so much, and for calls of ``tier``.

    ``peeks``: the wait is until the store is worth asking again.
    """
    meter = draw.limiter.meters.get(draw.bucket)
    if meter is None or not meter.refused:
        return None
    total = need.input_tokens + need.output_tokens
    amounts = {"rpm": need.requests, "rpd": need.requests, "tpm": total, "tpd": total, "max_concurrency": 1}
    amounts |= {"input_tpm": need.input_tokens, "output_tpm": need.output_tokens}
    worst: Shortfall | None = None
    for (name, spares), said in meter.refused.items():
        if now >= said.again_at or tier in spares or amounts[name] < said.amount:
            continue
        wait_s = (said.again_at if peeks else said.frees_at) - now
        if worst is None or wait_s > worst.wait_s:
            asked = amounts[name], need.input_tokens, need.output_tokens
            worst = said.shortfall._replace(
                wait_s=wait_s, asked=asked[0], input_tokens=asked[1], output_tokens=asked[2]
            )
    return worst
