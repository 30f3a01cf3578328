"""``tierllm check``."""

from __future__ import annotations

import json


def test_warnings_pass_unless_strict(tierllm, fakes):
    ran = tierllm("check")
    assert ran.code == 0
    assert "warning  tiers[1].max_concurrency\n  nothing bounds how many calls silver makes" in ran.out
    assert "  → set it to what" in ran.out
    assert ran.out.endswith("tierllm.toml: 3 warnings\n")
    assert tierllm("check", str(fakes), "--strict").code == 1


def test_errors_fail(tierllm, fakes):
    fakes.write_text(fakes.read_text().replace("model", "modell", 1))
    ran = tierllm("check", str(fakes))
    assert ran.code == 1
    assert (
        "error    tiers[0].deployments[0].modell\n  there is no such key\n  → did you mean 'model'?"
        in ran.out
    )


def test_json(tierllm, fakes):
    told = json.loads(tierllm("check", "--json").out)
    assert (told["file"], told["errors"], told["warnings"]) == ("tierllm.toml", 0, 3)
    assert set(told["findings"][0]) == {"severity", "key", "problem", "remedy"}


def test_nothing_to_say(tierllm, fakes):
    fakes.write_text(
        """
        [[tiers]]
        name = "only"
        max_concurrency = 2
        max_waiting = 9
        deployments = [{model = "a", provider = "local"}, {model = "b", provider = "local"}]
        """
    )
    ran = tierllm("check", "--strict")
    assert (ran.code, ran.out) == (0, "tierllm.toml: all is well\n")
