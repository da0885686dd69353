"""Recordings on their way into the encoder, and where the soft tokens of media land in a text.

A medium takes `q` slots, consecutive positions that hold its media token's id. Media of the whole
batch are flat, in reading order: the first item fills the first q slots of the first row, and so
on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from common.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Recordings in groups of similar lengths, each padded behind to its longest.

    A group may be empty: all batches have the same number of groups, for sharded parameters are
    gathered by all ranks or by none. `order` has the place of each recording, in reading order,
    among those of all groups; `lengths` are in samples.
    """

    waveforms: tuple[Float32[Tensor, "_ _"], ...]
    lengths: tuple[Int[Tensor, " _"], ...]
    order: Int[Tensor, " k"]

    def __len__(self) -> int:
        return len(self.order)

    def none(self) -> "Clips":
        """As many groups without a recording."""
        return replace(
            self,
            waveforms=tuple(group[:0] for group in self.waveforms),
            lengths=tuple(group[:0] for group in self.lengths),
            order=self.order[:0],
        )


def grouped(clips: Sequence[Tensor], *, groups: int, least: int) -> Clips:
    """The recordings in the groups that pad the fewest samples; none is shorter than `least`."""
    by_length = sorted(range(len(clips)), key=lambda number: len(clips[number]))
    lengths = torch.tensor([len(clips[number]) for number in by_length], dtype=torch.int64)
    cuts = _cuts(lengths.numpy(), groups=groups)
    waveforms = [
        pad_sequence([clips[n] for n in by_length[start:end]] or [torch.zeros(least)], True)
        for start, end in zip([0, *cuts], [*cuts, len(clips)], strict=True)
    ]
    sizes = np.diff([0, *cuts, len(clips)])
    return Clips(
        waveforms=tuple(w[:size] for w, size in zip(waveforms, sizes, strict=True)),
        lengths=lengths.split(sizes.tolist()),
        order=torch.tensor(by_length, dtype=torch.int64).argsort(),
    )


def _cuts(lengths: Int[np.ndarray, " k"], *, groups: int) -> list[int]:
    """Where to cut ascending lengths so that all groups together are shortest when padded.

    1 1 2 9 in two groups -> cut at 3.
    """
    ends = np.arange(len(lengths) + 1)
    longest = np.concatenate([[0], lengths])
    # From every start to every end; an end before its start costs more than any cut.
    cost = np.where(ends >= ends[:, None], (ends - ends[:, None]) * longest, np.inf)
    best, chosen = cost[0], []
    for _ in range(groups - 1):
        total = best[:, None] + cost
        chosen.append(total.argmin(axis=0))
        best = total.min(axis=0)
    cuts: list[int] = []
    for starts in reversed(chosen):
        cuts.insert(0, int(starts[cuts[0] if cuts else -1]))
    return cuts


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Media as the decoder and as the contrastive loss see them.

    Where a call of the encoder had no medium, its last `tokens` are those of an empty dummy, which
    land nowhere and keep every parameter of the encoder in the graph.
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
