from __future__ import annotations

import threading

import pytest

from tierllm.testing import Journal, JournalEntry


def received(
    journal: Journal,
    model: str = "m",
    at_s: float = 0.0,
    *,
    retry_after_s: float | None = None,
    calls_by_then: int | None = None,
) -> JournalEntry:
    number = len(journal) + 1
    messages = ({"role": "user", "content": "my secret"},)
    entry = JournalEntry(number, model, messages, {}, at_s, False, f"fake-{number:06d}")
    entry.ended_s = at_s
    entry.outcome = "ok" if retry_after_s is None else "failed"
    entry.error = None if retry_after_s is None else "RateLimitError"
    entry.retry_after_s = retry_after_s
    entry.calls_by_then = number if calls_by_then is None else calls_by_then
    journal.append(entry)
    return entry


def test_reads_like_a_sequence() -> None:
    journal = Journal()
    first, second = received(journal, "a"), received(journal, "b")
    assert len(journal) == 2
    assert list(journal) == [first, second]
    assert journal[-1] is second
    assert journal[:1] == [first]
    assert journal.calls(model="b") == [second]
    assert journal.calls(outcome="failed") == []
    assert repr(journal) == "<Journal of 2 calls>"
    journal.clear()
    assert list(journal) == []


def test_keeps_the_last_ones() -> None:
    journal = Journal(size=3)
    for at in range(5):
        received(journal, at_s=at)
    assert [entry.at_s for entry in journal] == [2, 3, 4]


def test_shows_no_prompt() -> None:
    journal = Journal()
    entry = received(journal, at_s=1.5, retry_after_s=2)
    assert repr(entry) == "<#1 m at 1.5…1.5 s, failed: RateLimitError, retry after 2 s>"
    with pytest.raises(AssertionError) as failure:
        journal.assert_count(2)
    assert "secret" not in str(failure.value)


def test_assert_count() -> None:
    journal = Journal()
    received(journal, "a")
    received(journal, "b", retry_after_s=1)
    journal.assert_count(2)
    journal.assert_count(1, model="a", outcome="ok")
    with pytest.raises(AssertionError, match=r"expected 3 failed calls to b, there were 1\n  <#2 b at 0"):
        journal.assert_count(3, model="b", outcome="failed")


def test_messages_stay_readable() -> None:
    journal = Journal()
    for _ in range(50):
        received(journal)
    with pytest.raises(AssertionError, match="and 30 more") as failure:
        journal.assert_order(["m"] * 51)
    assert "51 calls expected, 50 came" in str(failure.value)
    assert "{'m': 50}" in str(failure.value)


def test_assert_order() -> None:
    journal = Journal()
    for model in ("gold", "gold", "silver"):
        received(journal, model)
    journal.assert_order(["gold", "gold", "silver"])
    with pytest.raises(AssertionError, match="call 2 differs"):
        journal.assert_order(["gold", "silver", "silver"])
    with pytest.raises(AssertionError, match="2 calls expected, 3 came"):
        journal.assert_order(["gold", "gold"])


def test_assert_gaps() -> None:
    journal = Journal()
    for at_s in (0.0, 1.0, 3.0):
        received(journal, at_s=at_s)
    journal.assert_gaps("m", at_least_s=1.0)
    journal.assert_gaps("m", at_least_s=[1.0, 2.0])
    with pytest.raises(AssertionError, match=r"at least 1\.5 s between calls to m, got 1 s"):
        journal.assert_gaps("m", at_least_s=1.5)
    with pytest.raises(AssertionError, match="expected 3 gaps, there were 2"):
        journal.assert_gaps("m", at_least_s=[1, 1, 1])


@pytest.mark.parametrize("calls", [0, 1])
def test_without_two_calls_there_is_no_gap_to_speak_of(calls: int) -> None:
    journal = Journal()
    for _ in range(calls):
        received(journal)
    for bound in (1.0, []):
        with pytest.raises(AssertionError, match=f"a gap takes two calls to m, there were {calls}"):
            journal.assert_gaps("m", at_least_s=bound)


def test_gaps_forgive_rounding() -> None:
    journal = Journal()
    for at_s in (0.1 + 0.2, 0.6):
        received(journal, at_s=at_s)
    journal.assert_gaps("m", at_least_s=0.3)


class TestRetryAfter:
    def test_honoured(self) -> None:
        journal = Journal()
        received(journal, at_s=0, retry_after_s=2)
        received(journal, at_s=2)
        journal.assert_retry_after_honoured()

    def test_without_a_refusal_there_is_nothing_to_honour(self) -> None:
        journal = Journal()
        for _ in range(2):
            with pytest.raises(AssertionError, match="no call was refused with a retry_after_s"):
                journal.assert_retry_after_honoured()
            received(journal)

    def test_called_too_early(self) -> None:
        journal = Journal()
        received(journal, at_s=0, retry_after_s=2)
        received(journal, at_s=1.5)
        with pytest.raises(AssertionError, match=r"left alone until 2 s and was called at 1\.5 s"):
            journal.assert_retry_after_honoured()

    def test_the_longest_of_several_counts(self) -> None:
        journal = Journal()
        received(journal, at_s=0, retry_after_s=9, calls_by_then=2)
        received(journal, at_s=0, retry_after_s=1)
        received(journal, at_s=5)
        with pytest.raises(AssertionError, match="until 9 s"):
            journal.assert_retry_after_honoured()

    def test_other_models_are_free(self) -> None:
        journal = Journal()
        received(journal, "a", at_s=0, retry_after_s=2)
        received(journal, "b", at_s=0)
        journal.assert_retry_after_honoured()

    def test_calls_begun_before_the_refusal_was_known(self) -> None:
        journal = Journal()
        received(journal, at_s=0, retry_after_s=2, calls_by_then=2)
        received(journal, at_s=0)
        journal.assert_retry_after_honoured()
        received(journal, at_s=0)
        with pytest.raises(AssertionError, match="#3 m"):
            journal.assert_retry_after_honoured()

    def test_many_calls_are_quick(self) -> None:
        journal = Journal(size=20_000)
        for at in range(20_000):
            received(journal, at_s=at, retry_after_s=1)
        journal.assert_retry_after_honoured()


def test_reading_while_threads_write() -> None:
    journal = Journal(size=100)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            received(journal)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(len(list(journal)) <= 100 for _ in range(300))
    finally:
        done.set()
        writer.join()
