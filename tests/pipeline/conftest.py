from __future__ import annotations

import pytest

from pipeline.drivers import Mode

ALL = [(name, streaming) for name in ("sync", "async", "virtual") for streaming in (False, True)]


@pytest.fixture(params=ALL, ids=lambda p: p[0] + ("-stream" if p[1] else ""))
def mode(request: pytest.FixtureRequest) -> Mode:
    """Every driver, plain and streaming."""
    return Mode(*request.param)


@pytest.fixture(params=["sync", "async", "virtual"])
def streaming(request: pytest.FixtureRequest) -> Mode:
    """Every driver, streaming."""
    return Mode(request.param, True)
