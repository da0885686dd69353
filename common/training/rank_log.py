"""`logs/rank_00003.log` of a run: what one process has done, seen and died of.

It holds more than the terminal, where rank 0 alone talks: debug messages of this project, warnings
of every library, and the traceback of an error that ends the run. Starts are appended.
"""

import logging
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from common.checkpoint.writing import disk_faults_told
from common.training.runtime import Runtime, device_name

logger = logging.getLogger(__name__)
PROJECT = __name__.split(".", maxsplit=1)[0]


class RankLog:
    """While entered, the process writes its log."""

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        self.runtime, self.path = runtime, folder / "logs" / f"rank_{runtime.rank:05d}.log"

    def __enter__(self) -> "RankLog":
        with disk_faults_told(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.handler = LogFile(self.path, encoding="utf-8")
        form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
        self.handler.setFormatter(logging.Formatter(form))
        self.handler.addFilter(_belongs)
        logging.getLogger().addHandler(self.handler)
        logging.captureWarnings(capture=True)
        project = logging.getLogger(PROJECT)
        self.level = project.level
        project.setLevel(logging.DEBUG)
        logger.debug(
            "rank %d of %d: process %d on %s, %s",
            self.runtime.rank,
            self.runtime.num_ranks,
            os.getpid(),
            socket.gethostname(),
            device_name(self.runtime.device),
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            # To the file alone: the terminal gets one line of it.
            self.handler.setFormatter(logging.Formatter("%(asctime)s ended by"))
            trace = (type(error), error, traceback)
            told = {"levelno": logging.ERROR, "exc_info": trace}
            self.handler.handle(logging.makeLogRecord(told))
        logging.getLogger(PROJECT).setLevel(self.level)
        logging.captureWarnings(capture=False)
        logging.getLogger().removeHandler(self.handler)
        with suppress(OSError):  # what a full disk did not take has been told
            self.handler.close()


class LogFile(logging.FileHandler):
    """What a disk does not take is said once, on the terminal: a log must not end a run."""

    has_told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        error = sys.exception()
        if not self.has_told:
            self.has_told = True
            with suppress(OSError):  # the terminal's own output may lie on the same disk
                sys.stderr.write(f"warning: {self.baseFilename} is not written ({error})\n")


def _belongs(record: logging.LogRecord) -> bool:
    """Some libraries debug aloud."""
    return record.levelno >= logging.WARNING or record.name.startswith(f"{PROJECT}.")
