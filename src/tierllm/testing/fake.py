"""A provider that needs no network: deterministic answers, scripted failures, limits, a journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from threading import RLock
from typing import TYPE_CHECKING

from ..errors import ConfigError, ProviderError, ProviderUnavailableError, RateLimitError
from ..providers.base import PlayedProvider
from ..types import Chunk, Response, text_of
from .answers import CHARS_PER_TOKEN, answer_to, tokens_in, usage_of
from .journal import Journal, JournalEntry, Outcome
from .latency import AT_ONCE, LatencySetting, Pace, pace_from
from .layout import failed_steps, streamed_steps, whole_steps
from .limits import Limit, Limits
from .replies import Fail, Item, Reply
from .script import Script, Scripts

if TYPE_CHECKING:
    from ..pipeline.provider import Steps
    from ..pipeline.scope import Invocation
    from ..types import Call

__all__ = ["FakeProvider"]

_ROUNDING_S = 1e-6


class FakeProvider(PlayedProvider):
    """Any number of models that answer without a network, the same in each run.

    A call that nothing is scripted for gets eight words chosen by its model and its last message;
    ``answer`` replaces them by a function of the call, giving text, a ``Reply`` or a ``Fail``.
    Text is cut at ``max_tokens``; four characters count as a token.

    ``latency_s`` is the time an answer takes: seconds, ``(low, high)``, or a ``Latency``; or a
    mapping of these by model, ``"*"`` for all others. Times are drawn from ``seed``, in the order
    of the calls. ``rpm`` and ``tpm`` (numbers, or mappings by model) refuse what exceeds them in a
    sliding minute; a request counts its input tokens and its ``max_tokens``. ``strict=True``: a
    call for which nothing is scripted raises ``ScriptExhausted``.

    ``journal`` holds the last ``journal_size`` calls received. ``calls``, ``in_flight`` and
    ``peak_in_flight`` count; read them only. Thread-safe, and at home in every driver.
    """

    def __init__(
        self,
        *,
        latency_s: LatencySetting | Mapping[str, LatencySetting] = 0.0,
        seed: int = 0,
        rpm: Limit = None,
        tpm: Limit = None,
        answer: Callable[[Call], Item] | None = None,
        strict: bool = False,
        journal_size: int = 10_000,
        name: str = "fake",
    ) -> None:
        if isinstance(journal_size, bool) or not isinstance(journal_size, int) or journal_size < 1:
            raise ConfigError(f"FakeProvider(journal_size={journal_size!r}): give a whole number, 1 or more")
        if answer is not None and not callable(answer):
            raise ConfigError(f"FakeProvider(answer={answer!r}): give a function of the call")
        self.name = name
        self.origin = f"seed={seed}"
        self.journal = Journal(journal_size)
        self.calls = 0
        self.in_flight = 0
        self.peak_in_flight = 0
        self._pace = pace_from(latency_s)
        self._seed = seed
        self._rng = Random(seed)
        self._limits = None if rpm is None and tpm is None else Limits(rpm, tpm)
        self._answer = answer
        self._scripts = Scripts(strict)
        self._lock = RLock()  # reentrant: a script's ``when`` may look at this provider

    # -- what to do ------------------------------------------------------------

    def script(
        self,
        model: str,
        *items: Item,
        repeat: int = 1,
        forever: bool = False,
        strict: bool | None = None,
        when: Callable[[Call], bool] | None = None,
    ) -> None:
        """Let the next calls to ``model`` meet ``items``, one each; then it answers normally again.

        ``model="*"`` is for calls to any model that have no script of their own. A further script
        for a model queues up behind the first. ``repeat`` and ``forever`` begin the items again,
        ``when`` leaves calls alone that it does not accept, and ``strict`` makes a call after the
        last item raise ``ScriptExhausted`` (left out: as the provider has it).
        """
        strict = self._scripts.strict if strict is None else strict
        script = Script(items, repeat=repeat, forever=forever, strict=strict, when=when)
        with self._lock:
            self._scripts.add(model, script)

    def down(self, model: str = "*", fail: Fail | None = None) -> None:
        """From now on every call to ``model`` fails, 503 unless ``fail`` says otherwise; scripts wait."""
        with self._lock:
            self._scripts.down(model, fail or Fail.unavailable())

    def up(self, model: str = "*") -> None:
        """End the outage of ``model``, even where all are down; ``"*"`` ends every outage."""
        with self._lock:
            self._scripts.up(model)

    def assert_scripts_used(self) -> None:
        """Every scripted item met a call, and of each script with ``forever`` at least one did.

        Raises ``AssertionError`` with what is left: a mistyped model, say, or a retry that never came.
        """
        with self._lock:
            left = self._scripts.left()
            models = sorted({entry.model for entry in self.journal})
        if left:
            raise AssertionError("\n  ".join([f"scripted and never met (calls went to {models}):", *left]))

    def reset(self) -> None:
        """As new: no scripts, outages, journal or counts, limits unused, the seed from its start."""
        with self._lock:
            self._scripts.clear()
            self.journal.clear()
            self.calls = 0
            self.peak_in_flight = self.in_flight
            self._rng = Random(self._seed)
            if self._limits is not None:
                self._limits.clear()

    def renew(self) -> None:
        self._lock = RLock()

    # -- answering -------------------------------------------------------------

    def play(self, call: Call, scope: Invocation) -> Steps:
        entry, item, pace = self._receive(call, scope)
        waiting = finished = False
        try:
            for step in self._steps(call, scope, item, pace):
                waiting = isinstance(step, float)
                if not isinstance(step, float):
                    finished = step.finish_reason is not None
                    if scope.streaming and not finished:
                        entry.chunks += 1
                yield step
        except GeneratorExit:  # who waited for a step left: of his own accord, or because it took too long
            if finished:
                self._end(entry, scope, "ok")
            elif waiting and _is_late(scope):
                self._end(entry, scope, "failed", scope.timed_out())
            else:
                self._end(entry, scope, "cancelled")
            raise
        except Exception as error:
            self._end(entry, scope, "failed", error)
            raise
        except BaseException:  # a cancellation thrown in
            self._end(entry, scope, "cancelled")
            raise
        if finished:
            self._end(entry, scope, "ok")
        else:  # what the caller makes of an answer without an end
            self._end(entry, scope, "failed", ProviderUnavailableError())

    def complete(self, call: Call, scope: Invocation) -> Response:
        return self._at_once(call, scope) or super().complete(call, scope)

    async def acomplete(self, call: Call, scope: Invocation) -> Response:
        return self._at_once(call, scope) or await super().acomplete(call, scope)

    def _at_once(self, call: Call, scope: Invocation) -> Response | None:
        """The whole answer where nothing is set that could delay or change it: twice as fast as ``play``."""
        if self._pace is not None or self._answer is not None or self._limits is not None:
            return None
        text, finish_reason = _cut(call, _own_words(call))
        usage = usage_of(call.messages, text)
        with self._lock:
            if not self._scripts.idle:
                return None
            entry, _, _ = self._receive(call, scope)
        self._end(entry, scope, "ok")
        return Response(
            text=text,
            finish_reason=finish_reason,
            usage=usage,
            model=entry.model,
            request_id=entry.request_id,
        )

    def _receive(self, call: Call, scope: Invocation) -> tuple[JournalEntry, Item | None, Pace]:
        """Take the call in: its entry in the journal, what it meets, and how fast it is answered."""
        now, model = scope.clock(), call.model
        with self._lock:
            pace = AT_ONCE if self._pace is None else self._pace(model, self._rng)
            refused = None if self._limits is None else self._admit(self._limits, call, scope, now)
            item = self._scripts.take(call) if refused is None else Fail.error(refused)
            self.calls = number = self.calls + 1
            self.in_flight += 1
            if self.in_flight > self.peak_in_flight:
                self.peak_in_flight = self.in_flight
            request_id = f"fake-{number:06d}"
            entry = JournalEntry(number, model, call.messages, call.params, now, scope.streaming, request_id)
            self.journal.append(entry)
        scope.request_id = request_id
        scope.model = model
        return entry, item, pace

    def _admit(self, limits: Limits, call: Call, scope: Invocation, now: float) -> RateLimitError | None:
        window = limits.window(call.model)
        refused = window.admit(tokens_in(call.messages) + (call.params.get("max_tokens") or 0), now)
        headers = window.headers(now)
        if refused is not None and refused.retry_after_s is not None:
            headers["retry-after"] = f"{refused.retry_after_s:.3f}"
        scope.headers = headers
        return refused

    def _steps(self, call: Call, scope: Invocation, item: Item | None, pace: Pace) -> Steps:
        if item is None and self._answer is not None:
            item = self._answer(call)
            if not isinstance(item, Reply | Fail | str):
                raise ConfigError(
                    f"FakeProvider(answer=...): the function returned {type(item).__name__}; "
                    "let it return a text, a Reply or a Fail"
                )
        if item is None and not (scope.streaming or pace.between_s or pace.token_s):
            text, finish_reason = _cut(call, _own_words(call))  # the usual case, without detours
            chunk = Chunk(text, finish_reason=finish_reason, usage=usage_of(call.messages, text))
            return iter((pace.first_s, chunk) if pace.first_s else (chunk,))
        if isinstance(item, Fail):
            return failed_steps(item, _reply(call, None), pace, scope.streaming)
        reply = _reply(call, item)
        if reply.model is not None:
            scope.model = reply.model
        return streamed_steps(reply, pace) if scope.streaming else whole_steps(reply, pace)

    def _end(
        self, entry: JournalEntry, scope: Invocation, outcome: Outcome, error: Exception | None = None
    ) -> None:
        entry.ended_s = scope.clock()
        entry.outcome = outcome
        if error is not None:
            entry.error = type(error).__name__
            if isinstance(error, ProviderError):
                entry.retry_after_s = error.retry_after_s
                error.request_id = error.request_id or entry.request_id
        with self._lock:
            self.in_flight -= 1
            entry.calls_by_then = self.calls


def _reply(call: Call, item: Reply | str | None) -> Reply:
    """The answer with its usage; text that is no ``Reply`` is the model's own and minds ``max_tokens``."""
    if isinstance(item, Reply):
        return item if item.usage is not None else replace(item, usage=usage_of(call.messages, item.text))
    text, finish_reason = _cut(call, _own_words(call) if item is None else item)
    return Reply(text, finish_reason=finish_reason, usage=usage_of(call.messages, text))


def _own_words(call: Call) -> str:
    return answer_to(call.model, text_of(call.messages[-1]) if call.messages else "")


def _cut(call: Call, text: str) -> tuple[str, str]:
    limit = call.params.get("max_tokens") if call.params else None
    if limit is None or len(text) <= limit * CHARS_PER_TOKEN:
        return text, "stop"
    return text[: limit * CHARS_PER_TOKEN], "length"


def _is_late(scope: Invocation) -> bool:
    left = scope.remaining_s()
    return left is not None and left < _ROUNDING_S and not scope.cancelled
