"""The answers of pairs in a batch, as their loss reads them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flare.encoding import FlareExample


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers two by two, the preferred one first; `numbers` has the answer of each id.

    `positions` are those that predict, one before the ids, in b * s.
    """

    positions: Int[Tensor, " n"]
    ids: Int[Tensor, " n"]
    numbers: Int[Tensor, " n"]
    reference: Float[Tensor, " a"]  # log-probabilities before training


def answers_in(examples: Sequence[FlareExample], *, width: int) -> Answers:
    """Of all rows of a batch; an answer lies in one row, and so does its pair."""
    found = [(n, example, a) for n, example in enumerate(examples) for a in example.answers]
    first = torch.tensor([row * width + a.first for row, _, a in found], dtype=torch.int64)
    lengths = torch.tensor([a.num for _, _, a in found], dtype=torch.int64)
    numbers = torch.arange(len(found)).repeat_interleave(lengths)
    within = torch.arange(len(numbers)) - (lengths.cumsum(0) - lengths)[numbers]
    ids = [example.ids[a.first : a.first + a.num] for _, example, a in found]
    return Answers(
        positions=first[numbers] + within - 1,
        ids=torch.cat([numbers[:0], *ids]),
        numbers=numbers,
        reference=torch.tensor([a.reference for _, _, a in found], dtype=torch.float64),
    )
