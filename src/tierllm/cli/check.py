"""``tierllm check``: what is wrong or doubtful about a configuration file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import Finding
    from .arguments import Commands

__all__ = ["add"]


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "check",
        help="say what is wrong or doubtful about a configuration file",
        description="Exit code 1 for errors (with --strict for warnings too), else 0. Nothing is called.",
    )
    parser.add_argument("file", nargs="?", default="tierllm.toml", help="default: tierllm.toml")
    parser.add_argument("--strict", action="store_true", help="let warnings fail, too")
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from ..config import Config, check

    config, findings = Config.examine(arguments.file)
    if config is not None:
        findings = check(config)
    errors = sum(finding.severity == "error" for finding in findings)
    if arguments.json:
        print(_as_json(arguments.file, findings, errors))
    else:
        for finding in findings:
            print(_told(finding))
        print(_verdict(arguments.file, errors, len(findings) - errors))
    return 1 if errors or (findings and arguments.strict) else 0


def _told(finding: Finding) -> str:
    lines = [f"{finding.severity:<8} {finding.key or 'the file'}", f"  {finding.problem}"]
    if finding.remedy:
        lines.append(f"  → {finding.remedy}")
    return "\n".join(lines) + "\n"


def _verdict(file: str, errors: int, warnings: int) -> str:
    told = [f"{n} {word}{'s' * (n > 1)}" for n, word in ((errors, "error"), (warnings, "warning")) if n]
    return f"{file}: {', '.join(told) or 'all is well'}"


def _as_json(file: str, findings: Sequence[Finding], errors: int) -> str:
    told = {
        "file": file,
        "errors": errors,
        "warnings": len(findings) - errors,
        "findings": [finding.to_dict() for finding in findings],
    }
    return json.dumps(told, indent=2, ensure_ascii=False)
