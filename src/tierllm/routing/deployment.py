"""A deployment, as the application describes it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..admission.adaptive import AdaptiveConcurrency
from ..admission.client_throttle import ClientThrottle
from ..admission.rate_limit import RateLimit
from ..errors import ConfigError
from ..providers.wrapped import Unprovided
from ..types import Timeouts
from .settings import check_params_of, check_purpose, check_rules, check_share, check_whole

if TYPE_CHECKING:
    from ..cost.price import Price
    from ..pipeline.effects import Policy
    from ..pipeline.provider import Provider
    from ..resilience.breaker import CircuitBreaker
    from ..resilience.retry import Retry

__all__ = ["Deployment", "own_name"]


class Deployment:
    """A model at a place: what a call is finally sent to.

    ``provider`` may be left out where only ``@tiered.call`` functions come, which reach theirs
    themselves.

    ``name`` tells several of one model apart (``"gpt-5.2-eu"``). ``context_window`` and
    ``max_output_tokens`` are the model's own limits; requests that do not fit are not sent.
    ``params`` fill in what a call leaves out, ``drop`` names parameters this model cannot take,
    ``labels`` are matched by a call's ``require``. ``weight`` counts where the tier chooses by weight.
    ``quality`` (0 to 1) is how good its answers are known to be, ``purpose`` what it is for, in a few words.
    ``breaker``, ``retry`` and ``timeouts`` replace the tier's; ``breaker=False`` means none.

    ``rpm``, ``tpm``, ``input_tpm``, ``output_tpm``, ``rpd`` and ``max_concurrency`` are its own limits
    (requests and tokens a minute, requests a day, calls at once). ``account`` is a ``RateLimit`` that
    deployments on one vendor account share, ``limits`` are further ones, with all that a ``RateLimit`` may
    say (``tpd``, ``pacing``, ``mode="observe"``, …). ``adaptive`` finds out how many
    calls at once it bears, ``throttle`` spares it most calls while it refuses most.
    """

    __slots__ = (
        "adaptive",
        "breaker",
        "context_window",
        "drop",
        "labels",
        "limits",
        "max_output_tokens",
        "model",
        "name",
        "params",
        "policies",
        "price",
        "provider",
        "purpose",
        "quality",
        "retry",
        "throttle",
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
        quality: float | None = None,
        purpose: str | None = None,
        rpm: int | None = None,
        tpm: int | None = None,
        input_tpm: int | None = None,
        output_tpm: int | None = None,
        rpd: int | None = None,
        max_concurrency: int | None = None,
        account: RateLimit | None = None,
        limits: Sequence[RateLimit] = (),
        adaptive: AdaptiveConcurrency | bool = False,
        throttle: ClientThrottle | bool = False,
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
        check_whole(where, context_window=context_window, max_output_tokens=max_output_tokens)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ConfigError(f"{where}, weight={weight!r}): give a weight above 0")
        check_share(where, "quality", quality)
        check_purpose(where, purpose)
        for option, names in (("drop", drop), ("labels", labels)):
            if isinstance(names, str):
                raise ConfigError(f"{where}, {option}={names!r}): give a set, {{{names!r}}}")
            if not isinstance(names, Iterable) or not all(isinstance(n, str) and n for n in names):
                raise ConfigError(f"{where}, {option}={names!r}): give a set of names")
        if price is not None and not hasattr(price, "cost_usd"):
            raise ConfigError(f"{where}, price={price!r}): give a Price")
        check_params_of(where, "params", params)
        own: dict[str, Any] = {
            "rpm": rpm,
            "tpm": tpm,
            "input_tpm": input_tpm,
            "output_tpm": output_tpm,
            "rpd": rpd,
            "max_concurrency": max_concurrency,
        }
        check_whole(where, 1, **own)
        shared = _limits(where, account, limits)
        for option, policy, kind in (
            ("adaptive", adaptive, AdaptiveConcurrency),
            ("throttle", throttle, ClientThrottle),
        ):
            if not isinstance(policy, bool | kind):
                raise ConfigError(f"{where}, {option}={policy!r}): give True, or {kind.__name__}(...)")
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
        self.quality = quality
        self.purpose = purpose
        self.timeouts = timeouts
        self.breaker = breaker
        self.retry = retry
        self.policies = tuple(policies)
        self.limits = tuple(shared)
        if any(value is not None for value in own.values()):
            self.limits = (RateLimit(**own, per="account", name=own_name(self.name)), *shared)
        self.adaptive = AdaptiveConcurrency() if adaptive is True else adaptive or None
        self.throttle = ClientThrottle() if throttle is True else throttle or None

    def __repr__(self) -> str:
        return f"Deployment({self.model!r}, name={self.name!r})"


def own_name(deployment: str) -> str:
    """What a deployment's own limits are called."""
    return f"{deployment}'s own".replace("|", "_")


def _limits(where: str, account: object, limits: object) -> list[RateLimit]:
    """The account's limit, and the others."""
    if account is not None and not isinstance(account, RateLimit):
        raise ConfigError(f"{where}, account=...): {_kind(account)} is not a RateLimit")
    if account is not None and account.per != ("account",):
        raise ConfigError(
            f"{where}, account=...): an account is one for all who call, and {account!r} is not; "
            "leave its per out, or give it in limits=[...]"
        )
    if isinstance(limits, str | RateLimit) or not isinstance(limits, Iterable):
        raise ConfigError(f"{where}, limits=...): give a list, [RateLimit(...)]")
    shared: list[RateLimit] = [] if account is None else [account]
    for limit in limits:
        if not isinstance(limit, RateLimit):
            raise ConfigError(f"{where}, limits=...): {_kind(limit)} is not a RateLimit")
        shared.append(limit)
    return shared


def _kind(given: object) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__


def _called(provider: object) -> str:
    if isinstance(provider, type):
        return f"the class {provider.__name__} itself"
    return f"{type(provider).__name__}, which lacks its methods"
