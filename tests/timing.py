"""Bounds on the time that code takes, which neither a busy machine nor a collection breaks."""

import gc
import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

ATTEMPTS = 3


def within(seconds: float, run: Callable[[], Result], of: object = "the call") -> Result:
    """What `run` returns; it has to take less than `seconds` of the processor once in three times.
    The garbage of the tests before is not collected meanwhile."""
    taken = []
    gc.disable()
    try:
        for _ in range(ATTEMPTS):
            started = time.process_time()
            result = run()
            taken.append(time.process_time() - started)
            if taken[-1] < seconds:
                return result
    finally:
        gc.enable()
    raise AssertionError(f"{of} took {min(taken):.2f} s of the processor at best, not {seconds} s")
