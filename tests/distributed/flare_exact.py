"""The first update of a FLARE in float64, by one process or a rank of several; saves its loss and
gradients: `python -m tests.distributed.flare_exact FOLDER '[["isisisis", 8]]'`."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from common.data.packing import PackState
from common.training.loader import Share, read_updates
from common.training.run import OptimizerConfig, RunConfig, ScheduleConfig
from common.training.runtime import Runtime
from common.training.update import Updater
from flare.config import FlareConfig
from flare.corpora import SourceConfig
from flare.data import FlareBatch, MixtureSource
from flare.encoding import FlareExample
from flare.model import FlareForConditionalGeneration
from flare.recipes import flare_tiny
from flare.task import FlareTask
from flare.task_config import FlareTaskConfig

ROWS = 8
KINDS = {"i": "scenes", "s": "sounds", "t": "prose"}
MIXED, APART = "istitsis", "iiiissss"  # the kind of each row


@dataclass(frozen=True)
class Arranged:
    """Rows of one kind each, in a given order."""

    sources: Mapping[str, MixtureSource]
    pattern: str
    batch_size: int = ROWS
    weight: float = 1.0

    def example(self, position: int) -> FlareExample:
        source = self.sources[self.pattern[position % ROWS]]
        rows, _ = source.pack(0, PackState())
        return source.example(rows[position % ROWS])

    def collate(self, examples: Sequence[FlareExample]) -> FlareBatch:
        return self.sources["i"].collate(examples)


class ExactTask(FlareTask):
    """The tiny FLARE in float64 on rows of given kinds, its encoders and projectors less deep."""

    def __init__(self, config: FlareTaskConfig, *, pattern: str) -> None:
        super().__init__(config, steps=10)
        self.pattern = pattern

    def build_model(self) -> FlareForConditionalGeneration:
        return super().build_model().double()

    @cached_property
    def model_config(self) -> FlareConfig:
        config = super().model_config
        options = config.vision_config.model_options or {}
        config.vision_config.model_options = options | {"depth": 2}
        config.audio_config.num_layers = 2
        config.vision_projector.num_layers = config.audio_projector.num_layers = 1
        return config

    def sources(self) -> Mapping[str, Arranged]:
        alone = {
            letter: FlareTask(
                replace(self.config, sources=(SourceConfig(kind=kind, weight=1.0),)), steps=10
            )._source
            for letter, kind in KINDS.items()
        }
        return {"mixture": Arranged(alone, self.pattern)}


def exact_run(num_micro_batches: int) -> RunConfig[FlareTaskConfig]:
    recipe = flare_tiny()
    task = replace(recipe.task, batch_size=ROWS, max_tokens=64)
    return RunConfig(
        task=task,
        optimizer=OptimizerConfig(peak_learning_rate=1e-3, clip_norm=1e9),
        schedule=ScheduleConfig(warmup_steps=1),
        steps=10,
        num_micro_batches=num_micro_batches,
    )


def first_update(pattern: str, num_micro_batches: int, folder: Path) -> dict[str, Tensor]:
    """Gradients and figures of the first update."""
    run = exact_run(num_micro_batches)
    task, runtime = ExactTask(run.task, pattern=pattern), Runtime(run, folder)
    updater = Updater(run, task, runtime)
    share = Share(
        rank=runtime.rank, num_ranks=runtime.num_ranks, num_micro_batches=num_micro_batches
    )
    (update,) = read_updates(task.sources(), first=0, last=1, share=share, num_workers=0)
    updater.update(update.parts, number=1)
    figures = updater.window.take()
    numbers = {name: value for name, value in figures.items() if isinstance(value, float)}
    gradients = {
        name: parameter.grad
        for name, parameter in updater.model.named_parameters()
        if parameter.grad is not None
    }
    return gradients | {n: torch.tensor(v, dtype=torch.float64) for n, v in numbers.items()}


def save_first_updates(folder: Path, cases: Iterable[tuple[str, int]]) -> None:
    """One file for each case and rank."""
    for pattern, parts in cases:
        result = first_update(pattern, parts, folder)
        rank = dist.get_rank() if dist.is_initialized() else 0
        torch.save(result, folder / f"{pattern}_{parts}_{rank}.pt")


if __name__ == "__main__":
    save_first_updates(Path(sys.argv[1]), json.loads(sys.argv[2]))
    if dist.is_initialized():
        dist.destroy_process_group()
