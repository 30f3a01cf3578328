"""What waits for its outcome, and how much one voice may weigh."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.routing.feedback import FEW, FREE, HALF_S, Pending, Voices, Waiting


def waiting(since: float = 0.0, size: int = 10, who: str = "") -> Waiting:
    return Waiting(True, range(size), who, since)


class TestPending:
    def test_taken_once(self) -> None:
        pending = Pending(most=10, ttl_s=60)
        pending.add("a", waiting())

        assert pending.take("a", 1.0) == waiting()
        assert pending.take("a", 1.0) is None
        assert pending.take("b", 1.0) is None

    def test_the_oldest_make_room(self) -> None:
        pending = Pending(most=3, ttl_s=60)
        for name in "abcd":
            pending.add(name, waiting())

        assert len(pending) == 3
        assert pending.take("a", 0.0) is None
        assert pending.take("b", 0.0) is not None

    def test_none_are_kept_where_none_may_be(self) -> None:
        pending = Pending(most=0, ttl_s=60)
        pending.add("a", waiting())

        assert len(pending) == 0

    def test_for_a_time(self) -> None:
        pending = Pending(most=10, ttl_s=60)
        pending.add("a", waiting(since=0.0))
        pending.add("b", waiting(since=30.0))

        assert pending.take("a", 60.0) is None
        assert pending.take("b", 60.0) is not None
        assert pending._bytes == 0

    def test_in_bounded_memory(self) -> None:
        pending = Pending(most=10_000, ttl_s=60, most_bytes=100_000)
        for number in range(1000):
            pending.add(str(number), waiting(size=1000))

        assert len(pending) == 100_000 // 4300
        assert pending._bytes <= 100_000

    def test_one_that_comes_again_counts_once(self) -> None:
        pending = Pending(most=10, ttl_s=60)
        for _ in range(5):
            pending.add("a", waiting())
        pending.take("a", 0.0)

        assert pending._bytes == 0

    @given(
        st.lists(st.tuples(st.sampled_from("at"), st.sampled_from("vwxyz"), st.integers(0, 30)), max_size=60)
    )
    def test_it_keeps_count_of_its_bytes(self, steps: list[tuple[str, str, int]]) -> None:
        pending = Pending(most=3, ttl_s=20)
        now = 0.0
        for what, name, number in steps:
            now += number / 3
            if what == "a":
                pending.add(name, waiting(since=now, size=number))
            else:
                pending.take(name, now)
            assert len(pending) <= 3
            assert pending._bytes == sum(300 + 4 * len(w.buckets or ()) for w in pending._waiting.values())


def crowd(voices: Voices, *, users: int = 50, each: int = 5, now: float = 0.0) -> None:
    for _ in range(each):
        for number in range(users):
            voices.weight(f"user {number}", now)


class TestVoices:
    def test_most_are_heard_in_full(self) -> None:
        voices = Voices()

        assert all(voices.weight(f"u{n % 40}", 0.0) == 1.0 for n in range(2000))

    def test_a_flood_weighs_no_more_than_twice_what_is_free(self) -> None:
        voices = Voices()
        crowd(voices)

        weights = [voices.weight("mallory", 0.0) for _ in range(10_000)]
        assert weights[: int(FREE)] == [1.0] * int(FREE)
        assert sum(weights) <= 2 * FREE
        assert all(weight > 0 for weight in weights)
        assert voices.weight("user 1", 0.0) == 1.0

    def test_where_all_say_much_nobody_is_held_back(self) -> None:
        voices = Voices()
        rng = random.Random(1)

        assert all(voices.weight(f"u{rng.randrange(20)}", 0.0) == 1.0 for _ in range(20_000))

    def test_a_lone_voice_or_a_few_are_not_held_back(self) -> None:
        voices = Voices()
        crowd(voices, users=FEW - 1)

        assert all(voices.weight("job", 0.0) == 1.0 for _ in range(5000))

    def test_who_is_not_named_is_not_held_back(self) -> None:
        voices = Voices()
        crowd(voices)

        assert all(voices.weight("", 0.0) == 1.0 for _ in range(5000))
        assert len(voices) == 50

    def test_it_is_forgotten_with_time(self) -> None:
        voices = Voices()
        crowd(voices)
        for _ in range(200):
            voices.weight("eager", 0.0)
        assert voices.weight("eager", 0.0) < 0.3

        assert voices.weight("eager", 2 * HALF_S) == 1.0

    def test_a_clock_set_back_breaks_nothing(self) -> None:
        voices = Voices()
        crowd(voices, now=1e6)

        assert voices.weight("user 1", 0.0) == 1.0

    def test_its_memory_is_bounded(self) -> None:
        voices = Voices(most=100)
        for number in range(5000):
            voices.weight(f"user {number}", float(number))

        assert len(voices) == 100
        assert voices._total == pytest.approx(100, rel=0.05)

    @given(st.lists(st.tuples(st.sampled_from("abcdefghijklmno"), st.floats(0, HALF_S)), max_size=200))
    def test_weights_are_weights(self, told: list[tuple[str, float]]) -> None:
        voices, now = Voices(most=8), 0.0
        for who, wait_s in told:
            now += wait_s
            assert 0.0 < voices.weight(who, now) <= 1.0
