"""Tiers, as the application describes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..admission.sampling import AdaptiveSampling
from ..admission.settings import Admission
from ..admission.steps import EFFORTS
from ..errors import ConfigError
from ..types import Message, Objective, Timeouts
from .ask import read_messages
from .deployment import Deployment
from .settings import check_params_of, check_purpose, check_rules, check_share, check_whole

if TYPE_CHECKING:
    from ..pipeline.effects import Policy
    from ..resilience.breaker import CircuitBreaker
    from ..resilience.fallback import FallbackChain
    from ..resilience.hedge import Hedge
    from ..resilience.retry import Retry
    from ..sla.shift import Shift

__all__ = ["Deployment", "Tier", "check_rules"]

CHOICES = ("ordered", "weighted", "cheapest")
Prompt = str | Callable[[Sequence[Message]], "Sequence[Message] | str"]


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

    ``deployments`` are tried in order, begun with a weighted draw (``choose="weighted"``), or the cheapest
    first among those that are expected to be good enough (``min_quality``) and quick enough
    (``choose="cheapest"``). ``purpose`` says in a few words what the tier is for.
    ``prompt`` is a system text set before the caller's messages, or a function from messages to
    messages (or to a system text). ``defaults`` fill in parameters a call leaves out;
    ``max_tokens``, ``temperature`` and ``reasoning_effort`` are ceilings. ``max_concurrency`` is
    the size of the tier's pool, ``max_waiting`` of its queue, ``max_wait_s`` the longest wait in it;
    ``admission`` says the rest about it. ``sampling`` takes something away from calls under load,
    ``hedge`` asks a second deployment where the first is late, ``shift`` sends calls past a deployment
    that does not keep the ``objective``, and to the next tier where none does.
    ``fallback=False`` means that calls never step down from here; a ``FallbackChain`` sets the rule.
    """

    __slots__ = (
        "admission",
        "breaker",
        "ceilings",
        "choose",
        "defaults",
        "deployments",
        "fallback",
        "hedge",
        "max_concurrency",
        "max_wait_s",
        "max_waiting",
        "min_quality",
        "name",
        "objective",
        "policies",
        "prompt",
        "purpose",
        "retry",
        "sampling",
        "shift",
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
        choose: Literal["ordered", "weighted", "cheapest"] = "ordered",
        min_quality: float | None = None,
        purpose: str | None = None,
        max_concurrency: int | None = None,
        max_waiting: int | None = None,
        max_wait_s: float | None = None,
        admission: Admission | None = None,
        sampling: AdaptiveSampling | None = None,
        hedge: Hedge | bool = False,
        shift: Shift | bool = False,
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
        check_whole(where, max_tokens=max_tokens, max_concurrency=max_concurrency)
        check_whole(where, 0, max_waiting=max_waiting)
        if temperature is not None and not (_number(temperature) and 0 <= temperature < math.inf):
            raise ConfigError(f"{where}, temperature={temperature!r}): give 0 or more")
        if reasoning_effort is not None and reasoning_effort not in EFFORTS:
            raise ConfigError(f"{where}, reasoning_effort={reasoning_effort!r}): one of {', '.join(EFFORTS)}")
        if choose not in CHOICES:
            raise ConfigError(f"{where}, choose={choose!r}): one of {', '.join(CHOICES)}")
        check_share(where, "min_quality", min_quality)
        check_purpose(where, purpose)
        if max_wait_s is not None and not (_number(max_wait_s) and max_wait_s >= 0):
            raise ConfigError(f"{where}, max_wait_s={max_wait_s!r}): give 0 or more seconds")
        if prompt is not None and not isinstance(prompt, str) and not callable(prompt):
            raise ConfigError(f"{where}, prompt=...): give a system text, or a function of the messages")
        if objective is not None and not isinstance(objective, Objective):
            raise ConfigError(f"{where}, objective={objective!r}): give an Objective")
        if not isinstance(fallback, bool) and not hasattr(fallback, "goes_on"):
            raise ConfigError(f"{where}, fallback={fallback!r}): give True, False or a FallbackChain")
        for option, policy, kind in (
            ("admission", admission, Admission),
            ("sampling", sampling, AdaptiveSampling),
        ):
            if policy is not None and not isinstance(policy, kind):
                raise ConfigError(f"{where}, {option}={policy!r}): give {kind.__name__}(...)")
        if admission is not None:
            admission.check_size(f"{where}, admission=...): ", max_concurrency)
        if not isinstance(hedge, bool) and not hasattr(hedge, "bound"):
            raise ConfigError(f"{where}, hedge={hedge!r}): give True, or Hedge(...)")
        if not isinstance(shift, bool) and not hasattr(shift, "bound"):
            raise ConfigError(f"{where}, shift={shift!r}): give True, or Shift(...)")
        check_params_of(where, "defaults", defaults)
        check_rules(where, timeouts, breaker, retry, policies)
        self.name = name
        self.deployments = deployments
        self.objective = objective
        self.prompt = prompt
        self.defaults = dict(defaults or {})
        self.ceilings = Ceilings(max_tokens, temperature, reasoning_effort)
        self.choose = choose
        self.min_quality = min_quality
        self.purpose = purpose
        self.max_concurrency = max_concurrency
        self.max_waiting = max_waiting
        self.max_wait_s = max_wait_s
        self.timeouts = timeouts
        self.breaker = breaker
        self.retry = retry
        self.fallback = fallback
        self.policies = tuple(policies)
        self.admission = admission
        self.sampling = sampling
        self.hedge = hedge
        self.shift = shift

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


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
