"""A few updates of a tiny FLARE and a tiny Flamingo in float64, by one process or one of several:
`python -m tests.distributed.sharded_updates FOLDER '[{"name": "flare", "shard": 2}]'`."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from common.objectives.language import IGNORED
from common.parallel.mesh import ParallelConfig, ScheduleName
from common.parallel.recompute import Recompute
from common.parallel.sharding import whole
from common.training.loader import Share, read_updates
from common.training.run import OptimizerConfig, RunConfig, ScheduleConfig
from common.training.runtime import Runtime
from common.training.task import Computed, Task
from common.training.update import Updater
from flamingo.config import FlamingoConfig
from flamingo.data import FlamingoBatch
from flamingo.model import FlamingoForConditionalGeneration
from flamingo.recipes import flamingo_tiny
from flamingo.task import FlamingoTask
from flamingo.task_config import SourceConfig
from flare.corpora import SourceConfig as SourceOfFlare
from flare.data import MixtureSource
from flare.instruct.task_corpora import NUM_PREFERENCES
from flare.model import FlareForConditionalGeneration
from flare.recipes import flare_tiny
from flare.task import FlareTask
from tests.distributed.flare_exact import MIXED, ROWS, ExactTask

torch_compile: Callable[..., Any] = torch.compile
Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Which model, and how it is divided."""

    name: str
    shard: int = 1
    pipeline: int = 1
    schedule: ScheduleName = "1F1B"
    recompute: Recompute = "none"
    compile: bool = False
    reshard_after_forward: bool = True
    micro_batches: int = 2
    updates: int = 2  # the second begins with what the first has left: weights, moments, averages
    drop: float = 0.0  # of FLARE's patches and layers of WavLM
    precision: Literal["fp64", "fp32", "bf16"] = "fp64"

    @property
    def file(self) -> str:
        """The name of its results without the rank."""
        return "_".join(str(value) for value in vars(self).values())


class ExactPairsTask(ExactTask):
    """The same on pairs of answers and scenes, packed, against references that differ."""

    def sources(self) -> Mapping[str, MixtureSource]:
        self._references.update(
            {f"preferences/{n}": (-2.0 - n % 5, -4.0) for n in range(2 * NUM_PREFERENCES)}
        )
        return FlareTask.sources(self)


class RoundedTask(ExactTask):
    """The same in the precision of its recipe."""

    def build_model(self) -> FlareForConditionalGeneration:
        return FlareTask.build_model(self)


class ExactFlamingoTask(FlamingoTask):
    """A Flamingo in float64 over an OPT, whose norms compute in the precision that they are given,
    and whose tables of tokens are one."""

    def build_model(self) -> FlamingoForConditionalGeneration:
        return super().build_model().double()

    def compute(
        self, model: FlamingoForConditionalGeneration, source: str, batch: FlamingoBatch
    ) -> Computed:
        logits = model(
            batch.input_ids,
            pixel_values=batch.pixel_values,
            num_images=batch.num_images,
            media_item=batch.media_item,
            document_ids=batch.document_ids,
        ).logits
        predictions, targets = logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten()
        loss = F.cross_entropy(predictions, targets, ignore_index=IGNORED, reduction="sum")
        return Computed(losses={source: loss})

    @cached_property
    def model_config(self) -> FlamingoConfig:
        tiny = super().model_config
        bridge = FlamingoConfig.__annotations__.keys() - {"vision_config", "text_config"}
        text = {
            "model_type": "opt",
            "vocab_size": 1024,
            "hidden_size": 64,
            "word_embed_proj_dim": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "dropout": 0.0,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        options = {name: getattr(tiny, name) for name in bridge}
        options |= {"cross_attention_interval": 2, "cross_attention_feed_forward_dim": 80}
        return FlamingoConfig(vision_config=tiny.vision_config, text_config=text, **options)


def run_of(case: Case) -> tuple[RunConfig[Any], Task[Any, Any]]:
    """The run of a case and its task."""
    common = {
        "optimizer": OptimizerConfig(peak_learning_rate=1e-3, clip_norm=0.5),
        "schedule": ScheduleConfig(warmup_steps=1),
        "steps": 10,
        "num_micro_batches": case.micro_batches,
        "precision": "bf16" if case.precision == "bf16" else "fp32",
        "recompute": case.recompute,
        "compile": case.compile,
        "parallel": ParallelConfig(
            shard=case.shard,
            pipeline=case.pipeline,
            schedule=case.schedule,
            reshard_after_forward=case.reshard_after_forward,
        ),
    }
    exact = case.precision == "fp64"
    if case.name == "pairs":
        config = replace(
            flare_tiny().task,
            batch_size=ROWS,
            max_tokens=128,
            sources=(
                SourceOfFlare(kind="preferences", weight=3.0),
                SourceOfFlare(kind="scenes", weight=1.0),
            ),
        )
        return RunConfig(task=config, **common), ExactPairsTask(config, pattern=MIXED)
    if case.name == "flare":
        config = replace(
            flare_tiny().task,
            batch_size=ROWS,
            max_tokens=64,
            patch_drop=case.drop,
            layer_drop=case.drop,
        )
        task = ExactTask(config, pattern=MIXED) if exact else RoundedTask(config, pattern=MIXED)
        return RunConfig(task=config, **common), task
    sources = tuple(
        SourceConfig(name=kind, kind=kind, batch_size=ROWS, weight=weight)
        for kind, weight in (("episodes", 1.0), ("scenes", 0.2))
    )
    config = replace(
        flamingo_tiny().task,
        language_model=None,
        vision_encoder=None,
        sources=sources,
        max_tokens=64,
        max_images=4,
        frozen_precision="bf16" if case.precision == "bf16" else "fp32",
    )
    task = ExactFlamingoTask(config) if exact else FlamingoTask(config)
    return RunConfig(task=config, **common), task


def train(case: Case, folder: Path) -> Figures:
    """Figures of the updates, the weights after them, and what this rank holds.

    Of compilation all is done but the generation of machine code, which takes minutes.
    """
    torch.compile = partial(torch_compile, backend="aot_eager")
    run, task = run_of(case)
    runtime = Runtime(run, folder)
    updater = Updater(run, task, runtime)
    updater.model.train()
    share = Share(
        rank=runtime.rank, num_ranks=runtime.num_ranks, num_micro_batches=run.num_micro_batches
    )
    updates = read_updates(task.sources(), first=0, last=case.updates, share=share, num_workers=0)
    records = []
    for number, update in enumerate(updates, 1):
        updater.update(update.parts, number=number)
        records.append(updater.window.take())
    parameters = dict(updater.model.named_parameters())
    return {
        "records": records,
        "weights": {name: whole(p.detach()) for name, p in parameters.items() if p.requires_grad},
        "holdings": holdings(parameters, updater.optimizer),
    }


def holdings(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Numbers on this rank beside numbers of the whole model, and names that break a rule."""
    frozen = {name: p for name, p in parameters.items() if not p.requires_grad}
    states = [
        value for state in optimizer.state.values() for value in state.values() if value.ndim > 0
    ]
    return {
        "not sharded": [n for n, p in parameters.items() if not isinstance(p, DTensor)],
        "parameters": held([*parameters.values()]),
        "optimizer": held(states),
        "frozen": len(frozen),
        "frozen with gradient": [n for n, p in frozen.items() if p.grad is not None],
        "frozen with state": [n for n, p in frozen.items() if p in optimizer.state],
    }


def held(tensors: Sequence[Tensor]) -> tuple[int, int]:
    """Numbers held here, and in all."""
    local = [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
    return sum(t.numel() for t in local), sum(t.numel() for t in tensors)


if __name__ == "__main__":
    for words in json.loads(sys.argv[2]):
        case = Case(**words)
        result = train(case, Path(sys.argv[1]))
        rank = dist.get_rank() if dist.is_initialized() else 0
        torch.save(result, Path(sys.argv[1]) / f"{case.file}_{rank}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()
