"""The exact state of a training run as four files without pickle.

    weights.safetensors     trainable parameters and persistent buffers, by name
    optimizer.safetensors   moments and step counts, `parameter name/quantity`
    random.safetensors      bytes of torch's generators, `rank/device`
    state.json              step, counters, config, other generators, digest of the frozen part

Frozen parameters come from elsewhere and are only identified, by their digest.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from common.checkpoint.digests import tensors_digest
from common.checkpoint.folder import step_folder, write_folder
from common.checkpoint.random_state import RandomState
from common.errors import UserError

# Parsed JSON: what is inside is checked by whoever knows its meaning.
Facts = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """All that an unbroken run would still know."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: list[RandomState]  # one per rank
    facts: Facts


def save_training_state(checkpoints: Path, state: TrainingState, *, step: int) -> Path:
    """Write a checkpoint that is whole or absent; returns its folder."""

    def write(folder: Path) -> None:
        save_file(state.weights, folder / "weights.safetensors")
        save_file(state.optimizer, folder / "optimizer.safetensors")
        bytes_of = {
            f"{rank}/{device}": tensor
            for rank, random in enumerate(state.random)
            for device, tensor in random.tensors.items()
        }
        save_file(bytes_of, folder / "random.safetensors")
        generators = [{"python": r.python, "numpy": r.numpy} for r in state.random]
        content = {**state.facts, "generators": generators}
        (folder / "state.json").write_text(json.dumps(content, indent=1))

    target = step_folder(checkpoints, step)
    write_folder(target, write)
    return target


def load_facts(folder: Path) -> Facts:
    """The `state.json` of a verified checkpoint."""
    facts: Facts = json.loads((folder / "state.json").read_text())
    return facts


def load_training_state(folder: Path) -> TrainingState:
    """Read a checkpoint whose digests `newest_good_checkpoint` has verified."""
    facts = load_facts(folder)
    tensors = load_file(folder / "random.safetensors")
    random = [
        RandomState(
            tensors={
                name.split("/")[1]: tensor
                for name, tensor in tensors.items()
                if name.split("/")[0] == str(rank)
            },
            python=generators["python"],
            numpy=generators["numpy"],
        )
        for rank, generators in enumerate(facts["generators"])
    ]
    return TrainingState(
        weights=load_file(folder / "weights.safetensors"),
        optimizer=load_file(folder / "optimizer.safetensors"),
        random=random,
        facts=facts,
    )


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters and persistent buffers as contiguous copies on the CPU."""
    return {name: _copy(tensor) for name, tensor in _changing_tensors(model).items()}


def load_model_tensors(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into the model; names, shapes and types must match exactly."""
    own = _changing_tensors(model)
    _refuse_differing_names("weights", own, weights)
    with torch.no_grad():
        for name, tensor in own.items():
            saved = weights[name]
            if saved.shape != tensor.shape or saved.dtype != tensor.dtype:
                raise UserError(
                    f"the checkpoint's {name} is {saved.dtype} {tuple(saved.shape)}, the model's "
                    f"{tensor.dtype} {tuple(tensor.shape)}; build the model it was saved from"
                )
            tensor.copy_(saved)


def frozen_digest(model: nn.Module) -> str:
    """Identifies the parameters that are not saved; reads them all, so call it once per run."""
    frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad}
    return tensors_digest(frozen)


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors by `parameter name/quantity`, as copies on the CPU."""
    return {
        f"{name}/{quantity}": _copy(value)
        for name, parameter in model.named_parameters()
        for quantity, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(
    model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Set the optimizer's state; a parameter that never had a gradient has none."""
    parameters = dict(model.named_parameters())
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    optimizer.state.clear()
    for key, value in tensors.items():
        name, quantity = key.rsplit("/", 1)
        if name not in parameters or id(parameters[name]) not in trained:
            raise UserError(f"the checkpoint's optimizer knows {name}, which is not trained now")
        device = parameters[name].device
        optimizer.state[parameters[name]][quantity] = value.to(device, copy=True)


def _changing_tensors(model: nn.Module) -> dict[str, Tensor]:
    persistent = model.state_dict(keep_vars=True).keys()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return trained | {n: b for n, b in model.named_buffers() if n in persistent}


def _refuse_differing_names(
    what: str, own: Mapping[str, Tensor], saved: Mapping[str, Tensor]
) -> None:
    missing, unknown = sorted(own.keys() - saved.keys()), sorted(saved.keys() - own.keys())
    if missing or unknown:
        raise UserError(
            f"the checkpoint's {what} do not fit the model: missing {missing[:5]} "
            f"({len(missing)} in all), unknown {unknown[:5]} ({len(unknown)} in all)"
        )


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
