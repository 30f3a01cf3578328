"""The core of a chat service on asyncio: many users, a history each, answers streamed as they come.

    python examples/chat_async.py

It needs neither network nor key, and half a second: the provider is a fake that fails when told to.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing

from tierllm import DeadlineExceededError, Deployment, Tier, TieredClient, TierLLMError, Timeouts
from tierllm.events import CallFinished, Event, SteppedDown
from tierllm.testing import Fail, FakeProvider
from tierllm.types import Message

vendor = FakeProvider(
    latency_s=0.02,
    answer=lambda call: f"{call.model}, having read {len(call.messages)}, on {call.request.text!r}",
)
ended: Counter[str] = Counter()


# -- the service: what a web framework would call --------------------------------


class Chat:
    """One user's conversation: a history, and one question at a time."""

    def __init__(self, client: TieredClient, user: str, sla: str) -> None:
        self.client = client
        self.user = user
        self.sla = sla
        self.history: list[Message] = []
        self._turn = asyncio.Lock()

    async def ask(self, question: str, deadline_s: float) -> AsyncGenerator[str, None]:
        """The answer, piece by piece. What was heard of it goes into the history, and nothing else."""
        async with self._turn:
            messages: list[Message] = [*self.history, {"role": "user", "content": question}]
            heard = ""
            try:
                async with self.client.astream(
                    messages, sla=self.sla, user=self.user, deadline_s=deadline_s
                ) as stream:
                    async for chunk in stream:
                        heard += chunk.text
                        yield chunk.text
            finally:
                if heard:
                    self.history = [*messages, {"role": "assistant", "content": heard}]


async def serve(chat: Chat, question: str, *, words: int | None = None, deadline_s: float = 1.0) -> None:
    """One request: send each piece on, and leave with the reader, who may have had enough ``words``."""
    said: list[str] = []
    ending = ""
    try:
        async with aclosing(chat.ask(question, deadline_s)) as pieces:
            async for piece in pieces:
                said.append(piece)
                if len(said) == words:
                    ending = " ... (left)"
                    break
    except DeadlineExceededError:
        ending = "Sorry, that took too long."
    except TierLLMError as error:  # all else that can go wrong with a call
        ending = f"Sorry, please try again later. ({type(error).__name__})"
    say(f"{chat.user:<4} {question:<16} {''.join(said)}{ending}")


def watch(event: Event) -> None:
    if isinstance(event, CallFinished):
        ended[event.trace.outcome] += 1
    elif isinstance(event, SteppedDown):
        say(f"** {event.from_tier} -> {event.to_tier}: {type(event.error).__name__}")


def say(line: str) -> None:
    print(line, flush=True)


# -- the story -------------------------------------------------------------------


async def main() -> None:
    client = TieredClient(
        tiers=[
            Tier("gold", [Deployment("large", vendor)], timeouts=Timeouts(first_token_s=0.2)),
            Tier("bronze", [Deployment("small", vendor)], max_tokens=200),
        ],
        retry=False,  # in a chat, the next model now is better than the same one later
        listeners=[watch],
    )
    async with client:
        ada, bo, cy = Chat(client, "ada", "gold"), Chat(client, "bo", "gold"), Chat(client, "cy", "bronze")

        say("-- three users at once")
        await asyncio.gather(serve(ada, "Any llamas?"), serve(bo, "Opening hours?"), serve(cy, "Hello"))
        say(f"   calls under way at the same time: {vendor.peak_in_flight}")

        say("-- each has a history of their own")
        await serve(ada, "And alpacas?")

        say("-- bo leaves after three words: the call ends there, and the history has what he heard")
        await serve(bo, "A long story?", words=3)
        say(f"   calls under way: {vendor.in_flight}; kept: {bo.history[-1]['content']!r}")

        say("-- the large model is silent: the small one answers, within the same deadline")
        vendor.script("large", Fail.hang())
        await serve(ada, "Still there?", deadline_s=0.5)

        say("-- the small model is silent, too: the deadline ends it, and the question is not kept")
        vendor.script("small", Fail.hang())
        await serve(cy, "And you?", deadline_s=0.15)
        say(f"   messages in cy's history: {len(cy.history)}")

        say("-- everything is down, and comes back")
        vendor.down()
        await serve(bo, "Anybody?")
        vendor.up()
        await serve(bo, "Anybody now?")

        say(f"-- calls: {', '.join(f'{n} {outcome}' for outcome, n in sorted(ended.items()))}")
        say(f"   still under way: {client.status()['in_flight']}")


if __name__ == "__main__":
    asyncio.run(main())
