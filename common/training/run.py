"""The configuration of a training run: plain frozen data, checked when it is made.

`RunConfig` holds what the loop needs and, as field `task`, whatever object configures the task.
Numbers that a paper or a recipe fixes have no default here. The comment at a field is its help on
the command line. Nothing here knows a model, a device or a file.
"""

from dataclasses import dataclass, field
from math import inf
from typing import Generic, Literal, TypeVar

from common.errors import UserError
from common.parallel.mesh import ZERO_BUBBLE, ParallelConfig
from common.parallel.recompute import Recompute

TaskConfigT = TypeVar("TaskConfigT")

# How the work is divided. It decides only the rounding of sums and what dropout draws.
DIVISION = ("parallel", "num_micro_batches")
# A run may be resumed with other values of these: as long as it is healthy they change no weight.
FREE_ON_RESUME = (
    *DIVISION,
    "health",
    "num_workers",
    "max_fault_share",
    "log_every",
    "sample_every",
    "tracker",
    "checkpoint",
)


def require(condition: bool, message: str) -> None:
    """Raise the user's error when a value is impossible."""
    if not condition:
        raise UserError(message)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW; weight decay comes from the task's parameter groups."""

    # Highest learning rate, reached at the end of the warm-up.
    peak_learning_rate: float
    # Decay rates of Adam's running first and second moment.
    betas: tuple[float, float] = (0.9, 0.95)
    # Added to the root of the second moment.
    eps: float = 1e-8
    # Gradients are scaled down to this one norm over all parameters.
    clip_norm: float = 1.0
    # Updates with a gradient that is not finite are skipped; so many in a row end the run.
    max_skipped_in_row: int = 10

    def __post_init__(self) -> None:
        rate = self.peak_learning_rate
        require(
            0 < rate < inf, f"optimizer.peak_learning_rate must be positive and finite, not {rate}"
        )
        betas_fit = all(0 <= beta < 1 for beta in self.betas)
        require(betas_fit, f"optimizer.betas must lie in [0, 1), not {self.betas}")
        require(self.eps > 0, f"optimizer.eps must be positive, not {self.eps}")
        clip = self.clip_norm
        require(clip > 0, f"optimizer.clip_norm must be positive, not {clip}; use inf for no clip")
        skipped = self.max_skipped_in_row
        require(skipped > 0, f"optimizer.max_skipped_in_row must be at least 1, not {skipped}")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over the updates: linear warm-up, then cosine or constant."""

    # Updates over which the learning rate grows from 0 to its peak.
    warmup_steps: int
    # What follows the warm-up: cosine down to final_fraction at the last update, or constant.
    kind: Literal["cosine", "constant"] = "cosine"
    # Share of the peak learning rate left at the last update of the cosine.
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        warmup = self.warmup_steps
        require(warmup >= 0, f"schedule.warmup_steps must not be negative, but is {warmup}")
        final = self.final_fraction
        require(0 <= final <= 1, f"schedule.final_fraction must lie in 0..1, not {final}")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the training state is stored and how many of the stored states are kept."""

    # A checkpoint every so many updates, and one at the end and on SIGTERM, SIGUSR1 or Ctrl-C.
    every_steps: int = 500
    # Newest checkpoints kept; at least 2, so that a damaged one has a good one behind it.
    keep: int = 2

    def __post_init__(self) -> None:
        every = self.every_steps
        require(every > 0, f"checkpoint.every_steps must be at least 1, not {every}")
        require(
            self.keep >= 2,
            f"checkpoint.keep must be at least 2, not {self.keep}: "
            "with one, a damaged checkpoint would end the run",
        )


@dataclass(frozen=True, kw_only=True)
class HealthConfig:
    """What is done about a run that goes wrong by itself."""

    # The loss spikes when it exceeds this many times the median of recent losses; None for never.
    spike_factor: float | None = 2.0
    # ... in so many updates in a row. The weights go back to a checkpoint, the data do not; the
    # checkpoints that are kept must reach back farther than twice this number.
    spike_updates: int = 10
    # Recent losses that the median is of.
    spike_window: int = 100
    # Spikes that are undone; one more ends the run.
    max_roll_backs: int = 3
    # Seconds that ranks wait for one another; longer than one takes to load or export the model.
    collective_timeout_s: float = 1800.0
    # Seconds without a finished step after which a process ends itself, with stack traces in its
    # log; None for never. Longer than an update, a validation and a checkpoint together.
    hang_timeout_s: float | None = 1800.0

    def __post_init__(self) -> None:
        factor = self.spike_factor
        above = factor is None or factor > 1
        require(above, f"health.spike_factor must be above 1 or None, not {factor}")
        for name in ("spike_updates", "spike_window", "collective_timeout_s"):
            value = getattr(self, name)
            require(value > 0, f"health.{name} must be positive, not {value}")
        allowed = self.max_roll_backs
        require(allowed >= 0, f"health.max_roll_backs must not be negative, but is {allowed}")
        hang = self.hang_timeout_s
        fits = hang is None or hang > 0
        require(fits, f"health.hang_timeout_s must be positive or None, not {hang}")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Generic[TaskConfigT]):
    """Everything that decides a training run."""

    # The model, its data and its objective.
    task: TaskConfigT
    # The optimizer.
    optimizer: OptimizerConfig
    # The learning-rate schedule.
    schedule: ScheduleConfig
    # Optimizer updates of the whole run.
    steps: int
    # Saving of the training state.
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    # Loss spikes, ranks that die or hang.
    health: HealthConfig = field(default_factory=HealthConfig)
    # Parts into which the batch of one update is cut, to save memory; the result stays the same.
    num_micro_batches: int = 1
    # Arithmetic of the matrix products; weights and optimizer keep their own precision.
    precision: Literal["fp32", "bf16"] = "fp32"
    # What the model's blocks make again in the backward pass: nothing, cheap operations and every
    # second matrix product, or everything.
    recompute: Recompute = "none"
    # Compile the model's blocks (torch.compile); the first steps take minutes, the others less.
    compile: bool = False
    # How ranks share parameters, gradients and optimizer state.
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    # Seed of initialisation and of everything random outside the data.
    seed: int = 0
    # Processes per rank that prepare batches ahead; 0 prepares them in the training process.
    num_workers: int = 0
    # Largest share of a data set's samples that may be unusable; the run stops above it.
    max_fault_share: float = 0.01
    # Updates between two lines of metrics.
    log_every: int = 10
    # Updates between two validations; None for never.
    validate_every: int | None = None
    # Updates between two sets of sample generations; None for never.
    sample_every: int | None = None
    # "none" or an Accelerate tracker (tensorboard, wandb, trackio ...); metrics.jsonl is always on.
    tracker: str = "none"
    # Stop after so many validations without a better validation/perplexity; None for never.
    stop_patience: int | None = None
    # A perplexity counts as better when it is lower than the best by more than this.
    stop_min_delta: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "num_micro_batches", "log_every"):
            value = getattr(self, name)
            require(value > 0, f"{name} must be at least 1, not {value}")
        for name in ("validate_every", "sample_every", "stop_patience"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} must be at least 1 or None, not {value}")
        share = self.max_fault_share
        require(0 <= share <= 1, f"max_fault_share must lie in 0..1, not {share}")
        workers = self.num_workers
        require(workers >= 0, f"num_workers must not be negative, but is {workers}")
        require(
            self.schedule.warmup_steps < self.steps,
            f"schedule.warmup_steps ({self.schedule.warmup_steps}) must be smaller than steps "
            f"({self.steps}): the learning rate would never reach its peak",
        )
        splits_backward = self.parallel.pipeline > 1 and self.parallel.schedule in ZERO_BUBBLE
        require(
            not splits_backward or (self.recompute != "selective" and not self.compile),
            f"parallel.schedule={self.parallel.schedule} goes back through a block twice, which "
            "recompute=selective and compile forbid; take other ones, or Interleaved1F1B",
        )
        require(
            self.stop_patience is None or self.validate_every is not None,
            "stop_patience needs validations to judge by: set validate_every too",
        )
