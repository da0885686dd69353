"""Next-token loss: -log p(token t | tokens before t), as a sum.

Sums and counts, never means: the trainer divides once, by the count over all ranks and
micro-batches, so that splitting a batch changes nothing. `next_token_loss` starts from logits;
`linear_next_token_loss` from hidden states, and never holds more than a chunk of the logits.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100
# Positions whose logits exist at the same time.
CHUNK = 256


def next_token_loss(
    logits: Float[Tensor, "b s v"], labels: Int[Tensor, "b s"]
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Summed loss in float32 and the number of targets; labels of -100 are no targets.

    The label at t is predicted by the logits at t - 1, so the first label is never used.
    labels 7 -100 9 -> one target: 9, predicted from position 1
    """
    # The softmax over a large vocabulary loses too much in half precision.
    predictions = logits[:, :-1].float().flatten(0, 1)
    targets = labels[:, 1:].flatten()
    loss = F.cross_entropy(predictions, targets, ignore_index=IGNORED, reduction="sum")
    return loss, (targets != IGNORED).sum()


def linear_next_token_loss(
    hidden: Float[Tensor, "n d"],
    weight: Float[Tensor, "v d"],
    targets: Int[Tensor, " n"],
    *,
    z_loss: float,
    bias: Float[Tensor, " v"] | None = None,
    new_rows: Float[Tensor, "u d"] | None = None,
    chunk: int = CHUNK,
) -> Float[Tensor, ""]:
    """Sum over n positions of -log softmax(hidden @ weight.T)[target] + z_loss * logsumexp**2.

    The rows of new tokens stand behind the weight's; a bias is a constant, added to the weight's
    logits. The caller has selected the positions; none give 0, still connected to all tensors.
    Where selecting would have to wait for an accelerator, targets of -100 are none instead.
    Gradients are computed in the forward pass, from the logits that are there anyway, and scaled
    in the backward pass, which works once per forward pass and has no derivative of its own.
    """
    tensors = [hidden, weight] if new_rows is None else [hidden, weight, new_rows]
    if not torch.is_grad_enabled():
        tensors = [tensor.detach() for tensor in tensors]
    return _LinearNextToken.apply(targets, bias, z_loss, chunk, *tensors)


class _LinearNextToken(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917  # autograd passes everything by position
        ctx: Any,
        targets: Tensor,
        bias: Tensor | None,
        z_loss: float,
        chunk: int,
        hidden: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        narrow = _matmul_dtype(hidden)
        # Softmax, loss and the sums of the chunks' weight gradients.
        wide = torch.promote_types(narrow, torch.float32)
        needs_hidden, *needs_weights = ctx.needs_input_grad[4:]
        ctx.grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        ctx.grad_weights = [
            torch.zeros_like(weight, dtype=wide) if needed else None
            for weight, needed in zip(weights, needs_weights, strict=True)
        ]
        ctx.weight_dtypes = [weight.dtype for weight in weights]
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            matrices = [weight.to(narrow) for weight in weights]
            for start in range(0, len(hidden), chunk):
                part = slice(start, start + chunk)
                rows = hidden[part].to(narrow)
                logits = _logits(rows, matrices, bias).to(wide)
                loss += _differentiate_(logits, targets[part], z_loss=z_loss)
                slopes = [x.to(narrow) for x in logits.split([*map(len, matrices)], dim=1)]
                if ctx.grad_hidden is not None:
                    ctx.grad_hidden[part] = reduce(torch.add, map(torch.mm, slopes, matrices))
                _add_products_(ctx.grad_weights, slopes, rows)
                del logits, slopes  # or they would outlive the next chunk's matmul
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weights = ctx.grad_hidden, ctx.grad_weights
        # In place, for the weight's is as large as a chunk: so there is no second backward pass.
        del ctx.grad_hidden, ctx.grad_weights
        hidden = None if hidden is None else hidden.mul_(upstream)
        weights = [
            None if weight is None else weight.mul_(upstream).to(dtype)
            for weight, dtype in zip(weights, ctx.weight_dtypes, strict=True)
        ]
        return None, None, None, None, hidden, *weights


def _matmul_dtype(hidden: Tensor) -> torch.dtype:
    """What autocast would multiply in; it never touches float64."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def _logits(
    rows: Float[Tensor, "n d"], matrices: Sequence[Tensor], bias: Float[Tensor, " v"] | None
) -> Float[Tensor, "n w"]:
    first, *others = [rows @ matrix.T for matrix in matrices]
    if bias is not None:
        first += bias
    return torch.cat([first, *others], dim=1) if others else first


def _differentiate_(
    logits: Float[Tensor, "n v"], targets: Int[Tensor, " n"], *, z_loss: float
) -> Float[Tensor, ""]:
    """The summed loss of these rows; the logits become its gradient with respect to them.

    d/dx_j (lse - x_t + z lse^2) = (1 + 2 z lse) softmax_j - [j = t]
    """
    counts = (targets != IGNORED)[:, None]
    chosen = targets.where(counts[:, 0], 0)
    of_target = logits.gather(1, chosen[:, None])  # unlike indexing, refuses negative targets
    largest = logits.amax(dim=1, keepdim=True)
    # Step by step in place: logsumexp and softmax would each allocate as much again.
    total = logits.sub_(largest).exp_().sum(dim=1, keepdim=True)
    lse = largest + total.log()
    logits.mul_((1 + 2 * z_loss * lse) / total * counts)
    logits[torch.arange(len(chosen), device=chosen.device), chosen] -= counts[:, 0].to(logits.dtype)
    return ((lse - of_target + z_loss * lse**2) * counts).sum()


def _add_products_(
    totals: Sequence[Tensor | None], slopes: Sequence[Tensor], rows: Float[Tensor, "n d"]
) -> None:
    for total, slope in zip(totals, slopes, strict=True):
        if total is None:
            continue
        if total.dtype == rows.dtype:
            total.addmm_(slope.T, rows)
        else:  # Half precision: many small products would be lost in a sum of that precision.
            total.add_(slope.T @ rows)
