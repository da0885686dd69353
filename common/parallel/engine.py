"""What carries a model over the ranks: whole on every rank, or divided among them.

    Replicated   Accelerate's data parallelism (DDP); on one process nothing but the model
    Sharded      FSDP2 over a mesh; see `sharding.py`
    Pipelined    the same around a chain of blocks in stages; see `pipelined.py`

All do work on the bare model inside the forward pass of a wrapper, so a task calls whatever
methods of its model it likes. All sum the gradients of all ranks.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from common.errors import UserError
from common.parallel.mesh import ParallelConfig, build_mesh, sharding_axes
from common.parallel.sharding import (
    Sharding,
    build_sharded,
    free,
    units_of,
    whole,
    whole_on_main,
)

ModelT = TypeVar("ModelT", bound=nn.Module)
ResultT = TypeVar("ResultT")
OLDEST_TORCH = (2, 13)  # before it, recomputation inside sharded units gives wrong gradients


class WrappedModel(nn.Module, Generic[ModelT]):
    """What the parallel engine wraps: its forward pass is any work on the bare model.

    So the task works with its bare model and may call any method of it, and gradients still meet.
    """

    def __init__(self, model: ModelT) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[ModelT], Any]) -> Any:
        return work(self.model)


@runtime_checkable
class Engine(Protocol[ModelT]):
    """A model on all ranks; all of them call every method alike."""

    # Outside `run` and `look` its parameters may be shards.
    model: ModelT

    def run(self, work: Callable[[ModelT], ResultT]) -> ResultT:
        """Do a part of an update on the model."""
        ...

    def accumulating(self, *, is_last: bool) -> AbstractContextManager[None]:
        """Around a `run` and its `backward`; behind the last ones gradients are sums over ranks."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's part of the loss."""
        ...

    def look(self, work: Callable[[ModelT], ResultT]) -> ResultT:
        """Do work on the model that wants no gradient."""
        ...

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The one norm of all gradients, given those that this rank holds, whole or in shards."""
        ...

    def portable(self) -> ModelT | None:
        """On the main rank a model that holds all its weights, to be exported; else None."""
        ...


class Replicated(Generic[ModelT]):
    """The whole model on every rank."""

    def __init__(self, build: Callable[[], ModelT], accelerator: Accelerator) -> None:
        self.model, self.accelerator = build(), accelerator
        self.module = accelerator.prepare(WrappedModel(self.model))

    def run(self, work: Callable[[ModelT], ResultT]) -> ResultT:
        """Inside the forward pass of DDP."""
        result: ResultT = self.module(work)
        return result

    @contextmanager
    def accumulating(self, *, is_last: bool) -> Iterator[None]:
        """Gradients meet once per update, during its last backward pass."""
        if is_last:
            yield
        else:
            with self.accelerator.no_sync(self.module):
                yield

    def backward(self, loss: Tensor) -> None:
        """DDP averages gradients; our losses are divided already."""
        self.accelerator.backward(loss * self.accelerator.num_processes)

    @torch.no_grad()
    def look(self, work: Callable[[ModelT], ResultT]) -> ResultT:
        """On the bare model: no rank waits for another."""
        with self.accelerator.autocast():
            return work(self.model)

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Every rank holds them all."""
        return get_total_norm(gradients)

    def portable(self) -> ModelT | None:
        """The model itself."""
        return self.model if self.accelerator.is_main_process else None


class Sharded(Generic[ModelT]):
    """The model divided over the ranks of a mesh.

    units: names the model's units (`<model>/parallelize.py`); without it the model is one unit,
        which is right for any model and saves the memory of optimizer and gradients only.
    """

    def __init__(
        self,
        build: Callable[[], ModelT],
        units: Callable[[ModelT, Sharding], None] | None,
        *,
        config: ParallelConfig,
        accelerator: Accelerator,
    ) -> None:
        refuse_old_torch(OLDEST_TORCH)
        self.build, self.accelerator = build, accelerator
        self.reshard_after_forward = config.reshard_after_forward
        sizes = config.sizes(accelerator.num_processes)
        mesh = build_mesh(sizes, device_type=accelerator.device.type)
        sharding = Sharding(
            mesh=sharding_axes(mesh),
            compute_dtype=torch.bfloat16 if accelerator.mixed_precision == "bf16" else None,
            reshard_after_forward=config.reshard_after_forward,
        )
        self.module = build_divided(build, units, sharding, device=accelerator.device)
        self.model = self.module.model

    def run(self, work: Callable[[ModelT], ResultT]) -> ResultT:
        """Inside the forward pass of the root."""
        with self.accelerator.autocast():
            result: ResultT = self.module(work)
        return result

    @contextmanager
    def accumulating(self, *, is_last: bool) -> Iterator[None]:
        """Every backward pass leaves shards of gradients; copies of the model meet in the last."""
        root = units_of(self.module)[0]
        root.set_requires_all_reduce(is_last)
        root.set_reshard_after_backward(is_last or self.reshard_after_forward)
        yield

    def backward(self, loss: Tensor) -> None:
        """The gradients of all ranks are summed."""
        loss.backward()

    @torch.no_grad()
    def look(self, work: Callable[[ModelT], ResultT]) -> ResultT:
        """Inside the forward pass of the root; nothing stays gathered."""
        result = self.run(work)
        free(self.module)
        return result

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """All parameters have the same mesh."""
        return whole(get_total_norm(gradients))

    def portable(self) -> ModelT | None:
        """A model on the CPU that has taken over the gathered weights."""
        weights = whole_on_main(self.model.state_dict(keep_vars=True))
        return loaded(self.build, weights) if self.accelerator.is_main_process else None


def build_divided(
    build: Callable[[], ModelT],
    units: Callable[[ModelT, Sharding], None] | None,
    sharding: Sharding,
    *,
    device: torch.device,
) -> WrappedModel[ModelT]:
    """The model in its wrapper, which is the root of the sharding."""
    # Nothing in the models changes the output of a unit in place, which alone would be wrong.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")

    def divide(wrapped: WrappedModel[ModelT]) -> None:
        if units is not None:
            units(wrapped.model, sharding)
        sharding.root(wrapped)

    return build_sharded(lambda: WrappedModel(build()), divide, device=device)


def loaded(build: Callable[[], ModelT], weights: Mapping[str, Tensor]) -> ModelT:
    """A model that takes over whole weights."""
    with torch.device("meta"):
        model = build()
    model.load_state_dict(weights, assign=True)
    return model


def refuse_old_torch(oldest: tuple[int, int], *, option: str = "shard") -> None:
    """Raises UserError where this torch cannot do what an option of `ParallelConfig` asks."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < oldest:
        raise UserError(
            f"parallel.{option} needs torch {'.'.join(map(str, oldest))} or newer, this is "
            f"{torch.__version__}; update torch, or train with parallel.{option}=1"
        )
