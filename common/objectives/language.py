"""Next-token loss: -log p(token t | tokens before t), as a sum.

Sums and counts, never means: the trainer divides once, by the count over all ranks and
micro-batches, so that splitting a batch changes nothing. `next_token_loss` starts from logits;
`linear_next_token_loss` from hidden states, and never holds more than a chunk of the logits.
"""

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
    chunk: int = CHUNK,
) -> Float[Tensor, ""]:
    """Sum over n positions of -log softmax(hidden @ weight.T)[target] + z_loss * logsumexp**2.

    The caller has selected the positions already; none give 0, still connected to both tensors.
    Gradients are computed in the forward pass, from the logits that are there anyway, and scaled
    in the backward pass, which works once per forward pass and has no derivative of its own.
    """
    if not torch.is_grad_enabled():
        hidden, weight = hidden.detach(), weight.detach()
    return _LinearNextToken.apply(hidden, weight, targets, z_loss, chunk)


class _LinearNextToken(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917  # autograd passes everything by position
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float, chunk: int
    ) -> Tensor:
        narrow = _matmul_dtype(hidden)
        # Softmax, loss and the sum of the chunks' weight gradients.
        wide = torch.promote_types(narrow, torch.float32)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        ctx.grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        ctx.grad_weight = torch.zeros_like(weight, dtype=wide) if needs_weight else None
        ctx.weight_dtype = weight.dtype
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.to(narrow)
            for start in range(0, len(hidden), chunk):
                part = slice(start, start + chunk)
                rows = hidden[part].to(narrow)
                logits = (rows @ matrix.T).to(wide)
                loss += _differentiate_(logits, targets[part], z_loss=z_loss)
                gradient = logits.to(narrow)
                if ctx.grad_hidden is not None:
                    ctx.grad_hidden[part] = gradient @ matrix
                if ctx.grad_weight is not None:
                    _add_product_(ctx.grad_weight, gradient.T, rows)
                del logits, gradient  # or they would outlive the next chunk's matmul
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.grad_hidden, ctx.grad_weight
        # In place, for the weight's is as large as a chunk: so there is no second backward pass.
        del ctx.grad_hidden, ctx.grad_weight
        hidden = None if hidden is None else hidden.mul_(upstream)
        weight = None if weight is None else weight.mul_(upstream).to(ctx.weight_dtype)
        return hidden, weight, None, None, None


def _matmul_dtype(hidden: Tensor) -> torch.dtype:
    """What autocast would multiply in; it never touches float64."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden.dtype


def _differentiate_(
    logits: Float[Tensor, "n v"], targets: Int[Tensor, " n"], *, z_loss: float
) -> Float[Tensor, ""]:
    """The summed loss of these rows; the logits become its gradient with respect to them.

    d/dx_j (lse - x_t + z lse^2) = (1 + 2 z lse) softmax_j - [j = t]
    """
    of_target = logits.gather(1, targets[:, None])  # unlike indexing, refuses negative targets
    largest = logits.amax(dim=1, keepdim=True)
    # Step by step in place: logsumexp and softmax would each allocate as much again.
    total = logits.sub_(largest).exp_().sum(dim=1, keepdim=True)
    lse = largest + total.log()
    logits.mul_((1 + 2 * z_loss * lse) / total)
    logits[torch.arange(len(targets), device=targets.device), targets] -= 1
    return (lse - of_target + z_loss * lse**2).sum()


def _add_product_(
    total: Float[Tensor, "v d"], left: Float[Tensor, "v n"], right: Float[Tensor, "n d"]
) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:  # Half precision: many small products would be lost in a sum of that precision.
        total += left @ right
