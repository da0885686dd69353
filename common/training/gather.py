"""All-gather of rows with a gradient, for contrastive losses over the batch of all ranks."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows: Tensor, *, sizes: Sequence[int]) -> Tensor:
    """Rows of all ranks in rank order; `sizes` says how many each rank holds. One process: `rows`.

    Backward sums the gradients that all ranks' losses send to a row, so the sum over ranks of the
    local losses is differentiated exactly. The sizes are known to the hosts, so no device waits.
    """
    rank = dist.get_rank() if len(sizes) > 1 else 0
    if len(rows) != sizes[rank]:
        raise ValueError(
            f"{len(rows)} rows to be contrasted where counts() announced {sizes[rank]} pairs; "
            "the task must count exactly the pairs that it computes"
        )
    if len(sizes) == 1 or not any(sizes):
        return rows
    gathered: Tensor = _GatherRows.apply(rows, tuple(sizes))
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.sizes = sizes
        # Collectives want equal shapes: every rank sends as many rows as the largest holds.
        sent = rows.new_zeros(max(sizes), *rows.shape[1:])
        sent[: len(rows)] = rows
        parts = [torch.empty_like(sent) for _ in sizes]
        dist.all_gather(parts, sent)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.split(ctx.sizes)[dist.get_rank()], None
