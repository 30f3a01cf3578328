"""A client whose every movement of money is watched, in virtual time, and traffic for it.

``Bank`` audits from outside: limits after every movement, and at rest the accounts against the
rows that were announced, and those against what the provider's journal says was asked of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from random import Random
from typing import Any

from tierllm import Budget, Deployment, Price, Tier, TieredClient, Timeouts
from tierllm.cost.ledger import Entry
from tierllm.errors import BudgetExceededError, ProviderUnavailableError
from tierllm.events import BudgetOverrun, CallSettled, Event
from tierllm.pipeline.virtual import VirtualRun, VirtualTime
from tierllm.routing.ask import ask
from tierllm.stores import Hold, MemoryStore, Settlement, Verdict
from tierllm.testing import Fail, FakeProvider, Reply
from tierllm.testing.replies import Item
from tierllm.types import Call

BEGIN_S = 1_800_000_000.0
PRICE = Price(input_usd_per_mtok=1, output_usd_per_mtok=4)
PATIENCE = Timeouts(connect_s=1, first_token_s=2, between_tokens_s=2, total_s=4)

UNBILLED = {"unavailable": "ProviderUnavailableError", "limited": "RateLimitError"}
UNBILLED |= {"refused": "ProviderUnavailableError", "filtered": "ContentFilteredError"}
KINDS = ("answer", "long", "late", "hang", "cut", "stall", "malformed", "timeout", *UNBILLED)


def never_connected() -> ProviderUnavailableError:
    """What an adapter raises where no connection came about."""
    error = ProviderUnavailableError("no connection")
    error.__cause__ = ConnectionRefusedError()
    return error


class WatchedStore(MemoryStore):
    """Checks every limit after every movement, and remembers what was refused and why."""

    def __init__(self, budgets: Sequence[Budget], world: VirtualTime) -> None:
        super().__init__(clock=world.clock)
        self.world = world
        self.windows = {budget.name: budget.window for budget in budgets}
        self.held: dict[str, Hold] = {}
        self.actual: dict[str, dict[str, int]] = {}
        self.booked: Counter[str] = Counter()
        self.on: dict[str, set[str]] = {}
        self.turned_away: list[tuple[str, int, tuple[str, ...]]] = []
        self.moves = 0
        self.overspent = 0

    def reserve(self, hold: Hold) -> Verdict:
        verdict = super().reserve(hold)
        if verdict.ok:
            assert hold.id not in self.held
            self.held[hold.id] = hold
            for line in hold.lines:
                self.on.setdefault(line.account, set()).add(hold.id)
            self.check(hold)
        else:
            for line, standing in zip(hold.lines, verdict.standings, strict=True):
                if line.limit is not None and standing.settled + standing.reserved + line.amount > line.limit:
                    spare = line.limit - standing.settled - line.amount
                    if spare >= 0:  # held by others, not spent: it may have been needless
                        self.turned_away.append((line.account, spare, tuple(self.on.get(line.account, ()))))
        return verdict

    def post(self, settlement: Settlement) -> None:
        super().post(settlement)
        hold, amounts, _ = settlement
        if self.held.pop(hold.id, None) is None:
            return
        assert hold.id not in self.actual, "settled twice"
        self.actual[hold.id] = {}
        for line, amount in zip(hold.lines, amounts, strict=True):
            self.actual[hold.id][line.account] = amount
            self.booked[line.account] += amount
            self.on[line.account].discard(hold.id)
        self.check(hold)

    def check(self, hold: Hold) -> None:
        now = self.world.now
        lines = [
            line._replace(oldest=self.windows[line.account.split("|")[0]].at(now).oldest)
            for line in hold.lines
        ]
        self.moves += 1
        for line, standing in zip(lines, self.standings(lines), strict=True):
            assert standing.reserved >= 0
            assert standing.settled >= 0
            if line.limit is not None and standing.settled + standing.reserved > line.limit:
                self.overspent += 1

    def needless(self) -> int:
        """Refusals where what was held would have left room, had it been known what calls would use."""
        return sum(
            sum(self.actual[other].get(account, 0) for other in others) <= spare
            for account, spare, others in self.turned_away
        )


class Bank:
    """A client over three tiers with these budgets, and calls that go wrong in every way."""

    def __init__(
        self,
        budgets: Sequence[Budget],
        *,
        seed: int = 0,
        pool: int | None = 64,
        latency_s: tuple[float, float] = (0.1, 1.5),
        weights: dict[str, float] | None = None,
    ) -> None:
        self.time = VirtualTime(BEGIN_S)
        self.rng = Random(seed)
        self.budgets = tuple(budgets)
        self.store = WatchedStore(budgets, self.time)
        self.latency_s = latency_s
        self.weights = {"answer": 1.0} if weights is None else weights
        self.answered: list[str] = []
        self.planned: dict[str, list[str]] = {}
        self.rows: list[Entry] = []
        self.overruns = 0
        self.ends: Counter[str] = Counter()
        self.begun = 0
        self.clamped = 0
        self.fake = FakeProvider(answer=self._answer, journal_size=1_000_000)
        settings: dict[str, Any] = {} if pool is None else {"max_concurrency": pool}
        places = {name: Deployment(name, self.fake, price=PRICE) for name in ("g1", "g2", "s", "b")}
        self.client = TieredClient(
            [
                Tier("gold", [places["g1"], places["g2"]], **settings),
                Tier("silver", [places["s"]]),
                Tier("bronze", [places["b"]], max_tokens=200),
            ],
            budgets=budgets,
            store=self.store,
            ledger=False,
            clock=self.time.clock,
            rng=Random(seed),
            timeouts=PATIENCE,
            breaker=False,
            listeners=[self._heard],
        )

    def _heard(self, event: Event) -> None:
        if isinstance(event, CallSettled):
            self.rows.append(event.entry)
        elif isinstance(event, BudgetOverrun):
            self.overruns += 1

    def _answer(self, call: Call) -> Item:
        planned = self.planned.get(call.request.session or "")
        kind = planned.pop(0) if planned else self._drawn()
        self.answered.append(kind)
        rng, after_s = self.rng, self.rng.uniform(*self.latency_s)
        if kind in ("answer", "long", "late"):
            words = rng.randint(1, 60) if kind == "answer" else 5_000
            own = call.options("fake").get("max_completion_tokens")  # the vendor's word comes last
            limit = 4 * (own or call.params.get("max_tokens") or 4096)
            text = ("word " * words)[:limit]
            pieces = [text[at : at + 40] for at in range(0, len(text), 40)][:20]
            pieces[-1:] = [text[(len(pieces) - 1) * 40 :]]
            late_s = 9.0 if kind == "late" else 0.0
            return Reply(chunks=pieces, first_token_s=after_s + late_s, between_s=after_s / 10)
        made = {
            "hang": Fail.hang,
            "timeout": Fail.timeout,
            "filtered": Fail.filtered,
            "unavailable": Fail.unavailable,
        }
        if kind in made:
            return made[kind](latency_s=after_s)
        if kind == "refused":
            return Fail.error(never_connected(), latency_s=after_s)
        if kind == "limited":
            return Fail.rate_limited(latency_s=after_s)
        if kind == "malformed":
            return Fail.malformed(rng.randint(0, 2), latency_s=after_s)
        return (Fail.cut_after if kind == "cut" else Fail.stall_after)(rng.randint(1, 3), latency_s=after_s)

    def _drawn(self) -> str:
        return self.rng.choices(list(self.weights), list(self.weights.values()))[0]

    # -- traffic -----------------------------------------------------------------

    def begin(
        self,
        prompt: str = "Hello",
        *,
        streaming: bool = False,
        leaves_s: float | None = None,
        closes: bool = False,
        answers: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """Begin a call now; ``leaves_s`` later its consumer is gone."""
        time = self.time
        self.begun += 1
        if answers:
            options["session"] = f"call{self.begun}"
            self.planned[options["session"]] = list(answers)
        ready = self.client.ready(ask(prompt, options))
        ready.host.begin(ready.scope)

        def ended(run: VirtualRun) -> None:
            ready.host.end(ready.scope)
            if isinstance(run.error, BudgetExceededError):
                self.ends["BudgetExceededError"] += 1
            elif run.error is not None:
                self.ends[type(run.error).__name__] += 1
            else:
                self.ends["left" if run.result is None else "ok"] += 1
            if run.result is not None:
                self.clamped += any("was lowered" in warning for warning in run.result.warnings)

        run = time.start(ready.flow(), ready.host, scope=ready.scope, streaming=streaming, on_end=ended)
        if leaves_s is not None and not run.ended:
            time.after(leaves_s, run.close if closes else ready.scope.cancel)

    # -- audit -------------------------------------------------------------------

    def audit(self) -> None:
        """Everything at rest adds up."""
        store = self.store
        assert store.overspent == 0
        assert self.overruns == 0
        assert not store.held, "reserved money was not given back"
        assert all(account.reserved == 0 for account in store._accounts.values())
        assert sum(self.ends.values()) == self.begun
        assert not self.client._ground.host.live
        for budget in self.budgets:
            for limit in budget.limits:
                booked: Counter[str] = Counter()
                for account, amount in store.booked.items():
                    name, unit, _, bucket = account.split("|", 3)
                    if (name, unit) == (budget.name, limit.unit) and amount:
                        booked[bucket] += amount
                assert booked == self._rowed(budget, limit.unit)
        assert len({row.id for row in self.rows}) == len(self.rows)
        assert len(self.rows) == self._billed()

    def _rowed(self, budget: Budget, unit: str) -> Counter[str]:
        """What the budget's buckets should hold by the rows that were announced."""
        found: Counter[str] = Counter()
        for row in self.rows:
            if any(getattr(row, key) not in names for key, names in budget.where.items()):
                continue
            words = {"user": row.user, "tenant": row.tenant, "tier": row.tier}
            bucket = "client" if budget.per == ("client",) else ""
            if not bucket:
                told = {key: (word or "").replace(",", "\\,") for key, word in words.items()}
                bucket = ",".join(f"{key}={told[key]}" for key in budget.per)
            assert row.cost_usd is not None
            amounts = {
                "usd": int(row.cost_usd * Decimal(10**9)),
                "tokens": row.input_tokens + row.output_tokens,
                "calls": 1,
            }
            if amounts[unit]:
                found[bucket] += amounts[unit]
        return found

    def _billed(self) -> int:
        """Calls that the provider answered, or may bill, by its own journal."""
        journal = list(self.fake.journal)
        assert len(journal) == len(self.answered)
        return sum(
            not (entry.outcome == "failed" and entry.error == UNBILLED.get(kind))
            for entry, kind in zip(journal, self.answered, strict=True)
        )

    def used(self, budget: Budget) -> float:
        """The share of its dollars that a budget of one bucket has spent."""
        [left] = [each for each in self.client.remaining() if each.budget == budget.name]
        return float(left.used / left.limit)


def mixed() -> dict[str, float]:
    """Half of the answers are well."""
    return {**dict.fromkeys(KINDS, 1.0), "answer": float(len(KINDS))}


def traffic(bank: Bank, calls: int, rate: float, *, seed: int, orderly: bool = False) -> Bank:
    """``calls`` calls of 30 users of 12 tenants, of which a quarter leaves early unless ``orderly``."""
    rng = Random(seed)

    def arrive() -> None:
        options: dict[str, Any] = {"user": f"u{rng.randint(1, 30)}", "tenant": f"t{rng.randint(1, 12)}"}
        options["sla"] = rng.choice(["gold", "silver", "bronze"])
        if orderly or rng.random() < 0.7:
            options["max_tokens"] = rng.choice([50, 100, 200])
        if not orderly and rng.random() < 0.3:
            options["deadline_s"] = rng.uniform(0.1, 6)
        if not orderly and rng.random() < 0.2:
            options["max_cost_usd"] = "0.002"
        bank.begin(
            "Hello " * rng.randint(1, 40),
            streaming=rng.random() < 0.5,
            leaves_s=rng.uniform(0, 3) if not orderly and rng.random() < 0.25 else None,
            closes=rng.random() < 0.5,
            **options,
        )
        if bank.begun < calls:
            bank.time.after(rng.expovariate(rate), arrive)

    bank.time.after(0.0, arrive)
    bank.time.run()
    return bank
