"""More layers for a trained decoder, before training goes on.

`overlap` stacks two copies and leaves out what they would repeat in the middle (Kim et al., SOLAR,
2312.15166): it is another function, to be trained further. `identity` puts copies between the
layers whose output projections are 0 (Wu et al., LLaMA Pro, 2401.02415): exactly the same function.
"""

import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from common.errors import UserError

Deepening = Literal["overlap", "identity"]
Layer = tuple[int, bool]  # the layer it is a copy of, and whether it adds nothing
_SILENT = ("attention.to_out.weight", "feed_forward.contract.weight")
_BLOCKS = re.compile(r"decoder\.blocks\.(\d+)\.(.+)")


def deepened_layers(num_layers: int, *, to: int, how: Deepening) -> list[Layer]:
    """Where each of the new layers comes from.

    Three to five, `overlap`: 0 1 2 1 2. `identity`, with `.` for one that is silent: 0 1 1. 2 2.

    Raises:
        UserError: when that is no deeper, or too deep for two copies.
    """
    if to == num_layers:
        return [(layer, False) for layer in range(num_layers)]
    if to < num_layers:
        raise UserError(f"the language model has {num_layers} layers; ask for more than that")
    if how == "identity":
        extra = to - num_layers
        return [
            (layer, copy > 0)
            for layer in range(num_layers)
            for copy in range(1 + (layer + 1) * extra // num_layers - layer * extra // num_layers)
        ]
    if to > 2 * num_layers:
        raise UserError(
            f"two copies of {num_layers} layers are {2 * num_layers}, not {to}; ask for fewer"
        )
    upper = to // 2
    sources = [*range(to - upper), *range(num_layers - upper, num_layers)]
    return [(layer, False) for layer in sources]


def deepened(state: Mapping[str, Tensor], layers: list[Layer]) -> dict[str, Tensor]:
    """Our state dict with those layers."""
    blocks: dict[int, dict[str, Tensor]] = {}
    others = {}
    for name, tensor in state.items():
        found = _BLOCKS.fullmatch(name)
        if found is None:
            others[name] = tensor
        else:
            blocks.setdefault(int(found[1]), {})[found[2]] = tensor
    return others | {
        f"decoder.blocks.{number}.{part}": (
            torch.zeros_like(tensor) if silent and part in _SILENT else tensor
        )
        for number, (source, silent) in enumerate(layers)
        for part, tensor in blocks[source].items()
    }
