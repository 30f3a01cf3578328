"""Fixtures for every test suite that has tierllm installed: ``fake_provider`` and ``fake_clock``.

pytest loads this module in each of its runs, so it imports what it needs inside the fixtures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .clock import FakeClock
    from .fake import FakeProvider


@pytest.fixture
def fake_provider() -> FakeProvider:
    """A fresh ``FakeProvider``, answering at once."""
    from .fake import FakeProvider

    return FakeProvider()


@pytest.fixture
def fake_clock() -> FakeClock:
    """A fresh ``FakeClock`` at 0; hand it to a client as ``clock=``."""
    from .clock import FakeClock

    return FakeClock()
