"""An update at full size in one process: a world of fake ranks, tensors that hold nothing.

The real model is built without memory, divided by its real sharding, and its real work runs: a
micro-batch forward and backward and the optimizer's step, operation by operation, with every shape
and type, but no arithmetic. Collective operations return at once. Memory is counted on the first
rank, whose shards are the largest. Where a kernel of a GPU keeps less than the operations of
a CPU, the GPU's is taken (`plan/counting.py`); autocast is the CPU's, which leaves LayerNorm in the
precision of its input, where a GPU's raises it to float32.
"""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import get_gradient_edge
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.flop_counter import FlopCounterMode

from common.parallel.engine import WrappedModel
from common.parallel.mesh import ParallelConfig, build_mesh, sharding_axes
from common.parallel.plan.counting import FLOPS, FusedKernels
from common.parallel.plan.storages import LiveStorages
from common.parallel.sharding import Sharding

ModelT = TypeVar("ModelT", bound=nn.Module)
WEIGHTS, GRADIENTS, OPTIMIZER = "weights", "gradients", "optimizer state"
FORWARD, BACKWARD = "activations", "backward pass"
CPU = "cpu"


@runtime_checkable
class Run(Protocol):
    """Does work on the bare model; see `common.parallel.engine`."""

    def __call__(self, work: Callable[[Any], Any]) -> Any:
        """The result of the work."""
        ...


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """Numbers and bytes of some tensors, whole and on the first rank."""

    tensors: int
    sharded: int  # tensors of which a rank holds a part
    numbers: int
    numbers_here: int
    bytes_here: int


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What a micro-batch and the step behind it need."""

    weights: Holdings
    gradients: Holdings
    optimizer: Holdings
    peak: dict[str, int]  # bytes by kind, when most is held
    flops: int  # of this rank
    seconds: float  # that the rehearsal took

    @property
    def peak_bytes(self) -> int:
        """The most at any moment."""
        return sum(self.peak.values())


@dataclass(frozen=True, kw_only=True)
class Play:
    """What is rehearsed: a model's real work.

    loss: of one micro-batch; everything that touches the model goes through the given `Run`.
    step: what follows the backward pass: clipping, the optimizer's step.
    """

    build: Callable[[], nn.Module]
    units: Callable[[Any, Sharding], None] | None
    optimizer: Callable[[Any], Optimizer]
    loss: Callable[[Run], Tensor]
    step: Callable[[Iterable[nn.Parameter], Optimizer], None]


def rehearse(
    play: Play,
    *,
    config: ParallelConfig,
    num_ranks: int,
    compute_dtype: torch.dtype | None,
    accumulates: bool,
) -> Rehearsal:
    """One micro-batch, forward and backward, and the optimizer's step, in a fake world.

    accumulates: gradients of earlier micro-batches lie there already.

    Raises:
        UserError: the ranks do not fit the configuration.
        RuntimeError: this process belongs to a process group already.
    """
    began = time.monotonic()
    with fake_world(num_ranks), warnings.catch_warnings():
        # As in `engine.py`.
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
        sharding = Sharding(
            mesh=sharding_axes(build_mesh(config.sizes(num_ranks), device_type=CPU)),
            compute_dtype=compute_dtype,
            reshard_after_forward=config.reshard_after_forward,
        )
        return _rehearsed(_divided(play, sharding), play, compute_dtype, accumulates, began)


@contextmanager
def fake_world(num_ranks: int, *, rank: int = 0) -> Iterator[None]:
    """This process is one of so many, and the others answer at once with nothing."""
    if dist.is_initialized():
        raise RuntimeError("a dry run needs a process without a process group")
    dist.init_process_group(dist.Backend.FAKE, store=FakeStore(), rank=rank, world_size=num_ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def holdings(tensors: Iterable[Tensor]) -> Holdings:
    """Sums over the tensors."""
    whole = list(tensors)
    here = [t.to_local() if isinstance(t, DTensor) else t for t in whole]
    return Holdings(
        tensors=len(whole),
        sharded=sum(isinstance(tensor, DTensor) for tensor in whole),
        numbers=sum(tensor.numel() for tensor in whole),
        numbers_here=sum(tensor.numel() for tensor in here),
        bytes_here=sum(tensor.numel() * tensor.itemsize for tensor in here),
    )


def _divided(play: Play, sharding: Sharding) -> WrappedModel[Any]:
    with torch.device("meta"):
        model = play.build()
    if play.units is not None:
        play.units(model, sharding)
    root = WrappedModel(model)
    sharding.root(root)
    return root


def _rehearsed(
    root: WrappedModel[Any],
    play: Play,
    compute_dtype: torch.dtype | None,
    accumulates: bool,
    began: float,
) -> Rehearsal:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        root.to_empty(device=CPU).train()
        parameters = [p for p in root.parameters() if p.requires_grad]
        optimizer = play.optimizer(root.model)
        make_states(parameters, optimizer)
    if not accumulates:
        optimizer.zero_grad()

    def run(work: Callable[[Any], Any]) -> Any:
        enabled = compute_dtype is not None
        with fake, torch.autocast(CPU, dtype=compute_dtype, enabled=enabled):
            return root(work)

    living = LiveStorages(FORWARD)
    counter = flop_counter()
    with living, counter, no_values(), FusedKernels("gpu"):
        total = play.loss(run)
        living.kind = BACKWARD
        edge, gradient = get_gradient_edge(total), torch.ones_like(total)
        del total
        with fake:
            # Given a tensor, it would leave the kernels' mode, which recomputation needs.
            torch.autograd.backward([edge], [gradient])
    gradients = [p.grad for p in parameters if p.grad is not None]
    with fake:
        play.step(parameters, optimizer)
    states = [value for state in optimizer.state.values() for value in state.values()]
    weights, state = holdings(root.parameters()), holdings(states)
    before = holdings(gradients).bytes_here if accumulates else 0
    resident = {WEIGHTS: weights.bytes_here, OPTIMIZER: state.bytes_here, GRADIENTS: before}
    return Rehearsal(
        weights=weights,
        gradients=holdings(gradients),
        optimizer=state,
        peak=dict(Counter(resident) + Counter(living.kinds_at_peak)),
        flops=int(counter.get_total_flops()),
        seconds=time.monotonic() - began,
    )


def make_states(parameters: Iterable[nn.Parameter], optimizer: Optimizer) -> None:
    """As after an update, gradients included."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def flop_counter() -> FlopCounterMode:
    """Of totals: its hooks at modules stumble over leaves that are read without a gradient."""
    counter = FlopCounterMode(display=False, custom_mapping=FLOPS)
    tracker = mock.MagicMock(parents={"Global"})
    vars(counter)["mod_tracker"] = tracker
    return counter


@contextmanager
def no_values() -> Iterator[None]:
    """No value of a tensor may be looked at, as when a compiler traces."""
    with mock.patch.object(torch.compiler, "is_compiling", return_value=True):
        yield
