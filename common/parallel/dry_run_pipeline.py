"""An update of a pipeline at full size in one process: `dry_run.py` for a rank of any stage.

The real engine runs the real update, several micro-batches through the real schedule; only what
other ranks would send is missing. The ranks of a pipeline group are taken to read alike.
"""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.optim import Optimizer

from common.parallel.dry_run import (
    CPU,
    FORWARD,
    OPTIMIZER,
    WEIGHTS,
    Rehearsal,
    fake_world,
    flop_counter,
    holdings,
    make_states,
    no_values,
)
from common.parallel.engine import WrappedModel
from common.parallel.mesh import ParallelConfig
from common.parallel.pipeline import Pipeline
from common.parallel.pipeline_ranks import PipelineRanks
from common.parallel.pipelined import Pipelined, staged_sharding
from common.parallel.plan.counting import FusedKernels
from common.parallel.plan.storages import LiveStorages
from common.parallel.sharding import Sharding

Work = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class StagedPlay:
    """What is rehearsed: a model, and an update's gradient by the engine that is given.

    chain: as `Pipelined` wants it.
    """

    build: Callable[[], nn.Module]
    units: Callable[[Any, Sharding], None]
    chain: str
    optimizer: Callable[[Any], Optimizer]
    differentiate: Callable[["FakeEngine"], object]


class FakeEngine:
    """A pipeline's engine whose tensors hold nothing."""

    def __init__(self, engine: Pipelined[Any], fake: FakeTensorMode) -> None:
        self.engine, self.fake = engine, fake
        self.model, self.pipeline = engine.model, engine.pipeline

    def run(self, work: Work) -> Any:
        """As the engine does."""
        with self.fake:
            return self.engine.run(work)

    def drive(self, work: Work) -> Any:
        """As the engine does."""
        with self.fake:
            return self.engine.drive(work)

    def accumulating(self, *, is_last: bool) -> AbstractContextManager[None]:
        """As the engine does."""
        return self.engine.accumulating(is_last=is_last)

    def backward(self, loss: Tensor) -> None:
        """As the engine does."""
        with self.fake:
            torch.autograd.backward(loss)


def rehearse_pipeline(
    play: StagedPlay,
    *,
    config: ParallelConfig,
    num_ranks: int,
    rank: int,
    compute_dtype: torch.dtype | None,
) -> Rehearsal:
    """The gradient of an update on one rank, in a fake world.

    Raises:
        UserError: the ranks do not fit the configuration.
        RuntimeError: this process belongs to a process group already.
    """
    began = time.monotonic()
    with fake_world(num_ranks, rank=rank), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
        computing = partial(
            torch.autocast,
            CPU,
            dtype=compute_dtype or torch.bfloat16,
            enabled=compute_dtype is not None,
        )
        sharding = staged_sharding(
            config,
            num_ranks=num_ranks,
            device=torch.device(CPU),
            compute_dtype=compute_dtype,
            computing=computing,
        )
        with torch.device("meta"):
            root = WrappedModel(play.build())
        play.units(root.model, sharding)
        sharding.root(root)
        assert sharding.pipeline is not None
        return _rehearsed(root, sharding.pipeline, play, began)


def _rehearsed(
    root: WrappedModel[Any], pipeline: Pipeline, play: StagedPlay, began: float
) -> Rehearsal:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        root.to_empty(device=CPU).train()
        engine = Pipelined(root, pipeline, chain=play.chain, build=play.build)
        parameters = [p for p in root.parameters() if p.requires_grad]
        optimizer = play.optimizer(root.model)
        make_states(parameters, optimizer)
        optimizer.zero_grad()
    living, counter = LiveStorages(FORWARD), flop_counter()
    with living, counter, no_values(), FusedKernels("gpu"), _answered_by_itself():
        play.differentiate(FakeEngine(engine, fake))
    states = [value for state in optimizer.state.values() for value in state.values()]
    weights, state = holdings(root.parameters()), holdings(states)
    gradients = holdings(p.grad for p in parameters if p.grad is not None)
    resident = {WEIGHTS: weights.bytes_here, OPTIMIZER: state.bytes_here}
    living_kinds = Counter(living.kinds_at_peak)
    return Rehearsal(
        weights=weights,
        gradients=gradients,
        optimizer=state,
        peak=dict(Counter(resident) + living_kinds),
        flops=int(counter.get_total_flops()),
        seconds=time.monotonic() - began,
    )


@contextmanager
def _answered_by_itself() -> Iterator[None]:
    """Hosts of a group say what this one says, and backward passes start at edges of the graph:
    given tensors, they would leave the modes that recomputation needs."""
    backward = torch.autograd.backward

    def from_edges(
        tensors: Tensor | Sequence[Tensor | GradientEdge],
        grad_tensors: Sequence[Tensor | None] | None = None,
    ) -> None:
        roots = [tensors] if isinstance(tensors, Tensor) else [*tensors]
        given = [None] * len(roots) if grad_tensors is None else grad_tensors
        edges = [get_gradient_edge(r) if isinstance(r, Tensor) else r for r in roots]
        gradients = [
            torch.ones_like(root) if gradient is None and isinstance(root, Tensor) else gradient
            for root, gradient in zip(roots, given, strict=True)
        ]
        backward(edges, gradients)

    def collect(ranks: PipelineRanks, value: Any) -> list[Any]:
        return [value] * ranks.number

    with (
        mock.patch.object(torch.autograd, "backward", from_edges),
        mock.patch.object(PipelineRanks, "collect", collect),
    ):
        yield
