"""What the cost room knows of one deployment: its model's price, tokenizer and limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .price import Price
    from .prices import PriceBook
    from .tokens import ModelTokens

__all__ = ["DEFAULT_MAX_TOKENS", "Place"]

DEFAULT_MAX_TOKENS = 4096
"""Sent as ``max_tokens`` under a hard limit, where neither the call nor its tier names one."""


class Place:
    """One deployment of one tier, with what is known about its model, looked up when first asked for."""

    __slots__ = (
        "_book",
        "_known",
        "_price",
        "_tokens",
        "_window",
        "default_max_tokens",
        "deployment",
        "max_output_tokens",
        "model",
        "name",
        "price_as_of",
        "provider",
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
        book: PriceBook | None = None,
        default_max_tokens: int = DEFAULT_MAX_TOKENS,
    ) -> None:
        self.tier = tier
        self.deployment = deployment
        self.name = f"{tier}/{deployment}"
        self.model = model
        self.provider = provider or vendor or ""
        self.vendor = vendor
        self.default_max_tokens = default_max_tokens
        self.max_output_tokens: int | None = None
        self.price_as_of: str | None = None
        self._price = price
        self._window = context_window
        self._book = book
        self._known = False
        self._tokens: ModelTokens | None = None

    @property
    def price(self) -> Price | None:
        """The deployment's own price, or the price book's; ``None`` where neither knows."""
        if not self._known:
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

    def _look_up(self) -> None:
        from .prices import PriceBook

        # a stand-in's answers are priced as those of the model it stands in for
        vendor = None if self.vendor == "fake" else self.vendor
        found = (self._book or PriceBook.bundled()).find(self.model, vendor)
        if found is not None:
            self.max_output_tokens = found.max_output_tokens
            self._window = self._window or found.context_window
            if self._price is None:
                self._price = found.price
        if self._price is not None:
            self.price_as_of = self._price.as_of
        self._known = True
