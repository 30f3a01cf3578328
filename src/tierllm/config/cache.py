"""The tables about the cache: ``[cache]`` and ``[[cache.layers]]``. Reading them opens nothing."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import InitErrorDetails

from ..caching.contents import LONGEST_TTL_S
from ..caching.layer import Layer
from ..caching.memory_layer import MemoryLayer, checked_quotas
from ..caching.result_cache import ResultCache
from .addresses import Addressed, Namespace, Patience, Pause
from .finding import Loc, did_you_mean
from .money import placed
from .table import Count, Name, PathName, Rule, Table, named

if TYPE_CHECKING:
    from .file import Config

__all__ = [
    "LAYERS",
    "CacheTable",
    "DiskLayerTable",
    "LayerTable",
    "MemoryLayerTable",
    "RedisLayerTable",
    "misnamed",
]

LAYERS = ("memory", "redis", "disk")
LEAST_MEMORY, LEAST_DISK = 4096, 2**20
EVERY = "*"

Clock = Callable[[], float]
Quotas = dict[Name, float]


class LayerTable(Table):
    """A layer's table: its keys are the keywords of the layer, and ``ttl_s``."""

    shared: ClassVar[bool] = True
    """Whether other processes see what is in it."""

    kind: str
    max_bytes: int
    quotas: Quotas = Field(default_factory=dict)
    ttl_s: Annotated[float, Field(gt=0, le=LONGEST_TTL_S)] | None = None

    @property
    def variables(self) -> list[str]:
        """The environment variables it needs."""
        return []

    def build(
        self, base: Path, environ: Mapping[str, str], *, clock: Clock, wall: Clock, **instead: Any
    ) -> Layer:
        """``base`` is what a relative path is relative to; ``instead`` replaces keywords.

        Raises ``ConfigError``.
        """
        given = {name: value for name, value in self.given().items() if name not in ("kind", "ttl_s")}
        layer = self._layer({**given, **instead}, base, environ, clock, wall)
        layer.ttl_s = self.ttl_s
        return layer

    @abstractmethod
    def _layer(
        self, given: dict[str, Any], base: Path, environ: Mapping[str, str], clock: Clock, wall: Clock
    ) -> Layer: ...

    @model_validator(mode="after")
    def _quotas_make_sense(self) -> Self:
        checked_quotas(self.quotas, "Layer")
        return self


class MemoryLayerTable(LayerTable):
    shared = False
    kind: Literal["memory"]
    max_bytes: Annotated[int, Field(ge=LEAST_MEMORY)] = 64 * 2**20
    max_entries: Count = 10_000

    def _layer(
        self, given: dict[str, Any], base: Path, environ: Mapping[str, str], clock: Clock, wall: Clock
    ) -> Layer:
        return MemoryLayer(**given, clock=clock)


class DiskLayerTable(LayerTable):
    kind: Literal["disk"]
    directory: PathName
    max_bytes: Annotated[int, Field(ge=LEAST_DISK)] = 2**30
    timeout_s: Patience = 0.5
    retry_s: Pause = 5.0

    def database(self, base: Path) -> Path:
        """Its file; it is there once a cache has been used."""
        from ..caching.disk_layer import WITHIN
        from ..stores.disk_place import DATABASE

        return placed(base, self.directory) / WITHIN / DATABASE

    def _layer(
        self, given: dict[str, Any], base: Path, environ: Mapping[str, str], clock: Clock, wall: Clock
    ) -> Layer:
        from ..caching.disk_layer import DiskLayer

        directory = placed(base, given.pop("directory"))
        return DiskLayer(directory, **given, clock=clock, wall_clock=wall)


class RedisLayerTable(Addressed, LayerTable):
    kind: Literal["redis"]
    namespace: Namespace = "tierllm"
    max_bytes: Annotated[int, Field(ge=LEAST_MEMORY, le=2**52)] = 256 * 2**20
    timeout_s: Patience = 0.05
    retry_s: Pause = 1.0

    def _layer(
        self, given: dict[str, Any], base: Path, environ: Mapping[str, str], clock: Clock, wall: Clock
    ) -> Layer:
        from ..caching.redis_layer import RedisLayer

        more = {name: value for name, value in given.items() if name not in ("url", "url_env")}
        return RedisLayer(self.address(environ), **more, clock=clock)


def _form(value: object) -> str:
    return "table" if isinstance(value, dict) else "number"


class CacheTable(Rule):
    ttl_s: Annotated[
        Annotated[float, Tag("number")] | Annotated[dict[Name, float], Tag("table")], Discriminator(_form)
    ] = 3600.0
    jitter: float = 0.1
    stale_while_revalidate_s: float = 0.0
    stale_if_error_s: float = 3600.0
    scope: Literal["tenant", "user", "session", "shared"] = "tenant"
    serve_higher: bool = True
    default: Literal["auto", "always", "off"] = "auto"
    one_flight: bool = True
    write: Literal["through", "behind"] = "through"
    mode: Literal["enforce", "observe"] = "enforce"
    layers: Annotated[
        list[Annotated[MemoryLayerTable | RedisLayerTable | DiskLayerTable, Field(discriminator="kind")]],
        Field(min_length=1),
    ] = [MemoryLayerTable(kind="memory")]  # noqa: RUF012 - pydantic copies it

    def build(self, layers: Sequence[Layer] | None = None, *, wall: Clock = time.time) -> ResultCache:
        """A cache of ``layers``. Without them it shows only whether it can be built."""
        return ResultCache(layers, wall_clock=wall, **self.built(leaving=("layers",)))

    def opened(self, base: Path, environ: Mapping[str, str], *, clock: Clock, wall: Clock) -> ResultCache:
        """The cache with the layers that stand here. Makes their directories."""
        made: list[Layer] = []
        try:
            for table in self.layers:
                made.append(table.build(base, environ, clock=clock, wall=wall))  # noqa: PERF401 - see below
            return self.build(made, wall=wall)
        except BaseException:
            for layer in made:
                layer.close()
            raise


def misnamed(config: Config) -> Iterator[InitErrorDetails]:
    """Tiers that there are not, and layers that cannot be told apart."""
    if config.cache is None:
        return
    tiers = [tier.name for tier in config.tiers]
    if isinstance(config.cache.ttl_s, dict):
        for name in config.cache.ttl_s:
            if name not in (*tiers, EVERY):
                yield _no_such(("cache", "ttl_s", name), name, [*tiers, EVERY])
    seen: list[str] = []
    for at, table in enumerate(config.cache.layers):
        for group in table.quotas:
            tier, _, tenant = group.partition("/")  # "gold", "gold/acme" or "*/acme"
            if group not in tiers and tier not in ((*tiers, EVERY) if tenant else tiers):
                yield _no_such(("cache", "layers", at, "quotas", group), tier, tiers)
        if table.kind in seen:
            problem, remedy = f"there is a {table.kind} layer already", "take one of them out"
            yield named(("cache", "layers", at), problem, remedy)
        seen.append(table.kind)


def _no_such(loc: Loc, name: str, known: list[str]) -> InitErrorDetails:
    return named(loc, "there is no such tier", did_you_mean(name, known))
