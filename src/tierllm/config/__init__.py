"""Tiers, deployments and policies from a file: ``tierllm.toml``.

``TieredClient.from_config(Config.load(path))`` is the client, ``check(Config.load(path))`` what is
doubtful about it.
"""

from .check import check
from .file import Config
from .finding import Finding

__all__ = ["Config", "Finding", "check"]
