"""What service levels and routing keep where the configuration becomes another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.reloads import PRICED, Filed, tier, toml
from tierllm import ThrottledError
from tierllm.events import PriorityLowered
from tierllm.routing.decision_rows import read_decisions
from tierllm.testing import FakeClock, FakeProvider

Make = Callable[..., Filed]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Filed] = []

    def make(text: str, **overrides: Any) -> Filed:
        made.append(Filed(tmp_path / "tierllm.toml", text, **overrides))
        return made[-1]

    yield make
    for each in made:
        each.client.close()


def tiers(*more: str, gold: tuple[str, ...] = ()) -> str:
    return toml(
        tier("gold", *gold, models=("big", "big-us"), deployment=PRICED),
        tier("silver", models=("small",), deployment=PRICED),
        *more,
    )


class TestPlansAndContracts:
    def quota(self, quota: int, *more: str) -> str:
        return tiers(
            f"[plans.free]\nhigh_priority = 5\nhigh_priority_quota = {quota}\nquota_window_s = 600", *more
        )

    def test_what_was_claimed_stays_claimed(self, make: Make) -> None:
        filed = make(self.quota(2), clock=FakeClock())
        for _ in range(2):
            filed.client.complete("hi", plan="free", priority=7)
        assert not filed.heard(PriorityLowered)
        assert filed.become(self.quota(3)) == ("plans.free",)
        filed.client.complete("hi", plan="free", priority=7)
        assert not filed.heard(PriorityLowered)
        filed.client.complete("hi", plan="free", priority=7)
        assert len(filed.heard(PriorityLowered)) == 1
        filed.become(self.quota(1))
        filed.client.complete("hi", plan="free", priority=7)
        assert len(filed.heard(PriorityLowered)) == 2
        assert filed.client.status()["plans"]["free"]["calls"] == 5

    def test_limits_of_a_contract_go_on(self, make: Make) -> None:
        def promised(rpm: int, *more: str) -> str:
            return tiers(f'[contracts.acme]\ntenants = ["acme"]\nrpm = {rpm}', *more)

        filed = make(promised(2), clock=FakeClock())
        for _ in range(2):
            filed.client.complete("hi", tenant="acme", deadline_s=1)
        filed.become(promised(2, "[plans.free]\nmax_priority = 1"))
        with pytest.raises(ThrottledError):
            filed.client.complete("hi", tenant="acme", deadline_s=1)
        filed.become(promised(9))
        assert filed.client.complete("hi", tenant="acme", deadline_s=1).tier == "gold"

    def test_a_customer_is_promised_more(self, make: Make) -> None:
        filed = make(tiers('[contracts.acme]\ntenants = ["acme"]\nmax_tier = "silver"'))
        assert filed.client.complete("hi", tenant="acme").tier == "silver"
        filed.become(tiers('[contracts.acme]\ntenants = ["acme"]\nmin_tier = "gold"'))
        answer = filed.client.complete("hi", tenant="acme", sla="silver")
        assert (answer.tier, answer.trace and answer.trace.contract) == ("gold", "acme")


class TestObjectives:
    def promised(self, seconds: float, *more: str) -> str:
        return tiers(*more, gold=(f"objective = {{latency_p95_s = {seconds}}}",))

    def test_what_was_counted_counts_on(self, make: Make) -> None:
        filed = make(self.promised(4.0), clock=FakeClock())
        for _ in range(3):
            filed.client.complete("hi")
        filed.become(self.promised(4.0, "[plans.free]\nmax_priority = 1"))
        filed.client.complete("hi")
        assert filed.client.attainment("gold").calls == 4

    def test_another_promise_is_counted_anew(self, make: Make) -> None:
        filed = make(self.promised(4.0), clock=FakeClock())
        filed.client.complete("hi")
        filed.become(self.promised(5.0))
        assert filed.client.attainment("gold").calls == 0

    def shifting(self, *more: str) -> str:
        return tiers(*more, gold=("objective = {latency_p95_s = 4.0}", "shift = true"))

    @pytest.mark.parametrize(
        "more",
        [("max_tokens = 50",), ("max_tokens = 50", "shift = {burn = 9}")],
        ids=["same-rules", "other-rules"],
    )
    def test_what_was_pinned_by_hand_stays_so(self, make: Make, more: tuple[str, ...]) -> None:
        filed = make(self.shifting(), clock=FakeClock())
        filed.client.shift("gold", "big", away=True)
        assert filed.client.complete("hi").deployment == "big-us"
        settings = ("objective = {latency_p95_s = 4.0}", *more)
        if len(more) == 1:
            settings += ("shift = true",)
        filed.become(tiers(gold=settings))
        assert filed.client.complete("hi").deployment == "big-us"
        filed.client.shift("gold", "big", away=None)
        assert filed.client.complete("hi").deployment == "big"


class TestRouting:
    def test_rules_hold_at_once(self, make: Make) -> None:
        filed = make(tiers('[[rules]]\nname = "one"\nuser = "u"\ntier = "silver"'))
        assert filed.client.complete("hi", user="u").tier == "silver"
        assert filed.become(tiers('[[rules]]\nname = "two"\nuser = "u"\ntier = "gold"')) == ("rules",)
        answer = filed.client.complete("hi", user="u")
        assert (answer.tier, answer.trace and answer.trace.rule) == ("gold", "two")
        assert filed.become(tiers()) == ("rules",)
        assert filed.client.complete("hi", user="u").trace.rule is None  # type: ignore[union-attr]

    def test_sessions_stay_where_they_are(self, make: Make) -> None:
        fake = FakeProvider()
        filed = make(tiers("[sessions]"), clock=FakeClock(), providers={"fake": fake})
        fake.down("big")
        assert filed.client.complete("hi", session="s").deployment == "big-us"
        fake.up("big")
        filed.become(tiers("[sessions]", gold=("max_tokens = 50",)))
        assert filed.client.complete("hi", session="s").deployment == "big-us"
        filed.become(tiers("[sessions]\nttl_s = 7200", gold=("max_tokens = 50",)))
        assert filed.client.complete("hi", session="s").deployment == "big-us"
        assert filed.client.complete("hi", session="other").tier == "gold"

    def learned(self, *more: str) -> str:
        return tiers('[router]\nscorer = "learned"\nbalance = 0.5\nexplore = 0.5', *more)

    def test_what_was_answered_before_teaches_after(self, make: Make) -> None:
        filed = make(self.learned())
        scorer = filed.client._setup.difficulty.scorer  # type: ignore[union-attr]
        traces = [filed.client.complete(f"question {n}").trace for n in range(10)]
        filed.become(self.learned('[[rules]]\nuser = "u"\ntier = "gold"'))
        assert filed.client._setup.difficulty.scorer is scorer  # type: ignore[union-attr]
        assert sum(filed.client.feedback(trace.id, 1.0) for trace in traces if trace) == 10
        assert scorer.samples == 10  # type: ignore[attr-defined]
        filed.become(self.learned().replace("balance = 0.5", "balance = 0.4"))
        assert filed.client._setup.difficulty.scorer is scorer  # type: ignore[union-attr]
        assert not filed.client.feedback(traces[0].id, 1.0)  # type: ignore[union-attr]

    def test_another_scorer_begins_anew(self, make: Make) -> None:
        filed = make(self.learned())
        trace = filed.client.complete("why?").trace
        filed.become(tiers('[router]\nscorer = "rules"\nbalance = 0.5'))
        assert trace is not None
        assert not filed.client.feedback(trace.id, 1.0)
        assert filed.client.complete("why?").text

    def test_a_cascade_comes_changes_and_goes(self, make: Make) -> None:
        fake = FakeProvider(answer=lambda call: "no json" if call.model == "small" else '{"a": 1}')
        cascade = '[cascade]\njudge = {kind = "format", json = true}'
        filed = make(tiers(), providers={"fake": fake})
        assert filed.client.complete("hi").tier == "gold"
        filed.become(tiers(cascade))
        assert filed.client.complete("hi").tier == "gold"
        assert fake.calls == 3
        assert filed.client.status()["cascade"] is not None
        filed.become(tiers(cascade, "[plans.free]\nmax_priority = 1"))
        filed.client.complete("hi")
        assert fake.calls == 5
        filed.become(tiers("[plans.free]\nmax_priority = 1"))
        filed.client.complete("hi")
        assert fake.calls == 6
        assert filed.client.status()["cascade"] is None


class TestDecisions:
    def test_one_log_tells_of_both_configurations(self, make: Make, tmp_path: Path) -> None:
        log = '[decisions]\npath = "d.jsonl"'
        filed = make(tiers(log))
        first = filed.client.complete("hi").trace
        filed.become(tiers(log, '[[rules]]\nname = "r"\ntier = "silver"'))
        second = filed.client.complete("hi").trace
        assert first is not None
        assert second is not None
        filed.client.feedback(first.id, 0.5)
        filed.client.close()
        rows = list(read_decisions(tmp_path / "d.jsonl"))
        assert [(row.id, row.config) for row in rows] == [
            (first.id, first.config),
            (second.id, second.config),
        ]
        assert rows[0].config != rows[1].config
        assert (rows[0].quality, rows[1].rule) == (0.5, "r")

    def test_another_log_begins_where_the_first_ends(self, make: Make, tmp_path: Path) -> None:
        filed = make(tiers('[decisions]\npath = "one.jsonl"'))
        filed.client.complete("hi")
        assert filed.become(tiers('[decisions]\npath = "two.jsonl"')) == ("decisions",)
        filed.client.complete("hi")
        filed.client.close()
        for name in ("one", "two"):
            assert len(list(read_decisions(tmp_path / f"{name}.jsonl"))) == 1
