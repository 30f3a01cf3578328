"""One call at one place, as its budgets see it: how large it may get, what is reserved. Pure state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConfigError
from ..types import Usage
from .billing import NOTHING, UNKNOWN, Billed
from .budget import Draw, lines_of, short

if TYPE_CHECKING:
    from ..stores import Hold, Standing, Store
    from ..types import Call
    from .estimate import Estimate
    from .place import Place
from .place import CAPS, COPIES
from .tokens import BIG

__all__ = ["Purchase", "Shortage", "Taken"]

RARE = frozenset((*CAPS[1:], *COPIES, "service_tier", "extra_body"))

LEAST_OUTPUT = 16
"""``max_tokens`` is not clamped below this: an answer of a few words is of no use."""


class Taken(NamedTuple):
    """What one store holds for the call: a line and its standing just before for each draw."""

    store: Store
    hold: Hold
    draws: Sequence[Draw]
    standings: Sequence[Standing]


class Shortage(NamedTuple):
    """Why nothing was reserved: the draws of one store, and how their accounts stood."""

    hold: Hold
    draws: Sequence[Draw]
    standings: Sequence[Standing]

    def short(self) -> Iterator[tuple[Draw, Standing, int]]:
        """Each account that has too little left, with the amount that was wanted of it."""
        for draw, line, standing in zip(self.draws, self.hold.lines, self.standings, strict=True):
            if short(line, standing):
                yield draw, standing, line.amount


class Purchase:
    """The sizes of one call at one place, and its reservations.

    ``input_tokens`` is never below the real number (as far as can be known) and ``max_tokens`` bounds
    each of ``copies`` answers. ``likely`` has the amounts that soft limits reserve.
    """

    __slots__ = (
        "call",
        "clamped",
        "copies",
        "counted",
        "draws",
        "expected",
        "fixed",
        "hard",
        "input_tokens",
        "least_input",
        "likely",
        "lost",
        "max_tokens",
        "params",
        "place",
        "price",
        "service_tier",
        "settled",
        "size",
        "taken",
        "wanted",
        "warnings",
    )

    def __init__(self, place: Place, call: Call, draws: Sequence[Draw]) -> None:
        self.place = place
        self.price = place.price  # one for reserving and settling: it may change while the call is under way
        self.call = call
        self.draws = draws
        self.taken: list[Taken] = []
        self.lost: list[Taken] = []  # what stores could not be asked for, and hold nothing of
        self.warnings: list[str] = []
        self.expected: Estimate | None = None
        self.likely: Mapping[str, int] | None = None
        params = call.params
        extra = call.options(place.provider)
        self.copies = 1
        self.service_tier: str | None = None
        self.fixed: Sequence[tuple[str, object]] = ()
        self.params = params
        if extra or not RARE.isdisjoint(params):
            self._read(params, extra)
        else:
            self.wanted = _whole(params.get("max_tokens"))
        self.hard = {d.limit.unit for d in draws if d.limit.hard is not None and d.budget.mode == "enforce"}
        window = place.context_window
        usual = place.default_max_tokens
        if place.max_output_tokens:  # all there is to go by where max_tokens is not sent
            dropped = "max_tokens" in place.drop
            usual = place.max_output_tokens if dropped else min(place.max_output_tokens, usual)
        bounds = place.tokens.bounds(call.messages, self.params)
        self.least_input = bounds.lower
        self.size = bounds.upper
        # what does not fit into the window is refused, by us or by the vendor
        self.input_tokens = min(bounds.upper, window or bounds.upper)
        self.counted = False
        self.clamped = False
        self.settled = False
        if not self.wanted and window is not None and bounds.upper + usual > window and self.bounded:
            usual = max(LEAST_OUTPUT, min(usual, window - self._likely_input()))
        self.max_tokens = self.wanted or usual

    def _read(self, params: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
        """What the vendor receives: parameters, and the caller's own words for it, which are sent last."""
        bodies = (options.get("extra_body") for options in (params, extra))
        named = [params, extra, *(body for body in bodies if isinstance(body, Mapping))]
        self.copies = max(1, *(_whole(options.get(name)) for options in named for name in COPIES))
        self.service_tier = next((t for o in named if (t := o.get("service_tier"))), None)
        self.wanted = max(_whole(options.get(name)) for options in named for name in CAPS)
        # they cannot be lowered
        self.fixed = [(name, o[name]) for o in named[1:] for name in (*CAPS, *COPIES) if name in o]
        # and may be tools or a schema, which are input too
        self.params = {name: value for options in named for name, value in options.items()}

    def _likely_input(self) -> int:
        """So that a bound nobody asked for does not push the request out of the window."""
        call, tokens = self.call, self.place.tokens
        return self.least_input if self.size > BIG else tokens.count(call.messages, self.params)

    def check(self) -> None:
        """Raises ``ConfigError`` where a hard limit cannot be kept: no price, no prompt, no bound."""
        if "usd" in self.hard and self.price is None:
            raise ConfigError(
                f"{self.place.name}: no price is known for {self.place.model!r}, and a hard limit in dollars "
                "needs one: give the deployment price=Price(...)"
            )
        if not self.bounded:
            return
        if not self.call.messages:
            raise ConfigError(
                "a hard limit has to know the prompt: give tiered.call(prompt=...) a function that makes it"
            )
        dropped = "max_tokens" in self.place.drop
        if not dropped and not self._heeded() and "max_tokens" not in self.call.request.params:
            raise ConfigError(
                "a hard limit has to bound the answer, and the function takes no max_tokens: give it that "
                "parameter (a wrapped one: route), or say with max_tokens=... what it keeps to by itself"
            )
        if dropped and not self.place.max_output_tokens:
            raise ConfigError(
                f"{self.place.name}: a hard limit has to bound the answer, and drop= takes max_tokens away: "
                "say how long the model's answers are at most with Deployment(max_output_tokens=...)"
            )
        if not all(_whole(value) for _, value in self.fixed):
            raise ConfigError(
                f"{self.place.name}: a hard limit has to bound the answer: let max_tokens, n and the like "
                "in extra be whole numbers from 1 up, or leave them out"
            )

    def _heeded(self) -> bool:
        """Whether a ``max_tokens`` that is set here reaches the model."""
        place, target = self.place, self.call.target
        heeds = place.takes_max_tokens if target is None else _heeds(target)
        return heeds and "max_tokens" not in place.drop

    @property
    def bounded(self) -> bool:
        """Whether some hard limit depends on the output's length, so that ``max_tokens`` must be sent."""
        hard = self.hard
        return len(hard) > ("calls" in hard)

    @property
    def settles_tier(self) -> bool:
        """Whether the vendor must be told that it is the standard service that was reserved for."""
        price = self.price
        if self.service_tier is not None or self.place.vendor != "openai" or price is None:
            return False
        return bool(price.service) and "usd" in self.hard and self.call.target is None

    @property
    def sent(self) -> int | None:
        """The ``max_tokens`` that the provider is sent, if any."""
        return self.max_tokens if self.wanted or self.bounded else None

    def amounts(self, input_tokens: int, max_tokens: int) -> dict[str, int]:
        """What a call of these sizes costs at most, by unit."""
        output = max_tokens * self.copies
        price = self.price
        usd = 0 if price is None else price.worst_nano(input_tokens, output, self.service_tier)
        return {"usd": usd, "tokens": input_tokens + output, "calls": 1}

    def groups(self) -> Iterator[tuple[Store, list[Draw]]]:
        """The draws of each store; those first that can say no without a journey."""
        if self.draws:
            first = self.draws[0].store
            if all(draw.store is first for draw in self.draws):
                yield first, list(self.draws)
                return
        stores: dict[int, list[Draw]] = {}
        for draw in self.draws:
            stores.setdefault(id(draw.store), []).append(draw)
        for group in sorted(stores.values(), key=lambda group: not group[0].store.inline):
            yield group[0].store, group

    def worst(self) -> dict[str, int]:
        """What it may cost at most, as far as is known by now."""
        return self.amounts(self.input_tokens, self.max_tokens)

    def count(self) -> None:
        """Count the input, which takes as long as the prompt is long."""
        counted = self.place.tokens.worst(self.call.messages, self.params)
        self.input_tokens = min(self.input_tokens, counted)
        self.least_input = min(self.input_tokens, self.least_input)
        self.counted = True

    def hold(self, store: Store, draws: Sequence[Draw]) -> Hold:
        return store.hold(lines_of(draws, self.amounts(self.input_tokens, self.max_tokens), self.likely))

    def reserved(self, unit: str) -> int:
        """The worst case that was reserved, in one unit."""
        return self.amounts(self.input_tokens, self.max_tokens)[unit]

    # -- where too little is left -------------------------------------------------

    def may_fit(self, shortage: Shortage) -> bool:
        """Whether it might fit after all once the input is counted."""
        whole = self.amounts(self.least_input, self.max_tokens)
        clamped = self.amounts(self.least_input, 1)
        for draw, standing, _ in shortage.short():
            least = clamped if "clamp" in draw.budget.on_exceed else whole
            held = standing.settled + standing.reserved
            if draw.limit.hard is not None and held + least[draw.limit.unit] > draw.limit.hard:
                return False
        return True

    def clamp(self, shortage: Shortage, lowest: bool) -> bool:
        """Lower ``max_tokens`` to what is left, where every budget that is short agrees to it.

        ``lowest``: there is no tier further down that a budget would rather try.
        """
        if any(name in CAPS for name, _ in self.fixed) or not self._heeded():
            return False
        room: dict[str, int] = {}
        for draw, standing, _ in shortage.short():
            steps = draw.budget.on_exceed
            if "clamp" not in steps or draw.limit.hard is None or draw.limit.unit == "calls":
                return False
            if not lowest and steps.index("clamp") > 0 and steps[0] == "downgrade":
                return False
            left = draw.limit.hard - standing.settled - standing.reserved
            room[draw.limit.unit] = min(left, room.get(draw.limit.unit, left))
        fits, over = 0, self.max_tokens
        while over - fits > 1:  # the most that fits: the worst case grows with max_tokens
            middle = (fits + over) // 2
            amounts = self.amounts(self.input_tokens, middle)
            if all(amounts[unit] <= left for unit, left in room.items()):
                fits = middle
            else:
                over = middle
        if fits < min(LEAST_OUTPUT, self.max_tokens):
            return False
        names = ", ".join(sorted({repr(draw.budget.name) for draw, _, _ in shortage.short()}))
        self.warnings.append(f"max_tokens was lowered from {self.max_tokens} to {fits} by budget {names}")
        self.max_tokens = fits
        self.clamped = True
        return True

    # -- afterwards ---------------------------------------------------------------

    def used(self, taken: Taken, billed: Billed) -> tuple[int, ...]:
        """What each line of ``taken`` really was. Usage that nobody knows is what was reserved."""
        if billed is UNKNOWN:
            return tuple(line.amount for line in taken.hold.lines)
        assert isinstance(billed, Usage)
        if billed is NOTHING:
            return (0,) * len(taken.draws)
        price = self.price
        usd = 0 if price is None else price.cost_nano(billed)
        amounts = {"usd": usd, "tokens": billed.total_tokens, "calls": 1}
        return tuple(amounts[draw.limit.unit] for draw in taken.draws)


def _heeds(provider: object) -> bool:
    return bool(getattr(provider, "takes_max_tokens", True))


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
