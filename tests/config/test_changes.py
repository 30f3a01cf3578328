"""What a configuration says in one number, what differs from another, and what is made of both once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierllm import ConfigError
from tierllm.config import Config
from tierllm.config.changes import changed
from tierllm.config.kept import Kept

BASE: dict[str, Any] = {
    "client": {"deadline_s": 9},
    "providers": {"fake": {"kind": "fake"}, "other": {"kind": "fake", "seed": 2}},
    "accounts": {"one": {"rpm": 60}},
    "plans": {"free": {"max_priority": 3}, "pro": {"weight": 2.0}},
    "contracts": {"acme": {"tenants": ["acme"]}},
    "budgets": [{"hard_calls": 9, "name": "day"}],
    "limits": [{"rpm": 5, "per": "user"}],
    "rules": [{"importance": "high", "min_tier": "gold"}],
    "router": {"scorer": "rules", "balance": 0.3},
    "sessions": {"ttl_s": 60},
    "tiers": [
        {"name": "gold", "deployments": [{"model": "big", "provider": "fake", "rpm": 7, "account": "one"}]},
        {"name": "silver", "deployments": [{"model": "small", "provider": "other"}]},
    ],
}


def with_changes(**tables: Any) -> Config:
    return Config.parse({**BASE, **tables})


class TestDigest:
    def test_it_is_short_and_the_same_everywhere(self) -> None:
        config = Config.parse(BASE)
        assert len(config.digest) == 12
        assert set(config.digest) <= set("0123456789abcdef")
        assert Config.parse(BASE).digest == config.digest

    def test_it_is_known(self) -> None:
        """It stands in logs: another release must not tell the same file by another number."""
        text = '[providers.fake]\nkind = "fake"\n[[tiers]]\nname = "g"\n[[tiers.deployments]]\nmodel = "m"\n'
        assert Config.parse(tomllib.loads(text)).digest == KNOWN

    def test_layout_and_order_of_keys_do_not_matter(self, tmp_path: Path) -> None:
        path = tmp_path / "a.toml"
        path.write_text(
            '[providers.x]\nkind="fake"\nseed=1\n[[tiers]]\nname="g"\nmax_tokens=5\n[[tiers.deployments]]\nmodel="m"\n'
        )
        other = tmp_path / "b.toml"
        other.write_text(
            '# the same\n[[tiers]]\nmax_tokens = 5\nname = "g"\n\n'
            '[[tiers.deployments]]\nmodel = "m"\n[providers.x]\nseed = 1\nkind = "fake"\n'
        )
        assert Config.load(path).digest == Config.load(other).digest

    def test_what_is_said_matters_even_where_it_is_the_default(self) -> None:
        """A tier that says what is usual takes it back from what the file says for all."""
        config = with_changes(breaker={"open_s": 5})
        tiers = [{**BASE["tiers"][0], "breaker": {"open_s": 30.0}}, BASE["tiers"][1]]
        assert with_changes(breaker={"open_s": 5}, tiers=tiers).digest != config.digest

    @settings(max_examples=60)
    @given(data=st.data())
    def test_it_differs_exactly_where_the_file_does(self, data: st.DataObject) -> None:
        first, second = (
            {
                **BASE,
                "plans": {"free": {"max_priority": data.draw(st.integers(0, 3))}},
                "budgets": [{"hard_calls": data.draw(st.integers(1, 3)), "name": "day"}],
            }
            for _ in range(2)
        )
        one, two = Config.parse(first), Config.parse(second)
        assert (one.digest == two.digest) == (first == second)
        assert (changed(one, two) == ()) == (first == second)


KNOWN = "d9a180537f5d"


class TestChanged:
    @pytest.mark.parametrize(
        ("tables", "told"),
        [
            ({}, ()),
            ({"client": {"deadline_s": 8}}, ("client",)),
            ({"plans": {"free": {"max_priority": 4}, "pro": {"weight": 2.0}}}, ("plans.free",)),
            ({"plans": {"pro": {"weight": 2.0}, "new": {}}}, ("plans.free", "plans.new")),
            ({"contracts": {}}, ("contracts.acme",)),
            ({"budgets": []}, ("budgets",)),
            ({"rules": []}, ("rules",)),
            ({"sessions": {}}, ("sessions",)),
            ({"retry": False}, ("retry",)),
            ({"tiers": BASE["tiers"][::-1], "rules": []}, ("rules", "tiers")),
            ({"tiers": BASE["tiers"][:1]}, ("tiers.silver",)),
            ({"tiers": [{**BASE["tiers"][0], "max_tokens": 3}, BASE["tiers"][1]]}, ("tiers.gold",)),
            ({"providers": {**BASE["providers"], "other": {"kind": "fake"}}}, ("providers.other",)),
            ({"accounts": {"one": {"rpm": 61}}}, ("accounts.one",)),
        ],
    )
    def test_by_table(self, tables: dict[str, Any], told: tuple[str, ...]) -> None:
        assert changed(Config.parse(BASE), with_changes(**tables)) == told

    def test_the_same_words_in_another_directory_are_another_place(self, tmp_path: Path) -> None:
        text = '[store]\nkind = "disk"\ndirectory = "s"\n[providers.f]\nkind = "fake"\n'
        text += '[[tiers]]\nname = "g"\n[[tiers.deployments]]\nmodel = "m"'
        made = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "tierllm.toml").write_text(text)
            made.append(Config.load(tmp_path / name / "tierllm.toml"))
        assert changed(*made) == ("store",)


class TestKept:
    def twice(self, **tables: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        first = Kept()
        before = Config.parse(BASE).arguments(kept=first)
        second = Kept(first)
        after = with_changes(**tables).arguments(kept=second)
        return before, after

    def test_the_same_file_is_made_once(self) -> None:
        before, after = self.twice()
        for name, value in before.items():
            if isinstance(value, list):
                assert [id(each) for each in value] == [id(each) for each in after[name]], name
            else:
                assert after[name] is value or after[name] == value, name

    def test_a_tier_that_changes_is_another_and_its_neighbours_are_not(self) -> None:
        tiers = [{**BASE["tiers"][0], "max_tokens": 3}, BASE["tiers"][1]]
        before, after = self.twice(tiers=tiers)
        (gold, silver), (new_gold, new_silver) = before["tiers"], after["tiers"]
        assert new_silver is silver
        assert new_gold is not gold
        assert new_gold.deployments == gold.deployments  # which is made of the same as before

    def test_limits_go_on_where_their_deployment_changes(self) -> None:
        deployment = {**BASE["tiers"][0]["deployments"][0], "params": {"seed": 1}}
        before, after = self.twice(tiers=[{"name": "gold", "deployments": [deployment]}, BASE["tiers"][1]])
        (gold, _), (new_gold, _) = before["tiers"], after["tiers"]
        assert new_gold.deployments[0] is not gold.deployments[0]
        assert new_gold.deployments[0].limits == gold.deployments[0].limits
        assert new_gold.deployments[0].provider is gold.deployments[0].provider

    def test_a_limit_that_says_something_else_is_another(self) -> None:
        deployment = {**BASE["tiers"][0]["deployments"][0], "rpm": 8}
        before, after = self.twice(tiers=[{"name": "gold", "deployments": [deployment]}, BASE["tiers"][1]])
        own, account = after["tiers"][0].deployments[0].limits
        assert own.limits == {"rpm": 8}
        assert account is before["tiers"][0].deployments[0].limits[1]

    def test_a_scorer_outlives_its_rules(self) -> None:
        before, after = self.twice(rules=[])
        assert after["router"] is not before["router"]
        assert after["router"].scorer is before["router"].scorer

    def test_deployments_of_one_name_are_told_apart(self) -> None:
        twins = [{"model": "big", "provider": "fake", "rpm": 3}] * 2
        config = with_changes(tiers=[{"name": "gold", "deployments": twins}, BASE["tiers"][1]])
        first, second = config.arguments()["tiers"][0].deployments
        assert first is not second
        assert first.limits[0] is not second.limits[0]

    def test_what_was_made_for_nothing_is_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import tierllm.testing

        closed: list[str] = []

        class Watched(tierllm.testing.FakeProvider):
            def close(self) -> None:
                closed.append(self.name)

        monkeypatch.setattr(tierllm.testing, "FakeProvider", Watched)
        first = Kept()
        Config.parse(BASE).arguments(kept=first)
        broken = with_changes(
            providers={"fake": {"kind": "fake"}, "other": {"kind": "fake", "seed": 5}},
            prices={"file": "nowhere.json"},
            router={"scorer": "learned", "file": "nowhere.json", "balance": 0.3},
        )
        with pytest.raises(ConfigError, match="nowhere"):
            broken.arguments(kept=Kept(first))
        assert closed in ([], ["other"])  # nothing of the first one's

    def test_a_key_that_changes_is_another_provider(self, monkeypatch: pytest.MonkeyPatch) -> None:
        served = {"kind": "openai", "base_url": "http://localhost:1/v1", "api_key_env": ["A_KEY", "B_KEY"]}
        tiers = [{"name": "gold", "deployments": [{"model": "m", "provider": "eu"}]}]
        config = Config.parse({"providers": {"eu": served}, "tiers": tiers})
        monkeypatch.setenv("A_KEY", "one")
        monkeypatch.setenv("B_KEY", "two")
        first = Kept()
        before = config.arguments(kept=first)["tiers"][0].deployments
        monkeypatch.setenv("B_KEY", "three")
        second = Kept(first)
        after = config.arguments(kept=second)["tiers"][0].deployments
        assert after[0] is before[0]
        assert after[1].provider is not before[1].provider
        assert second.new_providers() == ["eu"]
        assert "three" not in repr(vars(second))
