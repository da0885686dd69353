"""Ends a process that hangs: a rank that waits for ever holds all the others and their devices."""

import faulthandler
import logging
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from common.checkpoint.lost_rank import RUN_AGAIN
from common.training.run import HealthConfig

logger = logging.getLogger(__name__)


class Watchdog:
    """While entered, `beat` must be called within every `health.hang_timeout_s`.

    Otherwise the stacks of all threads go to the log and the process exits with `RUN_AGAIN`.
    """

    def __init__(self, health: HealthConfig, log: Path, *, tells: bool) -> None:
        self.timeout_s, self.log, self.tells = health.hang_timeout_s, log, tells
        self.last_beat = time.monotonic()
        self._left = threading.Event()

    def __enter__(self) -> "Watchdog":
        self.beat()
        if self.timeout_s is not None:
            name = "watchdog"
            threading.Thread(
                target=self._watch, args=(self.timeout_s,), name=name, daemon=True
            ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left.set()

    def beat(self) -> None:
        """Say that the process gets on."""
        self.last_beat = time.monotonic()

    def _watch(self, timeout_s: float) -> None:
        while not self._left.wait(max(self.last_beat + timeout_s - time.monotonic(), 0.01)):
            if time.monotonic() - self.last_beat >= timeout_s:
                self._end(timeout_s)

    def _end(self, timeout_s: float) -> None:
        text = (
            f"no step has finished for {timeout_s:g} s (health.hang_timeout_s); the stacks of all "
            f"threads are in {self.log}; run the same command again to continue"
        )
        logger.debug("%s", text)
        with self.log.open("a") as stream:
            faulthandler.dump_traceback(stream, all_threads=True)
        if self.tells:
            sys.stderr.write(f"error: {text}\n")
            sys.stderr.flush()
        # What hangs cannot be asked to clean up.
        os._exit(RUN_AGAIN)
