"""Rules about load, breakers, names and providers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .admission import AdmissionTable
from .finding import Finding, warning
from .providers import FakeTable, LocalTable, OpenAITable, spoken_of
from .rules_of_load import bounded, limited, pool_size

if TYPE_CHECKING:
    from .file import Config

__all__ = ["RULES"]


def _pools(config: Config) -> Iterator[Finding]:
    for t, tier in enumerate(config.tiers):
        size, queue = pool_size(tier), limited(config, tier)
        admission = tier.admission or AdmissionTable()
        if size is None and not all(bounded(config, deployment) for deployment in tier.deployments):
            yield warning(
                f"tiers[{t}].max_concurrency",
                f"nothing bounds how many calls {tier.name} makes at once",
                "set it to what the account's rate limit can bear, such as 32",
            )
        if size is None and not queue:
            for option in ("max_waiting", "max_wait_s"):
                if getattr(tier, option) is not None:
                    yield warning(
                        f"tiers[{t}].{option}", "without max_concurrency there is no queue", "set both"
                    )
            continue
        bounds = (tier.max_waiting, tier.max_wait_s, admission.max_waiting, admission.max_wait_s)
        if (
            admission.on_full == "wait"
            and config.client.deadline_s is None
            and not any(bound is not None for bound in bounds)
        ):
            yield warning(
                f"tiers[{t}].max_waiting",
                f"the queue for {tier.name} has no bound: under load calls wait instead of stepping down",
                "set max_waiting, max_wait_s or client.deadline_s",
            )


def _weights(config: Config) -> Iterator[Finding]:
    for key, tier, deployment in config.places():
        if deployment.weight is not None and tier.choose == "ordered":
            yield warning(
                f"{key}.weight",
                "weights count for nothing while the tier's choice is ordered",
                'set choose = "weighted" in the tier, or take the weight out',
            )


def _no_breaker(config: Config) -> Iterator[Finding]:
    for key, tier, deployment in config.places():
        if config.breaker_of(tier, deployment) is False:
            yield warning(
                f"{key}.breaker",
                f"the breaker is off: while {deployment.model} is out, every call tries it first",
                "take breaker = false out",
            )


def _repeated_names(config: Config) -> Iterator[Finding]:
    for key, _, deployment in config.places():
        for option in ("labels", "drop"):
            names: list[str] = getattr(deployment, option)
            for name in sorted({n for n in names if names.count(n) > 1}):
                yield warning(f"{key}.{option}", f"{name!r} stands there more than once", "once is enough")
    for t, tier in enumerate(config.tiers):
        names = [deployment.name or deployment.model for deployment in tier.deployments]
        for d, name in enumerate(names):
            if name in names[:d]:
                yield warning(
                    f"tiers[{t}].deployments[{d}].name",
                    f"another deployment of {tier.name} is called {name!r}: status and traces call this one "
                    f"{name}#{names[: d + 1].count(name)}",
                    "give it a name of its own",
                )


def _providers(config: Config) -> Iterator[Finding]:
    used = config.used()
    for name in config.providers:
        if name not in used:
            yield warning(
                f"providers.{name}", "no deployment uses this provider", "name it in one, or take it out"
            )
    for name, source in used.items():
        variables = source.variables
        for variable in sorted({v for v in variables if variables.count(v) > 1}):
            yield warning(
                f"providers.{name}.api_key_env",
                f"{spoken_of(variable)} stands there more than once",
                "once is enough",
            )
        if isinstance(source, FakeTable):
            yield warning(
                f"providers.{name}", "a fake makes its answers up", "name a real provider before going live"
            )
        elif isinstance(source, LocalTable) and not _is_there(source.model_path):
            yield warning(
                f"providers.{name}.model_path",
                "there is no such file here",
                "give the path of a .gguf file, or take it out",
            )
        elif isinstance(source, OpenAITable) and variables and _in_the_clear(source.base_url):
            yield warning(
                f"providers.{name}.base_url", "the key is sent in the clear over http", "use an https address"
            )


def _is_there(path: str | None) -> bool:
    return path is None or Path(path).expanduser().is_file()


def _in_the_clear(url: str | None) -> bool:
    parts = urlsplit(url or "")
    return parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")


RULES = (_pools, _weights, _no_breaker, _repeated_names, _providers)
