"""The plain data in a TOML file, or one sentence on why there is none."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

from ..errors import ConfigError

__all__ = ["content_of", "fingerprint", "read"]


def read(content: bytes) -> dict[str, Any]:  # Any: what TOML can hold
    """Raises ``ConfigError``, without anything of what is in the file."""
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"this is not UTF-8 (line {line}); save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"this is not valid TOML: {error}") from None
    except ValueError:
        raise ConfigError("there is a number with too many digits in it") from None


def fingerprint(content: bytes) -> bytes:
    """By which one content is told from another."""
    return hashlib.sha256(content).digest()


def content_of(path: Path) -> bytes:
    """What is in the file. Raises ``ConfigError``."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError("there is no such file; give the path of a tierllm.toml") from None
    except IsADirectoryError:
        raise ConfigError(f"this is a directory; give the file in it: {path / 'tierllm.toml'}") from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or type(error).__name__}") from None
    except ValueError:
        raise ConfigError("this can be no path: there is a zero byte in it") from None
