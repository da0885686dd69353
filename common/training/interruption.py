"""SIGTERM and Ctrl-C end a run at the next step boundary instead of in the middle of a step."""

import signal
import threading
from types import FrameType, TracebackType

CAUGHT = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """While entered, remembers the first signal; the second one of its kind acts at once."""

    def __init__(self) -> None:
        self.received: int = 0
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
        self.received = number
        signal.signal(number, signal.SIG_DFL)
