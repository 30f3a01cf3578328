"""Tiers, deployments and policies from a file: ``tierllm.toml``.

``Config.load(path).build()`` is the client, ``check(Config.load(path))`` what is doubtful about it.
"""

from .check import check
from .file import Config
from .finding import Finding

__all__ = ["Config", "Finding", "check"]
