"""Whether a request fits into a model's context window, told before it is sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import RequestTooLargeError

if TYPE_CHECKING:
    from ..cost.place import Place
    from ..routing.tier import Deployment, Tier
    from ..types import Call, Message

__all__ = ["Window", "may_be_large"]

SHORT = 1_000
"""Characters, and twice as many tokens of answer: whatever the model, so much fits."""

DOUBT = 1.3
"""How far an estimated count may be above the real one."""

WEIGHTY = frozenset({"tools", "response_format"})


def may_be_large(length: int, params: Mapping[str, Any]) -> bool:
    """Whether a request of so many characters and these parameters has to be looked at more closely."""
    if length > SHORT:
        return True
    return bool(params) and (not WEIGHTY.isdisjoint(params) or (params.get("max_tokens") or 0) > 2 * SHORT)


class Window:
    """The context window of one place. Bounds decide where they can; tokens are counted where they cannot.

    ``fitted`` gives the parameters as the place is to receive them.
    """

    def __init__(
        self,
        place: Place,
        tier: Tier,
        deployment: Deployment,
        fitted: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    ) -> None:
        self.place = place
        self.tier = tier
        self._fitted = fitted
        prompt = tier.prompt
        self.always = (
            deployment.context_window is not None
            or (prompt is not None and (not isinstance(prompt, str) or len(prompt) > SHORT))
            or may_be_large(0, fitted({}))
        )
        """Whether calls are looked at that are small in themselves."""

    def too_large(self, call: Call, *, count: bool = True) -> RequestTooLargeError | None:
        """The refusal for a request that cannot fit; ``None`` for one that does, or may.

        Without ``count`` nothing is counted: what bounds leave open may fit.
        """
        window = self.place.context_window
        if window is None or not call.request.messages:
            return None
        tokens = self.place.tokens
        messages, params, output = self._sent(call)
        least, most = self._bounds(call, messages, params)
        if most + output <= window:
            return None
        size = least
        if size + output <= window and count:
            size = self._size(call, messages, params)
        if size + output <= window:
            return None
        about = "" if tokens.exact else "at least "
        return RequestTooLargeError(
            f"{self.place.name}: the input is {about}{size} tokens and max_tokens is {output}; "
            f"the context window is {window}: shorten the request, or give a tier a larger model",
            input_tokens=size,
            output_tokens=output,
            window=window,
            counted=tokens.exact,
        )

    def question(self, call: Call) -> Callable[[], object] | None:
        """What has to be counted before ``too_large`` can answer, if anything."""
        window = self.place.context_window
        if window is None or not call.request.messages:
            return None
        messages, params, output = self._sent(call)
        least, most = self._bounds(call, messages, params)
        if most + output <= window or least + output > window:
            return None
        return lambda: self._size(call, messages, params)

    def _sent(self, call: Call) -> tuple[tuple[Message, ...], Mapping[str, Any], int]:
        request = call.request
        params = self._fitted(request.params)
        return self.tier.worded(request.messages), params, params.get("max_tokens") or 1

    def _size(self, call: Call, messages: tuple[Message, ...], params: Mapping[str, Any]) -> int:
        """The input's tokens; of a model whose tokenizer is not known, no more than is certain."""
        sizes, tokens = call.sizes, self.place.tokens
        if sizes is None:
            size = tokens.count(messages, params)
        else:
            key = self._key(params)
            size = sizes[key] = sizes.get(key) or tokens.count(messages, params)
        return size if tokens.exact else int(size / DOUBT)

    def _bounds(
        self, call: Call, messages: tuple[Message, ...], params: Mapping[str, Any]
    ) -> tuple[int, int]:
        sizes, tokens = call.sizes, self.place.tokens
        if sizes is None:
            return tokens.bounds(messages, params)
        key = self._key(params)
        most = sizes.get(f"most {key}")
        if most is None:
            least, most = tokens.bounds(messages, params)
            sizes[f"least {key}"], sizes[f"most {key}"] = least, most
        return sizes[f"least {key}"], most

    def _key(self, params: Mapping[str, Any]) -> str:
        """The same for places that see the same messages, prompt and tools through the same tokenizer."""
        prompt = "" if self.tier.prompt is None else self.tier.name
        tools, form = id(params.get("tools")), id(params.get("response_format"))
        return f"{self.place.model} {self.place.vendor} {tools} {form} {prompt}"
