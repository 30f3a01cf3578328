"""``tierllm train-router``: a scorer from the decision log, and how good it is on calls it has not seen."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .arguments import count
from .explain import plain

if TYPE_CHECKING:
    from ..routing.evaluation import Evaluation, Interval
    from ..routing.training import Training
    from .arguments import Commands

__all__ = ["add"]

NO_CLAIM = 3

NO_PROMPT = "nothing of the prompt was kept"
"""What samples say of rows without one."""


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "train-router",
        help="train a scorer from the decision log, and say how good it is",
        description="Exit code 0 where the scorer is better than chance on calls that it has not seen, 3 "
        "where that cannot be said; --out is then written only with --force. Nothing is called.",
    )
    parser.add_argument("log", help="the decision log; older files beside it count")
    parser.add_argument("--out", metavar="FILE", help="write the scorer there, for LearnedScorer.load")
    parser.add_argument("--curve", metavar="FILE", help="write the cost-quality curve there, as SVG")
    parser.add_argument("--weak", metavar="TIER", help="the tier of the weak model")
    parser.add_argument("--strong", metavar="TIER", help="the tier of the strong model")
    parser.add_argument("--share", type=_share, default=0.3, help="of the calls, to be strong (default: 0.3)")
    parser.add_argument(
        "--scorer", metavar="FILE", help="a scorer whose settings (buckets, salt) the log was written with"
    )
    parser.add_argument(
        "--min-outcomes", type=count, default=100, metavar="N", help="of each model, at least (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the resamples (default: 0)")
    parser.add_argument("--force", action="store_true", help="write --out even where nothing can be claimed")
    parser.add_argument("--json", action="store_true", help="the numbers as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..routing.curve_svg import curve_svg
    from ..routing.decision_rows import read_decisions
    from ..routing.learned_scorer import LearnedScorer
    from ..routing.training import train

    try:
        like = None if arguments.scorer is None else LearnedScorer.load(arguments.scorer)
    except OSError as error:
        raise ConfigError(f"{arguments.scorer} cannot be read: {error.strerror or error}") from error
    _check_apart(arguments.log, arguments.out, arguments.curve)
    decisions = read_decisions(arguments.log)
    made = train(
        decisions,
        scorer=like,
        weak=arguments.weak,
        strong=arguments.strong,
        share=arguments.share,
        min_outcomes=arguments.min_outcomes,
        seed=arguments.seed,
    )
    written: list[str] = []
    failed: list[str] = []
    with _writing(arguments.out, failed) as path:
        if path is not None and (arguments.force or not made.doubts) and made.samples:
            made.scorer.save(path)
            written.append(arguments.out)
    missing: list[str] = []
    if arguments.out is not None and not written and not failed:
        why = "there is nothing to learn from" if not made.samples else "--force does it all the same"
        missing.append(f"{arguments.out} is not written; {why}")
    if arguments.curve is not None and made.evaluation is None:
        missing.append(f"{arguments.curve} is not written; nothing could be judged")
    with _writing(arguments.curve, failed) as path:
        if path is not None and made.evaluation is not None:
            picture = curve_svg(made.evaluation, weak=made.weak, strong=made.strong)
            path.write_text(picture, encoding="utf-8")
            written.append(arguments.curve)
    if arguments.json:
        print(plain(json.dumps(_as_json(made, decisions.skipped, written), indent=2, ensure_ascii=False)))
    else:
        print(plain(_told(made, decisions.skipped)), end="")
        for name in written:
            print(f"written: {plain(name)}")
    if failed:
        raise ConfigError("; ".join(failed))
    for told in missing:
        print(plain(told), file=sys.stderr)
    return NO_CLAIM if made.doubts else 0


def _check_apart(log: str, *targets: str | None) -> None:
    """Raises ``ConfigError`` where one of the files to be written is one that is read, or another."""
    from ..routing.decision_file import files_of

    taken = files_of(log)
    for name in targets:
        if name is None:
            continue
        path = os.path.realpath(name)
        if path in taken or any(_same(path, each) for each in taken):
            raise ConfigError(f"{name} is the log, or written already: give another file")
        taken.append(path)


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False  # one of them is not there yet


@contextmanager
def _writing(path: str | None, failed: list[str]) -> Iterator[Path | None]:
    """What cannot be written is told once the numbers are."""
    try:
        yield None if path is None else Path(path)
    except OSError as error:
        failed.append(f"{path} cannot be written: {error.strerror or error}")


def _told(made: Training, skipped: int) -> str:
    weak, strong = made.outcomes
    lines = [
        f"{made.rows:,} calls in the log, {made.samples:,} to learn from: {weak:,} outcomes of the weak "
        f"model ({made.weak or 'unknown'}), {strong:,} of the strong one ({made.strong or 'unknown'})",
        *(f"  {number:,} left out: {why}" for why, number in sorted(made.left_out.items())),
    ]
    if skipped:
        lines.append(f"  {skipped:,} lines could not be read")
    if not made.rows and skipped:
        lines.append("  this is no decision log: give the file of decisions=")
    if not made.samples and NO_PROMPT in made.left_out:
        lines.append('  have the log keep prompts: DecisionLog(..., prompts="hashed")')
    found = made.evaluation
    if found is not None:
        lines += ["", *_numbers(made, found)]
    lines.append("")
    if made.doubts:
        lines += ["no claim can be made:", *(f"  {doubt}" for doubt in made.doubts)]
    else:
        lines.append("better than chance on calls that it has not seen")
    return "\n".join(lines) + "\n"


def _numbers(made: Training, found: Evaluation) -> list[str]:
    here = found.at_share
    rows = [
        ("always weak", _shown(found.weak)),
        ("always strong", _shown(found.strong)),
        (f"strong for {here.share:.0%}", _shown(here.quality)),
        ("of the gap", _shown(found.recovered)),
        ("APGR (chance: .5)", _shown(found.apgr)),
        ("better than chance by", _shown(found.lift)),
    ]
    if made.in_use is not None:
        rows.append(("APGR of the scores in use", _shown(made.in_use.apgr)))
    if found.saved is not None:
        rows.append((f"cost saved at {here.share:.0%}", _shown(found.saved)))
    if found.enough_share is not None:
        rows.append(("share for 95 % of strong", _shown(found.enough_share)))
    if found.enough_saved is not None:
        rows.append(("… and cost saved then", _shown(found.enough_saved)))
    wide = max(len(name) for name, _ in rows)
    whom = f"{found.calls:,} calls of {found.groups:,} groups by {made.grouped_by}"
    lines = [
        f"on held-out calls ({made.method}; {whom}), with 95 % intervals:",
        *(f"  {name:<{wide}}  {value}" for name, value in rows),
        f"  {'important calls':<{wide}}  {found.important_to_weak:,} of {found.important:,} would have gone "
        "to the weak model by score alone (a router sends none there)",
        "",
        "  strong  quality  of the gap  $ per 1,000 calls",
    ]
    for point in found.curve[::2]:
        usd = "-" if point.usd is None else f"{1000 * point.usd:.4f}"
        lines.append(
            f"  {point.share:>6.0%}  {point.quality.value:>7.3f}  {point.recovered:>10.3f}  {usd:>17}"
        )
    return lines


def _shown(interval: Interval) -> str:
    return f"{interval.value:.3f}  ({interval.low:.3f} … {interval.high:.3f})"


def _as_json(made: Training, skipped: int, written: list[str]) -> dict[str, Any]:
    return {
        "rows": made.rows,
        "skipped_lines": skipped,
        "samples": made.samples,
        "left_out": dict(made.left_out),
        "weak": made.weak,
        "strong": made.strong,
        "outcomes": {"weak": made.outcomes[0], "strong": made.outcomes[1], "both": made.whole},
        "method": made.method,
        "grouped_by": made.grouped_by,
        "share": made.share,
        "evaluation": None if made.evaluation is None else made.evaluation.to_dict(),
        "in_use": None if made.in_use is None else made.in_use.to_dict(),
        "claim": not made.doubts,
        "doubts": list(made.doubts),
        "written": written,
    }


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a share from 0 to 1")
    return share
