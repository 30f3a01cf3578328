"""Training a scorer from the decision log, and judging it on calls that it has not seen."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from .decision_rows import DecisionRow
from .doubly_robust import Expected
from .evaluation import Evaluation, Weighed, evaluated, worth
from .learned_scorer import LearnedScorer
from .samples import Sample, Samples, samples_of

__all__ = ["Training", "train", "train_samples"]

FOLDS = 10
TEACH = 3
"""The first folds are only learned from: what has learned next to nothing need not be judged."""

GROUPS_LEAST = 20

WORTH_LEAST = 50.0
"""Where chance chose the model, the outcomes of each must say as much as so many drawn evenly."""

MOST_WEIGHT = 1.5
"""An outcome that chance had made rare counts so many times as much as a certain one, at most.

With 3 the order of unseen calls gets worse, and with 10 much worse: see docs/training.md.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A scorer trained on all samples, and what is known of one trained so on calls it has not seen.

    ``in_use`` judges the scores that the calls had at the time, where most of them had one. ``outcomes`` are
    those of the weak and of the strong model, ``whole`` says of how many calls both are known, ``judged`` how
    many calls the evaluation rests on. ``left_out`` says which rows were of no use, and why. ``doubts`` says
    why nothing can be claimed; empty: the scorer is better than chance.
    """

    scorer: LearnedScorer
    weak: str | None
    strong: str | None
    share: float
    rows: int
    samples: int
    outcomes: tuple[int, int]
    whole: int
    judged: int
    method: str
    grouped_by: str
    left_out: Mapping[str, int]
    evaluation: Evaluation | None
    in_use: Evaluation | None
    doubts: tuple[str, ...]


def train(
    rows: Iterable[DecisionRow],
    *,
    scorer: LearnedScorer | None = None,
    weak: str | None = None,
    strong: str | None = None,
    share: float = 0.3,
    min_outcomes: int = 100,
    resamples: int = 500,
    seed: int = 0,
) -> Training:
    """A ``LearnedScorer`` from the rows of a decision log: ``train(read_decisions("decisions.jsonl"))``.

    ``scorer`` gives the settings (``buckets``, ``salt``) that the log's bucket numbers were made with; what
    it has learned is not taken over. ``weak`` and ``strong`` name tiers, where they cannot be told from the
    log. ``share`` of the calls are to go to the strong model. It takes about half a millisecond a row.

    A call is judged by a scorer that was trained on earlier ones: on tenths of the calls, from the fourth on,
    each by what came before. All calls of one user (or session, where there are too few users; or prompt) are
    in the same tenth, and a prompt that is judged is not learned from before. Where only the called model's
    outcome is known, the other's is estimated with the doubly robust estimator (Dudík, Langford and Li,
    *Doubly Robust Policy Evaluation and Learning*, 2011) from the chance that the choice had; calls without
    chance are learned from, and judge nothing.

    Raises ``ConfigError`` where the tiers cannot be told, or the bucket numbers are not of such a scorer.
    """
    scorer = scorer or LearnedScorer()
    samples = samples_of(rows, buckets_of=scorer.buckets_of, weak=weak, strong=strong)
    return train_samples(
        samples, scorer=scorer, share=share, min_outcomes=min_outcomes, resamples=resamples, seed=seed
    )


def train_samples(
    samples: Samples,
    *,
    scorer: LearnedScorer | None = None,
    share: float = 0.3,
    min_outcomes: int = 100,
    resamples: int = 500,
    seed: int = 0,
) -> Training:
    """``train`` for samples that are there already."""
    if isinstance(share, bool) or not 0 <= share <= 1:
        raise ConfigError(f"share={share!r}: give a share from 0 to 1")
    scorer = scorer or LearnedScorer()
    left_out = Counter(samples.left_out)
    found = [sample for sample in samples.found if max(sample.buckets, default=0) < scorer.buckets]
    misfits = len(samples.found) - len(found)
    if misfits > len(found):
        raise ConfigError(
            f"the log's bucket numbers do not fit into {scorer.buckets} buckets: give the scorer that "
            "they were made with, scorer=LearnedScorer(buckets=...)"
        )
    if misfits:
        left_out["its buckets are none"] += misfits
    outcomes = sum(s.weak is not None for s in found), sum(s.strong is not None for s in found)
    doubts = _doubts(found, outcomes, min_outcomes, samples.doubts)
    evaluation = in_use = None
    folds = _folds(found)
    judging = [s for s, fold in zip(found, folds, strict=True) if fold >= TEACH and s.can_judge]
    if judging and all(outcomes):
        later = [at for at, fold in enumerate(folds) if fold >= TEACH]
        unseen, theirs = [found[at] for at in later], [folds[at] for at in later]
        ranks = _held_out(found, folds, scorer)
        evaluation = _judged(unseen, [ranks[at] for at in later], theirs, share, doubts, resamples, seed)
        doubts = list(evaluation.doubts)
        scored = [(s, fold) for s, fold in zip(unseen, theirs, strict=True) if s.score is not None]
        if len(scored) >= 0.9 * len(unseen) and any(sample.can_judge for sample, _ in scored):
            used = _ranks([sample.score or 0.0 for sample, _ in scored])
            folds_of = [fold for _, fold in scored]
            in_use = _judged([s for s, _ in scored], used, folds_of, share, (), resamples, seed)
    return Training(
        scorer=_taught(scorer, found),
        weak=samples.weak,
        strong=samples.strong,
        share=share,
        rows=samples.rows,
        samples=len(found),
        outcomes=outcomes,
        whole=sum(sample.is_whole for sample in found),
        judged=len(judging),
        method=_method(judging),
        grouped_by=samples.grouped_by,
        left_out=dict(left_out),
        evaluation=evaluation,
        in_use=in_use,
        doubts=tuple(doubts),
    )


def _doubts(
    samples: Sequence[Sample], outcomes: tuple[int, int], least: int, found: Sequence[str]
) -> list[str]:
    """Why so little data says nothing, beside what was ``found`` to be wrong with it."""
    doubts = [
        f"too few outcomes of the {arm} model: {count}, and {least} are needed"
        for arm, count in zip(("weak", "strong"), outcomes, strict=True)
        if count < least
    ]
    groups = len({sample.group for sample in samples})
    if groups < GROUPS_LEAST:
        doubts.append(f"too few different people or prompts: {groups}, and {GROUPS_LEAST} are needed")
    doubts = [*found, *doubts]
    if doubts:
        return doubts
    if not any(sample.can_judge for sample in samples):
        return [
            "nothing was left to chance, and no answers were compared: switch exploration on (explore=0.05), "
            "or compare with shadow="
        ]
    if sum(sample.is_whole for sample in samples) < least:
        for arm in ("weak", "strong"):
            chances = [s.propensity or 1.0 for s in samples if s.can_judge and getattr(s, arm) is not None]
            if worth(chances) < WORTH_LEAST:
                doubts.append(
                    f"the outcomes of the {arm} model are worth {worth(chances):.0f} drawn at random, "
                    f"and {WORTH_LEAST:.0f} are needed: go on collecting, or raise explore="
                )
    return doubts


def _taught(like: LearnedScorer, samples: Iterable[Sample]) -> LearnedScorer:
    """A new scorer that has read ``samples`` once, in their order."""
    scorer = LearnedScorer(buckets=like.buckets, salt=like.salt)
    for sample in samples:
        weight = 1.0
        if not sample.is_whole:
            chance = sample.propensity
            weight = min(1.0 / chance, MOST_WEIGHT) / MOST_WEIGHT if chance is not None else 1.0 / MOST_WEIGHT
        scorer.learn_from(sample.buckets, weak=sample.weak, strong=sample.strong, weight=weight)
    return scorer


def _folds(samples: Sequence[Sample]) -> list[int]:
    """For each sample a tenth of all, in the order of time; a group is where its first one is."""
    sizes = Counter(sample.group for sample in samples)  # in the order of their first
    fold_of, before = dict[str, int](), 0
    for group, size in sizes.items():
        fold_of[group] = min(FOLDS - 1, before * FOLDS // len(samples))
        before += size
    return [fold_of[sample.group] for sample in samples]


def _held_out(samples: Sequence[Sample], folds: Sequence[int], like: LearnedScorer) -> list[float]:
    """For each sample the rank of its score (0…1) among its fold's, by a scorer of earlier folds alone.

    Scorers that learn from each other's calls (cross-validation) make errors together: a bootstrap does not
    see that, and finds more than chance in pure noise three times as often as it says.
    """
    ranks = [0.5] * len(samples)
    for fold in range(TEACH, FOLDS):
        mine = [at for at, each in enumerate(folds) if each == fold]
        unseen = {samples[at].prompt for at in mine}
        earlier = (
            s for s, each in zip(samples, folds, strict=True) if each < fold and s.prompt not in unseen
        )
        taught = _taught(like, earlier)
        scores = [taught.score_of(samples[at].buckets) for at in mine]
        for at, rank in zip(mine, _ranks(scores), strict=True):
            ranks[at] = rank
    return ranks


def _ranks(scores: Sequence[float]) -> list[float]:
    """The share of the others that each is above, those like it counting half."""
    ordered = sorted(scores)
    return [
        (bisect.bisect_left(ordered, score) + bisect.bisect_right(ordered, score)) / (2 * len(ordered))
        for score in scores
    ]


def _judged(
    samples: Sequence[Sample],
    ranks: Sequence[float],
    folds: Sequence[int],
    share: float,
    doubts: Sequence[str],
    resamples: int,
    seed: int,
) -> Evaluation:
    numbers: dict[str, int] = {}
    of = list(zip(samples, ranks, folds, strict=True))
    judging = [each for each in of if each[0].can_judge]
    weak = Expected(judging, lambda s: s.weak, folds=FOLDS)
    strong = Expected(judging, lambda s: s.strong, folds=FOLDS)
    weak_usd = Expected(judging, lambda s: s.weak_usd, folds=FOLDS, of=lambda s: s.weak)
    strong_usd = Expected(judging, lambda s: s.strong_usd, folds=FOLDS, of=lambda s: s.strong)
    priced = weak_usd.share > 0.9 and strong_usd.share > 0.9
    calls = [
        Weighed(
            score=rank,
            weak=weak.of(sample, rank, fold),
            strong=strong.of(sample, rank, fold),
            group=numbers.setdefault(sample.group, len(numbers)),
            weak_usd=weak_usd.of(sample, rank, fold) if priced else None,
            strong_usd=strong_usd.of(sample, rank, fold) if priced else None,
        )
        for sample, rank, fold in judging
    ]
    important = [rank for sample, rank, _ in of if sample.important]
    return evaluated(calls, share=share, important=important, doubts=doubts, resamples=resamples, seed=seed)


def _method(judging: Sequence[Sample]) -> str:
    whole = sum(sample.is_whole for sample in judging)
    if not judging:
        return "none"
    if whole == len(judging):
        return "both outcomes known"
    return "doubly robust" if whole == 0 else f"doubly robust; both outcomes known of {whole}"
