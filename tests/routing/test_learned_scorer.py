"""The scorer that learns: what it learns, what it refuses, what it writes and reads."""

from __future__ import annotations

import base64
import copy
import json
import math
import pickle
import random
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.questions import apgr, questions
from tierllm.errors import ConfigError
from tierllm.routing.heads import MOST, MOST_SQUARES, Heads
from tierllm.routing.learned_scorer import LearnedScorer
from tierllm.routing.vocabulary import MOST_WORDS, Vocabulary


def taught(count: int = 600, seed: int = 1, **settings: Any) -> LearnedScorer:
    scorer = LearnedScorer(**settings)
    for question in questions(count, seed):
        scorer.learn(question.text, weak=question.weak, strong=question.strong)
    return scorer


class TestLearning:
    def test_it_starts_knowing_nothing(self) -> None:
        scorer = LearnedScorer()

        assert scorer.score("anything") == 0.0
        assert scorer.predict("anything") == (0.5, 0.5)
        assert scorer.samples == 0
        assert scorer.explain("anything at all") == []

    def test_it_learns_where_a_stronger_model_gains(self) -> None:
        asked = questions(2000, 2)

        assert apgr(LearnedScorer().score, asked) == pytest.approx(0.5, abs=0.03)
        assert apgr(taught().score, asked) > 0.73  # who knew the kinds themselves would have .79

    def test_each_head_is_needed(self) -> None:
        """What nobody can answer is no reason for the strong model, though the weak one fails there."""
        scorer = taught()

        assert scorer.score("settle riddle of the") > scorer.score("paradox unanswerable of the") + 0.3

    def test_one_outcome_moves_its_own_head_alone(self) -> None:
        scorer = LearnedScorer()
        for _ in range(50):
            scorer.learn("solve it", weak=0.0)

        weak, strong = scorer.predict("solve it")
        assert weak < 0.2
        assert strong == 0.5
        assert scorer.outcomes == (50, 0)
        assert scorer.samples == 50

    def test_no_outcome_teaches_nothing(self) -> None:
        scorer = LearnedScorer()
        scorer.learn("solve it")

        assert scorer.samples == 0
        assert scorer.score("solve it") == 0.0

    def test_weight(self) -> None:
        full, half, none = LearnedScorer(), LearnedScorer(), LearnedScorer()
        for scorer, weight in ((full, 1.0), (half, 0.1), (none, 0.0)):
            for _ in range(5):
                scorer.learn("solve it", strong=1.0, weight=weight)

        assert none.score("solve it") == 0.0
        assert 0.0 < half.score("solve it") < full.score("solve it") / 4

    def test_a_doubted_outcome_is_remembered_as_little_as_it_moved(self) -> None:
        full, doubted = Heads(1), Heads(1)
        full.learn(0, [0], 1.0, 1.0)
        doubted.learn(0, [0], 1.0, 0.1)
        begun = Heads(1)

        for of in ("squares", "bias_squares"):
            first, whole, tenth = (getattr(heads, of)[0] for heads in (begun, full, doubted))
            if of == "squares":
                first, whole, tenth = first[0], whole[0], tenth[0]
            assert tenth - first == pytest.approx((whole - first) / 10, rel=1e-3)

    def test_what_is_not_trusted_is_no_sample(self) -> None:
        scorer = LearnedScorer()
        scorer.learn("solve it", weak=1.0, weight=0.0)
        assert (scorer.samples, scorer.outcomes, scorer.evidence) == (0, (0, 0), (0.0, 0.0))
        scorer.learn("solve it", weak=1.0, weight=0.25)
        assert (scorer.samples, scorer.outcomes, scorer.evidence) == (1, (1, 0), (0.25, 0.0))
        assert LearnedScorer.from_bytes(scorer.to_bytes()).evidence == (0.25, 0.0)

    @pytest.mark.parametrize("wrong", [[-1], [65_536], [1, "2"], [None]], ids=str)
    def test_buckets_that_there_are_not(self, wrong: Any) -> None:
        scorer = LearnedScorer()
        with pytest.raises(ConfigError, match="buckets_of"):
            scorer.learn_from(wrong, weak=1.0)
        assert scorer.samples == 0

    @pytest.mark.parametrize("option", ["weak", "strong", "weight"])
    @pytest.mark.parametrize("wrong", [math.nan, math.inf, -0.1, 2, True, "good"], ids=repr)
    def test_what_is_no_outcome_changes_nothing(self, option: str, wrong: Any) -> None:
        scorer = taught(50)
        before = scorer.to_bytes()

        with pytest.raises(ConfigError, match=option):
            scorer.learn("solve it", **{"weak": 1.0, "strong": 0.0, option: wrong})
        assert scorer.to_bytes() == before

    def test_an_unseen_kind_of_work_is_not_judged_boldly(self) -> None:
        scorer = taught()

        known = [abs(scorer.score(q.text)) for q in questions(200, 3)]
        assert abs(scorer.score("zzz yyy xxx www vvv")) < max(known) / 2

    @settings(max_examples=30)
    @given(st.lists(st.tuples(st.text(max_size=40), st.sampled_from([0.0, 1.0])), min_size=1, max_size=30))
    def test_whatever_it_is_told_scores_stay_in_range(self, told: list[tuple[str, float]]) -> None:
        scorer = LearnedScorer(buckets=256)
        for text, outcome in told * 20:
            scorer.learn(text, weak=1.0 - outcome, strong=outcome)

        assert all(-1.0 <= scorer.score(text) <= 1.0 for text, _ in told)
        assert all(abs(weight) <= MOST for table in scorer._heads.weights for weight in table)

    def test_it_follows_a_change(self) -> None:
        scorer = LearnedScorer()
        for turn in range(4000):
            scorer.learn("solve it", weak=1.0 if turn < 2000 else 0.0, strong=0.5)

        assert scorer.score("solve it") > 0.2

    def test_it_never_stops_learning(self) -> None:
        """However much it has learned, a step is as large as this at least."""
        heads = Heads(1)
        for turn in range(2000):
            heads.learn(0, [0], float(turn % 2), 1.0)
        assert MOST_SQUARES <= heads.squares[0][0] < MOST_SQUARES + 1
        assert MOST_SQUARES <= heads.bias_squares[0] < MOST_SQUARES + 1

    @pytest.mark.parametrize("outcome", [0.0, 1.0])
    def test_no_weight_gets_too_large(self, outcome: float) -> None:
        heads = Heads(1)
        heads.weights[1][0] = heads.bias[1] = MOST * (2 * outcome - 1)
        heads.squares[1][0] = 1e-9
        heads.learn(1, [0], outcome, 1.0)

        assert heads.weights[1][0] == heads.bias[1] == MOST * (2 * outcome - 1)

    def test_learned_and_asked_in_threads(self) -> None:
        scorer = LearnedScorer()
        wrong: list[float] = []

        def work(seed: int) -> None:
            for question in questions(150, seed):
                scorer.learn(question.text, weak=question.weak, strong=question.strong)
                if not -1.0 <= scorer.score(question.text) <= 1.0:
                    wrong.append(scorer.score(question.text))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert scorer.samples == 900
        assert scorer.outcomes == (900, 900)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"buckets": 1000},
            {"buckets": 128},
            {"buckets": 1 << 21},
            {"buckets": True},
            {"buckets": 65536.0},
            {"salt": "x"},
            {"salt": bytes(2000)},
            {"keep_words": 1},
        ],
        ids=str,
    )
    def test_settings_that_make_no_sense(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            LearnedScorer(**wrong)

    def test_the_salt_changes_the_buckets(self) -> None:
        assert list(LearnedScorer(salt=b"a").buckets_of("solve it")) != list(
            LearnedScorer().buckets_of("solve it")
        )


class TestWhy:
    def test_explain_names_what_pulls(self) -> None:
        pulls = dict(taught().explain("settle the riddle for me", most=30))

        assert pulls["riddle"] > 0.02
        assert any(name.startswith("(") for name in pulls)
        assert "the riddle" in pulls

    def test_words_of_texts(self) -> None:
        words = taught().words(["riddle chitchat", "weather"], most=50)

        assert [name for name, _ in words][:6].count("riddle") == 1
        assert sorted((abs(pull) for _, pull in words), reverse=True) == [abs(pull) for _, pull in words]

    def test_no_words_are_kept_unless_asked_for(self) -> None:
        scorer = taught()

        with pytest.raises(ConfigError, match="keep_words"):
            scorer.words()
        assert b"riddle" not in scorer.to_bytes()

    def test_kept_words(self) -> None:
        scorer = taught(keep_words=True)

        assert "riddle" in dict(scorer.words(most=100))
        assert LearnedScorer.from_bytes(scorer.to_bytes()).words() == scorer.words()

    def test_words_are_kept_of_prompts_that_are_chosen_for_and_of_no_others(self) -> None:
        scorer = LearnedScorer(keep_words=True)
        for _ in range(5):
            scorer.note_words("marvellous")
            scorer.learn_from(scorer.buckets_of("unheard marvellous"), strong=1.0)

        assert [name for name, _ in scorer.words()] == ["marvellous"]

    def test_what_one_prompt_alone_had_is_not_saved(self) -> None:
        scorer = LearnedScorer(keep_words=True)
        scorer.learn("my grandmother Wilhelmina", weak=1.0)
        scorer.learn("my cat", weak=1.0)

        raw = scorer.to_bytes()
        assert b'"my"' in raw
        assert b"wilhelmina" not in raw

    def test_words_of_other_scripts_are_kept(self) -> None:
        scorer = LearnedScorer(keep_words=True)
        for _ in range(2):
            scorer.learn("हिन्दी", weak=1.0)

        assert [name for name, _ in scorer.words()] == ["हिन्दी"]

    def test_a_prompt_seen_once_or_a_number_is_not_told(self) -> None:
        scorer = LearnedScorer(keep_words=True)
        for text in ("hush", "call 0171234567 sk4f9a now", "call 0171234567 sk4f9a now"):
            scorer.learn(text, strong=1.0)

        assert sorted(name for name, _ in scorer.words()) == ["call", "now"]

    def test_the_vocabulary_is_bounded(self) -> None:
        vocabulary = Vocabulary()
        letters = "abcdefghijklmnopqrstuvwxyz"
        rng = random.Random(5)
        for turn in range(30_000):
            word = "".join(rng.choices(letters, k=8))
            for _ in range(2):
                vocabulary.read([word, "common"], 1 << 20, 0)
            assert turn % 1000 or len(vocabulary.kept()) <= MOST_WORDS + 2
        assert "common" in dict(vocabulary.words()).values()
        assert len(vocabulary.kept()) > MOST_WORDS // 3
        assert len(vocabulary._new) + len(vocabulary._newer) <= 2 * MOST_WORDS + 2


class TestKept:
    @pytest.mark.parametrize(
        "settings", [{}, {"buckets": 256}, {"salt": b"\x00s", "keep_words": True}], ids=str
    )
    def test_written_and_read(self, tmp_path: Path, settings: dict[str, Any]) -> None:
        scorer = taught(200, **settings)
        scorer.save(tmp_path / "scorer.json")
        twin = LearnedScorer.load(tmp_path / "scorer.json")

        texts = [q.text for q in questions(100, 9)]
        assert [twin.score(t) for t in texts] == [scorer.score(t) for t in texts]
        assert (twin.samples, twin.outcomes) == (scorer.samples, scorer.outcomes)
        assert (twin.buckets, twin.salt) == (scorer.buckets, scorer.salt)
        assert [entry.name for entry in tmp_path.iterdir()] == ["scorer.json"]
        twin.learn("solve it", weak=1.0)
        scorer.learn("solve it", weak=1.0)
        assert twin.to_bytes() == scorer.to_bytes()

    def test_a_write_that_fails_leaves_the_old_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "scorer.json"
        scorer = taught(20, buckets=256)
        scorer.save(path)
        before = path.read_bytes()

        def full(handle: int) -> None:
            raise OSError("disk full")

        monkeypatch.setattr("os.fsync", full)
        scorer.learn("more", weak=1.0)
        with pytest.raises(OSError, match="disk full"):
            scorer.save(path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_a_file_keeps_its_permissions_and_a_link_its_place(self, tmp_path: Path) -> None:
        path, link = tmp_path / "scorer.json", tmp_path / "link.json"
        scorer = taught(5, buckets=256)
        scorer.save(path)
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o644)
        link.symlink_to(path)
        scorer.learn("more", weak=1.0)
        scorer.save(link)

        assert link.is_symlink()
        assert path.stat().st_mode & 0o777 == 0o644
        assert LearnedScorer.load(path).samples == 6

    def test_a_copy_is_one(self) -> None:
        scorer = taught(50, buckets=256)
        for twin in (copy.deepcopy(scorer), pickle.loads(pickle.dumps(scorer))):
            assert twin.to_bytes() == scorer.to_bytes()
            twin.learn("solve it", weak=1.0)
            assert twin.to_bytes() != scorer.to_bytes()

    def test_calls_do_not_wait_while_it_is_packed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scorer = taught(5, buckets=256)

        def packed(saved: object) -> bytes:
            assert not scorer._lock.locked()
            scorer.learn("meanwhile", weak=1.0)
            return b""

        monkeypatch.setattr("tierllm.routing.learned_scorer.scorer_bytes", packed)
        scorer.to_bytes()

    @pytest.mark.parametrize("wrong", [None, 5, "{}", [1]], ids=repr)
    def test_what_are_no_bytes(self, wrong: Any) -> None:
        with pytest.raises(ConfigError, match="give bytes"):
            LearnedScorer.from_bytes(wrong)

    @pytest.mark.parametrize("sign", [b"[],", b"{},", b"1,", b'{"a":1},'], ids=str)
    def test_a_bomb_of_small_parts_is_not_even_read(
        self, sign: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raw = b'{"words":[' + sign * 100_000 + b"[]]," + taught(5, buckets=256).to_bytes()[1:]
        monkeypatch.setattr("json.loads", None)
        with pytest.raises(ConfigError, match="too many parts"):
            LearnedScorer.from_bytes(raw)

    def test_the_fullest_vocabulary_can_be_read_again(self) -> None:
        scorer = LearnedScorer(buckets=1 << 16, keep_words=True)
        rng = random.Random(2)
        for _ in range(60):
            text = " ".join("".join(rng.choices("abcdefghijk", k=6)) for _ in range(80))
            scorer.learn(text, weak=1.0)
            scorer.learn(text, weak=1.0)

        assert len(LearnedScorer.from_bytes(scorer.to_bytes())._vocabulary.kept()) > 4000  # type: ignore[union-attr]

    def test_a_missing_file_is_the_systems_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            LearnedScorer.load(tmp_path / "none.json")

    @pytest.mark.parametrize(
        ("raw", "says"),
        [
            (b"", "damaged"),
            (b"\x80\x04\x95garbage", "damaged"),
            (b"[]", "no saved scorer"),
            (b"{}", "no saved scorer"),
            (b"null", "no saved scorer"),
            (b"[" * 100_000, "damaged"),
            (b"9" * 10_000, "damaged"),
        ],
        ids=["empty", "pickle", "list", "mapping", "null", "deep", "number"],
    )
    def test_what_is_no_scorer(self, raw: bytes, says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            LearnedScorer.from_bytes(raw)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("version", 1),
            ("version", 3),
            ("version", None),
            ("version", "1"),
            ("buckets", 1 << 40),
            ("buckets", 257),
            ("buckets", -256),
            ("buckets", 512),
            ("buckets", 256.0),
            ("salt", "zz"),
            ("salt", 5),
            ("samples", -1),
            ("samples", True),
            ("samples", 1 << 60),
            ("outcomes", [1]),
            ("outcomes", [1, 1.5]),
            ("evidence", [1.0]),
            ("evidence", [-1.0, 1.0]),
            ("evidence", [1.0, 1e300]),
            ("bias", [0.0]),
            ("bias", [0.0, 1e300]),
            ("bias", [0.0, "0"]),
            ("bias_squares", [0.0, 0.0]),
            ("weights", "x"),
            ("weights", [1, 2]),
            ("weights", ["", ""]),
            ("weights", ["%%%%", "%%%%"]),
            ("words", [[1, "two words", 1]]),
            ("words", [[256, "word", 1]]),
            ("words", [[1, "word"]]),
            ("words", [[1, "<script>", 3]]),
            ("words", 7),
        ],
        ids=str,
    )
    def test_a_field_that_makes_no_sense(self, field: str, value: object) -> None:
        document = json.loads(taught(20, buckets=256).to_bytes())
        document[field] = value
        with pytest.raises(ConfigError):
            LearnedScorer.from_bytes(json.dumps(document).encode())

    @pytest.mark.parametrize(
        "table",
        [
            bytes(4 * 255),
            bytes(4 * 257),
            bytes(10_000_000),
            b"\x00\x00\xc0\x7f" * 256,
            b"\x00\x00\x80\x7f" * 256,
            b"\x00\x00\xa0\x41" * 256,
        ],
        ids=["short", "long", "bomb", "nan", "infinite", "too large"],
    )
    def test_a_table_that_makes_no_sense(self, table: bytes) -> None:
        document = json.loads(taught(20, buckets=256).to_bytes())
        document["weights"][1] = base64.b64encode(zlib.compress(table, 9)).decode()
        with pytest.raises(ConfigError, match="damaged"):
            LearnedScorer.from_bytes(json.dumps(document).encode())

    @pytest.mark.parametrize("cut", [1, 4, 8])
    def test_a_table_whose_end_is_missing(self, cut: int) -> None:
        document = json.loads(taught(20, buckets=256).to_bytes())
        document["weights"][1] = base64.b64encode(zlib.compress(bytes(1024), 0)[:-cut]).decode()
        with pytest.raises(ConfigError, match="damaged"):
            LearnedScorer.from_bytes(json.dumps(document).encode())

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_garbled_bytes_raise_nothing_else(self, data: st.DataObject) -> None:
        raw = bytearray(SMALL)
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(raw) - 1))
            raw[at] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(raw)))
        try:
            scorer = LearnedScorer.from_bytes(bytes(raw[: cut or None]))
        except ConfigError:
            return
        assert -1.0 <= scorer.score("solve it") <= 1.0


SMALL = taught(5, buckets=256).to_bytes()
