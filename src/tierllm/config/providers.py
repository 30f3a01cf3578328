"""The ``[providers.…]`` tables: where models are, and which environment variables hold the keys."""

from __future__ import annotations

import importlib
import re
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from .table import Count, PathName, Table, secret_in, variable

if TYPE_CHECKING:
    from ..pipeline.provider import Provider

__all__ = ["KINDS", "FakeTable", "LocalTable", "OpenAITable", "ProviderTable", "Source", "spoken_of"]

KEYLESS = "none-needed"
"""Sent to a server that asks for no key: an SDK left to itself would send OpenAI's."""


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _variable(name: str) -> str:
    return variable(name, "OPENAI_API_KEY")


def spoken_of(variable: str) -> str:
    """``variable`` in a message: some keys are capitals and digits, too, and a message goes into logs."""
    if re.match(r"(?=[^_]*$)(?=.*\d)|AKIA|SK_", variable):
        return "an environment variable with the looks of a key (so it is not named here)"
    return f"the environment variable {variable}"


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # such as a port that there is not
        named = None
    if not named:
        raise ValueError("should be an address such as https://host/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError("should hold no user or password; name the key's variable in api_key_env")
    if secret_in(url):
        raise ValueError("should hold no key; name the key's variable in api_key_env")
    return url


Variable = Annotated[str, AfterValidator(_variable)]


class Source(Table):
    """A provider's table: each of its ``variables`` holds the key of an account of its own."""

    kind: str
    free: ClassVar[bool] = False
    """Whether its calls cost nothing."""

    @property
    def variables(self) -> list[str]:
        return []

    @property
    @abstractmethod
    def place(self) -> str:
        """What fails together."""

    def vendor(self, name: str) -> str:
        """Under which vendor price lists have the models of the table called ``name``."""
        return name

    @abstractmethod
    def build(self, name: str, key: str | None) -> Provider: ...

    def keywords(self) -> dict[str, Any]:
        return {k: v for k, v in self.given().items() if k not in ("kind", "api_key_env")}


class OpenAITable(Source):
    """OpenAI, or a server that speaks like it; at an address of your own no key is assumed."""

    kind: Literal["openai"]
    api_key_env: Annotated[list[Variable], Field(min_length=1), BeforeValidator(_listed)] | None = None
    base_url: Annotated[str, AfterValidator(_address)] | None = None
    organization: str | None = None
    project: str | None = None
    stream_usage: bool = True
    max_tokens_param: Literal["max_tokens", "max_completion_tokens"] | None = None

    @property
    def variables(self) -> list[str]:
        if self.api_key_env is not None:
            return self.api_key_env
        return [] if self.base_url is not None else ["OPENAI_API_KEY"]

    @property
    def place(self) -> str:
        return urlsplit(self.base_url).netloc if self.base_url else "api.openai.com"

    def vendor(self, name: str) -> str:
        host = urlsplit(self.base_url).hostname if self.base_url else self.place
        return "openai" if f".{host}".endswith(".openai.com") else name

    def build(self, name: str, key: str | None) -> Provider:
        from ..providers.openai import OpenAI

        return OpenAI(key or KEYLESS, name=name, **self.keywords())


class LocalTable(Source):
    """A model in this process."""

    free = True
    kind: Literal["local"]
    model_path: PathName | None = None
    n_ctx: Count = 2048
    n_threads: Count = 1
    n_parallel: Count = 1
    seed: int | None = None

    @property
    def place(self) -> str:
        return "this process"

    def build(self, name: str, key: str | None) -> Provider:
        from ..providers.local import Local

        return Local(name=name, **self.keywords())


class FakeTable(Source):
    """Made-up answers, for trying things out."""

    kind: Literal["fake"]
    latency_s: Annotated[float, Field(ge=0)] = 0.0
    seed: int = 0

    @property
    def place(self) -> str:
        return "nowhere"

    def build(self, name: str, key: str | None) -> Provider:
        # named, not imported: the testing room lies above this one
        testing = importlib.import_module("tierllm.testing")
        provider: Provider = testing.FakeProvider(name=name, **self.keywords())
        return provider


ProviderTable = Annotated[OpenAITable | LocalTable | FakeTable, Field(discriminator="kind")]

KINDS: dict[str, Source] = {
    "openai": OpenAITable(kind="openai"),
    "local": LocalTable(kind="local"),
    "fake": FakeTable(kind="fake"),
}
"""What a deployment's ``provider`` may name without a table of its own."""
