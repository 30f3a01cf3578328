"""Each example runs by itself and tells its story."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

from tierllm import AllTiersFailedError

EXAMPLES = Path(__file__).parents[2] / "examples"

STORIES = {
    "automation.py": [
        "-- the first day",
        "1500 pieces of work, 3",
        "gap recovered: 8",
        "instead of $2.3",
        "-- the third day",
        "30% by the large model",
        "-- 36 alerts went to large; none waited over 0.0 s",
        "-- what it has learned",
        "Find out why the ledger",
        "Plan the shifts",
        "Say to the cent",
        "-- a backlog of 400 at once",
        "60 nightly jobs wait for a calmer time",
        "nightly jobs done: 0",
        "the alert waited 1.",
        "nightly jobs done by the morning: 60",
        "-- tried by chance: ",
        "outcomes learned from: 4900",
    ],
    "chat_async.py": [
        "-- three users at once",
        "ada  Any llamas?      large, having read 1",
        "cy   Hello            small, having read 1",
        "calls under way at the same time: 3",
        "ada  And alpacas?     large, having read 3",
        "bo   A long story?    large, having read ... (left)",
        "calls under way: 0; kept: 'large, having read'",
        "** gold -> bronze: ProviderTimeoutError",
        "ada  Still there?     small, having read 5",
        "cy   And you?         Sorry, that took too long.",
        "messages in cy's history: 2",
        "bo   Anybody?         Sorry, please try again later. (AllTiersFailedError)",
        "bo   Anybody now?     large, having read 5",
        "-- calls: 1 cancelled, 2 failed, 6 ok",
        "still under way: 0",
    ],
    "chat_saas.py": [
        "-- an ordinary evening",
        "-- forty pro users ask at once; two seconds later somebody wants to pay",
        "27 wait; the payment begins in about 0.2 s",
        "it waited 0.1 s",
        "** a free call claimed priority 9 and was granted 0",
        "-- the service is mentioned on television",
        "** bronze: step 'short' is on (load",
        "20 of 20 nightly jobs wait for a calmer time",
        "** bronze: step 'shortest' is on (load",
        "-- that is over",
        "** bronze: step 'short' is off (load no higher than 0.6 for 60 s)",
        "nightly jobs done: 20",
        "-- a data centre is lost",
        "** emergency 'disaster' is declared",
        "** bronze: step 'short' is on (emergency 'disaster')",
        "** emergency 'disaster' is over",
        "** bronze: step 'short' is off (emergency 'disaster' is over)",
        "refused without being told when to come back: 0",
        "of them for the pro plan 0",
        "under way: 0",
    ],
    "enterprise_contracts.py": [
        "-- who gets what",
        "there is no such contract; did you mean 'hospital'?",
        "-- an ordinary half hour",
        "hospital  gold 1233",
        "shop      ThrottledError 317, cut short 109, silver 148",
        "** the file is rejected, everything stays as it was",
        "** the file holds now; it changed contracts.shop, rules",
        "4.6862 dollars before, 4.6862 after",
        "begun before, ended after: silver",
        "shop      gold 479",
        "under way: 0",
    ],
    "freemium_api.py": [
        "-- ada, on the free plan, sees the price before she asks",
        "ada  gold $0.030 · silver $0.004",
        "ada  asks gold   200 gold $0.0138",
        "-- she goes on, is warned, and then refused",
        "ada  asks gold   200 gold $0.0138",
        "ada    warning: budget 'free plan' (user=ada): $0.041505 used, over the soft limit of $0.04",
        "ada  asks gold   402 your plan's limit for today",
        "ada    asked: 0.03",
        "ada    left: 0.018495",
        "ada    resets_at: 2026-11-21T00:00:00+01:00",
        "ada  gold $0.014 (up to $0.030: not today) · silver $0.004",
        "ada  asks silver 200 silver $0.0017",
        "-- bo pays",
        "bo   asks gold   200 gold $0.0138",
        "bo     warning: budget 'pro plan' (user=bo)",
        "bo   asks gold   200 silver $0.0017",
        "2026-11-21T00:01  ada  asks gold   200 gold $0.0138",
        "ada  5 calls, 1 refused, $0.0570; $0.0462 left today",
        "bo   4 calls, 0 refused, $0.0432; $1.0000 left today",
        "free gold   4 calls  $0.0553",
    ],
    "knowledge_bot.py": [
        "-- each question is paid for once",
        "When do you open on Sunday?  On Sunday we open at eleven.                   calls 1, $0.0003",
        "What does shipping cost?     Shipping costs 20 dollars.                     calls 1",
        "Until when can I return it?  Bought things can be returned within 30 days.  calls 1",
        "-- ten minutes later",
        "On Sunday we open at eleven.                   calls 0, $0.0000  601 s old",
        "Shipping costs 20 dollars.                     calls 0, $0.0000  600 s old",
        "Bought things can be returned within 30 days.  calls 0, $0.0000  600 s old",
        "-- twenty at once ask something new",
        "answers 20, calls 1, paid 1: A llama is sent by train.",
        "-- shipping becomes dearer",
        "On Sunday we open at eleven.                   calls 0",
        "Shipping costs 25 dollars.                     calls 1, $0.0003  made now",
        "Bought things can be returned within 30 days.  calls 0",
        "-- two hours later the vendor is down",
        "On Sunday we open at eleven.                   calls 3, $0.0000  7802 s old stale",
        "Shipping costs 25 dollars.                     calls 0, $0.0000  7200 s old stale",
        "Bought things can be returned within 30 days.  calls 0, $0.0000  7801 s old stale",
        "-- but not where the document has changed since",
        "When do you open on Sunday?  AllTiersFailedError",
        "-- hits {'memory': 8}, of them stale 3; joined 19",
        "misses 6, hit rate 82%, saved $0.0079",
    ],
    "outage.py": [
        "-- all is well",
        "large on 'Opening hours?'  [tier gold]",
        "** breaker of gold/large: closed -> open (3 consecutive failures)",
        "small on 'Any discounts?'  [tier bronze]",
        "** breaker of bronze/small: closed -> open",
        "large on 'Opening hours?'  [stale]",
        "Please try again in a minute.  [simple_reply]",
        "Order 3 chairs     ERROR after",
        "-- breakers: gold/large open, bronze/small open; that answer took 0 calls to the vendor",
        "** breaker of gold/large: half_open -> closed (probe succeeded)",
        "large on 'Do you deliver?'  [tier gold]",
        "large on 'Order 3 chairs'  [tier gold]",
        "-- breakers: gold/large closed",
    ],
    "research_budget.py": [
        "-- at most $0.20",
        "notes: 5 of 5, missing: nothing",
        "text: write by gpt-5.2, 1083 words",
        "answers cut short: 0",
        "total        research                      7      2340      2785     0.081325",
        "-- at most $0.06",
        "notes: 5 of 5, missing: nothing",
        "text: write by gpt-5-mini, 1083 words",
        "-- at most $0.012",
        "notes: 4 of 5, missing: ['climate']",
        "text: write by gpt-5-mini",
        "answers cut short: 3",
        "-- at most $0.0005",
        "notes: 0 of 5, missing: ['fossils', 'genes', 'herders', 'textiles', 'climate']",
        "text: none, 0 words",
        "total        research                      1        11        96     0.000491",
    ],
    "shared_gateway.py": [
        "-- a quiet quarter of an hour",
        "search    435 answered, waited  0.0 s (p95), 0 refused",
        "labs      144 answered, waited  0.0 s (p95), 0 refused",
        "-- labs tries something out, with twenty times its calls",
        "labs was told: bronze: ",
        "… and to come back in ",
        "account: ",
        "-- it stops, and comes back when it was told to",
        "labs        1 answered, waited  0.0 s (p95), 0 refused",
        " calls to the vendor; the most in any minute: 1",
    ],
    "wrap_existing.py": [
        "all is well: large says hello",
        "server: large 503",
        "server: large 500",
        "server: large 200",
        "two failures, tried again: large says hello",
        "server: small 200, at most 200 tokens",
        "an outage, the next tier: small says hello",
        "the breaker is open: 3 consecutive failures",
        "server: small 200, at most 200 tokens",
        "a stream, with the breaker open: small says hello",
        "server: small 400",
        "a wrong request is nobody's outage: BadRequestError, not tried again",
    ],
}


def told(example: str, *options: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / example), *options],
        env={k: v for k, v in os.environ.items() if not k.startswith("OPENAI_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("example", STORIES)
def test_the_story_is_told_in_order(example: str) -> None:
    story = told(example)
    at = 0
    for line in STORIES[example]:
        found = story.find(line, at)
        assert found >= 0, f"{line!r} is missing from:\n{story[at:]}"
        at = found + len(line)


def test_every_example_is_tested() -> None:
    assert sorted(STORIES) == sorted(path.name for path in EXAMPLES.glob("*.py"))


def loaded(example: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example as a module, new each time."""
    spec = importlib.util.spec_from_file_location(f"example_{example}", EXAMPLES / f"{example}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_the_api_never_lets_a_plan_be_overspent(monkeypatch: pytest.MonkeyPatch) -> None:
    api = loaded("freemium_api", monkeypatch)
    answers = [api.ask("ada", api.QUESTION, sla) for sla in ("gold", "silver") * 20]

    spent = sum(body["usd"] for status, body in answers if status == 200)
    refusals = [body for status, body in answers if status == 402]
    assert refusals
    assert all(body["asked"] > body["left"] for body in refusals)
    assert Decimal("0.04") < spent <= Decimal("0.06")
    assert api.bill("ada")[1]["usd"] == spent
    assert api.bill("ada")[1]["left"] == Decimal("0.06") - spent
    assert api.bill("bo")[1]["calls"] == 0


def test_the_price_shown_holds_what_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    api = loaded("freemium_api", monkeypatch)
    charged = 0
    for sla in ("gold", "silver") * 6:
        price = api.quote("ada", api.QUESTION)[1][sla]
        status, body = api.ask("ada", api.QUESTION, sla)
        assert status == (200 if price["affordable"] else 402)
        if status == 200:
            charged += 1
            assert body["usd"] <= price["at_most"]
    assert 0 < charged < 12


def test_an_outage_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    api = loaded("freemium_api", monkeypatch)
    api.vendor.down()
    assert api.ask("ada", api.QUESTION, "gold") == (503, {"error": "AllTiersFailedError"})
    assert api.bill("ada")[1]["usd"] == 0


@pytest.mark.parametrize("hard_usd", ["0", "0.0004", "0.001", "0.003", "0.01", "0.03", "0.1"])
def test_the_agent_stays_within_its_budget(hard_usd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = loaded("research_budget", monkeypatch)

    async def main() -> tuple[int, int, Decimal]:
        async with agent.client:
            report = await agent.research("Why?", hard_usd)
        return len(report.notes), len(report.missing), Decimal(report.statement.split()[-1])

    notes, missing, spent = asyncio.run(main())
    assert spent <= Decimal(hard_usd)
    assert notes + missing == len(agent.SOURCES)


QUESTIONS = ("When do you open on Sunday?", "What does shipping cost?", "Until when can I return it?")


def test_a_document_that_changes_takes_its_own_answers_along_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bot = loaded("knowledge_bot", monkeypatch)
    bot.publish("hours", "We open at nine.")
    bot.publish("shipping", "Shipping costs 20 dollars.")
    bot.publish("returns", "Bought things can be returned within 30 days.")

    async def asked() -> tuple[list[str], int]:
        before = bot.vendor.calls
        answers = [(await bot.ask(question)).text for question in QUESTIONS]
        return answers, bot.vendor.calls - before

    async def main() -> None:
        first = ["We open at nine.", "Shipping costs 20 dollars.", bot.texts[bot.current["returns"]]]
        assert await asked() == (first, 3)
        assert await asked() == (first, 0)
        bot.publish("shipping", "Shipping costs 25 dollars.")
        second = [first[0], "Shipping costs 25 dollars.", first[2]]
        assert await asked() == (second, 1)
        bot.publish("shipping", "Shipping costs 20 dollars.")  # as it was: so is the answer
        assert await asked() == (first, 0)
        answers = await asyncio.gather(*(bot.ask("What else does shipping cost?") for _ in range(20)))
        assert len({answer.text for answer in answers}) == 1
        assert sum(answer.cost_usd > 0 for answer in answers) == 1
        await bot.client.aclose()

    asyncio.run(main())
    stats = bot.cache.stats()
    assert (sum(stats.hits.values()), stats.joined, stats.misses) == (3 + 2 + 3, 19, 3 + 1 + 1)


def test_in_an_outage_the_bot_gives_old_answers_and_says_so_but_no_outdated_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bot = loaded("knowledge_bot", monkeypatch)
    bot.publish("hours", "We open at nine.")

    async def main() -> None:
        answer = await bot.ask(QUESTIONS[0])
        assert answer.degraded == ()
        bot.vendor.down()
        assert (await bot.ask(QUESTIONS[0])).degraded == ()  # fresh: nobody has to be asked
        bot.clock.advance(7200)
        old = await bot.ask(QUESTIONS[0])
        assert (old.text, old.degraded, old.cached) == (answer.text, ("stale",), True)
        assert 7200 <= old.age_s < 7210
        bot.publish("hours", "We open at ten.")
        with pytest.raises(AllTiersFailedError):
            await bot.ask(QUESTIONS[0])
        bot.vendor.up()
        bot.clock.advance(60)
        assert (await bot.ask(QUESTIONS[0])).text == "We open at ten."
        await bot.client.aclose()

    asyncio.run(main())


def test_payments_pass_everybody_and_nobody_is_sent_away_without_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chat = loaded("chat_saas", monkeypatch)
    chat.traffic(1, payments=20, pro=600, free=1200, drafts=60, hints=60)
    chat.world.run(chat.world.now + 90)

    by_outcome = {kind: {each.outcome for each in calls} for kind, calls in chat.ended.items()}
    assert max(each.waited_s for each in chat.ended["payments"]) < 2
    assert by_outcome["payments"] == {"full"}
    assert "shorter" in by_outcome["free"]
    assert "shorter" not in by_outcome["drafts"]  # the pro plan has not agreed
    refused = [each for calls in chat.ended.values() for each in calls if each.outcome.endswith("Error")]
    assert refused
    assert all(each.told for each in refused)
    assert chat.client.status()["in_flight"] == 0


def test_a_noisy_team_is_sent_away_and_the_others_hardly_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = loaded("shared_gateway", monkeypatch)
    office = gateway.Office()
    office.minutes(10, search=30, support=20, labs=300)

    assert not office.refusals["search"]
    assert not office.refusals["support"]
    assert len(office.refusals["labs"]) > 2000
    assert all(error.retry_after_s > 0 for error in office.refusals["labs"])
    assert sum(office.waits["search"]) / len(office.waits["search"]) < 2
    moments = [entry.at_s for entry in office.vendor.journal]
    assert gateway.most_in_a_minute(moments) <= gateway.ACCOUNT_RPM
    assert gateway.most_in_a_minute(moments) > 0.8 * gateway.ACCOUNT_RPM


def test_processes_keep_one_limit_on_disk(tmp_path: Path) -> None:
    assert "together 120 of 120 a minute; refused: 180" in told("shared_gateway.py", "--disk", str(tmp_path))


def test_a_store_that_is_not_there_is_no_shared_limit() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "shared_gateway.py"), "--redis", "redis://127.0.0.1:1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "the store cannot be used, and nothing would be shared: Redis at 127.0.0.1:1" in done.stdout
    assert "three processes" not in done.stdout
