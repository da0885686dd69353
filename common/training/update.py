"""One optimizer update: several sources, several micro-batches, all ranks, one gradient.

    loss = sum over sources and loss terms  weight * scale * (sum of losses) / (number of targets)

Numbers of targets are summed over all micro-batches and ranks before the first forward pass, so
cutting the batch differently changes nothing; contrastive terms take care of it in `contrast.py`.
The scales come from `balance.py`. The gradient is clipped once, by one norm over all parameters;
if it or a loss is not finite, the update is left out, decided alike on every rank.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic

import torch
from accelerate.utils import set_seed
from torch import Tensor

from common.data.transfer import on_device
from common.errors import UserError
from common.parallel.engine import Engine, Replicated, Sharded
from common.parallel.pipelined import Pipelined, build_pipelined
from common.training.balance import Balance, Scales
from common.training.build import build_model
from common.training.contrast import OnePass, Sizes, Tally, TwoPasses
from common.training.loader import MicroBatch
from common.training.metrics import Window
from common.training.optimizer import build_optimizer, clip_gradients, step_unless
from common.training.run import RunConfig
from common.training.runtime import Runtime
from common.training.schedule import learning_rate_factor
from common.training.staged import StagedUpdate
from common.training.task import BatchT, Constrained, Contrastive, Divisible, ModelT, Staged, Task


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an update processes, known before it starts."""

    counts: Mapping[str, int]  # targets per `source/term`, over all ranks
    sizes: Sizes  # and on each rank
    tokens: int
    flops: float


class Updater(Generic[ModelT, BatchT]):
    """The model with its optimizer; `update` is the training step."""

    def __init__(self, run: RunConfig[Any], task: Task[ModelT, BatchT], runtime: Runtime) -> None:
        self.run, self.task, self.runtime = run, task, runtime
        set_seed(run.seed)  # The same initial weights on every rank,
        self.engine = self._engine()
        self.model = self.engine.model
        self.optimizer = build_optimizer(
            self.model, task.parameter_groups(self.model), run.optimizer
        )
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.balance = Balance(task, device=runtime.device)
        self.window = Window(runtime.device)
        set_seed(run.seed, device_specific=True)  # and then different dropout on each.

    def update(self, batches: Sequence[MicroBatch[BatchT]], *, number: int) -> Work:
        """Update the parameters once; `number` counts updates from 1."""
        work = self._work(batches)
        scales = self.balance.scales(work.counts, update=number)
        self._set_learning_rate(number)
        self.optimizer.zero_grad()
        tally = self._differentiate(batches, work, scales)
        norm = clip_gradients(
            self.parameters, norm_of=self.engine.norm, max_norm=self.run.optimizer.clip_norm
        )
        weights = {part.source: part.weight for part in batches}
        figures = self._figures(tally, work.counts, weights, scales) | {"gradient_norm": norm}
        skip = ~torch.isfinite(torch.stack([figures["loss"], norm])).all()
        step_unless(skip, self.optimizer)
        if isinstance(self.task, Constrained):
            self.task.after_update(self.model)
        self.window.add(figures, skip=skip)
        return work

    @property
    def learning_rate(self) -> float:
        """Of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])

    def _engine(self) -> Engine[ModelT]:
        task, accelerator, config = self.task, self.runtime.accelerator, self.run.parallel
        build = partial(build_model, task, self.run)
        sizes = config.sizes(self.runtime.num_ranks)
        if sizes.shard == sizes.pipeline == 1:
            return Replicated(build, accelerator)
        if config.pipeline > 1:
            if not isinstance(task, Staged):
                raise UserError(
                    f"parallel.pipeline={config.pipeline}: this model has no chain of blocks to be "
                    "cut into stages; shard it with parallel.shard instead"
                )
            return build_pipelined(
                build,
                task.parallelize,
                chain=task.chain,
                config=config,
                accelerator=accelerator,
            )
        units = task.parallelize if isinstance(task, Divisible) else None
        return Sharded(build, units, config=config, accelerator=accelerator)

    def _differentiate(
        self, batches: Sequence[MicroBatch[BatchT]], work: Work, scales: Scales
    ) -> Tally:
        """Leave the gradient of the update's loss in the parameters."""
        if isinstance(self.engine, Pipelined):
            return self._staged(self.engine, batches, work, scales).differentiate()
        tally = Tally(sums=self._zeros(), negatives=self._zeros())
        passes = self._passes(batches, work.sizes)
        for index, part in enumerate(batches):
            is_last = index == len(batches) - 1
            batch = on_device(part.batch, self.runtime.device)
            with self.engine.accumulating(is_last=is_last):
                terms = self.engine.run(partial(passes.terms, index, batch))
                means = [
                    scales.weigh(term, loss / max(work.counts[term], 1))
                    for term, loss in terms.losses.items()
                ]
                self.engine.backward(torch.stack(means).sum() * part.weight)
            for total, values in ((tally.sums, terms.sums), (tally.negatives, terms.negatives)):
                for term, value in values.items():
                    total[term] = total[term] + value
        return tally

    def _staged(
        self,
        engine: Pipelined[ModelT],
        batches: Sequence[MicroBatch[BatchT]],
        work: Work,
        scales: Scales,
    ) -> StagedUpdate[ModelT, Any]:
        assert isinstance(self.task, Staged)
        return StagedUpdate(
            self.task,
            engine,
            batches,
            counts=work.counts,
            sizes=work.sizes,
            scales=scales,
            device=self.runtime.device,
        )

    def _passes(
        self, batches: Sequence[MicroBatch[BatchT]], sizes: Sizes
    ) -> OnePass[ModelT, BatchT] | TwoPasses[ModelT, BatchT]:
        if self.run.num_micro_batches == 1 or not isinstance(self.task, Contrastive):
            return OnePass(self.task, batches, sizes=sizes)
        device = self.runtime.device
        return TwoPasses(self.task, batches, sizes=sizes, run=self.engine.run, device=device)

    def _zeros(self) -> dict[str, Tensor]:
        return defaultdict(lambda: torch.zeros((), device=self.runtime.device))

    def _work(self, batches: Sequence[MicroBatch[BatchT]]) -> Work:
        local: Counter[str] = Counter()
        flops = 0.0
        for part in batches:
            counts = self.task.counts(part.source, part.batch)
            local.update({f"{part.source}/{term}": count for term, count in counts.items()})
            local["tokens"] += self.task.tokens(part.batch)
            flops += self.task.flops(self.model, part.source, part.batch)
        names = sorted(local)
        ranks = self.runtime.numbers_of_all([*(float(local[name]) for name in names), flops])
        *columns, all_flops = zip(*ranks, strict=True)
        sizes = {
            name: [int(number) for number in column]
            for name, column in zip(names, columns, strict=True)
        }
        tokens = sum(sizes.pop("tokens"))
        counts = {name: sum(numbers) for name, numbers in sizes.items()}
        return Work(tokens=tokens, counts=counts, sizes=sizes, flops=sum(all_flops))

    def _set_learning_rate(self, number: int) -> None:
        factor = learning_rate_factor(number, config=self.run.schedule, steps=self.run.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.optimizer.peak_learning_rate * factor

    def _figures(
        self,
        tally: Tally,
        counts: Mapping[str, int],
        weights: Mapping[str, float],
        scales: Scales,
    ) -> dict[str, Tensor]:
        """Sum and count per term and the update's loss, over all ranks, left on the device."""
        terms, contrasted = sorted(tally.sums), sorted(tally.negatives)
        local = [tally.sums[term] for term in terms]
        local += [tally.negatives[term].to(local[0].dtype) for term in contrasted]
        total = self.runtime.sum_on_devices(torch.stack(local))
        sums = dict(zip(terms, total[: len(terms)], strict=True))
        figures = {"loss": torch.zeros_like(total[0])}
        means = {}
        for term, value in sums.items():
            means[term] = value * (weights[term.split("/")[0]] / max(counts[term], 1))
            figures["loss"] = figures["loss"] + scales.weigh(term, means[term])
            figures[f"sum/{term}"] = value
            figures[f"count/{term}"] = torch.full_like(value, counts[term])
        self.balance.observe(scales, means)
        for term, value in zip(contrasted, total[len(terms) :], strict=True):
            figures[f"negatives/{term}"] = value
        for objective, weight in scales.weights.items():
            figures[f"weight/{objective}"] = weight
            figures[f"present/{objective}"] = torch.ones_like(weight)
        return figures
