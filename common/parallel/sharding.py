"""Sharded parameters (ZeRO-3 by FSDP2): units that are gathered when they run and freed afterwards.

A model's `parallelize` names its units; what belongs to none, like a temperature, is the root's and
is there as long as any work is done. Gradients are summed over ranks, not averaged: losses are
divided by counts over all ranks already. In bf16 the parameters of a unit travel and compute in
bf16, gradients meet in float32; the root's stay as stored, and so do the shards of all.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from common.parallel.pipeline import Pipeline, Stage

ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """Divides modules over the ranks of a mesh, inner ones first."""

    mesh: DeviceMesh
    compute_dtype: torch.dtype | None  # of units; None: as stored
    reshard_after_forward: bool
    pipeline: Pipeline | None = None
    stage_mesh: DeviceMesh | None = None  # ranks that hold the same stages of the pipeline

    def units(self, modules: Iterable[nn.Module]) -> None:
        """Each of the modules becomes a unit."""
        for module in modules:
            self.unit(module)

    def chain(self, blocks: nn.ModuleList, *, costs: Callable[[], Sequence[float]]) -> None:
        """Blocks that run one after the other, each a unit; a pipeline cuts here.

        costs: work of each block on a row, that of what lies behind the last one added to it; asked
            for where there is a pipeline to balance.
        """
        if self.pipeline is None:
            self.units(blocks)
        else:
            self.pipeline.cut(blocks, costs=costs(), shard=self._shard_stage)

    def unit(self, *modules: nn.Module, cast_inputs: bool = False) -> None:
        """One unit of what no unit inside owns; several modules where they share a parameter.

        A module's parameters exist only while its own `forward` runs, on all ranks alike. Autocast
        suits inputs to most operations; where it does not, `cast_inputs` brings all floating ones
        to the unit's precision, which rotary tables, masks and waveforms must be spared.
        """
        reduced = torch.float32 if self.compute_dtype else None
        policy = MixedPrecisionPolicy(self.compute_dtype, reduced, cast_forward_inputs=cast_inputs)
        self._shard([*modules], policy)

    def root(self, module: nn.Module) -> None:
        """All that is left; work on the model is done inside this module's `forward`."""
        self._shard([module], MixedPrecisionPolicy())
        for unit in units_of(module):
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)  # gloo knows no other reduction
            if hasattr(unit, "set_reduce_scatter_unused_params"):  # since torch 2.15
                # Should one rank alone use a parameter, the others send zeros.
                unit.set_reduce_scatter_unused_params(True, recurse=False)

    def _shard_stage(self, stage: Stage) -> None:
        assert self.stage_mesh is not None
        inner = replace(self, mesh=self.stage_mesh, pipeline=None)
        inner.units(stage.blocks)
        inner.root(stage)

    def _shard(self, modules: list[nn.Module], policy: MixedPrecisionPolicy) -> None:
        fully_shard(
            modules,
            mesh=self.mesh,
            mp_policy=policy,
            reshard_after_forward=self.reshard_after_forward,
        )


def units_of(module: nn.Module) -> list[FSDPModule]:
    """The units of a sharded module, and itself if it is one."""
    return [unit for unit in module.modules() if isinstance(unit, FSDPModule)]


def free(module: nn.Module) -> None:
    """Leave nothing gathered, also where `reshard_after_forward` is off."""
    for unit in units_of(module):
        unit.reshard()


def whole(tensor: Tensor) -> Tensor:
    """A tensor of a model that may be sharded, gathered; every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def by_mesh(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters that share a mesh: fused kernels take no others together."""
    groups: dict[object, list[nn.Parameter]] = {}
    for parameter in parameters:
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        groups.setdefault(mesh, []).append(parameter)
    return [*groups.values()]


def whole_on_main(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gathered copies on the CPU of the main rank, nothing on the others, which take part.

    A tensor under two names stays one.
    """
    is_main = dist.get_rank() == 0
    copies: dict[int, Tensor] = {}
    for tensor in tensors.values():
        if id(tensor) in copies:
            continue
        gathered = whole(tensor.detach())
        copies[id(tensor)] = gathered.to("cpu", copy=True) if is_main else tensor
    return {name: copies[id(tensor)] for name, tensor in tensors.items()} if is_main else {}


def like(tensor: Tensor, target: Tensor) -> Tensor:
    """A whole tensor, the same on every rank, on the device and divided as another one is."""
    tensor = tensor.to(target.device)
    if not isinstance(target, DTensor):
        return tensor
    return distribute_tensor(tensor, target.device_mesh, target.placements, src_data_rank=None)


def build_sharded(
    build: Callable[[], ModelT], divide: Callable[[ModelT], None], *, device: torch.device
) -> ModelT:
    """A model whose whole weights only the main rank ever holds, in the memory of its host.

    Every rank builds it without memory and divides it; then each tensor comes from the main rank.
    """
    source = _tensors(build()) if dist.get_rank() == 0 else {}
    with torch.device("meta"):
        model = build()
    whole_tensors = _tensors(model)
    divide(model)
    model.to_empty(device=device)
    own = _tensors(model)
    with torch.no_grad():
        for name, example in whole_tensors.items():
            tensor = torch.empty(example.shape, dtype=example.dtype, device=device)
            if source:
                _check_alike(source[name], tensor, name)
                tensor.copy_(source.pop(name))
            dist.broadcast(tensor, src=0)
            if name in own:  # and not in a block that other ranks hold
                own[name].copy_(like(tensor, own[name]))
    _refuse_tensors_without_memory(model)
    return model


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _check_alike(source: Tensor, target: Tensor, name: str) -> None:
    if (source.shape, source.dtype) != (target.shape, target.dtype):
        raise ValueError(
            f"{name} is {source.dtype} {tuple(source.shape)}, but {target.dtype} "
            f"{tuple(target.shape)} when built on the meta device; build_model must not differ"
        )


def _refuse_tensors_without_memory(model: nn.Module) -> None:
    """Tensors that are neither parameters nor buffers are reached by nobody."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_meta:
                raise ValueError(f"{name}.{key} is a tensor; make it a buffer to shard the model")
