"""SIGTERM, SIGUSR1 and Ctrl-C end a run at the next step boundary instead of in the middle of one.

Batch systems send the first two before the end of a job's time. Launchers pass on what they and
their processes have both received, so the same signal twice is no second wish; only Ctrl-C some
seconds later ends the process at once.
"""

import signal
import threading
import time
from types import FrameType, TracebackType

CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PATIENCE_S = 3.0  # within which a second Ctrl-C is the first one passed on


class Interruption:
    """While entered, remembers the last signal."""

    def __init__(self) -> None:
        self.received: int = 0
        self._since = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        # Python delivers signals to the main thread only.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.getsignal(number) for number in CAUGHT}
            for number in CAUGHT:
                signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what getsignal returned

    def _remember(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == self.received == signal.SIGINT and now - self._since > PATIENCE_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self.received:
            self._since = now
        self.received = number
