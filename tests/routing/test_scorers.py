"""What a scorer is, and the one made of readable rules."""

from __future__ import annotations

import math
import subprocess
import sys
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierllm.errors import ConfigError
from tierllm.routing.features import MOST_CHARACTERS, buckets_of, named_buckets, words_of
from tierllm.routing.learned_scorer import LearnedScorer
from tierllm.routing.rule_scorer import SIGNS, RuleScorer, Sign
from tierllm.routing.scorers import DifficultyScorer, Teachable, check_outcome, scorer_of

PINNED = [2490, 10000, 12929, 14101, 19245, 22651, 25775, 28869, 30516]
PINNED += [37634, 40668, 41060, 43007, 46379, 47231, 51123, 51432, 63131]


class TestScorerOf:
    def test_a_function_becomes_a_scorer(self) -> None:
        scorer = scorer_of(len)  # type: ignore[arg-type]

        assert scorer.score("four") == 4
        assert isinstance(scorer, DifficultyScorer)
        assert not isinstance(scorer, Teachable)
        assert repr(scorer) == "FunctionScorer(len)"

    def test_a_scorer_stays_what_it_is(self) -> None:
        scorer = LearnedScorer()

        assert scorer_of(scorer) is scorer
        assert isinstance(scorer, Teachable)

    @pytest.mark.parametrize("wrong", [None, 3, "rules"], ids=str)
    def test_anything_else_is_an_error(self, wrong: object) -> None:
        with pytest.raises(ConfigError, match="give LearnedScorer"):
            scorer_of(wrong)  # type: ignore[arg-type]

    def test_a_class_is_not_a_scorer(self) -> None:
        with pytest.raises(ConfigError, match=r"RuleScorer\(\)"):
            scorer_of(RuleScorer)  # type: ignore[arg-type]


class TestOutcomes:
    @pytest.mark.parametrize("fine", [0, 1, 0.0, 0.5, 1.0], ids=str)
    def test_numbers_from_0_to_1(self, fine: float) -> None:
        assert check_outcome("score", fine) == fine

    @pytest.mark.parametrize(
        "wrong",
        [math.nan, math.inf, -math.inf, -0.01, 1.01, 10**400, True, False, "1", None, [1], b"1"],
        ids=repr,
    )
    def test_nothing_else(self, wrong: object) -> None:
        with pytest.raises(ConfigError, match="from 0"):
            check_outcome("score", wrong)

    def test_a_text_is_not_repeated(self) -> None:
        with pytest.raises(ConfigError) as caught:
            check_outcome("score", "my secret prompt")
        assert "secret" not in str(caught.value)


class TestFeatures:
    def test_the_same_in_every_process(self) -> None:
        text = "Wie spät ist es? 今日は何時ですか what's the time 42"
        code = (
            f"from tierllm.routing.features import buckets_of; print(sorted(buckets_of({text!r}, 65536, 7)))"
        )

        seen = {
            subprocess.run(
                [sys.executable, "-c", code],
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in ("1", "2")
        }
        assert seen == {f"{sorted(buckets_of(text, 65536, 7))}\n"}

    def test_the_same_in_every_version(self) -> None:
        """Saved scorers are of no use where these numbers change: that needs a new version of the format."""
        assert sorted(buckets_of("Prove it. 今日は", 65536, 0)) == PINNED

    @given(st.text(max_size=300), st.sampled_from([256, 65536, 1 << 20]), st.integers(0, 2**32 - 1))
    def test_any_text_has_buckets_and_they_have_names(self, text: str, buckets: int, seed: int) -> None:
        found = buckets_of(text, buckets, seed)

        assert found
        assert len(found) == len(set(found))
        assert all(0 <= at < buckets for at in found)
        assert {at for _, at in named_buckets(text, buckets, seed)} == set(found)

    def test_the_signs_that_rules_go_by_are_features(self) -> None:
        names = [
            name for name, _ in named_buckets("Which of these proofs holds?\n```\ndef f(): ...\n```", 65536)
        ]

        assert {"(which of several)", "(code itself)", "(code)"} <= set(names)
        assert "(everyday)" not in names

    def test_lone_surrogates_are_read(self) -> None:
        assert buckets_of("a \ud800 b", 65536)

    @pytest.mark.parametrize(
        ("text", "parts"),
        [
            ("今日は良い天気", ["今日", "日は", "は良", "良い", "い天", "天気"]),
            ("机", ["机"]),
            ("use 東京 now", ["use", "東京", "now"]),
            ("Ünïcode straße", ["ünïcode", "straße"]),
            ("snake_case don't", ["snake", "case", "don", "t"]),
            ("हिन्दी में_लिखो।", ["हिन्दी", "में", "लिखो"]),
            ("ข้าว", ["ข้", "้า", "าว"]),
            ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
            ("مُحَمَّد", ["مُحَمَّد"]),
            ("😀\ufe0f hi", ["hi"]),
        ],
        ids=[
            *("japanese", "one character", "mixed", "latin", "underscore"),
            *("hindi", "thai", "tamil", "arabic", "emoji"),
        ],
    )
    def test_words(self, text: str, parts: list[str]) -> None:
        assert words_of(text) == parts

    def test_how_accents_are_encoded_is_no_matter(self) -> None:
        text = "Größe überhaupt, được"
        assert sorted(buckets_of(normalize("NFD", text), 65536)) == sorted(buckets_of(text, 65536))
        assert RuleScorer().explain(normalize("NFD", text)) == RuleScorer().explain(text)

    def test_words_that_differ_in_their_vowels_alone_differ(self) -> None:
        for one, other in (("कि", "के"), ("ขาว", "ข่าว"), ("काम", "कम")):
            assert sorted(buckets_of(one, 65536)) != sorted(buckets_of(other, 65536))

    def test_the_head_and_the_tail_of_a_long_text_are_read(self) -> None:
        padding = "and so on " * 10_000
        long = f"beginning {padding} ending"

        names = [name for name, _ in named_buckets(long, 65536)]
        assert "beginning" in names
        assert "ending" in names
        assert buckets_of(long, 65536) != buckets_of(long.replace("ending", "other"), 65536)
        assert buckets_of(long, 65536) == buckets_of(f"beginning {padding * 2} ending", 65536)

    @pytest.mark.parametrize(
        "text", ["1 " * 50_000, "".join(map(chr, range(0x4E00, 0x9FFF))) * 5], ids=["ascii", "cjk"]
    )
    def test_what_is_read_is_bounded(self, text: str) -> None:
        assert len(list(named_buckets(text, 1 << 20))) < 2 * MOST_CHARACTERS
        assert len(buckets_of(text, 1 << 20)) <= 2030


class TestRules:
    def test_difficult_texts_score_higher(self) -> None:
        scorer = RuleScorer()
        easy = "Hi! Please translate: good morning"
        fact = "Who wrote Hamlet?"
        hard = "Prove that the sum of two odd integers is even, step by step. Then write Python code for it."

        assert scorer.score(easy) < 0.3
        assert scorer.score(fact) < 0.3
        assert scorer.score(hard) > 0.7

    def test_the_points_are_told(self) -> None:
        scorer = RuleScorer([Sign(name="legal", points=1.5, words="Contract clause", most=2)], per_doubling=0)

        assert scorer.explain("This CONTRACT has a clause on another contract.") == [("legal", 3.0)]
        assert scorer.explain("contractual") == []
        assert scorer.score("contract") == pytest.approx(1 / (1 + math.exp(2.0 - 1.5)))

    def test_words_and_pattern_count_together_up_to_most(self) -> None:
        sign = Sign(name="code", points=1.0, words="python", pattern=r"```", most=3)

        assert RuleScorer([sign], per_doubling=0).explain("python ``` ``` ```") == [("code", 3.0)]

    def test_length_comes_last(self) -> None:
        points = dict(RuleScorer([], per_doubling=0.5).explain("x" * 256))

        assert points == {"length": 1.0}

    @pytest.mark.parametrize(
        "text",
        [
            "Démontrez pas à pas que la somme de deux entiers impairs est paire, et expliquez pourquoi.",
            "Beweise Schritt für Schritt, dass die Summe zweier ungerader Zahlen gerade ist.",
            "Demuestra paso a paso que la suma de dos enteros impares es par y explica por qué.",
            "请逐步证明两个奇数之和是偶数,并解释原因。",
            "दो विषम पूर्णांकों का योग सम होता है, सिद्ध कीजिए",
        ],
        ids=["french", "german", "spanish", "chinese", "hindi"],
    )
    def test_of_other_languages_it_does_not_know_that_they_are_easy(self, text: str) -> None:
        low, high = RuleScorer.classes

        assert low < RuleScorer().score(text) < high
        assert RuleScorer().explain(text)[-1][0] == "not in English"
        own = RuleScorer([Sign(name="beweisen", points=1.0, words="beweise démontrez")])
        assert "not in English" not in dict(own.explain(text))

    @pytest.mark.parametrize("text", ["", "2 + 2 = 4", "Thanks!", "Good morning", "Who wrote it?"])
    def test_what_is_english_or_no_language_is_left_alone(self, text: str) -> None:
        assert "not in English" not in dict(RuleScorer().explain(text))

    def test_vietnamese_is_no_other_script(self) -> None:
        assert "other scripts" not in dict(RuleScorer().explain("Viết thư được không"))
        assert "other scripts" in dict(RuleScorer().explain("ἀλήθεια"))

    @given(st.text(max_size=400))
    def test_every_text_has_a_score(self, text: str) -> None:
        assert 0.0 <= RuleScorer().score(text) <= 1.0

    def test_the_table_can_be_taken_apart(self) -> None:
        without = RuleScorer([sign for sign in SIGNS if sign.name != "mathematics"])

        assert "mathematics" in dict(RuleScorer().explain("Solve the equation"))
        assert "mathematics" not in dict(without.explain("Solve the equation"))
        assert repr(without) == f"<RuleScorer of {len(SIGNS) - 1} signs>"

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            ({"name": ""}, "give it a name"),
            ({"points": True}, "points"),
            ({"points": math.nan}, "points"),
            ({"points": 1000}, "points"),
            ({"most": 0}, "most"),
            ({"words": ""}, "words or a pattern"),
            ({"words": None}, "give a text"),
            ({"pattern": "("}, "pattern"),
        ],
        ids=["no name", "bool", "nan", "too many", "none of it", "nothing", "no text", "pattern"],
    )
    def test_a_sign_that_makes_no_sense(self, wrong: dict[str, object], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            Sign(**{"name": "x", "points": 1.0, "words": "x", **wrong})  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "wrong",
        [{"signs": 3}, {"signs": ["code"]}, {"per_doubling": math.inf}, {"base": "low"}],
        ids=["no list", "no sign", "per_doubling", "base"],
    )
    def test_a_table_that_makes_no_sense(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ConfigError, match="RuleScorer"):
            RuleScorer(**wrong)  # type: ignore[arg-type]
