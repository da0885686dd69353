"""When one of two ranks dies, hangs or is stopped, the other one ends too, soon, in one line, and
the run can be started again from its last checkpoint."""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.checkpoint.folder import newest_good_checkpoint
from common.checkpoint.lost_rank import RUN_AGAIN
from common.training.command_line import main
from common.training.task import Computed
from tests.common.training.toy import ToyBatch, ToyModel, ToyTask, toy
from tests.distributed.launch import preloaded

pytestmark = pytest.mark.slow
UPDATES_BEFORE = 6  # checkpoints are after 4 and 8
TIMED_OUT = r"(Timed out waiting 4000ms for \w+ .*|Application timeout .*)"


@dataclass(frozen=True)
class FailingTask(ToyTask):
    """Dies, hangs or is frozen by the system in the middle of an update of the second rank."""

    fault: str = ""

    def compute(self, model: ToyModel, source: str, batch: ToyBatch) -> Computed:
        # Of every update a rank sees 6 rows.
        if model.seen >= 6 * UPDATES_BEFORE and os.environ["RANK"] == "1":
            if self.fault == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "stops":
                os.kill(os.getpid(), signal.SIGSTOP)
            threading.Event().wait()
        return super().compute(model, source, batch)


def train_on_a_rank(rank: int, port: int, fault: str, folder: Path) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "localhost", **{name: str(n) for name, n in names.items()}}
    words = ["toy", "--run-folder", str(folder / "run")]
    words += ["--health.collective-timeout-s", "4", "--health.hang-timeout-s", "6"]
    sys.argv = ["toy"]
    with (folder / f"errors_{rank}").open("w") as errors, contextlib.redirect_stderr(errors):
        status = main(
            {"toy": toy}, lambda run: FailingTask(run.task, fault), description="", arguments=words
        )
    sys.exit(status)


def start(fault: str, folder: Path) -> list[int | None]:
    """The exit status of each rank."""
    context = preloaded()
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    ranks = [
        context.Process(target=train_on_a_rank, args=(rank, port, fault, folder)) for rank in (0, 1)
    ]
    for rank in ranks:
        rank.start()
    ranks[0].join(timeout=100)
    if fault == "stops":  # nothing else wakes it
        ranks[1].kill()
    ranks[1].join(timeout=100)
    return [rank.exitcode for rank in ranks]


@pytest.mark.proves("R7", "a rank dies, hangs, is stopped", 1)
@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("dies", -signal.SIGKILL, r"Connection (closed|reset) by peer.*"),
        ("hangs", RUN_AGAIN, TIMED_OUT),
        ("stops", -signal.SIGKILL, TIMED_OUT),
    ],
    ids=["dies", "hangs", "stops"],
)
def test_a_rank_that_is_lost_ends_the_other_in_one_line(
    fault: str, status: int, reason: str, tmp_path: Path
) -> None:
    assert start(fault, tmp_path) == [RUN_AGAIN, status]
    (line,) = (tmp_path / "errors_0").read_text().splitlines()
    told = r"error: training stopped: another rank has died or does not answer \([^()]*"
    assert re.fullmatch(rf"{told}{reason}\), see logs/; .*: run the same command .*", line)
    run = tmp_path / "run"
    assert newest_good_checkpoint(run / "checkpoints") == run / "checkpoints" / "step_00000004"
    (entry,) = json.loads((run / "run.json").read_text())
    assert entry["how"].startswith("LostRankError: training stopped")
    assert (entry["to_step"], entry["exit_status"]) == (UPDATES_BEFORE, RUN_AGAIN)
    logs = [(run / "logs" / f"rank_0000{rank}.log").read_text() for rank in (0, 1)]
    assert "Traceback" in logs[0]
    if fault == "hangs":
        # Who hangs tells where, and leaves the terminal to the first rank.
        assert "no step has finished for 6 s" in logs[1]
        assert "in compute" in logs[1]
        assert not (tmp_path / "errors_1").read_text()
