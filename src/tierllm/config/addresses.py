"""Where Redis is: an address without a password in the file, or one in an environment variable."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from ..stores.redis_address import check_address
from .finding import Finding, error
from .providers import spoken_of
from .table import Table, secret_in, variable

if TYPE_CHECKING:
    from .file import Config

__all__ = [
    "URLS_GO",
    "Addressed",
    "Namespace",
    "Patience",
    "Pause",
    "addresses",
    "no_address",
    "without_address",
]

URLS_GO = "a password comes from the environment only: put the whole address into the variable of url_env"


def _variable(name: str) -> str:
    return variable(name, "REDIS_URL")


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        secret = parts.username is not None or parts.password is not None or secret_in(url)
    except ValueError:  # it is no address at all
        secret = False
    if secret:
        raise ValueError(f"should hold no password; {URLS_GO}")
    check_address(url)
    return url


Namespace = Annotated[str, Field(pattern=r"^[^{}]+$")]
Patience = Annotated[float, Field(gt=0, le=3_600)]
Pause = Annotated[float, Field(ge=0, le=86_400)]


class Addressed(Table):
    """The server's address: as it stands here, or in an environment variable."""

    url: Annotated[str, AfterValidator(_address)] | None = None
    url_env: Annotated[str, AfterValidator(_variable)] | None = None

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if self.url is not None and self.url_env is not None:
            raise ValueError("give url or url_env, not both")
        return self

    @property
    def variables(self) -> list[str]:
        """The environment variables it needs."""
        return [] if self.url is not None else [self.url_env or "REDIS_URL"]

    def address(self, environ: Mapping[str, str]) -> str:
        return self.url or environ[self.variables[0]]


def addresses(config: Config) -> Iterator[tuple[str, str]]:
    """The environment variables that hold addresses of Redis, each with where the file names it."""
    for name in config.store.variables if config.store is not None else ():
        yield "store.url_env", name
    for at, layer in enumerate(config.cache.layers if config.cache is not None else ()):
        for name in layer.variables:
            yield f"cache.layers[{at}].url_env", name


def without_address(config: Config, replaced: Container[str]) -> Iterator[Finding]:
    """Those that are not set, or hold something else. Tables that are ``replaced`` need none."""
    for key, name in addresses(config):
        if key.partition(".")[0] in replaced:
            continue
        url = os.environ.get(name)
        if url:
            yield from no_address(key, name, url)
        else:
            yield error(key, f"{spoken_of(name)} is not set", "put the address in there: redis://host:6379/0")


def no_address(key: str, name: str, url: str) -> Iterator[Finding]:
    """What is wrong with ``url``, the value of the variable ``name``; it is not quoted."""
    try:
        check_address(url)
    except ValueError as why:
        yield error(key, f"{spoken_of(name)} {why}")
