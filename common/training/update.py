"""One optimizer update: several sources, several micro-batches, all ranks, one gradient.

    loss = sum over sources and loss terms of  weight * (sum of losses) / (number of targets)

Numbers of targets are summed over all micro-batches and ranks before the first forward pass, so
cutting the batch differently changes nothing. The gradient is clipped once, by one norm over all
parameters; if it or a loss is not finite, the update is left out, decided alike on every rank.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from common.training.gather import gather_rows
from common.training.loader import MicroBatch
from common.training.metrics import Window
from common.training.optimizer import build_optimizer, step_unless
from common.training.run import RunConfig
from common.training.runtime import Runtime
from common.training.schedule import learning_rate_factor
from common.training.task import BatchT, ModelT, Task


class LossModule(nn.Module, Generic[ModelT, BatchT]):
    """What the parallel engine wraps: its forward pass is the task's losses.

    So the task works with its bare model and may call any method of it, and gradients still meet.
    """

    def __init__(self, task: Task[ModelT, BatchT], model: ModelT) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, source: str, batch: BatchT) -> dict[str, Tensor]:
        return dict(self.task.losses(self.model, source, batch, gather=gather_rows))


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an update processes, over all ranks, known before it starts."""

    counts: Mapping[str, int]  # targets per `source/term`
    tokens: int
    flops: float


class Updater(Generic[ModelT, BatchT]):
    """The model with its optimizer; `update` is the training step."""

    def __init__(self, run: RunConfig[Any], task: Task[ModelT, BatchT], runtime: Runtime) -> None:
        self.run, self.task, self.runtime = run, task, runtime
        set_seed(run.seed)  # The same initial weights on every rank,
        self.model = task.build_model()
        self.module = runtime.accelerator.prepare(LossModule(task, self.model))
        self.optimizer = build_optimizer(
            self.model, task.parameter_groups(self.model), run.optimizer
        )
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.window = Window(runtime.device)
        set_seed(run.seed, device_specific=True)  # and then different dropout on each.

    def update(self, batches: Sequence[MicroBatch[BatchT]], *, number: int) -> Work:
        """Update the parameters once; `number` counts updates from 1."""
        work = self._work(batches)
        self._set_learning_rate(number)
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.runtime.device))
        for index, part in enumerate(batches, start=1):
            is_last = index == len(batches)
            with self.runtime.last_backward_only(self.module, is_last=is_last):
                losses = self.module(part.source, part.batch.to(self.runtime.device))
                terms = {f"{part.source}/{term}": loss for term, loss in losses.items()}
                means = [loss / max(work.counts[term], 1) for term, loss in terms.items()]
                # The engine averages gradients over ranks; our sums are already divided.
                loss = torch.stack(means).sum() * part.weight * self.runtime.num_ranks
                self.runtime.accelerator.backward(loss)
            for term, value in terms.items():
                sums[term] = sums[term] + value.detach()
        norm = self.runtime.accelerator.clip_grad_norm_(
            self.parameters, self.run.optimizer.clip_norm
        )
        weights = {part.source: part.weight for part in batches}
        figures = self._figures(sums, work.counts, weights) | {"gradient_norm": norm}
        skip = ~torch.isfinite(torch.stack([figures["loss"], norm])).all()
        step_unless(skip, self.optimizer)
        self.window.add(figures, skip=skip)
        return work

    @property
    def learning_rate(self) -> float:
        """Of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])

    def _work(self, batches: Sequence[MicroBatch[BatchT]]) -> Work:
        local: Counter[str] = Counter()
        flops = 0.0
        for part in batches:
            counts = self.task.counts(part.source, part.batch)
            local.update({f"{part.source}/{term}": count for term, count in counts.items()})
            local["tokens"] += self.task.tokens(part.batch)
            flops += self.task.flops(self.model, part.source, part.batch)
        names = sorted(local)
        numbers = [float(local[name]) for name in names]
        *totals, flops = self.runtime.sum_on_hosts([*numbers, flops])
        whole = {name: int(total) for name, total in zip(names, totals, strict=True)}
        return Work(tokens=whole.pop("tokens"), counts=whole, flops=flops)

    def _set_learning_rate(self, number: int) -> None:
        factor = learning_rate_factor(number, config=self.run.schedule, steps=self.run.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.optimizer.peak_learning_rate * factor

    def _figures(
        self, sums: Mapping[str, Tensor], counts: Mapping[str, int], weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Sum and count per term and the update's loss, over all ranks, left on the device."""
        terms = sorted(sums)
        total = self.runtime.sum_on_devices(torch.stack([sums[term].float() for term in terms]))
        figures = {"loss": torch.zeros_like(total[0])}
        for term, value in zip(terms, total, strict=True):
            weight = weights[term.split("/")[0]]
            figures["loss"] = figures["loss"] + value * (weight / max(counts[term], 1))
            figures[f"sum/{term}"] = value
            figures[f"count/{term}"] = torch.full_like(value, counts[term])
        return figures
