"""What holds for all tests."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Ctrl-C is heard, even where the tests run as a background job, which begins with it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
