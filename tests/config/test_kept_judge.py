"""A judge and what it has learned outlive changes around it."""

from __future__ import annotations

import tomllib

from tierllm.config import Config
from tierllm.config.kept import Kept
from tierllm.testing import FakeProvider

FILE = """
[[tiers]]
name = "gold"
deployments = [{{model = "g", provider = "fake"}}]
[[tiers]]
name = "bronze"
deployments = [{{model = "b", provider = "fake"}}]
[cascade]
at_least = {at_least}
[cascade.judge]
kind = "learned"
min_samples = {least}
"""


def test_another_score_is_no_reason_to_forget() -> None:
    before: Kept | None = None
    judges = []
    for at_least, least in ((0.5, 10), (0.6, 10), (0.6, 20)):
        kept = Kept(before)
        config = Config.parse(tomllib.loads(FILE.format(at_least=at_least, least=least)))
        cascade = config.arguments(providers={"fake": FakeProvider()}, kept=kept)["cascade"]
        assert cascade.at_least == at_least
        judges.append(cascade.judge)
        kept.settled()
        before = kept
    assert judges[0] is judges[1]
    assert judges[1] is not judges[2], "another judge is wanted"
