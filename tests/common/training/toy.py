"""A small real task for the tests of training: two regressions through one partly frozen network,
with dropout, and a script around it: `python -m tests.common.training.toy toy --steps 12`."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_model
from torch import Tensor, nn

from common.training.command_line import main
from common.training.run import CheckpointConfig, OptimizerConfig, RunConfig, ScheduleConfig
from common.training.task import Computed, ParameterGroup


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """A two-layer regression."""

    # Width of the hidden layer.
    hidden_dim: int = 7
    # Probability of dropout: its randomness must survive a resume.
    dropout: float = 0.2
    # Loss weight of the source of cosines.
    cosine_weight: float = 0.5
    # Position of a sine example whose input is not a number; None for no such example.
    broken_position: int | None = None
    # Time that preparing an example takes, so that a test can kill the run on its way.
    delay_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ToyExample:
    key: str
    inputs: Float[Tensor, " d"]
    target: Float[Tensor, ""]
    valid: bool  # only valid targets count, so counts differ between micro-batches and ranks


@dataclass(frozen=True, kw_only=True)
class ToyBatch:
    keys: list[str]
    inputs: Float[Tensor, "b d"]
    targets: Float[Tensor, " b"]
    valid: Float[Tensor, " b"]


@dataclass(frozen=True, kw_only=True)
class ToySource:
    name: str
    batch_size: int
    weight: float
    config: ToyConfig

    def example(self, position: int) -> ToyExample:
        time.sleep(self.config.delay_s)
        # 30 examples an epoch, shuffled anew by a seed that the position decides.
        epoch, place = divmod(position, 30)
        order = torch.randperm(30, generator=torch.Generator().manual_seed(epoch))
        index = int(order[place])
        inputs = torch.randn(5, generator=torch.Generator().manual_seed(1000 + index))
        wave = torch.sin if self.name == "sine" else torch.cos
        target = wave(inputs.sum())
        if self.name == "sine" and position == self.config.broken_position:
            inputs = inputs * torch.nan
        key = f"{self.name}-{epoch}-{index}"
        return ToyExample(key=key, inputs=inputs, target=target, valid=index % 3 > 0)

    def collate(self, examples: Sequence[ToyExample]) -> ToyBatch:
        return ToyBatch(
            keys=[example.key for example in examples],
            inputs=torch.stack([example.inputs for example in examples]),
            targets=torch.stack([example.target for example in examples]),
            valid=torch.tensor([float(example.valid) for example in examples]),
        )


class ToyModel(nn.Module):
    seen: Tensor

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.frozen = nn.Linear(5, 6).requires_grad_(False)
        self.hidden = nn.Linear(6, config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(config.hidden_dim, 1) for name in ("sine", "cosine")}
        )
        self.register_buffer("seen", torch.zeros(1))

    def predict(self, inputs: Float[Tensor, "b d"], *, head: str) -> Float[Tensor, " b"]:
        if self.training:
            self.seen += len(inputs)
        hidden = self.dropout(self.hidden(self.frozen(inputs).tanh()).tanh())
        return self.heads[head](hidden).squeeze(-1)


@dataclass(frozen=True)
class ToyTask:
    config: ToyConfig

    def build_model(self) -> ToyModel:
        return ToyModel(self.config)

    def sources(self) -> Mapping[str, ToySource]:
        config = self.config
        sine = ToySource(name="sine", batch_size=8, weight=1.0, config=config)
        cosine = ToySource(name="cosine", batch_size=4, weight=config.cosine_weight, config=config)
        return {"sine": sine, "cosine": cosine}

    def parameter_groups(self, model: ToyModel) -> list[ParameterGroup]:
        heads = list(model.heads.parameters())
        return [
            ParameterGroup(
                name="hidden", parameters=[*model.hidden.parameters()], weight_decay=0.1
            ),
            ParameterGroup(name="heads", parameters=heads, weight_decay=0.0),
        ]

    def counts(self, source: str, batch: ToyBatch) -> Mapping[str, int]:
        return {"squared": int(batch.valid.sum())}

    def compute(self, model: ToyModel, source: str, batch: ToyBatch) -> Computed:
        error = model.predict(batch.inputs, head=source) - batch.targets
        return Computed(losses={"squared": (error.square() * batch.valid).sum()})

    def flops(self, model: ToyModel, source: str, batch: ToyBatch) -> float:
        return 6.0 * len(batch.keys) * model.hidden.weight.numel()

    def tokens(self, batch: ToyBatch) -> int:
        return len(batch.keys)

    def monitor(self, model: ToyModel) -> dict[str, float]:
        parameters = dict(model.heads.named_parameters())
        return {f"norm/{name}": p.norm().item() for name, p in parameters.items()}

    def validate(self, model: ToyModel) -> dict[str, float]:
        inputs = torch.randn(64, 5)  # Drawn from the training's generator, on purpose.
        error = model.predict(inputs, head="sine") - inputs.sum(-1).sin()
        return {"validation/perplexity": error.square().mean().exp().item()}

    def samples(self, model: ToyModel) -> list[str]:
        inputs = torch.randn(2, 5)
        return [f"sine -> {value:.3f}" for value in model.predict(inputs, head="sine").tolist()]

    def export(self, model: ToyModel, folder: Path) -> None:
        save_model(model, str(folder / "model.safetensors"))


def toy() -> RunConfig[ToyConfig]:
    """A toy for tests: any CPU, 144 examples, seconds; run in every test."""
    return RunConfig(
        task=ToyConfig(),
        optimizer=OptimizerConfig(peak_learning_rate=0.02, clip_norm=0.5),
        schedule=ScheduleConfig(warmup_steps=3, final_fraction=0.1),
        steps=12,
        checkpoint=CheckpointConfig(every_steps=4),
        log_every=1,
        validate_every=5,
        sample_every=6,
    )


def make_task(run: RunConfig[ToyConfig]) -> ToyTask:
    return ToyTask(run.task)


if __name__ == "__main__":
    sys.exit(main({"toy": toy}, make_task, description="Trains a toy."))
