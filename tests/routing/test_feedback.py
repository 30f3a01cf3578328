"""What waits for its outcome, and how much one voice may weigh."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.routing.feedback import FEW, FREE, HALF_S, LATELY, PART, Callers, Pending, Voices, Waiting


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

    def test_a_judge_speaks_once_and_leaves_the_call_waiting(self) -> None:
        pending = Pending(most=10, ttl_s=60)
        pending.add("a", waiting())

        assert pending.judge("a", 0.0) is not None
        assert pending.judge("a", 0.0) is None
        assert pending.take("a", 0.0) is not None
        assert pending.judge("a", 0.0) is None
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


def told(voices: Voices, who: str, times: int, now: float = 0.0) -> float:
    """The weight of so many words of one voice, together."""
    return sum(voices.weight(who, now) for _ in range(times))


class TestVoices:
    def test_most_are_heard_in_full(self) -> None:
        voices = Voices()

        assert all(voices.weight(f"u{n % 40}", 0.0) == 1.0 for n in range(2000))

    def test_a_flood_weighs_no_more_than_is_free(self) -> None:
        voices = Voices()
        crowd(voices, users=1000)

        weights = [voices.weight("mallory", 0.0) for _ in range(10_000)]
        assert weights[: int(FREE / 2)] == [1.0] * int(FREE / 2)
        assert sum(weights) <= FREE
        assert voices.weight("user 1", 0.0) == 1.0

    @pytest.mark.parametrize(("users", "each"), [(FEW, 50), (9, 50), (20, 50), (20, 1), (200, 1), (1000, 5)])
    def test_no_voice_outweighs_the_others(self, users: int, each: int) -> None:
        voices = Voices()
        crowd(voices, users=users, each=each)

        assert told(voices, "mallory", 100_000) <= max(FREE, max(PART, 2 / users) * users * each)

    @pytest.mark.parametrize(("users", "each"), [(20, 50), (50, 20), (1000, 5)])
    def test_nor_do_two_that_take_turns(self, users: int, each: int) -> None:
        voices = Voices()
        crowd(voices, users=users, each=each)

        both = sum(told(voices, who, 10_000) for who in ("mallory", "trudy") * 3)
        assert both <= max(2 * FREE, users * each / 2)

    def test_names_that_one_tenant_makes_up_are_one_voice(self) -> None:
        voices = Voices()
        for _ in range(20):
            for number in range(200):
                voices.weight(f"tenant {number % 10}\0user {number}", 0.0)

        made_up = sum(voices.weight(f"mallory\0fake {number}", 0.0) for number in range(10_000))
        assert made_up <= PART * 4000
        assert voices.weight("tenant 1\0user 1", 0.0) == 1.0

    def test_a_tenant_without_users_is_held_back_as_a_tenant(self) -> None:
        voices = Voices()
        for number in range(100):
            voices.weight(f"tenant {number % 10}\0", 0.0)

        assert FREE < told(voices, "big\0", 10_000) <= 100.0

    @pytest.mark.parametrize("users", [FEW + 1, 6, 9, 12, 50])
    def test_those_who_say_alike_do_not_hold_each_other_back(self, users: int) -> None:
        voices = Voices()

        given = [voices.weight(f"t{number % users}\0u{number % users}", 0.0) for number in range(100 * users)]
        assert sum(given) > 99 * users

    def test_where_all_say_much_hardly_anybody_is_held_back(self) -> None:
        voices = Voices()
        rng = random.Random(1)

        weights = [voices.weight(f"u{rng.randrange(20)}", 0.0) for _ in range(20_000)]
        assert sum(weights) > 19_990

    def test_a_lone_voice_or_a_few_are_not_held_back(self) -> None:
        voices = Voices()
        crowd(voices, users=FEW - 1)

        assert all(voices.weight("job", 0.0) == 1.0 for _ in range(5000))

    def test_who_is_not_named_is_not_held_back(self) -> None:
        voices = Voices()
        crowd(voices)

        assert all(voices.weight("", 0.0) == 1.0 for _ in range(5000))
        assert len(voices) == 50

    def test_it_is_forgotten_by_half_a_day(self) -> None:
        voices = Voices()
        crowd(voices, users=1000, each=1)
        assert told(voices, "eager", 1000) == pytest.approx(FREE, rel=0.01)
        assert voices.weight("eager", 0.0) == 0.0

        assert told(voices, "eager", 1000, 86_400.0) == pytest.approx(FREE / 2, rel=0.01)

    def test_what_others_said_long_ago_allows_nothing(self) -> None:
        voices = Voices()
        crowd(voices, users=20, each=200)

        assert told(voices, "eager", 10_000, 20 * HALF_S) == pytest.approx(FREE, rel=0.01)

    def test_a_clock_set_back_breaks_nothing(self) -> None:
        voices = Voices()
        crowd(voices, now=1e6)

        assert voices.weight("user 1", 0.0) == 1.0

    def test_its_memory_is_bounded(self) -> None:
        voices = Voices(most=100)
        for number in range(5000):
            voices.weight(f"t{number}\0user {number}", float(number))

        assert len(voices) == 200
        assert voices._users._total == pytest.approx(100, rel=0.05)

    @given(st.lists(st.tuples(st.sampled_from("abcdefghijklmno"), st.floats(0, HALF_S)), max_size=200))
    def test_weights_are_weights(self, told: list[tuple[str, float]]) -> None:
        voices, now = Voices(most=8), 0.0
        for who, wait_s in told:
            now += wait_s
            assert 0.0 <= voices.weight(who, now) <= 1.0


class TestCallers:
    def test_a_call_belongs_to_those_it_was_made_for(self) -> None:
        callers = Callers()
        callers.note("a", "ann", "acme")
        callers.note("b", None, None)

        assert callers.belongs("a", "ann", "acme")
        assert callers.belongs("a", "ann", None)
        assert callers.belongs("a", None, "acme")
        assert not callers.belongs("a", "bob", None)
        assert not callers.belongs("a", "ann", "other")
        assert not callers.belongs("b", "ann", None)
        assert not callers.belongs("c", "ann", None)
        assert callers.belongs("c", None, None), "who says nothing is not asked"

    def test_the_last_ones_are_known(self) -> None:
        callers = Callers()
        for number in range(5 * LATELY):
            callers.note(str(number), "ann", None)

        assert callers.belongs(str(4 * LATELY), "ann", None)
        assert not callers.belongs("0", "ann", None)
        assert len(callers._lately) + len(callers._older) <= 2 * LATELY
