"""Loss spikes: several updates in a row far above the median of the losses before them.

    loss > spike_factor * median of the last spike_window losses, in spike_updates updates in a row

Judged from the end of the warm-up on, as soon as the window is full, every spike_updates updates:
between them nobody waits for the device. Losses that are too high, or of skipped updates, do not
enter the window.
"""

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from common.errors import UserError
from common.training.metrics import Window
from common.training.run import HealthConfig


class SpikeWatch:
    """Remembers the losses of a run; equal losses give equal judgements on all ranks."""

    def __init__(self, config: HealthConfig, *, warmup_steps: int) -> None:
        self.config, self.warmup_steps = config, warmup_steps
        self.recent: deque[float] = deque(maxlen=config.spike_window)
        self.high: list[int] = []  # steps in a row by now

    def look(self, window: Window, *, step: int) -> int | None:
        """The first step of a spike that has lasted long enough by now; None without one."""
        if step % self.config.spike_updates:
            return None
        losses = window.take_losses()
        for number, loss in enumerate(losses, step - len(losses) + 1):
            if not math.isfinite(loss) or number <= self.warmup_steps:
                continue
            if self._is_high(loss):
                self.high.append(number)
            else:
                self.recent.append(loss)
                self.high.clear()
            if len(self.high) >= self.config.spike_updates:
                return self.high[0]
        return None

    def refuse_more(self, spike: str, undone: int) -> None:
        """After so many spikes that were undone.

        Raises:
            UserError: one more would be too much.
        """
        if undone >= self.config.max_roll_backs:
            raise UserError(
                f"{spike}, after {undone} roll-backs; look at the data behind it and, in a new run "
                "folder, lower optimizer.peak_learning_rate, or raise health.max_roll_backs"
            )

    def forget(self) -> None:
        """Take the losses as they are by now for normal."""
        self.recent.clear()
        self.high.clear()

    def to_json(self) -> dict[str, Any]:
        return {"recent": [*self.recent], "high": self.high}

    def load(self, saved: Mapping[str, Any]) -> None:
        """Go on where `to_json` stopped, perhaps with another window."""
        self.recent = deque(saved["recent"], maxlen=self.config.spike_window)
        self.high = list(saved["high"])

    def _is_high(self, loss: float) -> bool:
        factor = self.config.spike_factor
        if factor is None or len(self.recent) < self.config.spike_window:
            return False
        usual = median(self.recent)
        # Multiples of a loss that may be negative say nothing.
        return usual > 0 and loss > factor * usual
