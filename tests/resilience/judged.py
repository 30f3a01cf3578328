"""Three tiers with prices, for answers that are judged, and a world in which a cascade is at work."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from client.forms import World
from tierllm import Deployment, Price, Tier
from tierllm.routing.cascade import Cascade
from tierllm.testing import FakeProvider, Reply
from tierllm.types import Request, Response, Usage

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


class Judge:
    """Good is what begins with "good"; keeps a list of what it was shown."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, request: Request, response: Response) -> float:
        self.seen.append(response.text)
        return 0.9 if response.text.startswith("good") else 0.2


class Cascaded(World):
    def __init__(
        self, judge: Any = None, *, names: Sequence[str] = ("gold", "silver", "bronze"), **more: Any
    ):
        self.judge = judge or Judge()
        fake = more.pop("fake", None) or FakeProvider(latency_s=1.0)
        rules = {
            key: more.pop(key)
            for key in ("cheap", "strong", "at_least", "mode", "max_judge_s")
            if key in more
        }
        bronze = {key: more.pop(key) for key in ("max_concurrency", "hedge") if key in more}
        cascade = Cascade(self.judge, **rules)
        more = {"retry": False, **more}
        super().__init__(tiers(fake, names, **bronze), fake=fake, cascade=cascade, **more)

    def script(self, **answers: Any) -> None:
        for model, answer in answers.items():
            items = answer if isinstance(answer, list) else [answer]
            self.fake.script(model, *(reply(each) if isinstance(each, str) else each for each in items))

    @property
    def counts(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.status()["cascade"]
        return found


def reasons(response: Response) -> list[tuple[str, str, str | None]]:
    assert response.trace is not None
    return [(c.tier, c.deployment, c.reason) for c in response.trace.candidates]
