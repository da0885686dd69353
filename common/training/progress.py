"""How far a run has come: the counters that a checkpoint carries beside the tensors."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.training.run import RunConfig


@dataclass(kw_only=True)
class Progress:
    """Mutable by design: the loop owns one and moves it forward."""

    step: int = 0  # updates done and not undone
    tokens: int = 0  # seen in them, over all ranks
    best_validation: float | None = None  # lowest validation perplexity
    validations_without_improvement: int = 0
    has_converged: bool = False  # stopped early, by validation
    roll_backs: int = 0  # after loss spikes

    def advance(self, *, tokens: int) -> None:
        """One more update is done."""
        self.step += 1
        self.tokens += tokens

    def judge(self, perplexity: float, run: RunConfig[Any]) -> None:
        """Take in a validation perplexity; sets `has_converged` when the run's patience is over."""
        best = self.best_validation
        if best is None or perplexity < best - run.stop_min_delta:
            self.best_validation, self.validations_without_improvement = perplexity, 0
            return
        self.validations_without_improvement += 1
        patience = run.stop_patience
        self.has_converged = (
            patience is not None and self.validations_without_improvement >= patience
        )

    def is_over(self, run: RunConfig[Any]) -> bool:
        """True when nothing is left to train."""
        return self.step >= run.steps or self.has_converged

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def load(self, saved: Mapping[str, Any]) -> None:
        """Become what `to_json` has saved."""
        vars(self).update(saved)
