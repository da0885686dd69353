"""A toy of uneven blocks, sharded in several ways, for the tests of checkpoints by several ranks:
`run_ranks(work, num_ranks, folder)` calls `work(rank, folder)` in processes of its own."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from common.checkpoint.store import CheckpointStore
from common.checkpoint.tensors import (
    model_tensors_by_name,
    optimizer_tensors_by_name,
    trained_parameters,
)
from tests.distributed.launch import preloaded


class Block(nn.Module):
    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.into = nn.Linear(7, hidden_dim)
        self.out = nn.Linear(hidden_dim, 7, bias=False)
        self.gate = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.gate * self.out(self.into(inputs).tanh())


class Toy(nn.Module):
    seen: Tensor
    scratch: Tensor

    def __init__(self, widths: Sequence[int] = (5, 9, 2)) -> None:
        super().__init__()
        self.frozen = nn.Linear(4, 7).bfloat16().requires_grad_(False)
        self.blocks = nn.ModuleList(Block(width) for width in widths)
        self.scale = nn.Parameter(torch.ones(1))
        self.idle = nn.Parameter(torch.randn(3, 6))  # never has a gradient
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen += len(inputs)
        hidden = self.frozen(inputs.bfloat16()).float()
        for block in self.blocks:
            hidden = block(hidden)
        return hidden.square().mean() * self.scale.sum()


def sharded_toy(axes: Sequence[int], *, seed: int) -> Toy:
    """No axes: a plain model; one: sharded; two: replicated over the first, sharded inside."""
    torch.manual_seed(seed)
    model = Toy()
    if axes:
        names = ("replicate", "shard")[-len(axes) :]
        mesh = init_device_mesh("cpu", tuple(axes), mesh_dim_names=names)
        for module in [model.frozen, *model.blocks, model]:
            fully_shard(module, mesh=mesh)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    return model


def optimizer_of(model: nn.Module) -> AdamW:
    return AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=True)


def trained_toy(axes: Sequence[int], *, seed: int) -> tuple[Toy, AdamW]:
    model = sharded_toy(axes, seed=seed)
    optimizer = optimizer_of(model)
    for _ in range(2):
        model(torch.randn(6, 4)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def whole_state(model: nn.Module, optimizer: AdamW) -> dict[str, Tensor]:
    """A copy of the state as a single process would have it; collective when sharded."""
    tensors = model_tensors_by_name([model]) | optimizer_tensors_by_name([model], optimizer)
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()
        for name, tensor in tensors.items()
    }


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def save_trained(store: CheckpointStore, axes: Sequence[int], *, step: int) -> None:
    """Save a trained toy and, beside the checkpoints, what a reader must find."""
    model, optimizer = trained_toy(axes, seed=step)
    state = whole_state(model, optimizer)
    if store.ranks.is_main:
        torch.save(state, store.checkpoints / f"expected_{step}.pt")
    store.save([model], optimizer, step=step, facts={"step": step})
    store.wait()


def assert_loads(store: CheckpointStore, step: int, axes: Sequence[int]) -> None:
    """Another toy, of another sharding, becomes bit for bit the saved one."""
    model = sharded_toy(axes, seed=99)
    optimizer = optimizer_of(model)
    random = store.load(store.checkpoints / f"step_{step:08d}", [model], optimizer)
    expected = torch.load(store.checkpoints / f"expected_{step}.pt")
    assert_same_bits(whole_state(model, optimizer), expected)
    parameters = trained_parameters([model])
    moment = optimizer.state[parameters["blocks.0.into.weight"]]["exp_avg"]
    assert isinstance(moment, DTensor) == bool(axes)
    assert parameters["idle"] not in optimizer.state
    model(torch.randn(6, 4)).backward()
    optimizer.step()
    num_writers = len(list((store.checkpoints / f"step_{step:08d}").glob("tensors_*")))
    assert (random is not None) == (num_writers == store.ranks.num_ranks)


def run_ranks(work: Callable[[int, Path], None], num_ranks: int, folder: Path) -> list[int | None]:
    """The exit status of each rank; one that dies does not end the others."""
    meeting_point = folder / f"meet_{work.__name__}"
    context = preloaded()
    processes = [
        context.Process(target=_run_rank, args=(work, num_ranks, meeting_point, rank, folder))
        for rank in range(num_ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _run_rank(
    work: Callable[[int, Path], None], num_ranks: int, meeting_point: Path, rank: int, folder: Path
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=num_ranks
    )
    work(rank, folder)
    dist.destroy_process_group()
