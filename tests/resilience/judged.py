"""Three tiers with prices, for answers that are judged."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from tierllm import Deployment, Price, Tier
from tierllm.testing import FakeProvider, Reply
from tierllm.types import Usage

PRICES = {"gold": 10, "silver": 4, "bronze": 1}
USAGE = Usage(input_tokens=1000, output_tokens=1000)
COST = {tier: Decimal(usd * 2) / 1000 for tier, usd in PRICES.items()}


def reply(text: str, **more: Any) -> Reply:
    return Reply(text, usage=USAGE, **more)


def tiers(
    fake: FakeProvider, names: Sequence[str] = ("gold", "silver", "bronze"), **bronze: Any
) -> list[Tier]:
    """One place each, called like its tier's first letter; bronze may have a second one."""
    made = []
    for name in names:
        usd = PRICES[name]
        price = Price(input_usd_per_mtok=usd, output_usd_per_mtok=usd)
        labels = {"eu"} if name != "silver" else set()
        places = [Deployment(name[0], fake, price=price, labels=labels)]
        if name == "bronze":
            places.append(Deployment("b2", fake, price=price, labels=labels))
        made.append(Tier(name, places, **(bronze if name == "bronze" else {})))
    return made
