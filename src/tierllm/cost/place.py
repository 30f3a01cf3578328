"""What the cost room knows of one deployment: its model's price, tokenizer and limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .price import Price
    from .prices import PriceBook
    from .tokens import ModelTokens

__all__ = ["CAPS", "COPIES", "DEFAULT_MAX_TOKENS", "Place", "cap_of", "copies_of"]

CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""The names under which an answer's length is bounded."""

COPIES = ("n", "best_of")
"""The names under which several answers are asked for."""

DEFAULT_MAX_TOKENS = 4096
"""Sent as ``max_tokens`` under a hard limit, where neither the call nor its tier names one."""


class Place:
    """One deployment of one tier, with what is known about its model, looked up when first asked for.

    A price that changes at a time that was told beforehand (by the day, or by the hour) is looked up
    again once that has come, by the price book's clock.
    """

    __slots__ = (
        "_book",
        "_changes_at",
        "_given",
        "_known",
        "_price",
        "_tokens",
        "_window",
        "default_max_tokens",
        "deployment",
        "drop",
        "max_output_tokens",
        "model",
        "name",
        "price_as_of",
        "provider",
        "takes_max_tokens",
        "tier",
        "vendor",
    )

    def __init__(
        self,
        tier: str,
        deployment: str,
        model: str,
        *,
        provider: str = "",
        vendor: str | None = None,
        price: Price | None = None,
        context_window: int | None = None,
        max_output_tokens: int | None = None,
        book: PriceBook | None = None,
        default_max_tokens: int = DEFAULT_MAX_TOKENS,
        takes_max_tokens: bool = True,
        drop: frozenset[str] = frozenset(),
    ) -> None:
        self.tier = tier
        self.deployment = deployment
        self.name = f"{tier}/{deployment}"
        self.model = model
        self.provider = provider or vendor or ""
        self.vendor = vendor
        self.default_max_tokens = default_max_tokens
        self.takes_max_tokens = takes_max_tokens
        self.drop = drop
        self.max_output_tokens = max_output_tokens
        self.price_as_of: str | None = None
        self._price = self._given = price
        self._changes_at: float | None = None
        self._window = context_window
        self._book = book
        self._known = False
        self._tokens: ModelTokens | None = None

    @property
    def price(self) -> Price | None:
        """The deployment's own price, or the price book's now; ``None`` where neither knows."""
        if not self._known or (self._changes_at is not None and self._book_now() >= self._changes_at):
            self._look_up()
        return self._price

    @property
    def context_window(self) -> int | None:
        if not self._known:
            self._look_up()
        return self._window

    @property
    def tokens(self) -> ModelTokens:
        if self._tokens is None:
            from .tokens import tokens_for

            self._tokens = tokens_for(self.model, self.vendor)
        return self._tokens

    def _book_now(self) -> float:
        assert self._book is not None  # something was found in it
        return self._book.now()

    def _look_up(self) -> None:
        if self._book is None:
            from .prices import PriceBook

            self._book = PriceBook.bundled()
        # a stand-in's answers are priced as those of the model it stands in for
        vendor = None if self.vendor == "fake" else self.vendor
        found = self._book.find(self.model, vendor)
        price, changes_at = self._given, None
        if found is not None:
            self.max_output_tokens = self.max_output_tokens or found.max_output_tokens
            self._window = self._window or found.context_window
            if price is None:
                price, changes_at = found.price, found.changes_at
        self._price = price
        if price is not None:
            self.price_as_of = price.as_of
        self._changes_at = changes_at
        self._known = True


def cap_of(params: Mapping[str, object]) -> int:
    """The most tokens of an answer that ``params`` allow, under any of its names; 0 where none is given."""
    return max(_whole(params.get(name)) for name in CAPS)


def copies_of(params: Mapping[str, object]) -> int:
    """How many answers ``params`` ask for."""
    return max(1, *(_whole(params.get(name)) for name in COPIES))


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
