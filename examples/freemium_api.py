"""An API with a free and a paid plan: what a call would cost, a warning, a refusal, and the bill.

    python examples/freemium_api.py

It needs neither network nor key, and no time: the provider is a fake, and the clock moves when told
to. ``quote``, ``ask`` and ``bill`` are what a web framework would call; each returns what it would send.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from tierllm import Budget, BudgetExceededError, Deployment, Price, Tier, TieredClient, TierLLMError
from tierllm.testing import FakeClock, FakeProvider

ZONE = "Europe/Berlin"  # where the users' days begin
PLANS = {"ada": "free", "bo": "pro"}

clock = FakeClock(datetime(2026, 11, 20, 9, 0, tzinfo=UTC).timestamp())
vendor = FakeProvider(name="openai", latency_s=0.5, answer=lambda _: "You take so and so. " * 55)
LARGE = Price(input_usd_per_mtok=5, output_usd_per_mtok=50)  # left out, the price list's would count
SMALL = Price(input_usd_per_mtok="0.6", output_usd_per_mtok=6)

client = TieredClient(
    tiers=[
        Tier("gold", [Deployment("gpt-5.2", vendor, price=LARGE)], max_tokens=600),
        Tier("silver", [Deployment("gpt-5-mini", vendor, price=SMALL)], max_tokens=600),
    ],
    budgets=[
        Budget(
            name="free plan",
            where={"plan": "free"},
            per="user",
            window="day",
            tz=ZONE,
            soft_usd="0.04",
            hard_usd="0.06",
        ),
        Budget(
            name="pro plan",
            where={"plan": "pro"},
            per="user",
            window="day",
            tz=ZONE,
            soft_usd="0.04",
            on_soft="downgrade",  # from there on the next tier answers, at a tenth of the price
            hard_usd=1,
        ),
    ],
    clock=clock,
)

# -- the API: a status and a body, as they would be sent --------------------------

Answer = tuple[int, dict[str, Any]]


def quote(user: str, question: str) -> Answer:
    """What the question would cost in each tier: about, at most, and whether so much is left."""
    estimate = client.estimate(question, sla="gold", user=user, plan=PLANS[user])
    prices = {}
    for name, tier in estimate.tiers.items():
        assert tier.cost_usd is not None  # every deployment here has a price
        prices[name] = {
            "usd": tier.cost_usd.p50,
            "at_most": tier.cost_usd.max,
            "affordable": tier.refused is None,
        }
    return 200, prices


def ask(user: str, question: str, sla: str) -> Answer:
    try:
        response = client.complete(question, sla=sla, user=user, plan=PLANS[user])
    except BudgetExceededError as error:
        return 402, {
            "error": "your plan's limit for today",
            "asked": error.asked,
            "left": error.left,
            "resets_at": error.resets_at and local(error.resets_at),
        }
    except TierLLMError as error:  # all else that can go wrong with a call
        return 503, {"error": type(error).__name__}
    return 200, {
        "text": response.text,
        "tier": response.tier,
        "usd": response.cost_usd,
        "warnings": list(response.warnings),
    }


def bill(user: str) -> Answer:
    """What was used, from the ledger, and what is left of today."""
    used = client.usage(user=user)
    (today,) = client.remaining(user=user, plan=PLANS[user])
    return 200, {"calls": used.calls, "refused": used.refused, "usd": used.cost_usd, "left": today.left}


def local(at: float) -> str:
    return datetime.fromtimestamp(at, ZoneInfo(ZONE)).isoformat()


# -- the story -------------------------------------------------------------------

QUESTION = "How do I pack for a week in the Andes, with a llama to carry it all?"


def show_quote(user: str) -> None:
    _, prices = quote(user, QUESTION)
    told = []
    for tier, price in prices.items():
        barred = "" if price["affordable"] else f" (up to ${price['at_most']:.3f}: not today)"
        told.append(f"{tier} ${price['usd']:.3f}{barred}")
    say(user, " · ".join(told))


def show_answer(user: str, sla: str) -> None:
    status, body = ask(user, QUESTION, sla)
    if status == 200:
        say(user, f"asks {sla:<6} {status} {body['tier']} ${body['usd']:.4f}")
        for warning in body["warnings"]:
            say(user, f"  warning: {warning}")
    else:
        say(user, f"asks {sla:<6} {status} {body['error']}")
        for name in ("asked", "left", "resets_at"):
            if name in body:
                say(user, f"  {name}: {body[name]}")


def show_bill(user: str) -> None:
    _, body = bill(user)
    calls = f"{body['calls']} calls, {body['refused']} refused"
    say(user, f"{calls}, ${body['usd']:.4f}; ${body['left']:.4f} left today")


def say(user: str, line: str) -> None:
    print(f"{local(clock())[:16]}  {user:<4} {line}")


def main() -> None:
    with client:
        print("-- ada, on the free plan, sees the price before she asks")
        show_quote("ada")
        show_answer("ada", "gold")

        print("-- she goes on, is warned, and then refused: gold might cost more than is left")
        for _ in range(3):
            show_answer("ada", "gold")

        print("-- what she can still afford")
        show_quote("ada")
        show_answer("ada", "silver")

        print("-- bo pays: past his soft limit, silver answers")
        for _ in range(4):
            show_answer("bo", "gold")

        print("-- a new day in Berlin")
        clock.advance(14 * 3600 + 60)
        show_answer("ada", "gold")

        print("-- the bill")
        show_bill("ada")
        show_bill("bo")
        for line in client.usage(by=("plan", "tier")):
            plan, tier = line.group.values()
            print(f"   {plan:<5}{tier:<7}{line.calls} calls  ${line.cost_usd:.4f}")


if __name__ == "__main__":
    main()
