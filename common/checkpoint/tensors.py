"""The tensors that are the state of a run, by name: live, whole or sharded, nothing copied.

    model.<name>                    trainable parameters and persistent buffers
    optimizer.<name>.<quantity>     what the optimizer keeps for a parameter
    random.<rank>.<device>          bytes of torch's generators

Names are those of the plain model, whatever wraps its modules, so they agree between a single
process, shards and pipeline stages. Frozen parameters come from elsewhere and are only identified,
by their digest.
"""

import hashlib
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from common.checkpoint.digests import tensors_digest
from common.checkpoint.ranks import Ranks

# Wrappers that recompute or compile a module put themselves into the names of its parameters.
WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")


def model_tensors_by_name(modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Trainable parameters and persistent buffers, `model.<name>`.

    Raises:
        ValueError: when two modules have a tensor of the same name.
    """
    tensors: dict[str, Tensor] = {}
    for module in modules:
        # `state_dict` also returns parameters that a forward pass gathered to their shards.
        persistent = {_plain(name) for name in module.state_dict(keep_vars=True)}
        trained = {n: p for n, p in _parameters(module).items() if p.requires_grad}
        buffers = {_plain(name): buffer for name, buffer in module.named_buffers()}
        own = trained | {name: b for name, b in buffers.items() if name in persistent}
        repeated = sorted(f"model.{name}" for name in own if f"model.{name}" in tensors)
        if repeated:
            raise ValueError(f"two modules have a tensor named {repeated[0]}")
        tensors |= {f"model.{name}": tensor.detach() for name, tensor in own.items()}
    return tensors


def trained_parameters(modules: Sequence[nn.Module]) -> dict[str, nn.Parameter]:
    """Parameters an optimizer may know, by their plain name."""
    found = [(n, p) for module in modules for n, p in _parameters(module).items()]
    return {name: parameter for name, parameter in found if parameter.requires_grad}


def optimizer_tensors_by_name(
    modules: Sequence[nn.Module], optimizer: Optimizer
) -> dict[str, Tensor]:
    """`optimizer.<name>.<quantity>`; a parameter that never had a gradient has none."""
    return {
        f"optimizer.{name}.{quantity}": value
        for name, parameter in trained_parameters(modules).items()
        for quantity, value in optimizer.state.get(parameter, {}).items()
    }


def frozen_sha256(modules: Sequence[nn.Module], ranks: Ranks) -> str:
    """Identifies the parameters that are not saved, alike for every way of sharding them.

    All ranks must call; one tensor at a time is gathered and digested, in turns, so call it once
    per run.
    """
    digests: dict[str, str] = {}
    for module in modules:
        frozen = {n: p for n, p in _parameters(module).items() if not p.requires_grad}
        for turn, (name, parameter) in enumerate(sorted(frozen.items())):
            whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            if not isinstance(parameter, DTensor) or _is_turn_of_this_rank(parameter, turn):
                digests[name] = tensors_digest({name: whole})
    merged: Mapping[str, str] = {n: d for part in ranks.collect(digests) for n, d in part.items()}
    lines = [f"{name} {merged[name]}\n" for name in sorted(merged)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return {_plain(name): parameter for name, parameter in module.named_parameters()}


def _plain(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _is_turn_of_this_rank(parameter: DTensor, turn: int) -> bool:
    mesh = parameter.device_mesh
    ranks: list[int] = mesh.mesh.flatten().tolist()
    return ranks[turn % len(ranks)] == mesh.get_rank()
