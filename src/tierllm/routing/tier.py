"""Tiers and deployments, as the application describes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError
from ..types import Message, Objective, Timeouts

if TYPE_CHECKING:
    from ..cost.price import Price
    from ..pipeline.effects import Policy
    from ..pipeline.provider import Provider
    from ..resilience.breaker import CircuitBreaker
    from ..resilience.fallback import FallbackChain
    from ..resilience.retry import Retry

__all__ = ["Deployment", "Tier"]

Prompt = str | Callable[[Sequence[Message]], "Sequence[Message] | str"]

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


class Deployment:
    """A model at a place: what a call is finally sent to.

    ``name`` tells several of one model apart (``"gpt-5.2-eu"``). ``params`` fill in what a call
    leaves out, ``drop`` names parameters this model cannot take, ``labels`` are matched by a call's
    ``require``. ``weight`` counts where the tier chooses by weight. ``breaker``, ``retry`` and
    ``timeouts`` replace the tier's; ``breaker=False`` means none.
    """

    __slots__ = (
        "breaker",
        "context_window",
        "drop",
        "labels",
        "model",
        "name",
        "params",
        "policies",
        "price",
        "provider",
        "retry",
        "timeouts",
        "weight",
    )

    def __init__(
        self,
        model: str,
        provider: Provider,
        *,
        name: str | None = None,
        price: Price | None = None,
        context_window: int | None = None,
        params: Mapping[str, Any] | None = None,
        drop: Sequence[str] | frozenset[str] | set[str] = (),
        labels: Sequence[str] | frozenset[str] | set[str] = (),
        weight: float = 1.0,
        timeouts: Timeouts | None = None,
        breaker: CircuitBreaker | Literal[False] | None = None,
        retry: Retry | Literal[False] | None = None,
        policies: Sequence[Policy] = (),
    ) -> None:
        if not isinstance(model, str) or not model:
            raise ConfigError("Deployment(model): give the model's name, such as 'gpt-5-mini'")
        for method in ("complete", "acomplete", "stream", "astream"):
            if not callable(getattr(provider, method, None)):
                raise ConfigError(
                    f"Deployment({model!r}): the second argument must be a provider, such as OpenAI(), "
                    f"not {type(provider).__name__} (it has no {method}())"
                )
        if context_window is not None and context_window < 1:
            raise ConfigError(f"Deployment({model!r}, context_window={context_window}): give tokens above 0")
        if not weight > 0:
            raise ConfigError(f"Deployment({model!r}, weight={weight}): give a weight above 0")
        for option, names in (("drop", drop), ("labels", labels)):
            if isinstance(names, str):
                raise ConfigError(f"Deployment({model!r}, {option}={names!r}): give a set, {{{names!r}}}")
        self.model = model
        self.provider = provider
        self.name = name or model
        self.price = price
        self.context_window = context_window
        self.params = dict(params or {})
        self.drop = frozenset(drop)
        self.labels = frozenset(labels)
        self.weight = weight
        self.timeouts = timeouts
        self.breaker = breaker
        self.retry = retry
        self.policies = tuple(policies)

    def __repr__(self) -> str:
        return f"Deployment({self.model!r}, name={self.name!r})"


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What a call may ask for at most; what it leaves open is set to the ceiling."""

    max_tokens: int | None = None
    temperature: float | None = None
    reasoning_effort: str | None = None

    def apply(self, params: dict[str, Any]) -> None:
        if self.max_tokens is not None:
            asked = params.get("max_tokens")
            params["max_tokens"] = self.max_tokens if asked is None else min(asked, self.max_tokens)
        if self.temperature is not None:
            asked = params.get("temperature")
            params["temperature"] = self.temperature if asked is None else min(asked, self.temperature)
        if self.reasoning_effort is not None:
            asked = params.get("reasoning_effort")
            ceiling = EFFORTS.index(self.reasoning_effort)
            if asked is None or (asked in EFFORTS and EFFORTS.index(asked) > ceiling):
                params["reasoning_effort"] = self.reasoning_effort


class Tier:
    """A service level: its deployments, what it promises, and how it treats a call.

    Tiers are listed best first; a call that a tier cannot serve steps down to the next.

    ``deployments`` are tried in order, or begun with a weighted draw (``choose="weighted"``).
    ``prompt`` is a system text set before the caller's messages, or a function from messages to
    messages (or to a system text). ``defaults`` fill in parameters a call leaves out;
    ``max_tokens``, ``temperature`` and ``reasoning_effort`` are ceilings. ``max_concurrency`` is
    the size of the tier's pool, ``max_waiting`` of its queue, ``max_wait_s`` the longest wait in it.
    ``fallback=False`` means that calls never step down from here; a ``FallbackChain`` sets the rule.
    """

    __slots__ = (
        "breaker",
        "ceilings",
        "choose",
        "defaults",
        "deployments",
        "fallback",
        "max_concurrency",
        "max_wait_s",
        "max_waiting",
        "name",
        "objective",
        "policies",
        "prompt",
        "retry",
        "timeouts",
    )

    def __init__(
        self,
        name: str,
        deployments: Sequence[Deployment],
        *,
        objective: Objective | None = None,
        prompt: Prompt | None = None,
        defaults: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        reasoning_effort: str | None = None,
        choose: Literal["ordered", "weighted"] = "ordered",
        max_concurrency: int | None = None,
        max_waiting: int | None = None,
        max_wait_s: float | None = None,
        timeouts: Timeouts | None = None,
        breaker: CircuitBreaker | Literal[False] | None = None,
        retry: Retry | Literal[False] | None = None,
        fallback: FallbackChain | bool = True,
        policies: Sequence[Policy] = (),
    ) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigError("Tier(name): give the tier a name, such as 'gold'")
        where = f"Tier({name!r}"
        deployments = tuple(deployments)
        if not deployments:
            raise ConfigError(f"{where}): give it at least one Deployment")
        for deployment in deployments:
            if not isinstance(deployment, Deployment):
                raise ConfigError(f"{where}): {type(deployment).__name__} is not a Deployment")
        if max_tokens is not None and max_tokens < 1:
            raise ConfigError(f"{where}, max_tokens={max_tokens}): give tokens above 0")
        if temperature is not None and temperature < 0:
            raise ConfigError(f"{where}, temperature={temperature}): give 0 or more")
        if reasoning_effort is not None and reasoning_effort not in EFFORTS:
            raise ConfigError(f"{where}, reasoning_effort={reasoning_effort!r}): one of {', '.join(EFFORTS)}")
        if choose not in ("ordered", "weighted"):
            raise ConfigError(f"{where}, choose={choose!r}): 'ordered' or 'weighted'")
        if max_concurrency is not None and max_concurrency < 1:
            raise ConfigError(f"{where}, max_concurrency={max_concurrency}): give 1 or more")
        if max_waiting is not None and max_waiting < 0:
            raise ConfigError(f"{where}, max_waiting={max_waiting}): give 0 or more")
        if max_wait_s is not None and max_wait_s < 0:
            raise ConfigError(f"{where}, max_wait_s={max_wait_s}): give 0 or more seconds")
        self.name = name
        self.deployments = deployments
        self.objective = objective
        self.prompt = prompt
        self.defaults = dict(defaults or {})
        self.ceilings = Ceilings(max_tokens, temperature, reasoning_effort)
        self.choose = choose
        self.max_concurrency = max_concurrency
        self.max_waiting = max_waiting
        self.max_wait_s = max_wait_s
        self.timeouts = timeouts
        self.breaker = breaker
        self.retry = retry
        self.fallback = fallback
        self.policies = tuple(policies)

    def __repr__(self) -> str:
        return f"Tier({self.name!r}, {list(self.deployments)!r})"

    def worded(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """The caller's messages with this tier's prompt."""
        prompt = self.prompt
        if prompt is None:
            return messages
        if not isinstance(prompt, str):
            made = prompt(messages)
            if not isinstance(made, str):
                return tuple(made)
            prompt = made
        first = messages[0] if messages else {}
        if first.get("role") == "system" and isinstance(first.get("content"), str):
            return ({**first, "content": f"{prompt}\n\n{first['content']}"}, *messages[1:])
        return ({"role": "system", "content": prompt}, *messages)
