"""Shadow's settings."""

from __future__ import annotations

from typing import Any

import pytest

from tierllm.errors import ConfigError
from tierllm.routing.judges import Agreement, FormatCheck
from tierllm.routing.shadow import Shadow


def test_a_place_is_a_tier_or_a_deployment_of_one() -> None:
    assert Shadow("silver").place == ("silver", None)
    assert Shadow("silver/openai/gpt-5-mini").place == ("silver", "openai/gpt-5-mini")


def test_what_it_is_unless_told_otherwise() -> None:
    shadow = Shadow("silver", judge=FormatCheck())
    assert (shadow.share, shadow.mode, shadow.skip_tags) == (0.01, "enforce", {"confidential"})
    assert (shadow.budget.window.spec, shadow.budget.hard) == ("1d", True)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Shadow(""), "give a tier"),
        (lambda: Shadow("/x"), "give a tier"),
        (lambda: Shadow("silver", share=0), "share above 0"),
        (lambda: Shadow("silver", share=True), "share above 0"),
        (lambda: Shadow("silver", share=float("nan")), "share above 0"),
        (lambda: Shadow("silver", hard_usd=-1), "hard_usd"),
        (lambda: Shadow("silver", hard_usd=None), "hard_usd"),  # type: ignore[arg-type]
        (lambda: Shadow("silver", per="fortnight"), "per='fortnight'"),
        (lambda: Shadow("silver", judge="me"), "give a function"),  # type: ignore[arg-type]
        (lambda: Shadow("silver", judge=Agreement("gold")), "judges one answer"),  # type: ignore[arg-type]
        (lambda: Shadow("silver", learn=lambda text: None), "without a judge"),
        (lambda: Shadow("silver", judge=FormatCheck(), learn=7), "learn=7"),  # type: ignore[arg-type]
        (lambda: Shadow("silver", skip_tags="secret"), "list of tags"),
        (lambda: Shadow("silver", mode="on"), "enforce"),  # type: ignore[arg-type]
    ],
    ids=[
        *("none", "no-tier", "share", "bool", "nan", "usd", "no-usd", "per", "judge", "two"),
        *("learn", "no-function", "tags", "mode"),
    ],
)
def test_settings_that_make_no_sense(make: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make()
