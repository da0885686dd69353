"""What a run says of itself: `config.json`, its newest configuration, and `run.json`, one entry for
every start with all that a report of the run has to state.

An entry without an end is of a process that runs still, or that was killed or hung.
"""

import json
import platform
import shlex
import socket
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from common.checkpoint.writing import write_whole
from common.errors import UserError
from common.training.config_json import to_json
from common.training.outcome import exit_status_of
from common.training.progress import Progress
from common.training.run import RunConfig
from common.training.runtime import Runtime, device_name

PACKAGES = ("accelerate", "transformers")  # and torch, which knows its build


class Manifest:
    """While entered, the run is under way; all ranks enter, the main one writes."""

    def __init__(
        self, run: RunConfig[Any], folder: Path, runtime: Runtime, progress: Progress
    ) -> None:
        self.run, self.runtime, self.progress = run, runtime, progress
        self.folder, self.path = folder, folder / "run.json"

    def __enter__(self) -> "Manifest":
        ranks = self.runtime.collect((socket.gethostname(), device_name(self.runtime.device)))
        self.earlier = json.loads(self.path.read_text()) if self.path.exists() else []
        self.entry: dict[str, object] = {
            "command": shlex.join(sys.orig_argv),
            "started": _now(),
            "commit": source_commit(),
            "versions": versions(),
            "hosts": Counter(host for host, _ in ranks),
            "devices": Counter(device for _, device in ranks),
            "mesh": self.run.parallel.sizes(self.runtime.num_ranks)._asdict(),
            "from_step": self.progress.step,
        }
        if self.runtime.is_main:
            config = json.dumps(to_json(self.run), indent=2)
            write_whole(self.folder / "config.json", config + "\n")
        self._write()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            # What ended the run is the news, not that a full disk keeps it from being noted.
            with suppress(UserError):
                self.end(f"{type(error).__name__}: {error}", exit_status=exit_status_of(error))

    def end(self, how: str, *, exit_status: int) -> None:
        """Note how far the run has come, and why it ends."""
        end = {"ended": _now(), "to_step": self.progress.step}
        self.entry |= {**end, "how": how, "exit_status": exit_status}
        self._write()

    def _write(self) -> None:
        if self.runtime.is_main:
            write_whole(self.path, json.dumps([*self.earlier, self.entry], indent=1) + "\n")


def versions() -> dict[str, str]:
    """Of Python and of the libraries that decide results."""
    builds = {"python": platform.python_version(), "torch": torch.__version__}
    return builds | {name: version(name) for name in PACKAGES}


@cache
def source_commit() -> str | None:
    """The commit of the source tree, None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
