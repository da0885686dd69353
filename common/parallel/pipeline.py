"""A chain of equal blocks cut into pipeline stages (`torch.distributed.pipelining`).

Only the chain is cut: whatever lies before and after it stays with every rank. A rank holds one
stage or two; the blocks of the others are absent from its model. Stages are shards over the ranks
that hold the same ones. With `reshard_after_forward` that is literally ZeRO-3, every micro-batch
gathers and reduces; without it a stage stays whole through an update, with the sum of its
gradients, and is reduced once: faster, at 6 bytes per parameter of the stage.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    PipelineScheduleMulti,
    PipelineScheduleSingle,
    get_schedule_class,
)

from common.parallel.mesh import ParallelConfig
from common.parallel.pipeline_ranks import PipelineRanks
from common.parallel.plan.stages import balanced_stages

Schedule = PipelineScheduleSingle | PipelineScheduleMulti
# Sends a tensor through some neighbouring blocks.
Work = Callable[[Iterable[nn.Module], Tensor], Tensor]
# The gradient that a micro-batch's loss has at the last block's output, by its number. A schedule
# that takes a backward pass in two would forget every parameter outside the blocks.
LossGradient = Callable[[Tensor, int], Tensor]


class Absent(nn.Module):
    """A block that another rank holds."""


class Stage(nn.Module):
    """Neighbouring blocks; the root of their sharding."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        computing: Callable[[], AbstractContextManager[object]],
    ) -> None:
        super().__init__()
        self.blocks, self.computing = nn.ModuleList(blocks), computing

    def forward(self, x: Tensor, work: Work) -> Tensor:
        with self.computing():
            return work(self.blocks, x)


class Ordinary(nn.Module):
    """Hides a sharded stage from the schedule, which would else gather it for a whole update."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, x: Tensor, work: Work) -> Tensor:
        output: Tensor = self.stage(x, work)
        return output


class Pipeline:
    """The stages of this rank, and the ranks that hold the others: a pipeline group.

    computing: context of every computation, such as autocast.
    """

    def __init__(
        self,
        mesh: DeviceMesh,
        config: ParallelConfig,
        *,
        device: torch.device,
        computing: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.config, self.device, self.computing = config, device, computing
        self.ranks = PipelineRanks(mesh, device=device)
        self.num_stages = self.ranks.number * config.stages_per_rank
        self.stages: dict[int, Stage] = {}
        self._last_schedule: tuple[object, Schedule | None] = (None, None)

    def cut(
        self, blocks: nn.ModuleList, *, costs: Sequence[float], shard: Callable[[Stage], None]
    ) -> None:
        """Leave this rank its stages, balanced by the blocks' costs, and make them shards."""
        for number, blocks_of_stage in enumerate(balanced_stages(costs, self.num_stages)):
            if self.owner(number) != self.ranks.own:
                for index in blocks_of_stage:
                    blocks[index] = Absent()
                continue
            chosen = [blocks[index] for index in blocks_of_stage]
            self.stages[number] = Stage(chosen, self.computing)
            shard(self.stages[number])

    def owner(self, stage: int) -> int:
        """The rank of the group that holds a stage: in turns, or there and back again."""
        lap, place = divmod(stage, self.ranks.number)
        turns_back = self.config.schedule == "ZBVZeroBubble" and lap == 1
        return self.ranks.number - 1 - place if turns_back else place

    @property
    def first(self) -> int:
        """The rank of the group that holds the first stage."""
        return self.owner(0)

    @property
    def last(self) -> int:
        """The rank of the group that holds the last stage."""
        return self.owner(self.num_stages - 1)

    def forward(self, inputs: Sequence[Tensor], works: Sequence[Work]) -> list[Tensor]:
        """Outputs of the last stage on its rank, nothing on the others; without a graph.

        inputs: one per micro-batch, of equal shapes; their values matter on the first stage's rank.
        """
        tensors = [*inputs]
        with torch.no_grad():
            for number in sorted(self.stages):
                tensors = self._through(number, tensors, works)
        return tensors if self.ranks.own == self.last else []

    def train(
        self, inputs: Sequence[Tensor], works: Sequence[Work], loss: LossGradient
    ) -> list[Tensor]:
        """Add the gradients of all losses to the blocks; the inputs' on the first stage's rank."""
        gradients: dict[int, Tensor] = {}
        inputs = [x.detach().requires_grad_() for x in inputs]
        for number, x in enumerate(inputs):
            x.register_hook(lambda gradient, number=number: gradients.update({number: gradient}))
        schedule = self._schedule(inputs)
        with torch.enable_grad():
            schedule.step(
                arg_mbs=[(x,) for x in inputs] if self.ranks.own == self.first else None,
                kwarg_mbs=[{"work": work} for work in works],
                target_mbs=list(range(len(works))) if self.ranks.own == self.last else None,
                loss_kwargs={"loss": loss},
                return_outputs=False,
            )
        return [gradients[number] for number in sorted(gradients)]

    def chain(self, x: Tensor, work: Work) -> Tensor:
        """One input, the same on all ranks of the group, through all stages; so is the output."""
        outputs = self.forward([x], [work])
        return self.ranks.broadcast(outputs[0] if outputs else x, shape=x.shape, source=self.last)

    def _through(
        self, number: int, inputs: Sequence[Tensor], works: Sequence[Work]
    ) -> list[Tensor]:
        """All micro-batches through one stage of this rank, from and to the neighbours."""
        source, target = self._neighbours(number)
        outputs, sent = [], []
        for given, work in zip(inputs, works, strict=True):
            x = given
            if source is not None:
                x = torch.empty_like(given, device=self.device)
                dist.recv(x, group=self.ranks.group, group_src=source)
            outputs.append(self.stages[number](x, work).contiguous())
            if target is not None and target != source:
                sent.append(dist.isend(outputs[-1], group=self.ranks.group, group_dst=target))
        if target is not None and target == source:
            # It receives when it has sent everything, no earlier.
            sent = [dist.isend(y, group=self.ranks.group, group_dst=target) for y in outputs]
        for sending in sent:
            assert sending is not None
            sending.wait()
        return outputs

    def _neighbours(self, stage: int) -> tuple[int | None, int | None]:
        """Ranks of the group that a stage receives from and sends to; None: its own, or nobody."""
        before, behind = (
            self.owner(other) if 0 <= other < self.num_stages else self.ranks.own
            for other in (stage - 1, stage + 1)
        )
        return (
            None if before == self.ranks.own else before,
            None if behind == self.ranks.own else behind,
        )

    def _schedule(self, inputs: Sequence[Tensor]) -> Schedule:
        """The last one, or a new one where sizes have changed."""
        example = torch.empty_like(inputs[0], device="meta", requires_grad=True)
        sizes = (len(inputs), example.shape, example.dtype)
        known, schedule = self._last_schedule
        if schedule is None or known != sizes:
            schedule = self._new_schedule(example, len(inputs))
            self._last_schedule = (sizes, schedule)
        return schedule

    def _new_schedule(self, example: Tensor, num_inputs: int) -> Schedule:
        stages = [
            PipelineStage(
                Ordinary(stage) if self.config.reshard_after_forward else stage,
                number,
                self.num_stages,
                self.device,
                input_args=example,
                output_args=example,
                group=self.ranks.group,
            )
            for number, stage in self.stages.items()
        ]
        kind: Callable[..., Schedule] = get_schedule_class(self.config.schedule)
        return kind(
            stages if self.config.stages_per_rank > 1 else stages[0],
            n_microbatches=num_inputs,
            loss_fn=_loss_of,
            scale_grads=False,
        )


def _loss_of(output: Tensor, number: int, *, loss: LossGradient) -> Tensor:
    """A sum that has the loss's gradient at the output."""
    return (output * loss(output.detach(), number)).sum()
