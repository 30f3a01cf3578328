"""Code that calls the openai SDK already, with service levels around it: one decorator, one parameter.

    pip install "tierllm[openai]"
    python examples/wrap_existing.py

It needs neither network nor key: the SDK talks to a small server in this file that fails on cue.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from openai import OpenAI
from openai.types.chat import ChatCompletion

from tierllm import Deployment, InvalidRequestError, Retry, Route, Tier, TieredClient, tiered

# -- the tiers: where calls may go -----------------------------------------------

client = TieredClient(
    tiers=[  # no providers: wrapped calls bring their own SDK
        Tier("gold", [Deployment("large")]),
        Tier("bronze", [Deployment("small")], max_tokens=200),
    ],
    retry=Retry(3, base_s=0.01),
)

# -- the existing code: what is new are the decorator and the route --------------


@tiered.call(sla="gold", client=client)
def answer(sdk: OpenAI, question: str, *, route: Route = Route.INJECTED) -> ChatCompletion:
    return sdk.chat.completions.create(
        model=route.model,
        max_tokens=route.max_tokens,
        timeout=route.timeout_s,
        messages=[{"role": "user", "content": question}],
    )


@tiered.call(sla="gold", client=client)
def words(sdk: OpenAI, question: str, *, route: Route = Route.INJECTED) -> Iterator[str]:
    messages: Any = [{"role": "user", "content": question}]
    for chunk in sdk.chat.completions.create(
        model=route.model,
        max_tokens=route.max_tokens,
        timeout=route.timeout_s,
        messages=messages,
        stream=True,
    ):
        yield chunk.choices[0].delta.content or ""


# -- a server that speaks chat completions, and fails on cue ---------------------


failures: dict[str, list[int]] = {"large": [], "small": []}  # status codes to come, by model


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model, coming = asked["model"], failures[asked["model"]]
        status = coming.pop(0) if coming else 200
        most = f", at most {asked['max_tokens']} tokens" if asked.get("max_tokens") else ""
        print(f"    server: {model} {status}{most}")
        if status != 200:
            self.reply(status, "application/json", json.dumps({"error": {"message": "on cue"}}))
        elif asked.get("stream"):
            deltas: list[dict[str, str]] = [{"content": word} for word in (model, " says", " hello")]
            pieces = [choice(model, delta=delta) for delta in deltas]
            pieces.append(choice(model, delta={}, finish_reason="stop"))
            events = [f"data: {json.dumps(piece)}\n\n" for piece in pieces]
            self.reply(200, "text/event-stream", "".join(events) + "data: [DONE]\n\n")
        else:
            message = {"role": "assistant", "content": f"{model} says hello"}
            answer = choice(model, message=message, finish_reason="stop")
            self.reply(200, "application/json", json.dumps(answer))

    def reply(self, status: int, kind: str, body: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Quiet."""


def choice(model: str, **content: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion.chunk" if "delta" in content else "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "finish_reason": None, **content}],
    }


# -- the story -------------------------------------------------------------------


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    with OpenAI(base_url=url, api_key="unused", max_retries=0) as sdk, server, client:
        print("all is well:", answer(sdk, "Hello?").choices[0].message.content)

        failures["large"] = [503, 500]
        print("two failures, tried again:", answer(sdk, "Hello?").choices[0].message.content)

        failures["large"] = [503] * 3
        print("an outage, the next tier:", answer(sdk, "Hello?").choices[0].message.content)
        breaker = client.status()["tiers"]["gold"]["deployments"]["large"]["breaker"]
        print(f"the breaker is {breaker['state']}: {breaker['reason']}")

        print("a stream, with the breaker open:", "".join(words(sdk, "Hello?")))
        bronze = answer.with_options(sla="bronze")
        failures["small"] = [400]
        try:
            bronze(sdk, "Hello?")
        except InvalidRequestError as error:
            print(f"a wrong request is nobody's outage: {type(error.__cause__).__name__}, not tried again")
        server.shutdown()


if __name__ == "__main__":
    main()
