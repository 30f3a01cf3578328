"""What the settings of tiers and deployments have in common: their checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import ConfigError
from ..types import Timeouts
from .ask import check_params

__all__ = ["check_params_of", "check_purpose", "check_rules", "check_share", "check_whole"]

OWNED = frozenset({"model", "messages", "stream", "stream_options", "timeout", "max_retries", "http_client"})
OWNED |= {"api_key", "api_base", "api_version", "base_url", "organization"}
"""What tierllm sends itself, or a provider was made with; as parameters they would reach past it."""


def check_whole(where: str, least: int = 1, **options: object) -> None:
    for option, value in options.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{where}, {option}={value!r}): give a whole number of at least {least}")


def check_share(where: str, option: str, value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 <= value <= 1):  # type: ignore[operator]
        raise ConfigError(f"{where}, {option}={value!r}): give a number from 0 to 1, or leave it out")


def check_purpose(where: str, purpose: object) -> None:
    if purpose is not None and not isinstance(purpose, str):
        raise ConfigError(f"{where}, purpose={purpose!r}): say in a few words what it is for")


def check_params_of(where: str, option: str, params: object) -> None:
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
