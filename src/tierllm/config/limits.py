"""The tables of rate limits: of vendors' accounts, of deployments, and of all calls."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from pydantic_core import InitErrorDetails

from ..admission.rate_limit import RateLimit
from ..routing.deployment import own_name
from .finding import Loc, did_you_mean
from .table import Count, Name, Rule, named

if TYPE_CHECKING:
    from .file import Config

__all__ = ["AccountTable", "LimitTable", "OwnLimitTable", "RatesTable", "unmatched"]


class RatesTable(Rule):
    """What a limit may say wherever it stands."""

    rpm: Count | None = None
    tpm: Count | None = None
    input_tpm: Count | None = None
    output_tpm: Count | None = None
    rpd: Count | None = None
    tpd: Count | None = None
    max_concurrency: Count | None = None
    tokens: Literal["p90", "max"] = "p90"
    pacing: bool | Count = False
    headers: bool = True
    fail: Literal["open", "closed"] = "open"
    mode: Literal["enforce", "observe"] = "enforce"


class AccountTable(RatesTable):
    """What a vendor's account allows to all deployments on it together."""

    reserve: dict[Name, float] = Field(default_factory=dict)

    def build(self, name: str | None = None) -> RateLimit:
        """``name`` is the table's, which deployments call it by."""
        given = self.given() if name is None else {"name": name, **self.given()}
        return RateLimit(**given)


class LimitTable(AccountTable):
    """A limit that holds at every deployment."""

    per: str | list[str] = "account"
    where: dict[str, str | list[str]] = Field(default_factory=dict)
    name: Name | None = None

    def build(self, name: str | None = None) -> RateLimit:
        """With a name in any case: by it the processes that run on this file share the limit."""
        limit = RateLimit(**self.given())
        return limit if limit.named else RateLimit(**{**self.given(), "name": limit.name})


class OwnLimitTable(RatesTable):
    """A limit of one deployment alone."""

    per: str | list[str] = "deployment"
    where: dict[str, str | list[str]] = Field(default_factory=dict)
    name: Name | None = None

    def build(self) -> RateLimit:
        """Its buckets are the deployment's, whoever else they are of: no other deployment draws on them."""
        return RateLimit(**{**self.given(), "per": self._per()})

    def _per(self) -> str | list[str]:
        per = [self.per] if isinstance(self.per, str) else self.per
        if per == ["account"]:
            return "deployment"
        return per if "deployment" in per else ["deployment", *per]


def unmatched(config: Config) -> Iterator[InitErrorDetails]:
    """Accounts and tiers that there are not, names that cannot be, limits that could not be told apart."""
    tiers = [tier.name for tier in config.tiers]
    for t, tier in enumerate(config.tiers):
        for d, deployment in enumerate(tier.deployments):
            account = deployment.account
            if account is not None and account not in config.accounts:
                loc: Loc = ("tiers", t, "deployments", d, "account")
                remedy = did_you_mean(account, list(config.accounts)) or "add [accounts.…] of this name"
                yield named(loc, "there is no such account", remedy)
    owned = {own_name(d.name or d.model) for _, _, d in config.places() if d.has_own}
    for name in config.accounts:
        problem = "an account's name cannot have '|' in it" if "|" in name else None
        if name in owned:
            problem = "the limits of a deployment are called so"
        if problem is not None:
            yield named(("accounts", name), problem, "call it something else, here and in its deployments")
    limits: dict[Loc, AccountTable] = {("accounts", name): table for name, table in config.accounts.items()}
    limits |= {("limits", at): table for at, table in enumerate(config.limits)}
    for loc, limit in limits.items():
        for name in limit.reserve:
            if name not in tiers:
                yield named((*loc, "reserve", name), "there is no such tier", did_you_mean(name, tiers))
    seen = {*config.accounts, *owned}
    for at, table in enumerate(config.limits):
        seen |= yield from _called_twice(("limits", at), table, seen)
    for t, tier in enumerate(config.tiers):
        for d, deployment in enumerate(tier.deployments):
            here = set(seen)
            for at, own in enumerate(deployment.limits):
                here |= yield from _called_twice(("tiers", t, "deployments", d, "limits", at), own, here)


def _called_twice(
    loc: Loc, table: LimitTable | OwnLimitTable, taken: set[str]
) -> Generator[InitErrorDetails, None, set[str]]:
    """Tells of a limit whose name is another's; gives its name."""
    name = table.build().name
    if name in taken:
        problem = f"another limit is called so ({name!r})"
        yield named((*loc, "name"), problem, "give it a name of its own")
    return {name}
