"""Estimates before sending, learnt from what calls really used."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ..errors import ConfigError
from ..pipeline.fork import renew_after_fork
from .batch_estimate import BatchEstimate, Total
from .estimate import Estimate, Tokens, priced
from .history import MOST_TOKENS, Histories, Prediction, is_tokens
from .learnt import Learnt
from .place import DEFAULT_MAX_TOKENS, Place, cap_of, copies_of
from .speed import is_time

if TYPE_CHECKING:
    from ..types import Message, Usage
    from .price import Price
    from .prices import PriceBook

__all__ = ["CostEstimator"]

PLACES = 1024
"""So many deployments are remembered, those used last."""

_NOTHING: Final[Mapping[str, Any]] = {}


class CostEstimator:
    """What a call will use: tokens, dollars and seconds, before it is sent. Thread-safe.

    Alone::

        estimator = CostEstimator()
        estimator.estimate("Summarise: …", model="gpt-5-mini", max_tokens=400).cost_usd.p90
        estimator.learn(response.usage, model="gpt-5-mini", finish_reason=response.finish_reason)

    In a client it learns by itself from every answer.

    **Output** is predicted from the last ``history_size`` answers of the same route and deployment,
    else of the deployment. With fewer than ``min_samples`` P90 is ``max_tokens``; with none at all
    everything is. The call's ``max_tokens`` (under any of its names) and the model's own limit cap all
    predictions. Without ``max_tokens``, ``max`` is ``default_max_tokens``, which is what a call under a
    hard limit is sent with, or the longest answer seen if that is more.

    ``prices`` replaces the bundled price book. ``max_routes`` routes are remembered, 4 KB each.
    """

    def __init__(
        self,
        *,
        prices: PriceBook | None = None,
        default_max_tokens: int = DEFAULT_MAX_TOKENS,
        history_size: int = 256,
        min_samples: int = 22,
        max_routes: int = 1024,
    ) -> None:
        if not is_tokens(default_max_tokens) or default_max_tokens < 1:
            raise ConfigError(
                f"CostEstimator(default_max_tokens={default_max_tokens!r}): give a number of tokens from 1 up"
            )
        self.default_max_tokens = default_max_tokens
        self.histories = Histories(size=history_size, min_samples=min_samples, max_routes=max_routes)
        self._prices = prices
        self._learnt: OrderedDict[str, Learnt] = OrderedDict()
        self._places: OrderedDict[tuple[str, str | None, Price | None], Place] = OrderedDict()
        self._lock = threading.Lock()
        renew_after_fork(self)

    # -- alone -----------------------------------------------------------------

    def estimate(
        self,
        prompt: str | Sequence[Message],
        *,
        model: str,
        vendor: str | None = None,
        price: Price | None = None,
        max_tokens: int | None = None,
        params: Mapping[str, Any] | None = None,
        route: str | None = None,
        exact: bool | None = None,
    ) -> Estimate:
        """What ``prompt`` (a text, or messages) will use at ``model``. Raises ``ConfigError`` for no prompt.

        ``vendor`` tells apart who serves it, ``price`` replaces the book's; with neither known
        ``cost_usd`` is ``None``. ``params`` are generation parameters (``tools``, ``n``, …). ``route``
        names the kind of call. ``exact``: see ``quote``.
        """
        if not isinstance(route, str | None):
            raise ConfigError(f"estimate(route=…): {type(route).__name__} will not do, give a text")
        given = dict(params or ())
        if max_tokens is not None:
            if not is_tokens(max_tokens) or max_tokens < 1:
                raise ConfigError(
                    f"estimate(max_tokens={max_tokens!r}): give a number from 1 to {MOST_TOKENS:,}"
                )
            given["max_tokens"] = max_tokens
        place = self._place(model, vendor, price)
        return self.quote(place, _messages(prompt), given, route=route, exact=exact)

    def estimate_many(
        self,
        prompts: Iterable[str | Sequence[Message]],
        *,
        model: str,
        vendor: str | None = None,
        price: Price | None = None,
        max_tokens: int | None = None,
        params: Mapping[str, Any] | None = None,
        route: str | None = None,
        exact: bool | None = None,
    ) -> BatchEstimate:
        """What all ``prompts`` will use together. They may come from a generator."""
        adding = Total()
        for prompt in prompts:
            adding.add(
                self.estimate(
                    prompt,
                    model=model,
                    vendor=vendor,
                    price=price,
                    max_tokens=max_tokens,
                    params=params,
                    route=route,
                    exact=exact,
                )
            )
        return adding.result()

    def learn(
        self,
        usage: Usage | None,
        *,
        model: str,
        vendor: str | None = None,
        price: Price | None = None,
        route: str | None = None,
        estimate: Estimate | None = None,
        max_tokens: int | None = None,
        finish_reason: str | None = None,
        latency_s: float | None = None,
        first_token_s: float | None = None,
    ) -> None:
        """What a call really used. ``estimate`` is what was said of it before; see ``observe``."""
        self.observe(
            self._place(model, vendor, price),
            usage=usage,
            route=route,
            estimated_input_tokens=None if estimate is None else estimate.input_tokens,
            max_tokens=max_tokens,
            finish_reason=finish_reason,
            latency_s=latency_s,
            first_token_s=first_token_s,
        )

    def _place(self, model: str, vendor: str | None, price: Price | None) -> Place:
        if not isinstance(model, str) or not model:
            raise ConfigError(f"model={model!r}: give the model's name, such as 'gpt-5-mini'")
        key = (model, vendor, price)
        with self._lock:
            place = self._places.get(key)
            if place is None:
                if self._prices is None:
                    from .prices import PriceBook

                    self._prices = PriceBook.bundled()  # one for all places: it is read once
                # unlike any model's own name: "openai/gpt-5" may be sold by somebody else
                name = model if vendor is None else f"{model} at {vendor}"
                place = self._places[key] = Place(
                    "", name, model, vendor=vendor, price=price, book=self._prices
                )
                if len(self._places) > PLACES:
                    self._places.popitem(last=False)
            else:
                self._places.move_to_end(key)
        return place

    # -- for a client ----------------------------------------------------------

    def quote(
        self,
        place: Place,
        messages: Sequence[Message],
        params: Mapping[str, Any] = _NOTHING,
        *,
        route: str | None = None,
        queue_s: float = 0.0,
        exact: bool | None = None,
    ) -> Estimate:
        """What a request will use at ``place``, after ``queue_s`` seconds in its queue.

        ``exact=True`` counts the input with a tokenizer, whatever that takes (0.1 s a megabyte: not on
        an event loop). ``exact=False`` guesses from the bytes, within microseconds, and loads no
        tokenizer; ``max`` is then the number of bytes, which tokens never exceed. ``None`` counts up to
        100 KB and guesses above.
        """
        learnt = self._learnt_of(place)
        price = place.price  # the model's limits are known once its price was looked up
        asked = learnt.input(place, messages, params, exact)
        limit = place.max_output_tokens or place.context_window or MOST_TOKENS
        ceiling = min(cap_of(params) or limit, limit)
        unready = min(cap_of(params) or self.default_max_tokens, limit)
        told = self.histories.predict(place.name, route, ceiling, unready)
        if told is None:
            told = Prediction(unready, unready, unready, float(unready), 0.0, 0, unready)
        choices = copies_of(params)
        answer = Tokens(
            told.p50 * choices,
            told.p90 * choices,
            max(unready, told.p90, told.longest) * choices,
            mean=told.mean * choices,
            sd=told.sd * choices,
            samples=told.samples if told.samples >= self.histories.min_samples else 0,
        )
        return Estimate(
            tier=place.tier,
            deployment=place.deployment,
            model=place.model,
            input_tokens=asked,
            output_tokens=answer,
            cost_usd=None if price is None else priced(price, asked, answer, params.get("service_tier")),
            latency_s=learnt.speed.latency(told.p50, told.p90, told.p95, queue_s=queue_s),
            tiers={},
        )

    def observe(
        self,
        place: Place,
        *,
        usage: Usage | None,
        route: str | None = None,
        estimated_input_tokens: Tokens | None = None,
        max_tokens: int | None = None,
        choices: int = 1,
        finish_reason: str | None = None,
        latency_s: float | None = None,
        first_token_s: float | None = None,
    ) -> None:
        """Learn from a call that was answered. Never raises: reports that make no sense are left out.

        ``estimated_input_tokens`` is the ``input_tokens`` of its estimate, as it is: it knows how it was
        made, and is corrected by what was reported. The seconds are those spent waiting for the provider,
        our queue not included. ``choices`` is the ``n`` that was asked for. An answer that ended for its
        length (``finish_reason="length"``, or as long as ``max_tokens``) counts as a longer one (see
        ``OutputHistory``); one cut short, neither reported nor with a ``finish_reason``, for nothing.
        """
        if usage is None or (usage.estimated and finish_reason is None):
            return
        learnt = self._learnt_of(place)
        asked = estimated_input_tokens
        if isinstance(asked, Tokens) and not usage.estimated and is_tokens(usage.input_tokens):
            learnt.correct(asked, usage.input_tokens)
        output_tokens = usage.output_tokens
        if not is_tokens(output_tokens) or not output_tokens:
            return
        if type(choices) is int and choices > 1:
            output_tokens = -(-output_tokens // choices)
        output_tokens = min(output_tokens, place.context_window or output_tokens)
        truncated = finish_reason == "length" or (
            finish_reason is None and is_tokens(max_tokens) and output_tokens >= max_tokens
        )
        kind = route if isinstance(route, str) else None
        self.histories.add(place.name, kind, output_tokens, truncated=truncated)
        if latency_s is not None and is_time(latency_s):
            seen = first_token_s is not None and is_time(first_token_s) and first_token_s <= latency_s
            learnt.speed.add(output_tokens, latency_s, first_token_s if seen else None)

    def _learnt_of(self, place: Place) -> Learnt:
        with self._lock:
            learnt = self._learnt.get(place.name)
            if learnt is None:
                learnt = self._learnt[place.name] = Learnt(place)
                if len(self._learnt) > PLACES:
                    self._learnt.popitem(last=False)
            else:
                self._learnt.move_to_end(place.name)
        return learnt

    def renew(self) -> None:
        """After a fork: the parent's locks may be held for good."""
        self._lock = threading.Lock()
        self.histories.renew()
        for learnt in self._learnt.values():
            learnt.speed.renew()

    def __repr__(self) -> str:
        return f"CostEstimator({len(self._learnt)} deployments, {len(self.histories)} routes learnt)"


def _messages(prompt: object) -> tuple[Message, ...]:
    if isinstance(prompt, str) and prompt.strip():
        return ({"role": "user", "content": prompt},)
    messages: tuple[Message, ...] = tuple(prompt) if isinstance(prompt, Sequence) else ()
    if not messages or not all(isinstance(message, Mapping) for message in messages):
        raise ConfigError('the prompt must be a text, or a list of {"role": ..., "content": ...} messages')
    return messages
