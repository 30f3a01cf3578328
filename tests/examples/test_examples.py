"""Each example runs by itself and tells its story."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

STORIES = {
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


def told(example: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / example)],
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
