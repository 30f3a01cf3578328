"""How well difficulty is told, what that saves, how it is learned from feedback alone, and what it costs.

    python tests/benchmarks/bench_difficulty.py --data ../shared/data/routing
    python tests/benchmarks/bench_difficulty.py --only speed

``--data`` is a folder with ``llmrouter9.jsonl``: questions of 14 tasks, each with the scores of nine models.
``--only`` takes some of: quality, dollars, loop, pairs, domains, constants, flood, speed.

Questions are ranked by score and the highest share goes to the strong model. APGR is the area under the
share of the quality gap that this recovers, against the share of strong calls; chance has .5. All learning is
in one pass over the training folds, in random order; the same question is never in two folds.

Ends with an error where a bound is missed: ``LEAST_APGR``, ``OFF_SHARE``, ``LEAST_RECOVERED``,
and those of time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tierllm.routing import heads, share
from tierllm.routing.difficulty import Difficulty
from tierllm.routing.learned_scorer import LearnedScorer
from tierllm.routing.rule_scorer import RuleScorer

WEAK, STRONG = "gemma-2-9b-it", "llama-3.1-nemotron-51b-instruct"
FOLDS, SEEDS, RESAMPLES = 5, 5, 500
PRICE_RATIOS = (4.5, 10.0)
"""Of a strong to a weak token. 4.5: what a host that prices by size takes for a model of 51 and of 9
thousand million parameters, $0.90 and $0.20 a million tokens. The file has no costs of its own."""

ENOUGH = 0.95
LEAST_APGR = {"all labels": 0.74, "1,000 labels": 0.70}
OFF_SHARE, LEAST_RECOVERED = 0.01, 0.50
P50_US, P99_US, LONG_US = 50.0, 1000.0, 1000.0
"""Of ``LearnedScorer.score``, the p50 for the data's prompts; ``LONG_US``: the median for 100 kB of words."""


class Question(NamedTuple):
    prompt: str
    task: str
    scores: dict[str, float]


class Rated(NamedTuple):
    """A question as it was ranked, and what either model makes of it."""

    score: float
    weak: float
    strong: float


def read(folder: Path) -> list[Question]:
    name = "llmrouter9.jsonl"
    path = folder / name if (folder / name).exists() else folder / "routing" / name
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [Question(row["prompt"], row["group"], row["scores"]) for row in rows]


def folds(questions: Sequence[Question], seed: int) -> list[list[int]]:
    alike = defaultdict(list)
    for at, question in enumerate(questions):
        alike[question.prompt].append(at)
    prompts = list(alike.values())
    random.Random(seed).shuffle(prompts)
    return [[at for places in prompts[fold::FOLDS] for at in places] for fold in range(FOLDS)]


def apgr(rated: Sequence[Rated], seed: int = 0) -> float:
    gap = sum(r.strong - r.weak for r in rated)
    return sum_of_curve(rated, seed) / gap / len(rated) if gap else 0.5


def lift(rated: Sequence[Rated], seed: int = 0) -> float:
    """How much better than chance the answers are on average over all shares, in points of quality."""
    gap = sum(r.strong - r.weak for r in rated)
    return (sum_of_curve(rated, seed) / len(rated) - gap / 2) / len(rated)


def sum_of_curve(rated: Sequence[Rated], seed: int) -> float:
    ranked = list(rated)
    random.Random(seed).shuffle(ranked)  # ties
    ranked.sort(key=lambda r: -r.score)
    area = gained = 0.0
    for r in ranked:
        area += gained + (r.strong - r.weak) / 2
        gained += r.strong - r.weak
    return area


def learned(
    questions: Sequence[Question], train: Sequence[int], weak: str, strong: str, labels: int | None, seed: int
) -> LearnedScorer:
    order = list(train)
    random.Random(seed).shuffle(order)
    scorer = LearnedScorer()
    for at in order[:labels]:
        question = questions[at]
        scorer.learn(
            question.prompt, weak=question.scores.get(weak, 0), strong=question.scores.get(strong, 0)
        )
    return scorer


def held_out(
    questions: Sequence[Question],
    weak: str,
    strong: str,
    *,
    labels: int | None = None,
    seed: int = 0,
    score: Callable[[str], float] | None = None,
) -> list[list[Rated]]:
    """Each fold, rated by a scorer that was trained on the others (or by ``score``)."""
    parts = folds(questions, seed)
    found = []
    for number, test in enumerate(parts):
        by = score
        if by is None:
            train = [at for other in parts if other is not test for at in other]
            by = learned(questions, train, weak, strong, labels, seed * 100 + number).score
        found.append(
            [
                Rated(by(q.prompt), q.scores.get(weak, 0), q.scores.get(strong, 0))
                for q in (questions[at] for at in test)
            ]
        )
    return found


def interval(parts: Sequence[Sequence[Rated]]) -> tuple[float, float]:
    """95 % of the mean of the folds' APGR, questions drawn again within each."""
    rng = random.Random(1)
    drawn = sorted(
        statistics.mean(apgr(rng.choices(part, k=len(part)), seed) for part in parts)
        for seed in range(RESAMPLES)
    )
    return drawn[RESAMPLES // 40], drawn[-RESAMPLES // 40]


def missed(name: str, value: float, bound: float, *, least: bool = False) -> list[str]:
    """What is missed, in words; nothing where the bound is kept."""
    if value >= bound if least else value <= bound:
        return []
    return [f"{name}: {value:.4g}, {'less' if least else 'more'} than {bound:g}"]


def quality(questions: Sequence[Question]) -> list[str]:
    found: list[str] = []
    print(f"\n{WEAK} → {STRONG}, {FOLDS}-fold by question: APGR, mean of {SEEDS} partitions (least, most)")
    for name, labels in (("all labels", None), ("1,000 labels", 1000), ("300 labels", 300)):
        runs = [held_out(questions, WEAK, STRONG, labels=labels, seed=seed) for seed in range(SEEDS)]
        value = told(f"LearnedScorer, {name}", runs)
        if name in LEAST_APGR:
            found += missed(f"APGR, {name}", value, LEAST_APGR[name], least=True)
    rules = RuleScorer()
    fixed: dict[str, Callable[[str], float]] = {
        "RuleScorer": rules.score,
        "length alone": lambda text: float(len(text)),
        "chance": lambda text: 0.0,
    }
    for name, score in fixed.items():
        told(name, [held_out(questions, WEAK, STRONG, seed=seed, score=score) for seed in range(SEEDS)])
    return found


def told(name: str, runs: Sequence[list[list[Rated]]]) -> float:
    means = [statistics.mean(map(apgr, parts)) for parts in runs]
    low, high = interval(runs[0])
    print(
        f"  {name:28} {statistics.mean(means):.3f} ({min(means):.3f}…{max(means):.3f}), "
        f"95 % of the first, bootstrap over questions: {low:.3f}…{high:.3f}"
    )
    return statistics.mean(means)


def smallest_share(rated: Sequence[Rated]) -> float:
    """The share of strong calls that keeps 95 % of always-strong's quality."""
    ranked = sorted(rated, key=lambda r: -r.score)
    quality = sum(r.weak for r in rated)
    wanted = ENOUGH * sum(r.strong for r in rated)
    for strong, r in enumerate(ranked):
        if quality >= wanted:
            return strong / len(ranked)
        quality += r.strong - r.weak
    return 1.0


def dollars(questions: Sequence[Question]) -> None:
    rated = [r for part in held_out(questions, WEAK, STRONG) for r in part]
    print(f"\nSaved against always-strong, which has {mean(r.strong for r in rated):.3f} (weak: ", end="")
    print(f"{mean(r.weak for r in rated):.3f}), at 95 % of its quality; scores of held-out folds")
    rng = random.Random(2)
    drawn = sorted(smallest_share(rng.choices(rated, k=len(rated))) for _ in range(RESAMPLES))
    shares = smallest_share(rated), drawn[RESAMPLES // 40], drawn[-RESAMPLES // 40]
    by_chance = smallest_share([r._replace(score=0.0) for r in rng.sample(rated, len(rated))])
    print(f"  strong calls needed: {shares[0]:.1%} (95 %: {shares[1]:.1%}…{shares[2]:.1%}); ", end="")
    print(f"drawn by chance: {by_chance:.1%}")
    for ratio in PRICE_RATIOS:
        saved = [(1 - each) * (1 - 1 / ratio) for each in shares]
        print(f"  weak tokens {ratio:g} times cheaper: saved {saved[0]:.1%} ", end="")
        print(f"(95 %: {saved[2]:.1%}…{saved[1]:.1%}), as many tokens from either model")
    halves = []
    for _ in range(RESAMPLES):  # the share is chosen on one half, and has to do on the other
        rng.shuffle(rated)
        half = len(rated) // 2
        chosen = smallest_share(rated[:half])
        ranked = sorted(rated[half:], key=lambda r: -r.score)
        strong = round(chosen * len(ranked))
        kept = sum(r.strong for r in ranked[:strong]) + sum(r.weak for r in ranked[strong:])
        halves.append((kept / sum(r.strong for r in ranked), chosen))
    kept_shares = sorted(kept for kept, _ in halves)
    print(f"  chosen on one half, used on the other: {mean(c for _, c in halves):.1%} strong, ", end="")
    print(f"{mean(kept_shares):.1%} of the quality ", end="")
    print(f"(95 %: {kept_shares[RESAMPLES // 40]:.1%}…{kept_shares[-RESAMPLES // 40]:.1%})")


def mean(values: Iterator[float] | Sequence[float]) -> float:
    return statistics.fmean(values)


class Looped(NamedTuple):
    share: float
    whole: float
    last_half: float
    worst_off: float


def looped(
    questions: Sequence[Question], seed: int, *, explore: float = 0.05, weak: str = WEAK, strong: str = STRONG
) -> Looped:
    """One pass from untrained: choose, hear how the chosen model did, learn."""
    difficulty = Difficulty(LearnedScorer(), share=0.3, explore=explore, rng=random.Random(seed))
    order = list(range(len(questions)))
    random.Random(1000 + seed).shuffle(order)
    made, owed, worst = [], 0.0, 0.0
    for number, at in enumerate(order):
        question = questions[at]
        choice = difficulty.choose(question.prompt)
        model = strong if choice.arm == "strong" else weak
        difficulty.remember(str(number), choice)
        difficulty.feedback(str(number), question.scores.get(model, 0.0))
        made.append((question.scores.get(weak, 0), question.scores.get(strong, 0), choice.arm == "strong"))
        owed += 0.3 - (choice.arm == "strong")
        if number >= 2000:
            worst = max(worst, abs(owed) / number)
    return Looped(mean([s for *_, s in made]), recovered(made), recovered(made[len(made) // 2 :]), worst)


def recovered(made: Sequence[tuple[float, float, bool]]) -> float:
    always_weak, always_strong = sum(w for w, _, _ in made), sum(s for _, s, _ in made)
    return (sum(s if is_strong else w for w, s, is_strong in made) - always_weak) / (
        always_strong - always_weak
    )


def loop(questions: Sequence[Question]) -> list[str]:
    found: list[str] = []
    print("\nFrom untrained, one pass, told of the called model only; 30 % strong calls wanted; 16 seeds")
    for explore in (0.05, 0.0, 0.1):
        runs = [looped(questions, seed, explore=explore) for seed in range(16)]
        whole = [run.whole for run in runs]
        print(
            f"  exploring {explore:.0%}: share {min(r.share for r in runs):.2%}…"
            f"{max(r.share for r in runs):.2%}, from call 2,000 on never off by more than "
            f"{max(r.worst_off for r in runs):.2%}; gap recovered {mean(whole):.3f} (least {min(whole):.3f}, "
            f"most {max(whole):.3f}), last half {mean([r.last_half for r in runs]):.3f}"
        )
        if explore == 0.05:  # the usual
            found += missed("share", max(abs(r.share - 0.3) for r in runs), OFF_SHARE)
            found += missed("gap recovered", mean(whole), LEAST_RECOVERED, least=True)
    at_30 = []
    for part in held_out(questions, WEAK, STRONG):
        ranked = sorted(part, key=lambda r: -r.score)
        strong = round(0.3 * len(ranked))
        at_30.append(recovered([(r.weak, r.strong, at < strong) for at, r in enumerate(ranked)]))
    print(
        f"  trained before with both outcomes of every question (the most to be hoped for): {mean(at_30):.3f}"
    )
    return found


def pairs(questions: Sequence[Question]) -> None:
    models = sorted(questions[0].scores)
    quality_of = {m: mean([q.scores.get(m, 0) for q in questions]) for m in models}
    print("\nEach weaker → stronger pair of models with a gap of .03 or more: APGR, all labels")
    found = []
    for weak in models:
        for strong in models:
            if quality_of[strong] - quality_of[weak] >= 0.03:
                value = mean([apgr(part) for part in held_out(questions, weak, strong)])
                rules = mean([apgr(p) for p in held_out(questions, weak, strong, score=RuleScorer().score)])
                found.append((value, rules))
                gap = quality_of[strong] - quality_of[weak]
                print(f"  {weak:32} → {strong:34} gap {gap:.3f}: {value:.3f}   (RuleScorer {rules:.3f})")
    print(
        f"  {len(found)} pairs: least {min(found)[0]:.3f}, median "
        f"{statistics.median(v for v, _ in found):.3f}; RuleScorer: median "
        f"{statistics.median(r for _, r in found):.3f}"
    )


def domains(questions: Sequence[Question]) -> None:
    print("\nOne task alone (5-fold in it), and one task that was never seen (trained on the 13 others).")
    print("The lift over chance is in points of quality, averaged over all shares; APGR only where the gap")
    print("of the task is .04 or more")
    lifts: dict[str, list[float]] = defaultdict(list)
    for task in sorted({q.task for q in questions}):
        of_task = [q for q in questions if q.task == task]
        alone = [held_out(of_task, WEAK, STRONG, seed=seed) for seed in range(3)]
        others = [at for at, q in enumerate(questions) if q.task != task]
        scorer = learned(questions, others, WEAK, STRONG, None, 0)
        new = [Rated(scorer.score(q.prompt), q.scores.get(WEAK, 0), q.scores.get(STRONG, 0)) for q in of_task]
        gap = mean([r.strong - r.weak for r in new])
        lifts["alone"].append(mean([lift(part) for parts in alone for part in parts]))
        lifts["new"].append(lift(new))
        shown = (
            f"APGR {mean([apgr(p) for ps in alone for p in ps]):.3f} / {apgr(new):.3f}" if gap >= 0.04 else ""
        )
        print(
            f"  {task:22} {len(of_task):4} questions, gap {gap:+.3f}: alone {lifts['alone'][-1]:+.4f}, "
            f"never seen {lifts['new'][-1]:+.4f}  {shown}"
        )
    for name, values in lifts.items():
        error = statistics.stdev(values) / len(values) ** 0.5
        print(f"  mean of the tasks, {name}: {mean(values):+.4f} ± {1.96 * error:.4f}")


def constants(questions: Sequence[Question]) -> None:
    print("\nEach constant halved and doubled: APGR with all labels, with 1,000; gap recovered in the loop")
    print(f"  as they are: {tried(questions)}")
    for module, name in (
        (heads, "STEP"),
        (heads, "FIRST"),
        (heads, "MOST_SQUARES"),
        (heads, "MOST"),
        (share, "RECENT"),
        (share, "BOUND"),
    ):
        usual = getattr(module, name)
        for factor in (0.5, 2):
            setattr(module, name, type(usual)(usual * factor))
            print(f"  {name} times {factor:g}: {tried(questions, loops_only=module is share)}")
        setattr(module, name, usual)


def tried(questions: Sequence[Question], *, loops_only: bool = False) -> str:
    shown = [
        mean([apgr(p) for seed in range(2) for p in held_out(questions, WEAK, STRONG, labels=n, seed=seed)])
        for n in (() if loops_only else (None, 1000))
    ]
    shown.append(mean([looped(questions, seed).whole for seed in range(6)]))
    return "  ".join(f"{value:.3f}" for value in shown)


def flood(questions: Sequence[Question]) -> None:
    """1,000 honest users, and one who tells the opposite of everything, 10,000 times."""
    print("\nA flood: 10,000 poisoned outcomes of one user among those of 1,000 honest ones; held-out APGR")
    for name, who in (("one user", "mallory"), ("the same, of nobody known by name (no guard)", "")):
        clean, poisoned = [], []
        for number, test in enumerate(folds(questions, 0)):
            held = set(test)
            train = [at for at in range(len(questions)) if at not in held]
            for found, outcomes in ((clean, 0), (poisoned, 10_000)):
                scorer = flooded(questions, train, outcomes, who, seed=number)
                found.append(
                    apgr(
                        [
                            Rated(scorer.score(q.prompt), q.scores.get(WEAK, 0), q.scores.get(STRONG, 0))
                            for q in (questions[at] for at in test)
                        ]
                    )
                )
        print(
            f"  {name}: without {mean(clean):.3f}, with {mean(poisoned):.3f}, "
            f"{mean(poisoned) - mean(clean):+.3f}"
        )


def flooded(
    questions: Sequence[Question], train: Sequence[int], outcomes: int, who: str, seed: int
) -> LearnedScorer:
    """Both kinds come in random order; which model was called is drawn, so that nothing else differs."""
    now = 0.0
    scorer = LearnedScorer()
    difficulty = Difficulty(scorer, share=0.5, explore=1.0, rng=random.Random(seed), clock=lambda: now)
    rng, honest = random.Random(seed), random.Random(seed)
    turns = [True] * len(train) + [False] * outcomes
    rng.shuffle(turns)
    order = list(train)
    honest.shuffle(order)
    for number, is_honest in enumerate(turns):
        now += 86_400 / len(turns)  # all within a day
        question = questions[order.pop() if is_honest else rng.choice(train)]
        choice = difficulty.choose(question.prompt)
        arm = ("strong" if honest.random() < 0.5 else "weak") if is_honest else choice.arm
        outcome = question.scores.get(STRONG if arm == "strong" else WEAK, 0.0)
        voice = f"user {honest.randrange(1000)}" if is_honest else who
        difficulty.remember(str(number), choice, voice, answered=arm)
        difficulty.feedback(str(number), outcome if is_honest else 1.0 - outcome)
    return scorer


def speed(questions: Sequence[Question] | None) -> list[str]:
    rng = random.Random(3)
    if questions:
        prompts = [q.prompt for q in questions]
    else:
        words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 10))) for _ in range(5000)]
        prompts = [
            " ".join(rng.choices(words, k=min(2000, int(rng.lognormvariate(3.6, 1.1))))) for _ in range(3000)
        ]
    print(
        f"\nSpeed, {len(prompts)} prompts, a median of {statistics.median(map(len, prompts)):.0f} characters"
    )
    scorer = LearnedScorer()
    taken = timed(lambda text: scorer.learn(text, weak=rng.random(), strong=rng.random()), prompts, rounds=1)
    shown("learn, both outcomes", taken)
    taken = timed(scorer.score, prompts)
    shown("LearnedScorer.score", taken)
    found = (
        missed("score p50, µs", taken[len(taken) // 2], P50_US) if questions else []
    )  # made-up ones are long
    found += missed("score p99, µs", taken[len(taken) * 99 // 100], P99_US)
    shown("RuleScorer.score", timed(RuleScorer().score, prompts))
    keeper = LearnedScorer(keep_words=True)
    shown("LearnedScorer.note_words, keeping words", timed(keeper.note_words, prompts, rounds=1))
    difficulty = Difficulty(scorer, share=0.3, rng=rng)
    shown("Difficulty.choose", timed(difficulty.choose, prompts))
    for name, text in (
        ("100 kB of words", " ".join(prompts)[:100_000].ljust(100_000, "x")),
        ("100 kB of one letter", "a" * 100_000),
        ("100 kB of digits", "1 " * 50_000),
        ("100 kB of empty lines", "\n" * 100_000),
        ("100 kB of question marks", "?" * 100_000),
        ("100 kB of braces and spaces", "{    " * 20_000),
        ("100 kB of spaced Chinese", " ".join(chr(0x4E00 + rng.randrange(20_000)) for _ in range(50_000))),
        ("100 kB of Chinese", "".join(chr(0x4E00 + rng.randrange(5000)) for _ in range(100_000))),
    ):
        for scoring in (scorer.score, RuleScorer().score):
            taken = timed(scoring, [text] * 200)
            shown(f"{name}, {scoring.__qualname__}", taken)
            if name == "100 kB of words" and scoring == scorer.score:
                found += missed(f"{name}, µs", taken[len(taken) // 2], LONG_US)
    begun = time.perf_counter()
    raw = scorer.to_bytes()
    saved = time.perf_counter()
    LearnedScorer.from_bytes(raw)
    loaded_s = time.perf_counter() - saved
    print(f"  to_bytes {saved - begun:.3f} s, {len(raw) / 1e6:.2f} MB; from_bytes {loaded_s:.3f} s")
    return found


def timed(what: Callable[[str], object], prompts: Sequence[str], rounds: int = 3) -> list[float]:
    """Microseconds a prompt: of each, the best of some rounds."""
    best = [float("inf")] * len(prompts)
    for _ in range(rounds):
        for at, prompt in enumerate(prompts):
            begun = time.perf_counter_ns()
            what(prompt)
            best[at] = min(best[at], (time.perf_counter_ns() - begun) / 1000)
    return sorted(best)


def shown(name: str, taken: Sequence[float]) -> None:
    print(
        f"  {name:44} p50 {taken[len(taken) // 2]:7.1f} µs   p99 {taken[len(taken) * 99 // 100]:7.1f} µs   "
        f"most {taken[-1]:7.1f} µs"
    )


PARTS: dict[str, Callable[[Sequence[Question]], list[str] | None]] = {
    "quality": quality,
    "dollars": dollars,
    "loop": loop,
    "pairs": pairs,
    "domains": domains,
    "constants": constants,
    "flood": flood,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder with llmrouter9.jsonl")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "speed"], default=[*PARTS, "speed"])
    chosen = parser.parse_args()
    data = None if chosen.data is None else read(chosen.data)
    misses: list[str] = []
    for part in chosen.only:
        if part == "speed":
            misses += speed(data)
        elif data is None:
            print(f"{part}: needs --data")
        else:
            misses += PARTS[part](data) or []
    print("\nbounds: " + (f"missed: {'; '.join(misses)}" if misses else "kept"))
    sys.exit(1 if misses else 0)
