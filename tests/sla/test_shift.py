"""The settings of shifts."""

from __future__ import annotations

from typing import Any

import pytest

from tierllm import ConfigError, Objective
from tierllm.sla.shift import Shift


@pytest.mark.parametrize(
    "settings",
    [
        {"latency_s": 0},
        {"latency_s": True},
        {"latency_s": "4"},
        {"latency_s": float("nan")},
        {"error_rate": 0},
        {"error_rate": 1.0},
        {"burn": 2},
        {"burn": float("inf")},
        {"calm": 0.5},
        {"calm": 3.0},
        {"min_calls": 0},
        {"min_calls": 1.5},
        {"dwell_s": -1},
        {"max_dwell_s": 59},
        {"stages": []},
        {"stages": "0.1"},
        {"stages": [0.5, 0.1]},
        {"stages": [0.1, 0.1]},
        {"stages": [0]},
        {"stages": [1.5]},
        {"stage_s": 0},
        {"stage_calls": 0},
        {"probe_s": None},
        {"load": 0},
        {"load": False},
        {"shed": 1},
        {"shed_steps": [0.2, 2]},
        {"shed_every_s": 0},
        {"max_shifts_per_hour": 1},
        {"mode": "off"},
    ],
    ids=lambda settings: "-".join(f"{name}={value}" for name, value in settings.items()),
)
def test_what_makes_no_sense_is_told(settings: dict[str, Any]) -> None:
    name = next(iter(settings))
    with pytest.raises(ConfigError, match=rf"Shift\({name}="):
        Shift(**settings)


def test_there_has_to_be_something_to_judge_by() -> None:
    for objective in (None, Objective(cost_usd=0.01)):
        with pytest.raises(ConfigError, match="Objective with a latency or an availability"):
            Shift().bound(tier="gold", places=["a"], objective=objective)
        Shift(error_rate=0.1).bound(tier="gold", places=["a"], objective=objective)


def test_repr() -> None:
    assert repr(Shift(latency_s=4.0, mode="observe")) == "Shift(latency_s=4.0, mode='observe')"
