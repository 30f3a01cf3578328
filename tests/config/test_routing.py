"""Rules, plans, contracts, difficulty, sessions, cascade, shadow, decisions and shifts from a file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from tierllm import ConfigError, Objective, Router, Rule, TieredClient
from tierllm.config import Config, Finding, check
from tierllm.routing.judges import Agreement, FormatCheck
from tierllm.routing.learned_scorer import LearnedScorer
from tierllm.routing.rule_scorer import RuleScorer
from tierllm.testing import FakeProvider

TIERS = """
[client]
deadline_s = 9
[providers.fake]
kind = "fake"
[[tiers]]
name = "gold"
purpose = "what is hard"
max_concurrency = 8
objective = {latency_p95_s = 3.0, first_token_p99_s = 2.0, availability = 0.99}
shift = {burn = 8, load = false, stages = [0.1, 0.5]}
choose = "cheapest"
min_quality = 0.4
[[tiers.deployments]]
model = "big"
quality = 0.9
purpose = "EU"
price = {input_usd_per_mtok = 1, output_usd_per_mtok = 2}
[[tiers.deployments]]
model = "big-us"
price = {input_usd_per_mtok = 1, output_usd_per_mtok = 2}
[[tiers]]
name = "silver"
max_tokens = 300
max_concurrency = 8
[[tiers.deployments]]
model = "small"
price = {input_usd_per_mtok = 1, output_usd_per_mtok = 2}
[[tiers]]
name = "bronze"
max_tokens = 100
max_concurrency = 8
[[tiers.deployments]]
model = "tiny"
price = {input_usd_per_mtok = 1, output_usd_per_mtok = 2}
"""

SERVICE = """
[plans.free]
max_tier = "silver"
rpm = 20
shifts = true
consent = [{steps = "all", since = 2026-11-01}]
[plans.pro]
min_tier = "silver"
max_priority = 5
[contracts.acme]
tenants = ["acme", "acme-eu"]
plan = "pro"
min_tier = "gold"
rpm = 600
limit_per = "user"
objective = {latency_p95_s = 3.0}
shifts = false
mode = "observe"
"""

ROUTING = """
[[rules]]
name = "urgent"
importance = "high"
plan = ["pro"]
priority = 3
tokens = [0, 4000]
hours = "mon-fri 08:00-18:00"
tz = "Europe/Berlin"
min_tier = "gold"
[[rules]]
priority = {most = 0}
load = 0.8
of = "gold"
max_tier = "silver"
balance = 0.2
[router]
scorer = {kind = "rules", base = -1.5}
weak = "bronze"
strong = "gold"
balance = 0.3
classes = [0.2, 0.7]
explore = 0.02
[sessions]
per = "user"
ttl_s = 600
return_after_s = 60
[cascade]
judge = {kind = "format", json = true, min_chars = 2}
cheap = "bronze"
at_least = 0.6
[shadow]
to = "silver/small"
share = 0.05
hard_usd = "0.50"
judge = "format"
[decisions]
path = "log/decisions.jsonl"
prompts = "hashed"
keep = 2
"""


def config_of(text: str = "", tiers: str = TIERS) -> Config:
    return Config.parse(tomllib.loads(text + tiers))


def wrong(text: str, tiers: str = TIERS) -> str:
    with pytest.raises(ConfigError) as caught:
        config_of(text, tiers)
    return str(caught.value)


class TestBuilding:
    def test_tiers(self) -> None:
        gold, silver, _ = config_of().arguments()["tiers"]
        assert (gold.purpose, gold.choose, gold.min_quality) == ("what is hard", "cheapest", 0.4)
        assert gold.objective == Objective(latency_p95_s=3.0, first_token_p99_s=2.0, availability=0.99)
        assert (gold.shift.burn, gold.shift.load, gold.shift.stages) == (8, None, (0.1, 0.5))
        assert silver.shift is False
        first, second = gold.deployments
        assert (first.quality, first.purpose, second.quality) == (0.9, "EU", None)

    def test_plans_and_contracts(self) -> None:
        made = config_of(SERVICE).arguments()
        free, pro = made["plans"]
        assert (free.name, free.max_tier, free.rpm, free.limit_per) == (
            "free",
            "silver",
            20,
            ("tenant", "user"),
        )
        assert free.consent[0].steps == "all"
        assert (pro.min_tier, pro.max_priority, pro.shifts) == ("silver", 5, True)
        (acme,) = made["contracts"]
        assert (acme.tenants, acme.plan, acme.min_tier) == (("acme", "acme-eu"), "pro", "gold")
        assert (acme.limit_per, acme.shifts, acme.mode) == (("user",), False, "observe")
        assert acme.objective == Objective(latency_p95_s=3.0)

    def test_rules_and_router(self) -> None:
        router = config_of(SERVICE + ROUTING).arguments(decisions=None)["router"]
        urgent, other = router.rules
        assert (urgent.name, urgent.importance, urgent.plan) == (
            "urgent",
            frozenset({"high"}),
            frozenset({"pro"}),
        )
        assert (urgent.priority, urgent.tokens) == ((3, None), (0, 4000))
        assert (urgent.hours, urgent.tz, urgent.min_tier) == ("mon-fri 08:00-18:00", "Europe/Berlin", "gold")
        assert (other.priority, other.load, other.of) == ((None, 0), 0.8, "gold")
        assert (other.max_tier, other.balance) == ("silver", 0.2)
        assert isinstance(router.scorer, RuleScorer)
        assert router.scorer.base == -1.5
        assert (router.weak, router.strong, router.balance) == ("bronze", "gold", 0.3)
        assert (router.classes, router.explore, router.mode) == ((0.2, 0.7), 0.02, "enforce")

    def test_rules_without_a_router_and_a_router_without_rules(self) -> None:
        router = config_of('[[rules]]\ntier = "gold"\n').arguments()["router"]
        assert len(router.rules) == 1
        assert router.scorer is None
        router = config_of('[router]\nscorer = "learned"\n').arguments()["router"]
        assert isinstance(router.scorer, LearnedScorer)
        assert "router" not in config_of().arguments()

    def test_sessions_cascade_shadow_and_decisions(self, tmp_path: Path) -> None:
        path = tmp_path / "tierllm.toml"
        path.write_text(SERVICE + ROUTING + TIERS)
        made = Config.load(path).arguments()
        assert (made["sessions"].per, made["sessions"].ttl_s) == ("user", 600)
        cascade = made["cascade"]
        assert isinstance(cascade.judge, FormatCheck)
        assert (cascade.cheap, cascade.at_least, cascade.judge.json) == ("bronze", 0.6, True)
        shadow = made["shadow"]
        assert (shadow.place, shadow.share, shadow.learn) == (("silver", "small"), 0.05, None)
        decisions = made["decisions"]
        assert Path(decisions.path) == tmp_path / "log" / "decisions.jsonl"
        assert decisions.prompts == "hashed"
        decisions.close()

    def test_a_cascade_of_two_that_agree(self) -> None:
        text = '[cascade]\njudge = {kind = "agreement", other = "silver", compare = "words"}\n'
        judge = config_of(text).arguments()["cascade"].judge
        assert isinstance(judge, Agreement)
        assert (judge.other, judge.compare) == ("silver", "words")

    def test_a_shadow_teaches_the_scorer(self) -> None:
        text = '[router]\nscorer = "learned"\n[shadow]\nto = "bronze"\njudge = "format"\nlearn = true\n'
        made = config_of(text).arguments()
        assert made["shadow"].learn == made["router"].scorer.learn

    def test_a_scorer_comes_from_its_file(self, tmp_path: Path) -> None:
        scorer = LearnedScorer(buckets=1024)
        scorer.learn("why is the sky blue", weak=0.0, strong=1.0)
        scorer.save(tmp_path / "scorer.json")
        path = tmp_path / "tierllm.toml"
        path.write_text('[router]\nscorer = "learned"\nfile = "scorer.json"\n' + TIERS)
        config = Config.load(path)
        assert config.arguments()["router"].scorer.samples == 1
        (tmp_path / "scorer.json").write_text("{")
        with pytest.raises(ConfigError, match=r"tierllm.toml: router: "):
            config.arguments()
        (tmp_path / "scorer.json").unlink()
        with pytest.raises(ConfigError, match="train-router, or leave file out"):
            config.arguments()

    def test_a_log_of_one_file(self, tmp_path: Path) -> None:
        text = f"[decisions]\npath = '{tmp_path / 'd'}'\nkeep = 0\n"
        config_of(text).arguments()["decisions"].close()
        with pytest.raises(ConfigError, match="keep"):
            config_of(text.replace("keep = 0", "keep = -1"))

    def test_attainment_by_tenant(self) -> None:
        text = TIERS.replace("deadline_s = 9", "deadline_s = 9\ntenant_attainment = true")
        assert config_of(tiers=text).arguments()["tenant_attainment"] is True

    def test_what_the_application_gives_goes_first(self) -> None:
        made = config_of(SERVICE + ROUTING).arguments(
            router=None, sessions=None, cascade=None, shadow=None, decisions=None, contracts=[]
        )
        assert all(made[name] is None for name in ("router", "sessions", "cascade", "shadow", "decisions"))
        assert made["contracts"] == []

    def test_a_client_goes_by_all_of_it(self, tmp_path: Path) -> None:
        path = tmp_path / "tierllm.toml"
        path.write_text(
            SERVICE.replace('limit_per = "user"\n', "").replace("rpm = 600\n", "") + ROUTING + TIERS
        )
        with TieredClient.from_file(path) as client:
            urgent = client.complete("hi", tenant="acme", importance="high", priority=4)
            usual = client.complete("hi", plan="free", user="u")
            assert (urgent.tier, urgent.trace and urgent.trace.contract) == ("gold", "acme")
            assert usual.tier in ("silver", "bronze")
            assert client.status()["sessions"] is not None


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (
                '[plans.free]\nmax_tier = "sliver"\n',
                "plans.free.max_tier: there is no such tier; did you mean 'silver'?",
            ),
            (
                '[plans.free]\nmin_tier = "gold"\nmax_tier = "silver"\n',
                "plans.free.min_tier: the floor is above silver, the best that a call gets: no tier is left",
            ),
            (
                '[plans.free]\n[contracts.acme]\nplan = "fre"\n',
                "contracts.acme.plan: there is no such plan; did you mean 'free'?",
            ),
            (
                '[contracts.a]\ntenants = ["x"]\n[contracts.b]\ntenants = ["y", "x"]\n',
                "contracts.b.tenants[1]: this tenant has the contract a already",
            ),
            (
                '[contracts.a]\ntenant = ["x"]\n',
                "contracts.a.tenant: there is no such key; did you mean 'tenants'?",
            ),
            (
                '[contracts.a]\ntenants = "x"\n',
                'contracts.a.tenants: should be a list; write tenants = ["acme"]',
            ),
            ('[[rules]]\ntier = "god"\n', "rules[0].tier: there is no such tier; did you mean 'gold'?"),
            ('[[rules]]\nload = 0.5\nof = "god"\ntier = "gold"\n', "rules[0].of: there is no such tier"),
            (
                '[[rules]]\nmin_tier = "gold"\nmax_tier = "bronze"\n',
                "rules[0].min_tier: the floor is above bronze",
            ),
            ("[[rules]]\nbalance = 0.5\n", "rules[0].balance: without a scorer nobody knows"),
            ("[[rules]]\nbalance = 1.5\n", "rules[0].balance: should be less than or equal to 1"),
            ('[[rules]]\ntokens = [5]\ntier = "gold"\n', "rules[0].tokens: should be [least, most]"),
            ('[[rules]]\nhours = "never"\ntier = "gold"\n', "rules[0].hours"),
            ('[[rules]]\nplans = "x"\n', "rules[0].plans: there is no such key; did you mean 'plan'?"),
            (
                '[[rules]]\nname = "a"\ntier = "gold"\n[[rules]]\nname = "a"\ntier = "gold"\n',
                "rules[1].name: another",
            ),
            ('[rules]\ntier = "gold"\n', "rules: should be a list; write [[rules]]"),
            ('[router]\nscorer = "smart"\n', "router.scorer.kind: should be one of 'rules', 'learned'"),
            ('[router]\nweak = "bronze"\n', "router.weak"),
            ('[router]\nscorer = "rules"\nfile = "x"\n', "router.file: only a learned scorer"),
            ('[router]\nscorer = "rules"\nweak = "gold"\n', "router.weak: gold is not below gold"),
            ('[router]\nscorer = "rules"\nstrong = "glod"\n', "router.strong: there is no such tier"),
            ("[sessions]\nttl_s = 0\n", "sessions.ttl_s"),
            (
                '[cascade]\njudge = "wise"\n',
                "cascade.judge.kind: should be one of 'format', 'agreement', 'learned'",
            ),
            (
                '[cascade]\njudge = {kind = "agreement", other = "bronze"}\n',
                "cascade.judge.other: that is the tier",
            ),
            ('[cascade]\njudge = {kind = "agreement", other = "gold/bg"}\n', "gold has no such deployment"),
            ('[cascade]\ncheap = "gold"\n', "cascade.cheap: gold is not below gold"),
            ('[cascade]\njudge = {kind = "format", pattern = "("}\n', "cascade.judge.pattern"),
            ('[shadow]\nto = "sliver"\n', "shadow.to: there is no such tier; did you mean 'silver'?"),
            ('[shadow]\nto = "silver"\nlearn = true\n', "shadow.learn: there is no scorer that learns"),
            ("[shadow]\nshare = 0.1\n", "shadow.to: is missing"),
            ("[decisions]\n", "decisions.path: is missing"),
            (
                '[decisions]\npath = "x"\nprompts = "all"\n',
                "decisions.prompts: should be 'none', 'hashed' or 'text'",
            ),
        ],
    )
    def test_each_names_its_key(self, text: str, told: str) -> None:
        assert told in wrong(text)

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("shift = true", "tiers[1].shift: nothing says when a deployment does badly"),
            ("shift = {burn = 1}", "tiers[1].shift.burn"),
            ("shift = 3", "tiers[1].shift"),
            ('choose = "best"', "tiers[1].choose"),
            ("min_quality = 2", "tiers[1].min_quality"),
        ],
    )
    def test_of_a_tier(self, line: str, told: str) -> None:
        assert told in wrong("", TIERS.replace("max_tokens = 300", f"max_tokens = 300\n{line}"))

    def test_a_shadow_needs_a_price(self, tmp_path: Path) -> None:
        cheap = TIERS.replace("price = {input_usd_per_mtok = 1, output_usd_per_mtok = 2}", "")
        config = config_of('[shadow]\nto = "silver"\n', cheap)
        assert [f.key for f in check(config, {}) if f.severity == "error"] == ["shadow.to"]
        with pytest.raises(ConfigError, match="no price is known for small, and its budget is in dollars"):
            config.arguments()


def findings(text: str = "", tiers: str = TIERS, environ: Mapping[str, str] | None = None) -> list[Finding]:
    own = ("rules", "router", "contracts", "plans", "cascade", "shadow", "decisions", "sessions")
    found = check(config_of(text, tiers), environ or {})
    return [
        f
        for f in found
        if f.key.startswith(own) or "shift" in f.key or "quality" in f.key or "choose" in f.key
    ]


def keys(text: str = "", tiers: str = TIERS) -> list[str]:
    return [finding.key for finding in findings(text, tiers)]


class TestFindings:
    def test_a_sound_file_has_none(self) -> None:
        text = SERVICE + ROUTING
        assert findings(text) == []

    def test_a_rule_that_nobody_comes_to(self) -> None:
        text = '[[rules]]\nname = "all"\ntier = "gold"\n[[rules]]\nuser = "u"\ntier = "silver"\n'
        (finding,) = findings(text)
        assert finding.key == "rules[1]"
        assert "rules[0] ('all') takes every call" in finding.problem

    def test_names_that_lead_nowhere(self) -> None:
        text = (
            SERVICE
            + '[[rules]]\nplan = "fre"\ntier = "bronze"\n[[rules]]\ncontract = ["acm"]\ntier = "gold"\n'
        )
        told = {f.key: f.remedy for f in findings(text)}
        assert told["rules[0].plan"] == "did you mean 'free'?"
        assert told["rules[1].contract"] == "did you mean 'acme'?"

    def test_a_rule_against_a_plan(self) -> None:
        text = (
            SERVICE
            + '[[rules]]\nplan = "free"\ntier = "gold"\n[[rules]]\ncontract = "acme"\nmax_tier = "silver"\n'
        )
        observed = [f.key for f in findings(text)]
        assert observed == ["rules[0].tier"]  # what only observes bounds nothing
        told = {f.key: f.problem for f in findings(text.replace('mode = "observe"', ""))}
        assert told == {
            "rules[0].tier": "calls on plan free do not get gold: silver is the best that they may have",
            "rules[1].max_tier": "calls on contract acme do not get silver: gold is their floor",
        }

    def test_a_contract_and_its_plan_leave_no_tier(self) -> None:
        text = '[plans.free]\nmax_tier = "silver"\n[contracts.a]\nplan = "free"\nmin_tier = "gold"\n'
        (finding,) = findings(text)
        assert finding.key == "contracts.a"
        assert "The floor wins" in finding.problem
        for table in ("[plans.free]", "[contracts.a]"):
            assert keys(text.replace(table, f'{table}\nmode = "observe"')) == []

    def test_a_rule_against_the_plan_of_its_contract(self) -> None:
        text = '[plans.free]\nmax_tier = "silver"\n[contracts.a]\nplan = "free"\n'
        (finding,) = findings(text + '[[rules]]\ncontract = "a"\ntier = "gold"\n')
        assert finding.key == "rules[0].tier"
        assert "contract a's plan do not get gold" in finding.problem
        assert keys(text + '[[rules]]\ncontract = "a"\ntier = "silver"\n') == []

    @pytest.mark.parametrize(
        ("text", "key", "sound"),
        [
            ("[[rules]]\nbudget_left = 0.2\nmax_tier = 'silver'\n", "rules[0].budget_left", "hard_calls = 9"),
            ("[[rules]]\nload = 0.8\nmax_tier = 'silver'\n", "rules[0].load", "pool"),
            ("[[rules]]\nbelow_forecast = 0.8\nof = 'gold'\n", "rules[0].below_forecast", "pool"),
            ("[[rules]]\nrequest_class = 'high'\nmin_tier = 'gold'\n", "rules[0].request_class", "scorer"),
            ("[router]\nexplore = 0.1\n", "router", "scorer"),
            ("[plans.free]\nshifts = false\n", "plans.free.shifts", "shift"),
            ("[contracts.c]\nshifts = true\n", "contracts.c.shifts", "shift"),
            ("[plans.free]\nweight = 2.0\n", "plans.free.weight", "pool"),
            ("[contracts.c]\n", "contracts.c", "counted"),
        ],
        ids=lambda value: value if isinstance(value, str) and "\n" not in value else "",
    )
    def test_what_nothing_comes_of(self, text: str, key: str, sound: str) -> None:
        bare = TIERS.replace("max_concurrency = 8\n", "").replace(
            "shift = {burn = 8, load = false, stages = [0.1, 0.5]}\n", ""
        )
        assert keys(text, bare) == [key]
        if sound == "pool":
            assert keys(text, bare.replace('name = "gold"', 'name = "gold"\nmax_concurrency = 8')) == []
        elif sound == "shift":
            assert keys(text) == []
        elif sound == "scorer":
            scored = '[router]\nscorer = "rules"\nbalance = 0.3\n'
            assert keys(scored + text.replace("[router]\n", ""), bare) == []
        elif sound == "counted":
            assert keys(text + "[[budgets]]\nhard_calls = 9\nper = 'contract'\n", bare) == []
        else:
            assert keys(f"{text}[[budgets]]\n{sound}\nper = 'user'\n", bare) == []
            assert keys(f"{text}[[budgets]]\n{sound}\nper = 'tier'\n", bare) == [key]
            assert keys(f"{text}[[budgets]]\n{sound}\nmode = 'observe'\n", bare) == [key]

    def test_attainment_by_tenant_of_nothing(self) -> None:
        client = TIERS.replace("deadline_s = 9", "deadline_s = 9\ntenant_attainment = true")
        assert "client.tenant_attainment" not in {f.key for f in check(config_of(tiers=client), {})}
        bare = client.replace(
            "objective = {latency_p95_s = 3.0, first_token_p99_s = 2.0, availability = 0.99}\n", ""
        ).replace("shift = {burn = 8, load = false, stages = [0.1, 0.5]}\n", "")
        assert "client.tenant_attainment" in {f.key for f in check(config_of(tiers=bare), {})}

    def test_a_promise_that_no_tier_makes(self) -> None:
        text = '[contracts.a]\nmin_tier = "gold"\nobjective = {latency_p95_s = 1.0, availability = 0.999}\n'
        assert keys(text) == ["contracts.a.objective.latency_p95_s", "contracts.a.objective.availability"]
        assert keys('[contracts.a]\nmin_tier = "gold"\nobjective = {latency_p95_s = 3.0}\n') == []

    def test_a_scorer_that_nobody_teaches(self) -> None:
        assert keys('[router]\nscorer = "learned"\nbalance = 0.3\n') == ["router.scorer"]
        kept = '[router]\nscorer = "learned"\nbalance = 0.3\n[decisions]\npath = "x"\n'
        assert keys(kept) == ["decisions.prompts"]
        assert keys(kept + 'prompts = "hashed"\n') == []
        assert keys('[router]\nscorer = "rules"\nbalance = 0.3\n') == []

    def test_exploring_is_off(self) -> None:
        text = '[decisions]\npath = "x"\nprompts = "hashed"\n'
        text += '[router]\nscorer = "learned"\nbalance = 0.3\nexplore = 0\n'
        assert keys(text) == ["router.explore"]
        taught = '[shadow]\nto = "bronze"\njudge = "format"\nlearn = true\n'
        assert keys(text + taught) == []

    def test_no_share_is_set(self) -> None:
        assert keys('[router]\nscorer = "rules"\n') == ["router.balance"]
        assert keys('[router]\nscorer = "rules"\n[[rules]]\nbalance = 0.2\n') == []

    def test_a_cascade_without_a_judge(self) -> None:
        assert keys("[cascade]\n") == ["cascade.judge"]

    def test_shifts_looser_than_what_is_promised(self) -> None:
        loose = TIERS.replace("burn = 8", "burn = 8, latency_s = 5.0, error_rate = 0.2")
        assert keys(tiers=loose) == ["tiers[0].shift.latency_s", "tiers[0].shift.error_rate"]
        several = TIERS.replace("burn = 8", "burn = 8, latency_s = 9.0").replace(
            "latency_p95_s = 3.0", "latency_p50_s = 1.0, latency_p99_s = 10.0"
        )
        (finding,) = findings(tiers=several)
        assert "1 s are promised (latency_p50_s)" in finding.problem
        tight = TIERS.replace("burn = 8", "burn = 8, latency_s = 2.0, error_rate = 0.02")
        assert keys(tiers=tight) == []

    def test_nowhere_to_shift_to(self) -> None:
        last = TIERS + "objective = {latency_p95_s = 3}\nshift = true\n"
        last = TIERS.replace(
            "max_tokens = 100", "max_tokens = 100\nobjective = {latency_p95_s = 3}\nshift = true"
        )
        assert keys(tiers=last) == ["tiers[2].shift"]

    def test_choices_among_one_or_by_nothing(self) -> None:
        one = TIERS.replace("max_tokens = 300", 'max_tokens = 300\nchoose = "cheapest"')
        assert keys(tiers=one) == ["tiers[1].choose"]
        idle = TIERS.replace('choose = "cheapest"\n', "")
        assert keys(tiers=idle) == ["tiers[0].min_quality"]
        unknown = TIERS.replace("quality = 0.9\n", "")
        assert keys(tiers=unknown) == ["tiers[0].min_quality"]

    def test_a_promise_that_nothing_acts_on(self) -> None:
        text = TIERS.replace("shift = {burn = 8, load = false, stages = [0.1, 0.5]}\n", "")
        text = text.replace('choose = "cheapest"\nmin_quality = 0.4\n', "").replace("deadline_s = 9", "")
        text = text.replace("latency_p95_s = 3.0", "latency_p99_s = 3.0")
        found = [f.key for f in check(config_of(tiers=text), {}) if "objective" in f.key]
        assert found == ["tiers[0].objective.latency_p99_s", "tiers[0].objective.first_token_p99_s"]

    def test_tiers_that_do_not_differ_in_what_they_answer(self) -> None:
        text = TIERS.replace('model = "tiny"', 'model = "small"').replace(
            "max_tokens = 100", "max_tokens = 300"
        )
        found = {f.key: f.problem for f in check(config_of(tiers=text), {})}
        assert "bronze is the same as silver" in found["tiers[2]"]
        said = text.replace('model = "small"', 'model = "small"\nprovider = "fake"', 1)
        assert "tiers[2]" in {f.key for f in check(config_of(tiers=said), {})}
        more = "\n[[tiers.deployments]]\nmodel = 'other'\nprice = {"
        more += "input_usd_per_mtok = 1, output_usd_per_mtok = 2}\n"
        silver, bronze = text[: text.rindex("[[tiers]]")], text[text.rindex("[[tiers]]") :]
        turned = bronze.replace("[[tiers.deployments]]", more + "[[tiers.deployments]]")
        assert "tiers[2]" in {f.key for f in check(config_of(tiers=silver + more + turned), {})}
        assert "tiers[2]" not in {f.key for f in check(config_of(tiers=silver + turned), {})}

    def test_one_layer_of_a_cache(self) -> None:
        found = {f.key: f for f in check(config_of('[[cache.layers]]\nkind = "memory"\n'), {})}
        assert "gone with the process" in found["cache.layers"].problem
        found = {f.key: f for f in check(config_of('[[cache.layers]]\nkind = "disk"\ndirectory = "x"\n'), {})}
        assert 'kind "memory"' in found["cache.layers"].remedy
        both = '[[cache.layers]]\nkind = "memory"\n[[cache.layers]]\nkind = "disk"\ndirectory = "x"\n'
        assert "cache.layers" not in {f.key for f in check(config_of(both), {})}

    def test_consents_that_are_over(self) -> None:
        text = SERVICE.replace("since = 2026-11-01", "since = 2020-11-01, until = 2021-01-01")
        assert "plans.free.consent[0].until" in keys(text)


RULED = {
    "providers": {"openai": {"kind": "openai"}},
    "tiers": [
        {"name": "gold", "deployments": [{"model": "large"}]},
        {"name": "bronze", "deployments": [{"model": "small"}]},
    ],
    "rules": [{"name": "vip", "plan": "vip", "min_tier": "gold"}],
}


class TestARouterOfOnesOwn:
    def made(self, router: Router) -> TieredClient:
        providers = {"openai": FakeProvider()}
        return TieredClient.from_config(Config.parse(RULED), providers=providers, router=router)

    def test_goes_by_the_files_rules(self) -> None:
        with self.made(Router(scorer=lambda text: 0.0, balance=0.0, explore=0.0)) as client:
            assert client.complete("Hello").tier == "bronze"
            assert client.complete("Hello", plan="vip").tier == "gold"

    def test_has_no_others_beside_them(self) -> None:
        with pytest.raises(ConfigError, match="leave the rules of one of them out"):
            self.made(Router([Rule("mine", tier="bronze")]))


@pytest.mark.parametrize(
    ("plan", "rule", "told"),
    [
        ({}, {"plan": "pro", "tier": "bronze"}, True),
        ({"max_tier": "bronze"}, {"plan": "pro", "tier": "bronze"}, False),
        ({}, {"plan": ["free", "pro"], "tier": "bronze"}, False),
        ({}, {"tier": "bronze"}, False),
    ],
    ids=["nothing says", "bounds", "its rule", "everybody's rule"],
)
def test_a_plan_without_a_tier(plan: dict[str, str], rule: dict[str, object], told: bool) -> None:
    config = Config.parse({**RULED, "rules": [rule], "plans": {"free": plan, "pro": {}}})
    assert ("plans.free" in {finding.key for finding in check(config)}) is told
