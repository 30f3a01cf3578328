"""The ways in, and what all commands share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tierllm import cli

COMMANDS = ("demo", "complete", "check", "drill")


def test_python_m(process):
    assert process("--version").out == f"tierllm {version('tierllm')}\n"


def test_the_script(tmp_path):
    script = shutil.which("tierllm", path=str(Path(sys.executable).parent))
    assert script is not None
    ran = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    assert all(command in ran.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(tierllm, command):
    ran = tierllm(command, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"usage: tierllm {command}")


def test_no_command_is_a_mistake(tierllm):
    ran = tierllm()
    assert ran.code == 2
    assert "COMMAND" in ran.err


def test_errors_are_one_line(process, tmp_path):
    path = tmp_path / "none.toml"
    ran = process("complete", "hi", "--config", str(path))
    assert (ran.code, ran.out) == (1, "")
    told = "there is no such file; give the path of a tierllm.toml"
    assert ran.err == f"tierllm complete: {path}: {told}\n"


def test_ctrl_c_ends_without_a_traceback():
    command = [sys.executable, "-m", "tierllm", "demo", "--fake"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ran:
        assert ran.stdout is not None
        assert ran.stdout.readline()
        ran.send_signal(signal.SIGINT)
        _, err = ran.communicate(timeout=10)
    assert (ran.returncode, err) == (130, b"")


def test_a_reader_who_leaves_is_no_error(fakes):
    read, written = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "tierllm", "demo", "--fast"]
    with os.fdopen(written, "wb") as broken:
        ran = subprocess.run(command, stdout=broken, stderr=subprocess.PIPE, check=False, timeout=30)
    assert (ran.returncode, ran.stderr) == (1, b"")


@pytest.mark.parametrize("arguments", [("check",), ("demo", "--fast"), ("complete", "hi")])
def test_closed_streams_are_no_error(fakes, arguments):
    command = f'exec "{sys.executable}" -m tierllm "$@" <&- >&-'
    ran = subprocess.run(
        ["sh", "-c", command, "sh", *arguments], stderr=subprocess.PIPE, check=False, timeout=30
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert subprocess.run(["sh", "-c", f"{command} 2>&-", "sh", *arguments], check=False).returncode == 0


def test_nothing_to_read(fakes):
    command = f'exec "{sys.executable}" -m tierllm complete - <&-'
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=30)
    assert (ran.returncode, ran.stderr) == (
        1,
        "tierllm complete: the prompt is empty: give the model something to answer\n",
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("arguments", [("check",), ("demo", "--fast")])
def test_a_full_disk_is_told_in_one_line(fakes, arguments):
    command = [sys.executable, "-m", "tierllm", *arguments]
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=30)
    assert (ran.returncode, ran.stderr) == (1, b"tierllm: No space left on device\n")


def test_an_interrupt_gives_its_code(tierllm, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.check, "run", interrupted)
    assert tierllm("check").code == 130
