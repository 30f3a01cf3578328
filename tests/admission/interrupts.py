"""A Ctrl-C at any bytecode of some modules."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Container
from typing import Any

__all__ = ["interrupted_at"]


def interrupted_at(step: int, work: Callable[[], object], files: Container[str | None]) -> bool:
    """Run ``work`` with a Ctrl-C before its ``step``-th bytecode in ``files``. False: it ended before.

    Nothing is collected meanwhile: what others left behind is not what the interrupt is meant for.
    """
    left = step

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    gc.disable()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
        gc.enable()
    return False
