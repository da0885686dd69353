"""A tiny task in float64 with images, recordings, captions and two language terms, and a script
that saves loss and gradients of one update: `python -m tests.common.training.contrast_toy folder`.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_model
from torch import Tensor, nn

from common.objectives.contrastive import Contrast, clamp_scale_, info_nce
from common.objectives.weighting import Kind, Weighting, build_weighting
from common.training.loader import Share, read_updates
from common.training.run import CheckpointConfig, OptimizerConfig, RunConfig, ScheduleConfig
from common.training.runtime import Runtime
from common.training.task import Computed, Gather, Pairs, ParameterGroup
from common.training.update import Updater

MEDIA = {"image": 5, "audio": 6}  # widths
# What the examples of an update hold: an image, a recording or neither.
MIXED = "iia-iaiia---aiii"
APART = "iii-iiiiaaa-aa-a"  # of two ranks one reads images only, the other recordings only
IMAGES = "iiii-iiii-ii-iii"


@dataclass(frozen=True, kw_only=True)
class ContrastConfig:
    pattern: str = MIXED
    dropout: float = 0.0
    weighting: Kind | None = None
    base: Mapping[str, float] = field(
        default_factory=lambda: {"language": 1.0, "image_text": 0.5, "audio_text": 0.25}
    )
    initial_log_scale: float = 1.3


@dataclass(frozen=True, kw_only=True)
class ContrastExample:
    key: str
    kind: str
    media: Float[Tensor, " w"]
    caption: Float[Tensor, " s"]
    caption_id: int
    masked: bool


@dataclass(frozen=True, kw_only=True)
class ContrastBatch:
    keys: list[str]
    captions: Float[Tensor, "b s"]
    caption_ids: Int[Tensor, " b"]
    masked: Bool[Tensor, " b"]
    media: dict[str, Tensor]  # by kind: (m, w)
    rows: dict[str, Int[Tensor, " m"]]  # of their captions


@dataclass(frozen=True, kw_only=True)
class ContrastSource:
    config: ContrastConfig
    batch_size: int = 16
    weight: float = 0.8

    def example(self, position: int) -> ContrastExample:
        generator = torch.Generator().manual_seed(position)
        kind = {"i": "image", "a": "audio"}.get(self.config.pattern[position % 16], "none")
        width = MEDIA.get(kind, 1)
        return ContrastExample(
            key=str(position),
            kind=kind,
            media=torch.randn(width, dtype=torch.float64, generator=generator),
            caption=torch.randn(3, dtype=torch.float64, generator=generator),
            caption_id=position % 7,
            masked=position % 3 == 0,
        )

    def collate(self, examples: Sequence[ContrastExample]) -> ContrastBatch:
        rows = {
            kind: [row for row, example in enumerate(examples) if example.kind == kind]
            for kind in MEDIA
        }
        return ContrastBatch(
            keys=[example.key for example in examples],
            captions=torch.stack([example.caption for example in examples]),
            caption_ids=torch.tensor([example.caption_id for example in examples]),
            masked=torch.tensor([example.masked for example in examples]),
            media={
                kind: torch.stack([examples[row].media for row in rows[kind]])
                if rows[kind]
                else torch.zeros(0, width, dtype=torch.float64)
                for kind, width in MEDIA.items()
            },
            rows={kind: torch.tensor(rows[kind], dtype=torch.int64) for kind in MEDIA},
        )


class ContrastModel(nn.Module):
    def __init__(self, config: ContrastConfig) -> None:
        super().__init__()
        self.towers = nn.ModuleDict({kind: nn.Linear(width, 4) for kind, width in MEDIA.items()})
        self.dropout = nn.Dropout(config.dropout)
        self.text = nn.Linear(3, 4)
        self.head = nn.Linear(4, 1)
        start = torch.full((1,), config.initial_log_scale)
        self.log_scales = nn.ParameterDict({kind: nn.Parameter(start.clone()) for kind in MEDIA})


class ContrastTask:
    def __init__(self, config: ContrastConfig) -> None:
        self.config = config

    def build_model(self) -> ContrastModel:
        return ContrastModel(self.config).double()

    def sources(self) -> Mapping[str, ContrastSource]:
        return {"all": ContrastSource(config=self.config)}

    def parameter_groups(self, model: ContrastModel) -> list[ParameterGroup]:
        return [
            ParameterGroup(name="all", parameters=[*model.parameters()], weight_decay=0.0),
        ]

    def weighting(self) -> Weighting | None:
        kind = self.config.weighting
        return build_weighting(kind, self.config.base, seed=3) if kind else None

    def factors(self, update: int) -> Mapping[str, float]:
        return {"language/masked": 0.3, "language/causal": 0.7}

    def counts(self, source: str, batch: ContrastBatch) -> Mapping[str, int]:
        masked = int(batch.masked.sum())
        return {
            "language/masked": masked,
            "language/causal": len(batch.keys) - masked,
            **{f"{kind}_text": len(batch.media[kind]) for kind in MEDIA},
        }

    def compute(self, model: ContrastModel, source: str, batch: ContrastBatch) -> Computed:
        pairs = self.pairs(model, source, batch)
        error = model.head(model.dropout(model.text(batch.captions)).tanh()).squeeze(-1).square()
        losses = {
            "language/masked": (error * batch.masked).sum(),
            "language/causal": (error * ~batch.masked).sum(),
        }
        return Computed(losses=losses, pairs=pairs)

    def pairs(self, model: ContrastModel, source: str, batch: ContrastBatch) -> Mapping[str, Pairs]:
        return {
            f"{kind}_text": Pairs(
                media=model.dropout(model.towers[kind](batch.media[kind])).tanh(),
                text=model.dropout(model.text(batch.captions[batch.rows[kind]])).sin(),
                ids=batch.caption_ids[batch.rows[kind]],
            )
            for kind in MEDIA
        }

    def contrast(
        self, model: ContrastModel, term: str, pairs: Pairs, *, gather: Gather
    ) -> Contrast:
        log_scale = model.log_scales[term.removesuffix("_text")]
        return info_nce(
            pairs.media, pairs.text, log_scale=log_scale, duplicates=pairs.ids, gather=gather
        )

    def after_update(self, model: ContrastModel) -> None:
        for log_scale in model.log_scales.values():
            clamp_scale_(log_scale)

    def flops(self, model: ContrastModel, source: str, batch: ContrastBatch) -> float:
        return 1.0

    def tokens(self, batch: ContrastBatch) -> int:
        return len(batch.keys)

    def monitor(self, model: ContrastModel) -> dict[str, float]:
        return {f"scale/{kind}": scale.exp().item() for kind, scale in model.log_scales.items()}

    def validate(self, model: ContrastModel) -> dict[str, float]:
        return {}

    def samples(self, model: ContrastModel) -> list[str]:
        return []

    def export(self, model: ContrastModel, folder: Path) -> None:
        save_model(model, str(folder / "model.safetensors"))


def contrast_run(config: ContrastConfig, *, num_micro_batches: int) -> RunConfig[ContrastConfig]:
    return RunConfig(
        task=config,
        optimizer=OptimizerConfig(peak_learning_rate=0.02, clip_norm=1e9),
        schedule=ScheduleConfig(warmup_steps=1),
        steps=6,
        checkpoint=CheckpointConfig(every_steps=2),
        num_micro_batches=num_micro_batches,
        log_every=1,
    )


def first_update(run: RunConfig[ContrastConfig], folder: Path) -> dict[str, Tensor]:
    """Gradients of the first update and its figures, of this rank's process."""
    task, runtime = ContrastTask(run.task), Runtime(run, folder)
    updater = Updater(run, task, runtime)
    share = Share(
        rank=runtime.rank, num_ranks=runtime.num_ranks, num_micro_batches=run.num_micro_batches
    )
    (update,) = read_updates(task.sources(), first=0, last=1, share=share, num_workers=0)
    updater.update(update.parts, number=1)
    figures = updater.window.take()
    return named_gradients(updater.model) | {
        name: torch.tensor(value, dtype=torch.float64)
        for name, value in figures.items()
        if isinstance(value, float)
    }


def named_gradients(model: nn.Module) -> dict[str, Tensor]:
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}


def save_first_updates(folder: Path, cases: Iterable[tuple[str, int]]) -> None:
    """For every pattern of media and number of micro-batches one file per rank."""
    for pattern, parts in cases:
        run = contrast_run(ContrastConfig(pattern=pattern), num_micro_batches=parts)
        result = first_update(run, folder)
        rank = dist.get_rank() if dist.is_initialized() else 0
        torch.save(result, folder / f"{pattern}_{parts}_{rank}.pt")


if __name__ == "__main__":
    save_first_updates(Path(sys.argv[1]), json.loads(sys.argv[2]))
    if dist.is_initialized():
        dist.destroy_process_group()
