"""Neither the prompt nor a key shows up in anything that tierllm writes."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from typing import Any

import pytest

from client.forms import Form, World, every_form
from tierllm import Deployment, Retry, Tier, TieredClient
from tierllm.errors import TierLLMError
from tierllm.providers import OpenAI
from tierllm.testing import Fail

CANARY = "canary-7f3a"
PROMPT: list[dict[str, Any]] = [
    {"role": "system", "content": f"system {CANARY}"},
    {"role": "user", "content": [{"type": "text", "text": f"question {CANARY}"}]},
]

FAILS = [
    None,
    Fail.unavailable(),
    Fail.rate_limited(retry_after_s=99),
    Fail.unauthorized(),
    Fail.invalid(),
    Fail.too_long(),
    Fail.filtered(),
    Fail.malformed(),
    Fail.hang(),
    Fail.cut_after(1),
    Fail.truncated_after(1),
]


def shown(thing: Any) -> str:
    return f"{thing} {thing!r}"


def written(error: BaseException | None) -> str:
    """All that a log of this error would show, its causes included."""
    parts = []
    while error is not None:
        parts.append(shown(error))
        parts += traceback.format_exception_only(error)
        for attempt in getattr(error, "attempts", ()):
            parts.append(shown(attempt))
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


@every_form
@pytest.mark.parametrize("fail", FAILS, ids=str)
def test_the_prompt_is_written_nowhere(
    form: Form, fail: Fail | None, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(virtual=False, simple_reply=lambda request: 1 / 0, stale=lambda request: None)
    if fail is not None:
        world.fake.down(fail=fail)
    texts = []
    with caplog.at_level(logging.DEBUG):
        for _ in range(2):
            try:
                response = form(world.client, PROMPT, user="u1", session="s1")
                texts += [shown(response), shown(response.trace), json.dumps(response.trace.to_dict())]  # type: ignore[union-attr]
            except TierLLMError as error:
                texts += [written(error), json.dumps(error.trace.to_dict()), shown(error.trace)]  # type: ignore[union-attr]
    texts += [shown(event) for event in world.events]
    texts += [json.dumps(world.client.status()), shown(world.client), caplog.text]
    texts += [shown(record.args) for record in caplog.records]
    texts += [shown(entry) for entry in world.fake.journal]
    assert CANARY not in "\n".join(texts)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_the_key_is_written_nowhere(asynchronous: bool, caplog: pytest.LogCaptureFixture) -> None:
    provider = OpenAI(api_key=f"sk-{CANARY}", base_url="http://127.0.0.1:9/v1")
    client = TieredClient(
        [Tier("gold", [Deployment("gpt", provider)])],
        retry=Retry(2, base_s=0),
        listeners=[lambda e: texts.append(shown(e))],
    )
    texts: list[str] = []
    with caplog.at_level(logging.DEBUG, "tierllm"), pytest.raises(TierLLMError) as info:
        if asynchronous:
            asyncio.run(client.acomplete(PROMPT))
        else:
            client.complete(PROMPT)
    texts += [written(info.value), json.dumps(client.status()), shown(client), shown(provider), caplog.text]
    texts += [shown(tier) for tier in client.tiers]
    assert CANARY not in "\n".join(texts)
    client.close()
