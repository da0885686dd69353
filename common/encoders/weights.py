"""Weights of an encoder from a local file, loaded strictly: every name and shape must fit."""

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from common.encoders.safetensors_files import read_safetensors
from common.errors import UserError
from common.json_files import read_json_object

# What the readers of weights raise for files that are cut short, damaged or no weights: torch's
# meets the damage wherever it lies in its archive.
DAMAGED = (
    SafetensorError,
    pickle.UnpicklingError,
    EOFError,
    OSError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


def read_weights(file: Path, *, kind: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of one that torch wrote; nothing in it is executed.

    Raises:
        UserError: there is none, or it is damaged or no state dict.
    """
    if not file.is_file():
        raise UserError(f"{kind} weights {file} do not exist; give a safetensors or .pth file")
    try:
        if file.suffix == ".safetensors":
            return read_safetensors(file)
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)  # type: ignore[assignment]  # timm's training files
        return {name: tensor.detach() for name, tensor in state.items()}
    except DAMAGED as error:
        raise UserError(
            f"{kind} weights {file} are damaged or no state dict ({type(error).__name__}); "
            "copy the file again"
        ) from error


def parts_in(index: Path) -> list[str]:
    """Files beside the index, and no others of this machine.

    Raises:
        UserError: it names some, or is no index.
    """
    places = read_json_object(index).get("weight_map")
    parts = [*places.values()] if isinstance(places, dict) else [None]
    names = [part for part in parts if isinstance(part, str) and Path(part).name == part]
    if len(names) < len(parts):
        raise UserError(f"{index} names files that do not lie beside it; copy it again")
    return sorted(set(names))


def load_exactly(
    module: nn.Module, state: Mapping[str, Tensor], *, source: Path, kind: str
) -> None:
    """Fills the module, or names in one line what of `state` does not fit it."""
    expected = module.state_dict()
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": sorted(
            f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in expected.keys() & state.keys()
            if state[key].shape != expected[key].shape
        ),
    }
    found = [f"{what}: {_shorten(keys)}" for what, keys in problems.items() if keys]
    if found:
        raise UserError(f"{source} does not fit this {kind} encoder; {'; '.join(found)}")
    module.load_state_dict(state)


def _shorten(keys: list[str], *, shown: int = 5) -> str:
    rest = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + rest
