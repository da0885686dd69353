"""How a run ended, for people, scripts and batch systems."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.checkpoint.lost_rank import RUN_AGAIN, LostRankError
from common.errors import UserError

EXIT_STATUSES = f"""\
exit status:
  0    the run is complete
  2    a mistake of the user's, told in one line
  {RUN_AGAIN}   another rank has died, or this one hung: the checkpoints before it are kept
  143  SIGTERM, 138 SIGUSR1, 130 Ctrl-C: stopped behind a whole update, the state is saved
  After {RUN_AGAIN}, 143, 138 and 130 the same command goes on where the run stopped.
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How `train` ended; `exit_status` is what a script should exit with."""

    status: Literal["completed", "already completed", "interrupted"]
    step: int
    message: str
    exit_status: int = 0


def completed(folder: Path, *, step: int, already: bool = False) -> Outcome:
    """All steps are done, by this process or by an earlier one."""
    model = folder / "model"
    if already:
        text = f"{folder} is complete: step {step}, model in {model}"
        return Outcome(status="already completed", step=step, message=text)
    text = f"finished at step {step}; the model is in {model}"
    return Outcome(status="completed", step=step, message=text)


def interrupted(received: int, *, step: int) -> Outcome:
    """A signal has stopped the run between two steps."""
    text = (
        f"stopped by {signal.Signals(received).name} after step {step}, state saved; "
        "run the same command again to continue"
    )
    return Outcome(status="interrupted", step=step, message=text, exit_status=128 + received)


def exit_status_of(error: BaseException) -> int:
    """What a script should exit with after an error."""
    if isinstance(error, LostRankError):
        return RUN_AGAIN
    return 2 if isinstance(error, UserError) else 1
