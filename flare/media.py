"""Where the soft tokens of images and audio clips land in a text.

A medium takes `q` slots, consecutive positions that hold its media token's id. Media of the whole
batch are flat, in reading order: the first item fills the first q slots of the first row, and so
on.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Media as the decoder and as the contrastive loss see them.

    Without any medium, `tokens` are those of one empty dummy (k = 1, m = 0), which land nowhere and
    keep every parameter of the encoder in the graph.
    """

    tokens: Float[Tensor, "k q d"]
    vectors: Float[Tensor, "m v"]  # not normalised


def place_media(
    x: Float[Tensor, "b s d"],
    slots: Bool[Tensor, "b s"],
    tokens: Float[Tensor, "k q d"],
    *,
    rows: int | None = None,
) -> Float[Tensor, "b s d"]:
    """`x` with media tokens at its slots, in order.

    `rows` is the number of rows that the media belong to: beams of one sample, which follow one
    another, share its media. None: every row has its own.
    """
    flat = tokens.flatten(0, 1).to(x.dtype)
    rank = slots.cumsum(-1)
    counts = rank[:, -1] if rows is None else rank[:: len(slots) // rows, -1]
    first = (counts.cumsum(0) - counts).repeat_interleave(len(slots) // len(counts))
    # Other positions read a token too, neighbours not the same one, and drop it: no size depends
    # on data, and the backward pass adds no long column of zeros to one token.
    anywhere = torch.arange(slots.numel(), device=x.device).reshape(slots.shape) % len(flat)
    index = torch.where(slots, first[:, None] + rank - 1, anywhere)
    return torch.where(slots[..., None], flat[index], x)


def check_media(
    slots: Bool[Tensor, "b s"],
    counts: Int[Tensor, " r"] | None,
    *,
    num_items: int,
    tokens_per_item: int,
    kind: str,
) -> None:
    """Raises when slots and items do not match; `counts` are the items of each row, when known."""
    found = slots.sum(-1).tolist()
    if counts is None:
        whole = all(number % tokens_per_item == 0 for number in found)
        # Beams repeat the slots of a sample, not its media; they always bring counts.
        if not whole or sum(found) != num_items * tokens_per_item:
            raise UserError(
                f"{found} <{kind}> slots per row but {num_items} items of {tokens_per_item} "
                f"tokens each in the batch; let the processor expand one <{kind}> per item"
            )
        return
    expected = counts.tolist()
    if sum(expected) != num_items:
        raise UserError(f"num_{kind}s says {expected}, but {num_items} are given")
    beams = len(found) // len(expected)
    for row, number in enumerate(found):
        items = expected[row // beams]
        if number != items * tokens_per_item:
            raise UserError(
                f"row {row} of the batch: {number} <{kind}> slots but {items} items of "
                f"{tokens_per_item} tokens each; let the processor expand one <{kind}> per item"
            )
