"""Where Redis is: an address without a password in the file, or one in an environment variable."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field, model_validator

from .finding import Finding, error
from .providers import spoken_of
from .table import Table, secret_in, variable

if TYPE_CHECKING:
    from .file import Config

__all__ = ["URLS_GO", "Addressed", "Namespace", "Patience", "Pause", "addresses", "without_address"]

URLS_GO = "a password comes from the environment only: put the whole address into the variable of url_env"

QUERY = frozenset(
    {"db", "protocol", "client_name", "max_connections", "health_check_interval"}
    | {"socket_timeout", "socket_connect_timeout", "socket_keepalive"}
    | {"ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_ca_data"}
    | {"ssl_check_hostname", "ssl_min_version", "ssl_ciphers"}
)
"""What may stand behind the question mark of an address."""


def _variable(name: str) -> str:
    return variable(name, "REDIS_URL")


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        secret = parts.username is not None or parts.password is not None or secret_in(url)
        options = parse_qsl(parts.query, keep_blank_values=True)
        number = "0" if parts.scheme == "unix" else parts.path.strip("/") or "0"
        good = url.startswith(("redis://", "rediss://", "unix://")) and parts.port != 0
    except ValueError:  # such as a port that there is not
        secret, good, number, options = False, False, "0", []
    if secret:
        raise ValueError(f"should hold no password; {URLS_GO}")
    numbers = [number, *(value for name, value in options if name == "db")]
    if not good or not all(n.isascii() and n.isdigit() for n in numbers):
        raise ValueError("should be an address such as redis://localhost:6379/0")
    if not QUERY.issuperset(name for name, _ in options):
        raise ValueError("should have no other options than those of Redis connections, such as ssl_ca_certs")
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
    """Those that are not set. Tables that are ``replaced`` need none."""
    for key, name in addresses(config):
        if key.partition(".")[0] not in replaced and not os.environ.get(name):
            problem = f"{spoken_of(name)} is not set"
            yield error(key, problem, "put the address in there: redis://host:6379/0")
