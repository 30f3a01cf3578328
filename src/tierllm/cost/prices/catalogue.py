"""A price list that was read, and how a model is found in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ...errors import ConfigError
from ..price import Price
from .listed import Listed, Period, Vendor
from .names import Names, bedrock, dashed
from .sellers import SELLERS

__all__ = ["AGAIN", "Catalogue", "ModelInfo"]

AGAIN = "make it anew with `tierllm prices refresh`"
REMEMBERED = 4096  # names that were looked up; callers' names are few, but nothing may grow forever


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is known of a model at a vendor.

    ``price`` holds at the moment asked about; ``changes_at`` is when another may hold (seconds since
    1970; ``None``: none is announced). ``vendor`` is ``None`` where only a user's own price is known.
    """

    model: str
    vendor: str | None
    price: Price
    context_window: int | None = None
    max_output_tokens: int | None = None
    changes_at: float | None = None


class Catalogue:
    """A list that was read; each vendor's models are indexed when first asked for.

    Names and vendors are in lower case here. Raises ``ConfigError`` where the list cannot be understood,
    which for one vendor's models may be found when they are first asked for. Safe to share.
    """

    def __init__(self, raw: bytes, where: str) -> None:
        self._where = where
        try:
            document = json.loads(raw)
            if not isinstance(document, dict) or document.get("format") != 1:
                raise ValueError("it is no price list of format 1")
            self.source, self.as_of = str(document["source"]), str(document["as_of"])
            self._entries: dict[str, dict[str, Any]] = document["vendors"]
            self._called: dict[str, Names] = {
                vendor: Names(entry["called"]) for vendor, entry in self._entries.items()
            }
            self._makes = {vendor: Names(entry["makes"]) for vendor, entry in self._entries.items()}
            self._also: dict[str, list[str]] = {
                vendor: [other for other in entry["also"] if other in self._entries]
                for vendor, entry in self._entries.items()
            }
            self._length = sum(map(_priced, self._entries.values()))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
            raise self._broken(exc) from None
        self._vendors: dict[str, Vendor] = {}
        self._found: dict[tuple[str, str | None], tuple[Listed, str, bool] | None] = {}

    def __len__(self) -> int:
        return self._length

    def names(self) -> list[str]:
        vendors = [self._vendor(vendor) for vendor in self._entries]
        return [f"{vendor.name}/{each.model}" for vendor in vendors for each in vendor.models if each.priced]

    def check(self) -> None:
        """Read all of it now."""
        for vendor in self._entries:
            for listed in self._vendor(vendor).models:
                try:
                    listed.periods()
                except ValueError as exc:
                    raise self._broken(exc) from None

    def find(self, name: str, seller: str | None, at: float) -> ModelInfo | None:
        found = self._meant(name, seller)
        if found is None:
            return None
        listed, vendor, variants = found
        period, changes_at = self._period(listed, at)
        price = period.price if variants else period.bare
        if price is None:
            return None
        return ModelInfo(
            model=listed.model,
            vendor=vendor,
            price=price,
            context_window=listed.context_window,
            changes_at=changes_at,
        )

    def left_out(self, name: str, seller: str | None, at: float) -> str | None:
        found = self._meant(name, seller)
        return self._period(found[0], at)[0].left_out if found else None

    def _period(self, listed: Listed, at: float) -> tuple[Period, float | None]:
        try:
            return listed.at(at)
        except ValueError as exc:
            raise self._broken(exc) from None

    def _meant(self, name: str, seller: str | None) -> tuple[Listed, str, bool] | None:
        """The model, the vendor, and whether its service tiers hold there."""
        key = (name, seller)
        try:
            return self._found[key]
        except KeyError:
            found = self._search(name, seller)
        if len(self._found) >= REMEMBERED:
            self._found.clear()
        self._found[key] = found
        return found

    def _search(self, name: str, seller: str | None) -> tuple[Listed, str, bool] | None:
        head, slash, rest = name.partition("/")
        if seller is not None:
            known = self._known(seller)
            if known is None:
                return None
            return self._at(known, name) or (self._at(known, rest) if self._known(head) == known else None)
        if slash and head == "models":  # Gemini's own spelling
            return self._search(rest, None)
        if slash and (known := self._known(head)):  # "azure/gpt-5"
            return self._at(known, rest) or self._at(known, name)
        if bedrock(name):
            return self._at("aws", name) if "aws" in self._entries else None
        maker = next((vendor for vendor, makes in self._makes.items() if name in makes), None)
        return self._at(maker, name) if maker else None

    def _known(self, seller: str) -> str | None:
        if seller in self._entries:
            return seller
        for vendor, called in self._called.items():
            if seller in called.exact:
                return vendor
        spelled = seller.replace("_", "-").replace(" ", "-")
        meant = SELLERS.get(spelled, spelled)
        return meant if meant in self._entries else None

    def _at(self, vendor: str, name: str) -> tuple[Listed, str, bool] | None:
        for spelled in dict.fromkeys((name, dashed(name), name.removeprefix("models/"))):
            for seller in (vendor, *self._also[vendor]):
                if listed := self._vendor(seller).find(spelled):
                    # Of another's model it has the prices, but not the service tiers.
                    return (listed, vendor, seller == vendor) if listed.sure(spelled) else None
        return None

    def _vendor(self, name: str) -> Vendor:
        if name not in self._vendors:
            try:
                self._vendors[name] = Vendor(name, self._entries[name], source=self.source, as_of=self.as_of)
            except (ValueError, RecursionError) as exc:
                raise self._broken(exc) from None
        return self._vendors[name]

    def _broken(self, exc: Exception) -> ConfigError:
        return ConfigError(f"{self._where}: the prices cannot be read ({exc}); {AGAIN}")


def _priced(entry: dict[str, Any]) -> int:
    return sum(any("left_out" not in period for period in model["prices"]) for model in entry["models"])
