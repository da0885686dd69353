"""The engine of a model whose chain of blocks is a pipeline, and the rest sharded over all ranks.

Every rank does what lies before the chain (encoders, embeddings) for its own micro-batches, as with
`Sharded`. `drive` runs the pipeline for the micro-batches of its group; `common/training/
staged.py` says how an update goes. Any other look at the model sends it through all stages, all
ranks in step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import prod
from typing import Any, Generic

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from common.parallel.engine import (
    ModelT,
    ResultT,
    WrappedModel,
    build_divided,
    loaded,
    refuse_old_torch,
)
from common.parallel.mesh import ParallelConfig, build_mesh, sharding_axes
from common.parallel.pipeline import Pipeline
from common.parallel.sharding import Sharding, free, units_of, whole

OLDEST_TORCH = (2, 15)  # schedules before it take no micro-batches of our own making


class Pipelined(Generic[ModelT]):
    """A model whose blocks are divided into stages; `build_pipelined` makes it.

    module: the root of what all ranks hold, around a model that has its own blocks only.
    chain: the name of the blocks' `ModuleList` in the model; its parent calls them in order, each
        with the output of the one before and the same keywords.
    """

    def __init__(
        self,
        module: WrappedModel[ModelT],
        pipeline: Pipeline,
        *,
        chain: str,
        build: Callable[[], ModelT],
    ) -> None:
        self.module, self.model, self.pipeline = module, module.model, pipeline
        self.chain, self.build = chain, build
        # FSDP2 takes what it meets in the first forward pass for its own; stages are their own.
        with self._blocks_replaced([]), torch.no_grad():
            self.module(lambda model: None)
        free(self.module)

    def run(self, work: Callable[[ModelT], ResultT]) -> ResultT:
        """Inside the forward pass of the root; the blocks are out of reach."""
        with self.pipeline.computing():
            result: ResultT = self.module(work)
        return result

    @torch.no_grad()
    def drive(self, work: Callable[[ModelT], ResultT]) -> ResultT:
        """The same for work that runs the pipeline: what belongs to the root is there throughout,
        without gradient, and only the pipeline's own computations are in the run's precision."""
        free(self.module)
        result: ResultT = self.module(work)
        free(self.module)
        return result

    @contextmanager
    def accumulating(self, *, is_last: bool) -> Iterator[None]:
        """Of what all ranks hold; the pipeline cares for the blocks."""
        with self._blocks_replaced([]):
            units_of(self.module)[0].set_reshard_after_backward(
                is_last or self.pipeline.config.reshard_after_forward
            )
        yield

    def backward(self, loss: Tensor) -> None:
        """The gradients of all ranks are summed."""
        loss.backward()

    @torch.no_grad()
    def look(self, work: Callable[[ModelT], ResultT]) -> ResultT:
        """All ranks do the same work on the same inputs."""
        with self._blocks_replaced([_AllStages(self.pipeline)]):
            result = self.run(work)
        free(self.module)
        return result

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Every gradient counts once, whatever ranks hold copies of it."""
        locals_by_copies: dict[int, list[Tensor]] = {}
        for gradient in gradients:
            assert isinstance(gradient, DTensor)
            axes = zip(gradient.device_mesh.shape, gradient.placements, strict=True)
            copies = prod(size for size, placement in axes if placement.is_replicate())
            locals_by_copies.setdefault(copies, []).append(gradient.to_local())
        squares = [get_total_norm(g) ** 2 / copies for copies, g in locals_by_copies.items()]
        total = torch.stack(squares).sum()
        dist.all_reduce(total)
        return total.sqrt()

    def portable(self) -> ModelT | None:
        """A model on the CPU that has taken over the weights of all ranks."""
        with torch.device("meta"):
            names = [*self.build().state_dict()]
        weights = self._whole_on_main(names)
        return loaded(self.build, weights) if dist.get_rank() == 0 else None

    def _whole_on_main(self, names: Sequence[str]) -> dict[str, Tensor]:
        """One tensor after the other, from the first rank that has it to the main rank."""
        own = self.model.state_dict(keep_vars=True)
        holders: list[Mapping[str, Any]] = [{}] * dist.get_world_size()
        dist.all_gather_object(holders, {n: (t.shape, t.dtype) for n, t in own.items()})
        rank, weights = dist.get_rank(), {}
        for name in names:
            holder = next(r for r, tensors in enumerate(holders) if name in tensors)
            gathered = whole(own[name].detach()) if name in own else None
            if holder and rank == holder:
                assert gathered is not None
                dist.send(gathered.contiguous(), dst=0)
            elif holder and rank == 0:
                shape, dtype = holders[holder][name]
                gathered = torch.empty(shape, dtype=dtype, device=self.pipeline.device)
                dist.recv(gathered, src=holder)
            if rank == 0:
                assert gathered is not None
                weights[name] = gathered.to("cpu", copy=True)
        return weights

    @contextmanager
    def _blocks_replaced(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        parent_name, _, name = self.chain.rpartition(".")
        parent = self.model.get_submodule(parent_name)
        blocks = parent.get_submodule(name)
        setattr(parent, name, nn.ModuleList(modules))
        try:
            yield
        finally:
            setattr(parent, name, blocks)


def build_pipelined(
    build: Callable[[], ModelT],
    units: Callable[[ModelT, Sharding], None],
    *,
    chain: str,
    config: ParallelConfig,
    accelerator: Accelerator,
) -> Pipelined[ModelT]:
    """The engine of a run.

    Raises:
        UserError: this torch is too old.
    """
    refuse_old_torch(OLDEST_TORCH, option="pipeline")
    num_ranks, device = accelerator.num_processes, accelerator.device
    compute_dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    sharding = staged_sharding(
        config,
        num_ranks=num_ranks,
        device=device,
        compute_dtype=compute_dtype,
        computing=accelerator.autocast,
    )
    assert sharding.pipeline is not None
    module = build_divided(build, units, sharding, device=device)
    return Pipelined(module, sharding.pipeline, chain=chain, build=build)


def staged_sharding(
    config: ParallelConfig,
    *,
    num_ranks: int,
    device: torch.device,
    compute_dtype: torch.dtype | None,
    computing: Callable[[], AbstractContextManager[object]],
) -> Sharding:
    """Over all ranks, and for blocks over the ranks that hold the same stages."""
    mesh = build_mesh(config.sizes(num_ranks), device_type=device.type)
    return Sharding(
        mesh=init_device_mesh(device.type, (num_ranks,), mesh_dim_names=("all",)),
        compute_dtype=compute_dtype,
        reshard_after_forward=config.reshard_after_forward,
        pipeline=Pipeline(mesh, config, device=device, computing=computing),
        stage_mesh=sharding_axes(mesh),
    )


class _AllStages(nn.Module):
    """In the place of all blocks."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.pipeline = pipeline

    def forward(self, x: Tensor, **keywords: Any) -> Tensor:
        def work(blocks: Any, y: Tensor) -> Tensor:
            for block in blocks:
                y = block(y, **keywords)
            return y

        return self.pipeline.chain(x, work)
