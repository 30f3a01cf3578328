"""Pools, limits, plans and degradation in a file: what is read, what is built, what is doubted."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from config.conftest import Write
from tierllm import ConfigError, TieredClient
from tierllm.config import Config, check
from tierllm.errors import NotConfirmedError, RequestTooLargeError, ThrottledError
from tierllm.routing.tier import Tier
from tierllm.testing import FakeClock, FakeProvider

FULL = """
[accounts.vendor]
rpm = 500
tpm = 300_000
input_tpm = 250_000
output_tpm = 100_000
rpd = 500_000
tpd = 100_000_000
max_concurrency = 64
reserve = {gold = 0.3}
tokens = "max"
pacing = 20
headers = false
fail = "closed"
mode = "observe"

[[limits]]
per = ["tenant", "user"]
rpm = 10
where = {plan = "free", tier = ["gold", "silver"]}
name = "the free ones"

[plans.free]
max_priority = 3
weight = 0.5

[plans.team]
max_priority = 9
high_priority = 5
high_priority_quota = 100
quota_window_s = 60
mode = "observe"

[[tiers]]
name = "gold"
max_concurrency = 32

[tiers.admission]
max_waiting = 64
max_wait_s = 5
on_full = "step_down"
borrow = 0.25
age_s = 10
weights = {acme = 2, "big co" = 0.5}
hourly_usd = "2.50"
defer_at = 0.5
max_defer_s = 600
shed_at = 1.1
shed_below = 2
mode = "observe"

[tiers.admission.schedule]
tz = "Europe/Berlin"
hours = [{when = "22:00-06:00", size = 8}, {when = "sat-sun", size = 4}]

[tiers.sampling]
dwell_s = 30
max_changes_per_hour = 6
emergencies = {disaster = ["short", "cheap"]}
mode = "observe"

[[tiers.sampling.steps]]
name = "short"
at = 1.2
leave = 0.9
max_tokens = 300
temperature = 0.2
single = true
reasoning_effort = "low"

[[tiers.sampling.steps]]
name = "cheap"
at = 1.5
cheaper = true
cached = true
defer_below = 1
refuse_below = -1

[[tiers.sampling.consent]]
steps = ["short"]
since = 2026-11-01
until = 2027-01-01
plan = "free"
tenant = "acme"

[[tiers.sampling.consent]]
steps = "all"
since = "2026-12-01"

[tiers.hedge]
share = 0.02
bank = 50
quantile = 0.95
min_samples = 40
slow_share = 0.3
mode = "observe"

[[tiers.deployments]]
model = "big"
provider = "fake"
account = "vendor"
rpm = 100
tpm = 50_000
input_tpm = 40_000
output_tpm = 20_000
rpd = 10_000
max_concurrency = 16
throttle = true
limits = [
    {tpd = 1_000_000, pacing = 5, tokens = "max", mode = "observe", name = "by day"},
    {rpm = 7, per = "user", where = {plan = "free"}},
]

[tiers.deployments.adaptive]
start = 4
least = 2
most = 20
backoff = 0.8
caution = 5
mode = "observe"

[[tiers.deployments]]
model = "other"
provider = "fake"
account = "vendor"

[tiers.deployments.throttle]
k = 1.5
window_s = 60
min_calls = 20
most = 0.9
mode = "observe"

[[tiers]]
name = "silver"
max_concurrency = 32
hedge = true

[[tiers.deployments]]
model = "small"
provider = "fake"
account = "vendor"
adaptive = true
"""


def built(text: str = FULL) -> dict[str, Any]:
    return Config.parse(tomllib.loads(text)).arguments()


def tiers_of(text: str = FULL) -> list[Tier]:
    tiers: list[Tier] = built(text)["tiers"]
    return tiers


# -- what is built -------------------------------------------------------------------------


class TestBuilt:
    def test_a_pool_s_every_key(self) -> None:
        admission = tiers_of()[0].admission
        assert admission is not None
        assert (admission.max_waiting, admission.max_wait_s, admission.on_full) == (64, 5, "step_down")
        assert (admission.borrow, admission.age_s, admission.defer_at) == (0.25, 10, 0.5)
        assert admission.weights == {"acme": 2, "big co": 0.5}
        assert admission.hourly_usd == "2.50"
        assert (admission.max_defer_s, admission.shed_at, admission.shed_below) == (600, 1.1, 2)
        assert admission.mode == "observe"
        schedule = admission.schedule
        assert schedule is not None
        assert ([(each.when, each.size) for each in schedule.hours], str(schedule.zone)) == (
            [("22:00-06:00", 8), ("sat-sun", 4)],
            "Europe/Berlin",
        )

    def test_false_is_no_ageing_and_left_out_is_the_usual(self) -> None:
        gold = tiers_of(FULL.replace("age_s = 10", "age_s = false"))[0]
        assert gold.admission is not None
        assert gold.admission.age_s is None
        gold = tiers_of(FULL.replace("age_s = 10", ""))[0]
        assert gold.admission is not None
        assert gold.admission.age_s == 30

    def test_an_account_is_one_limit_for_all_deployments_on_it(self) -> None:
        gold, silver = tiers_of()
        (own, account, *_), (shared,) = gold.deployments[0].limits, silver.deployments[0].limits
        assert account is shared is gold.deployments[1].limits[0]
        assert account.limits == {
            "rpm": 500,
            "tpm": 300_000,
            "input_tpm": 250_000,
            "output_tpm": 100_000,
            "rpd": 500_000,
            "tpd": 100_000_000,
            "max_concurrency": 64,
        }
        assert (account.name, account.per, account.reserve) == ("vendor", ("account",), {"gold": 0.3})
        assert (account.tokens, account.burst, account.headers) == ("max", 20, False)
        assert (account.fail, account.mode) == ("closed", "observe")
        assert own.limits == {
            "rpm": 100,
            "tpm": 50_000,
            "input_tpm": 40_000,
            "output_tpm": 20_000,
            "rpd": 10_000,
            "max_concurrency": 16,
        }

    def test_a_deployment_s_further_limits_are_its_alone(self) -> None:
        by_day, free = tiers_of()[0].deployments[0].limits[2:]
        assert (by_day.limits, by_day.burst, by_day.tokens) == ({"tpd": 1_000_000}, 5, "max")
        assert (by_day.mode, by_day.name, by_day.per) == ("observe", "by day", ("deployment",))
        assert (free.limits, free.per, free.where) == ({"rpm": 7}, ("deployment", "user"), {"plan": {"free"}})

    def test_two_clients_of_one_file_have_accounts_of_their_own(self) -> None:
        config = Config.parse(tomllib.loads(FULL))
        first, second = config.arguments()["tiers"][1], config.arguments()["tiers"][1]
        assert first.deployments[0].limits[0] is not second.deployments[0].limits[0]

    def test_several_keys_of_an_account_share_its_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KEY_A", "a")
        monkeypatch.setenv("KEY_B", "b")
        text = """
            accounts.vendor.rpm = 5
            [providers.home]
            kind = "openai"
            base_url = "http://localhost/v1"
            api_key_env = ["KEY_A", "KEY_B"]
            [[tiers]]
            name = "gold"
            deployments = [{model = "big", account = "vendor", rpm = 3}]
        """
        first, second = tiers_of(text)[0].deployments
        assert first.limits[1] is second.limits[1]
        assert first.limits[0] is not second.limits[0]

    def test_limits_of_the_client(self) -> None:
        (limit,) = built()["limits"]
        assert (limit.per, limit.limits, limit.name) == (("tenant", "user"), {"rpm": 10}, "the free ones")
        assert limit.where == {"plan": {"free"}, "tier": {"gold", "silver"}}

    def test_every_limit_of_a_file_has_a_name_to_be_shared_by(self) -> None:
        text = FULL.replace('name = "the free ones"', "").replace('per = ["tenant", "user"]\n', "")
        (limit,) = built(text)["limits"]
        assert (limit.per, limit.named) == (("account",), True)
        assert limit.name == built(text)["limits"][0].name

    def test_from_which_amount_on_calls_are_asked_about(self) -> None:
        free = 'model = "small"\nprice = {input_usd_per_mtok = 0, output_usd_per_mtok = 0}'
        dear = free.replace("= 0,", "= 9,").replace("= 0}", "= 9e4}")
        for price, asked in ((free, False), (dear, True)):
            text = '[client]\nconfirm_over_usd = "0.05"\n' + FULL.replace('model = "small"', price)
            config = Config.parse(tomllib.loads(text))
            with TieredClient.from_config(config, confirm=lambda _: False) as client:
                if asked:
                    with pytest.raises(NotConfirmedError):
                        client.complete("hi", sla="silver")
                else:
                    assert client.complete("hi", sla="silver").tier == "silver"

    @pytest.mark.parametrize("amount", ["-1", '"a lot"', "true"])
    def test_what_is_no_amount_is_refused(self, amount: str) -> None:
        with pytest.raises(ConfigError, match=r"client\.confirm_over_usd: should be"):
            built(f"[client]\nconfirm_over_usd = {amount}\n" + FULL)

    def test_plans(self) -> None:
        free, team = built()["plans"]
        assert (free.name, free.max_priority, free.weight, free.mode) == ("free", 3, 0.5, "enforce")
        assert (team.name, team.max_priority, team.high_priority) == ("team", 9, 5)
        assert (team.high_priority_quota, team.quota_window_s, team.mode) == (100, 60, "observe")

    def test_sampling(self) -> None:
        sampling = tiers_of()[0].sampling
        assert sampling is not None
        assert (sampling.dwell_s, sampling.max_changes_per_hour, sampling.mode) == (30, 6, "observe")
        assert {name: list(steps) for name, steps in sampling.emergencies.items()} == {
            "disaster": ["short", "cheap"]
        }
        short, cheap = sampling.steps
        assert (short.name, short.at, short.leave, short.max_tokens) == ("short", 1.2, 0.9, 300)
        assert (short.temperature, short.single, short.reasoning_effort) == (0.2, True, "low")
        assert (cheap.cheaper, cheap.cached, cheap.defer_below, cheap.refuse_below) == (True, True, 1, -1)
        free, everybody = sampling.consent
        assert (free.steps, free.plan, free.tenant) == (("short",), "free", "acme")
        assert (free.since, free.until) == (date(2026, 11, 1), date(2027, 1, 1))
        assert (everybody.steps, everybody.since, everybody.until) == ("all", date(2026, 12, 1), None)

    def test_hedges_and_what_is_found_out(self) -> None:
        gold, silver = tiers_of()
        assert not isinstance(gold.hedge, bool)
        assert silver.hedge is True
        big, other = gold.deployments
        assert big.adaptive is not None
        assert other.throttle is not None
        assert big.throttle is not None
        assert (big.adaptive.start, big.adaptive.least, big.adaptive.most) == (4, 2, 20)
        assert (big.adaptive.backoff, big.adaptive.caution, big.adaptive.mode) == (0.8, 5, "observe")
        assert (other.adaptive, silver.deployments[0].throttle) == (None, None)
        assert silver.deployments[0].adaptive is not None

    def test_what_is_off_is_not_there(self) -> None:
        text = FULL.replace("adaptive = true", "adaptive = false\nthrottle = false")
        silver = tiers_of(text.replace("hedge = true", "hedge = false"))[1]
        assert silver.hedge is False
        assert (silver.deployments[0].adaptive, silver.deployments[0].throttle) == (None, None)

    def test_keywords_replace_what_the_file_says(self) -> None:
        assert Config.parse(tomllib.loads(FULL)).arguments(limits=[], plans=[])["limits"] == []


# -- and it works ---------------------------------------------------------------------------

SMALL = """
[accounts.vendor]
rpm = 2

[plans.free]
max_priority = 3

[[tiers]]
name = "gold"
fallback = false
admission = {max_wait_s = 1}
deployments = [{model = "big", provider = "fake", account = "vendor"}]

[[tiers]]
name = "silver"
admission = {max_wait_s = 1}
deployments = [{model = "small", provider = "fake", account = "vendor"}]
"""


def test_tiers_on_one_account_share_its_limit(write: Write) -> None:
    fake = FakeProvider()
    with TieredClient.from_file(write(SMALL), providers={"fake": fake}, clock=FakeClock()) as client:
        assert client.complete("one", sla="gold").tier == "gold"
        assert client.complete("two", sla="silver").tier == "silver"
        with pytest.raises(ThrottledError) as caught:
            client.complete("three", sla="gold")
    assert caught.value.retry_after_s == pytest.approx(60, abs=1)
    assert len(fake.journal) == 2


def test_plans_lower_what_is_claimed(write: Write) -> None:
    with TieredClient.from_file(write(SMALL), clock=FakeClock()) as client:
        warnings = client.complete("one", plan="free", priority=9).warnings
    assert [warning for warning in warnings if "priority 9 was lowered to 3" in warning]


def test_a_request_that_is_larger_than_a_limit_is_refused_at_once(write: Write) -> None:
    text = SMALL.replace("rpm = 2", "input_tpm = 5")
    with (
        TieredClient.from_file(write(text), clock=FakeClock()) as client,
        pytest.raises(RequestTooLargeError),
    ):
        client.complete("word " * 400, sla="gold")


# -- what is refused --------------------------------------------------------------------------

WRONG = {
    "an account": ('account = "vendor"\nrpm', 'account = "vender"\nrpm', "tiers[0].deployments[0].account"),
    "a tier's reserve": ("{gold = 0.3}", "{gould = 0.3}", "accounts.vendor.reserve.gould"),
    "too much kept": ("{gold = 0.3}", "{gold = 0.7, silver = 0.4}", "accounts.vendor.reserve"),
    "a limit of none": ("rpm = 500", "rpm = 0", "accounts.vendor.rpm"),
    "a limit of a half": ("rpm = 500", "rpm = 0.5", "accounts.vendor.rpm"),
    "no such key": ("rpm = 500", "rpn = 500", "accounts.vendor.rpn"),
    "an account per user": ("rpm = 500", 'rpm = 500\nper = "user"', "accounts.vendor.per"),
    "pacing": ("pacing = 20", 'pacing = "x"', "accounts.vendor.pacing"),
    "per": ('["tenant", "user"]', '"user-a83"', "limits[0].per"),
    "a place": ('["gold", "silver"]', '"gould"', "limits[0].where.tier"),
    "a place that there is not": (
        'tier = ["gold", "silver"]',
        'tier = "gold", model = "small"',
        "limits[0].where",
    ),
    "a name twice": ('name = "the free ones"', 'name = "vendor"', "limits[0].name"),
    "a plan's ceiling": ("max_priority = 3", 'max_priority = "3"', "plans.free.max_priority"),
    "a plan's quota": ("high_priority_quota = 100", "", "plans.team.high_priority"),
    "a plan's weight": ("weight = 0.5", "weight = 0", "plans.free.weight"),
    "a plan's name": ("[plans.free]", '[plans.free]\nname = "x"', "plans.free.name"),
    "a name that no limit may have": ("accounts.vendor]", 'accounts."ven|dor"]', "accounts.ven|dor"),
    "a deployment's limit of nothing": ("rpm = 7, ", "", "tiers[0].deployments[0].limits[1]"),
    "a deployment's limit elsewhere": (
        'where = {plan = "free"}}',
        'where = {tier = "silver"}}',
        "tiers[0].deployments[0].limits[1].where",
    ),
    "a deployment's limit called as its account": (
        'name = "by day"',
        'name = "vendor"',
        "tiers[0].deployments[0].limits[0].name",
    ),
    "a deployment's limit called as its own": (
        'name = "by day"',
        'name = "big\'s own"',
        "tiers[0].deployments[0].limits[0].name",
    ),
    "an account called as a deployment's own": (
        "accounts.vendor]",
        'accounts."big\'s own"]\nrpm = 1\n[accounts.vendor]',
        "accounts.big's own",
    ),
    "a limit called as a deployment's own": (
        'name = "the free ones"',
        'name = "big\'s own"',
        "limits[0].name",
    ),
    "a tenant's weight": ("acme = 2", "acme = 0", "tiers[0].admission.weights.acme"),
    "a percentage": ("shed_at = 1.1", "shed_at = 90", "tiers[0].admission.shed_at"),
    "a percentage of load": ("at = 1.2", "at = 120", "tiers[0].sampling.steps[0].at"),
    "hours of no size": (
        "max_concurrency = 32\n\n[tiers.admission]",
        "[tiers.admission]",
        "tiers[0].admission.schedule",
    ),
    "an emergency's name": (
        'disaster = ["short", "cheap"]',
        '"a\\nb" = ["short"]',
        "tiers[0].sampling.emergencies.a\nb",
    ),
    "an emergency of nothing": ('["short", "cheap"]', "[]", "tiers[0].sampling.emergencies.disaster"),
    "a consent to nothing": ('steps = ["short"]', "steps = []", "tiers[0].sampling.consent[0].steps"),
    "hours": ('"sat-sun"', '"mom-sun"', "tiers[0].admission.schedule.hours[1].when"),
    "a list of hours": (
        'hours = [{when = "22:00-06:00", size = 8}, {when = "sat-sun", size = 4}]',
        'hours = "22:00-06:00"',
        "tiers[0].admission.schedule.hours",
    ),
    "a size": ("size = 8", "size = 0", "tiers[0].admission.schedule.hours[0].size"),
    "a zone": ("Europe/Berlin", "Europe/Atlantis", "tiers[0].admission.schedule.tz"),
    "a share": ("borrow = 0.25", "borrow = 2", "tiers[0].admission.borrow"),
    "when full": ('on_full = "step_down"', 'on_full = "drop"', "tiers[0].admission.on_full"),
    "an hour's price": ('"2.50"', '"a lot"', "tiers[0].admission.hourly_usd"),
    "a step's name": ('name = "cheap"', 'name = "short"', "tiers[0].sampling.steps[1].name"),
    "an emergency's step": ('["short", "cheap"]', '["shrt"]', "tiers[0].sampling.emergencies.disaster"),
    "a consent's step": ('steps = ["short"]', 'steps = ["shrt"]', "tiers[0].sampling.consent[0].steps"),
    "from when": ("since = 2026-11-01\n", "", "tiers[0].sampling.consent[0].since"),
    "a day": ('since = "2026-12-01"', 'since = "soon"', "tiers[0].sampling.consent[1].since"),
    "a moment": (
        "since = 2026-11-01\n",
        "since = 2026-11-01T12:00:00\n",
        "tiers[0].sampling.consent[0].since",
    ),
    "the end first": (
        "until = 2027-01-01",
        "until = 2026-01-01",
        "tiers[0].sampling.consent[0].since",
    ),
    "at which load": ("at = 1.2", "at = -1", "tiers[0].sampling.steps[0].at"),
    "a step of nothing": (
        "cheaper = true\ncached = true\ndefer_below = 1\nrefuse_below = -1",
        "",
        "tiers[0].sampling.steps[1]",
    ),
    "a hedge": ("share = 0.02", "share = 7", "tiers[0].hedge.share"),
    "a switch": ("hedge = true", "hedge = 5", "tiers[1].hedge"),
    "where it starts": ("start = 4", "start = 400", "tiers[0].deployments[0].adaptive.start"),
    "a factor": ("k = 1.5", "k = 0", "tiers[0].deployments[1].throttle.k"),
}


@pytest.mark.parametrize("case", WRONG)
def test_each_error_names_its_key_and_repeats_no_value(case: str) -> None:
    old, new, key = WRONG[case]
    assert old in FULL
    with pytest.raises(ConfigError) as caught:
        Config.parse(tomllib.loads(FULL.replace(old, new, 1)))
    message = str(caught.value)
    assert re.search(rf"(: |\n  ){re.escape(key)}: ", message), message
    for value in ("vender", "user-a83", "mom-sun", "Atlantis", "drop", "a lot", "shrt", "soon"):
        assert value not in message
    assert not any(word in message for word in ("Input should", "Value error", "(…", "'…'"))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("size = 8", "size = 0", "a schedule closes no pool"),
        ("age_s = 10", "age_s = 0", "None (false in a file) is no ageing"),
        ("shed_at = 1.1", "shed_at = 90", "give 0.9 for 90 %"),
        ("at = 1.2", "at = 120", "give 0.9 for 90 %"),
        ("hourly_usd", "schedule_usd", "there is no such key"),
        ('"sat-sun"', '"saturday"', "'saturday' is no day; days are mon, tue, wed"),
        ('"sat-sun"', '"sat-sunday"', "'sunday' is no day; days are mon"),
        ('"sat-sun"', '"sk-0123456789abcdef"', "'…' is no day; days are mon"),
        ('"sat-sun"', '"sat 25:00-26:00"', "there is no 25:00; times are 00:00 to 24:00"),
        ('"sat-sun"', '"sat 8-10"', "these are no hours; give hours such as '22:00-06:00'"),
    ],
    ids=["size", "age", "shed", "step", "key", "day", "second day", "a key", "time", "neither"],
)
def test_an_error_says_what_to_write(old: str, new: str, words: str) -> None:
    assert old in FULL
    with pytest.raises(ConfigError, match=re.escape(words)):
        Config.parse(tomllib.loads(FULL.replace(old, new, 1)))


def test_names_that_are_nearly_right_are_guessed() -> None:
    for old, new, guess in (
        ('account = "vendor"\nrpm', 'account = "vender"\nrpm', "'vendor'"),
        ('steps = ["short"]', 'steps = ["shrt"]', "'short'"),
        ("{gold = 0.3}", "{gould = 0.3}", "'gold'"),
    ):
        with pytest.raises(ConfigError, match=f"did you mean {guess}"):
            Config.parse(tomllib.loads(FULL.replace(old, new, 1)))


# -- what is doubted ----------------------------------------------------------------------------

CALM = """
[accounts.vendor]
rpm = 500

[cache]

[store]
kind = "disk"
directory = "state"

[[tiers]]
name = "gold"
max_concurrency = 8
max_wait_s = 5

[tiers.admission]
borrow = 0.5
shed_at = 1
hourly_usd = 2

[tiers.sampling]
steps = [{name = "short", at = 1.2, max_tokens = 50, cached = true, cheaper = true}]
consent = [{steps = "all", since = 2026-11-01}]
emergencies = {disaster = ["short"]}

[[tiers.deployments]]
model = "big"
provider = "fake"
account = "vendor"
rpm = 100

[[tiers.deployments]]
model = "other"
provider = "fake"

[[tiers]]
name = "silver"
max_tokens = 100
max_concurrency = 8
max_wait_s = 5
deployments = [{model = "small", provider = "fake"}]
"""

Change = Callable[[str], str]


def swap(old: str, new: str) -> Change:
    assert old in CALM
    return lambda text: text.replace(old, new, 1)


GOLD = 'name = "gold"\nmax_concurrency = 8\nmax_wait_s = 5\n'
SILVER = "max_concurrency = 8\nmax_wait_s = 5\ndeployments"

FULL_AWAY = "shed_at = 1\n"


def unsized(text: str) -> str:
    """Gold without a bound, and without what says nothing then."""
    return text.replace(GOLD, 'name = "gold"\n').replace("borrow = 0.5\n", "").replace("hourly_usd = 2\n", "")


DOUBTS: dict[str, tuple[Change, str, str]] = {
    "an account without deployments": (
        lambda text: text + "\n[accounts.spare]\nrpm = 5\n",
        "accounts.spare",
        "no deployment uses this account",
    ),
    "kept for nobody": (
        swap("rpm = 500", "rpm = 500\nreserve = {silver = 0.2}"),
        "accounts.vendor.reserve.silver",
        "silver has no deployment on this account",
    ),
    "a day's requests": (
        swap("rpm = 500", "rpm = 500\nrpd = 720_000"),
        "accounts.vendor.rpd",
        "720000 is never reached: rpm = 500 lets 720000 a day through",
    ),
    "a day's tokens": (
        lambda text: text + "\n[[limits]]\ntpm = 10\ntpd = 20_000\n",
        "limits[0].tpd",
        "tpm = 10 lets 14400 a day through",
    ),
    "input": (
        swap("rpm = 100", "tpm = 100\ninput_tpm = 100"),
        "tiers[0].deployments[0].input_tpm",
        "tpm = 100 lets no more",
    ),
    "both kinds of tokens": (
        swap("rpm = 500", "tpm = 500\ninput_tpm = 300\noutput_tpm = 200"),
        "accounts.vendor.tpm",
        "input_tpm and output_tpm let 500 through together",
    ),
    "more than the account": (
        swap("rpm = 100", "rpm = 600"),
        "tiers[0].deployments[0].rpm",
        "600 is never reached: its account vendor has rpm = 500",
    ),
    "more at once than there is room for": (
        swap('deployments = [{model = "small"', 'deployments = [{max_concurrency = 4, model = "small"'),
        "tiers[1].max_concurrency",
        "8 is never reached: the deployments of silver take 4 calls at once",
    ),
    "said twice": (
        swap("borrow = 0.5", "borrow = 0.5\nmax_wait_s = 3"),
        "tiers[0].max_wait_s",
        "that one counts",
    ),
    "nothing to borrow": (
        swap(SILVER, "deployments"),
        "tiers[0].admission.borrow",
        "silver has no max_concurrency",
    ),
    "nobody to borrow from": (
        swap("max_tokens = 100\n", "max_tokens = 100\nadmission = {borrow = 0.2}\n"),
        "tiers[1].admission.borrow",
        "no tier below",
    ),
    "nowhere to step down to": (
        swap("max_tokens = 100\n", 'max_tokens = 100\nadmission = {on_full = "step_down"}\n'),
        "tiers[1].admission.on_full",
        "no call steps down from silver",
    ),
    "nowhere to start": (
        swap(GOLD, GOLD + "fallback = false\n"),
        "tiers[0].admission.shed_at",
        "no tier below to start at",
    ),
    "shedding at a load that is not known": (
        lambda text: unsized(text).replace('account = "vendor"\nrpm = 100\n', ""),
        "tiers[0].admission.shed_at",
        "the load of gold is not known",
    ),
    "consent": (
        swap('consent = [{steps = "all", since = 2026-11-01}]\n', ""),
        "tiers[0].sampling.steps[0]",
        "nobody has agreed to short",
    ),
    "a cache": (swap("[cache]\n", ""), "tiers[0].sampling.steps[0].cached", "there is no cache"),
    "one place alone": (
        swap('[[tiers.deployments]]\nmodel = "other"\nprovider = "fake"\n', ""),
        "tiers[0].sampling.steps[0].cheaper",
        "no cheaper one",
    ),
    "load that is not known": (
        lambda text: unsized(text).replace('account = "vendor"\nrpm = 100\n', ""),
        "tiers[0].sampling",
        "the load of gold is not known",
    ),
    "emergencies in one process": (
        swap('[store]\nkind = "disk"\ndirectory = "state"\n', ""),
        "tiers[0].sampling.emergencies",
        "and no other",
    ),
    "limits at another tier": (
        lambda text: (
            unsized(text).replace('account = "vendor"\nrpm = 100\n', "")
            + '\n[[limits]]\nrpm = 5\nwhere = {tier = "silver"}\n'
        ),
        "tiers[0].sampling",
        "the load of gold is not known",
    ),
    "a bound of the queue that nobody waits in": (
        swap(FULL_AWAY, f'{FULL_AWAY}on_full = "step_down"\n'),
        "tiers[0].max_wait_s",
        "nobody waits in line for gold",
    ),
    "an order that nobody waits in": (
        swap(FULL_AWAY, f'{FULL_AWAY}on_full = "refuse"\nage_s = 20\n'),
        "tiers[0].admission.age_s",
        'with on_full = "refuse" nobody waits',
    ),
    "shares that nobody waits for": (
        swap(FULL_AWAY, f'{FULL_AWAY}on_full = "refuse"\nweights = {{acme = 2}}\n'),
        "tiers[0].admission.weights",
        'with on_full = "refuse" nobody waits',
    ),
    "hours behind others": (
        swap(
            FULL_AWAY,
            FULL_AWAY + 'schedule = {hours = [{when = "22:00-06:00", size = 4}, '
            '{when = "fri 23:00-05:00", size = 2}]}\n',
        ),
        "tiers[0].admission.schedule.hours[1]",
        "these hours never count",
    ),
    "a consent that is over": (
        swap("since = 2026-11-01", "since = 2020-11-01, until = 2021-01-01"),
        "tiers[0].sampling.consent[0].until",
        "over since 2021-01-01",
    ),
    "a ceiling above the tier's": (
        swap(GOLD, GOLD + "max_tokens = 40\n"),
        "tiers[0].sampling.steps[0].max_tokens",
        "50 takes nothing: no call of gold has more than 40",
    ),
    "a limit for a plan that there is not": (
        lambda text: text + '\n[plans.free]\n[[limits]]\nrpm = 5\nwhere = {plan = ["free", "fre"]}\n',
        "limits[0].where.plan",
        "no [plans] table for 'fre'",
    ),
    "a consent of a plan that there is not": (
        lambda text: text.replace('"all", since', '"all", plan = "fre", since') + "\n[plans.free]\n",
        "tiers[0].sampling.consent[0].plan",
        "no [plans] table for 'fre'",
    ),
    "the window of no quota": (
        lambda text: text + "\n[plans.free]\nquota_window_s = 60\n",
        "plans.free.quota_window_s",
        "there is no quota",
    ),
    "more at once than the account allows": (
        lambda text: text.replace("rpm = 500", "max_concurrency = 6").replace(
            'model = "other"', 'model = "other"\naccount = "vendor"'
        ),
        "tiers[0].max_concurrency",
        "8 is never reached: the deployments of gold take 6 calls at once",
    ),
    "closed without a store": (
        lambda text: text.replace('[store]\nkind = "disk"\ndirectory = "state"\n', "").replace(
            "rpm = 500", 'rpm = 500\nfail = "closed"'
        ),
        "accounts.vendor.fail",
        "there is no shared store",
    ),
    "a day's tokens at a deployment": (
        swap("rpm = 100", "rpm = 100\nlimits = [{tpm = 10, tpd = 20_000}]"),
        "tiers[0].deployments[0].limits[0].tpd",
        "tpm = 10 lets 14400 a day through",
    ),
    "a hedge of one": (
        swap("max_tokens = 100\n", "max_tokens = 100\nhedge = true\n"),
        "tiers[1].hedge",
        "silver has one deployment",
    ),
    "a queue without bounds": (
        swap(SILVER, "max_concurrency = 8\ndeployments"),
        "tiers[1].max_waiting",
        "has no bound",
    ),
    "a queue for a limit": (
        lambda text: text.replace(SILVER, "deployments").replace('"small"', '"small", rpm = 5'),
        "tiers[1].max_waiting",
        "has no bound",
    ),
    "a bound for each user alone": (
        lambda text: swap(SILVER, "deployments")(text) + '\n[[limits]]\nmax_concurrency = 2\nper = "user"\n',
        "tiers[1].max_concurrency",
        "nothing bounds how many calls silver makes at once",
    ),
    "a bound for each user of a deployment": (
        swap(
            f'{SILVER} = [{{model = "small"',
            'deployments = [{limits = [{max_concurrency = 2, per = "user"}], model = "small"',
        ),
        "tiers[1].max_concurrency",
        "nothing bounds how many calls silver makes at once",
    ),
    "no bound at all": (
        swap(SILVER, "deployments"),
        "tiers[1].max_concurrency",
        "nothing bounds how many calls silver makes at once",
    ),
}


def doubts(text: str) -> list[tuple[str, str]]:
    found = check(Config.parse(tomllib.loads(text)), {}, today=date(2026, 11, 20))
    return [(each.key, each.problem) for each in found if each.key != "providers.fake"]


def test_a_file_that_fits_together_is_not_doubted() -> None:
    assert doubts(CALM) == []


@pytest.mark.parametrize("case", DOUBTS)
def test_each_doubt(case: str) -> None:
    change, key, words = DOUBTS[case]
    found = doubts(change(CALM))
    assert any(key == k and words in problem for k, problem in found), found


@pytest.mark.parametrize(
    "change",
    [
        swap(
            FULL_AWAY,
            f'{FULL_AWAY}schedule = {{hours = [{{when = "mon-fri", size = 4}}, '
            '{when = "fri-sat", size = 2}]}\n',
        ),
        swap("since = 2026-11-01", "since = 2026-11-01, until = 2026-11-20"),
        lambda text: text + '\n[[limits]]\nrpm = 5\nwhere = {plan = "fre"}\n',
        swap("rpm = 500", "max_concurrency = 6"),
        swap("rpm = 500", 'rpm = 500\nfail = "closed"'),
        swap("rpm = 100", 'rpm = 100\nlimits = [{rpm = 4, per = "user"}]'),
    ],
    ids=["partly new hours", "its last day", "no plans", "another place", "a shared store", "of a user"],
)
def test_what_makes_sense_is_not_doubted(change: Change) -> None:
    assert doubts(change(CALM)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (SILVER, "admission = {max_concurrency = 8, max_waiting = 5}\ndeployments"),
        (SILVER, 'admission = {max_concurrency = 8, on_full = "refuse"}\ndeployments'),
        (
            f'{SILVER} = [{{model = "small"',
            'max_wait_s = 5\ndeployments = [{adaptive = true, model = "small"',
        ),
    ],
    ids=["in the other table", "no queue", "bounded by what is found out"],
)
def test_other_ways_to_say_it_are_not_doubted(old: str, new: str) -> None:
    text = swap(old, new)(CALM)
    assert not [key for key, _ in doubts(text) if key.startswith("tiers[1].max")]


def test_a_store_for_limits_alone_is_no_idle_one() -> None:
    text = CALM.replace('emergencies = {disaster = ["short"]}\n', "")
    assert "store" not in [key for key, _ in doubts(text)]
    text = text.replace('account = "vendor"\nrpm = 100\n', "")
    assert "store" in [key for key, _ in doubts(text)]
