"""Tiers and deployments, as the application describes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError
from ..providers.wrapped import Unprovided
from ..types import Message, Objective, Timeouts
from .ask import check_params, read_messages

if TYPE_CHECKING:
    from ..cost.price import Price
    from ..pipeline.effects import Policy
    from ..pipeline.provider import Provider
    from ..resilience.breaker import CircuitBreaker
    from ..resilience.fallback import FallbackChain
    from ..resilience.retry import Retry

__all__ = ["Deployment", "Tier", "check_rules"]

Prompt = str | Callable[[Sequence[Message]], "Sequence[Message] | str"]

OWNED = frozenset({"model", "messages", "stream", "stream_options", "timeout", "max_retries", "http_client"})
OWNED |= {"api_key", "api_base", "api_version", "base_url", "organization"}
"""What tierllm sends itself, or a provider was made with; as parameters they would reach past it."""

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")


class Deployment:
    """A model at a place: what a call is finally sent to.

    ``provider`` may be left out where only ``@tiered.call`` functions come, which reach theirs
    themselves.

    ``name`` tells several of one model apart (``"gpt-5.2-eu"``). ``context_window`` and
    ``max_output_tokens`` are the model's own limits; requests that do not fit are not sent.
    ``params`` fill in what a call leaves out, ``drop`` names parameters this model cannot take,
    ``labels`` are matched by a call's ``require``. ``weight`` counts where the tier chooses by weight.
    ``breaker``, ``retry`` and ``timeouts`` replace the tier's; ``breaker=False`` means none.
    """

    __slots__ = (
        "breaker",
        "context_window",
        "drop",
        "labels",
        "max_output_tokens",
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
        provider: Provider | None = None,
        *,
        name: str | None = None,
        price: Price | None = None,
        context_window: int | None = None,
        max_output_tokens: int | None = None,
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
        if provider is None:
            provider = Unprovided(model)
        for method in ("complete", "acomplete", "stream", "astream"):
            if isinstance(provider, type) or not callable(getattr(provider, method, None)):
                raise ConfigError(
                    f"Deployment({model!r}): the second argument must be a provider, such as OpenAI(), "
                    f"not {_called(provider)}"
                )
        where = f"Deployment({model!r}"
        if name is not None and (not isinstance(name, str) or not name):
            raise ConfigError(f"{where}, name={name!r}): give a name, or leave it out")
        _check_whole(where, context_window=context_window, max_output_tokens=max_output_tokens)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ConfigError(f"{where}, weight={weight!r}): give a weight above 0")
        for option, names in (("drop", drop), ("labels", labels)):
            if isinstance(names, str):
                raise ConfigError(f"{where}, {option}={names!r}): give a set, {{{names!r}}}")
            if not isinstance(names, Iterable) or not all(isinstance(n, str) and n for n in names):
                raise ConfigError(f"{where}, {option}={names!r}): give a set of names")
        if price is not None and not hasattr(price, "cost_usd"):
            raise ConfigError(f"{where}, price={price!r}): give a Price")
        _check_params(where, "params", params)
        check_rules(where, timeouts, breaker, retry, policies)
        self.model = model
        self.provider = provider
        self.name = name or model
        self.price = price
        self.context_window = context_window
        self.max_output_tokens = max_output_tokens
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
            if asked not in EFFORTS or EFFORTS.index(asked) > ceiling:  # an unknown word is no way past it
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
        if isinstance(deployments, Deployment) or not isinstance(deployments, Iterable):
            raise ConfigError(f"{where}): give a list of Deployment, [Deployment(...)]")
        deployments = tuple(deployments)
        if not deployments:
            raise ConfigError(f"{where}): give it at least one Deployment")
        for deployment in deployments:
            if not isinstance(deployment, Deployment):
                raise ConfigError(f"{where}): {type(deployment).__name__} is not a Deployment")
        _check_whole(where, max_tokens=max_tokens, max_concurrency=max_concurrency)
        _check_whole(where, least=0, max_waiting=max_waiting)
        if temperature is not None and (isinstance(temperature, bool) or not 0 <= temperature < math.inf):
            raise ConfigError(f"{where}, temperature={temperature}): give 0 or more")
        if reasoning_effort is not None and reasoning_effort not in EFFORTS:
            raise ConfigError(f"{where}, reasoning_effort={reasoning_effort!r}): one of {', '.join(EFFORTS)}")
        if choose not in ("ordered", "weighted"):
            raise ConfigError(f"{where}, choose={choose!r}): 'ordered' or 'weighted'")
        if max_wait_s is not None and not max_wait_s >= 0:
            raise ConfigError(f"{where}, max_wait_s={max_wait_s}): give 0 or more seconds")
        if prompt is not None and not isinstance(prompt, str) and not callable(prompt):
            raise ConfigError(f"{where}, prompt=...): give a system text, or a function of the messages")
        if objective is not None and not isinstance(objective, Objective):
            raise ConfigError(f"{where}, objective={objective!r}): give an Objective")
        if not isinstance(fallback, bool) and not hasattr(fallback, "goes_on"):
            raise ConfigError(f"{where}, fallback={fallback!r}): give True, False or a FallbackChain")
        _check_params(where, "defaults", defaults)
        check_rules(where, timeouts, breaker, retry, policies)
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
                return read_messages(made, f"the prompt of tier {self.name!r}")
            prompt = made
        if not prompt:
            return messages
        first = messages[0] if messages else {}
        if first.get("role") == "system" and isinstance(first.get("content"), str):
            return ({**first, "content": f"{prompt}\n\n{first['content']}"}, *messages[1:])
        return ({"role": "system", "content": prompt}, *messages)


def _check_whole(where: str, *, least: int = 1, **options: object) -> None:
    for option, value in options.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{where}, {option}={value!r}): give a whole number of at least {least}")


def _check_params(where: str, option: str, params: object) -> None:
    if params is None:
        return
    if not isinstance(params, Mapping):
        raise ConfigError(f'{where}, {option}={params!r}): give a mapping, such as {{"temperature": 0}}')
    for name in params:
        if not isinstance(name, str) or name in OWNED:
            raise ConfigError(
                f"{where}, {option}=...): {name!r} is no parameter of a generation; "
                "take it out: models, timeouts, streaming and accounts have their own places"
            )
    try:
        check_params(params)
    except ConfigError as error:
        raise ConfigError(f"{where}, {option}=...): {error}") from None


def check_rules(where: str, timeouts: object, breaker: object, retry: object, policies: object) -> None:
    """Raise ``ConfigError`` for rules of the wrong kind; ``where`` begins its text."""
    if timeouts is not None and not isinstance(timeouts, Timeouts):
        raise ConfigError(f"{where}, timeouts={timeouts!r}): give Timeouts(...)")
    if breaker is not None and breaker is not False and not hasattr(breaker, "bind"):
        raise ConfigError(f"{where}, breaker={breaker!r}): give a CircuitBreaker, or False for none")
    if retry is not None and retry is not False and not hasattr(retry, "bound"):
        raise ConfigError(f"{where}, retry={retry!r}): give a Retry, or False for none")
    if not isinstance(policies, Iterable) or not all(
        callable(policy) and not isinstance(policy, type) for policy in policies
    ):
        raise ConfigError(f"{where}, policies=...): give a list of policies, each an object or a function")


def _called(provider: object) -> str:
    if isinstance(provider, type):
        return f"the class {provider.__name__} itself"
    return f"{type(provider).__name__}, which lacks its methods"
