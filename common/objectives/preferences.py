"""Direct preference optimisation (Rafailov et al., 2023): of two answers to a prompt, a model shall
come to give the preferred one more, and the other less, than a reference does,

    loss = -log sigmoid(beta ((log p_c - log r_c) - (log p_r - log r_r))),

with the log-probabilities of whole answers, sums over their tokens."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from common.objectives.language import CHUNK


def answer_log_probs(
    hidden: Float[Tensor, "n d"],
    weight: Float[Tensor, "v d"],
    targets: Int[Tensor, " n"],
    *,
    answers: Int[Tensor, " n"],
    num_answers: int,
    chunk: int = CHUNK,
) -> Float[Tensor, " a"]:
    """Sums of log softmax(hidden @ weight.T)[target] over the tokens of each answer.

    answers: the answer of each position. The logits exist chunk by chunk; the backward pass makes
    them again, since what an answer's tokens weigh is known only when all are summed up.
    """
    parts = [
        checkpoint(
            _log_probs,
            hidden[start : start + chunk],
            weight,
            targets[start : start + chunk],
            use_reentrant=False,
        )
        for start in range(0, max(len(hidden), 1), chunk)  # none still hang on both tensors
    ]
    log_probs = torch.cat(parts)
    return log_probs.new_zeros(num_answers).index_add(0, answers, log_probs)


def preference_loss(
    log_probs: Float[Tensor, " a"], reference: Float[Tensor, " a"], *, beta: float
) -> Float[Tensor, ""]:
    """Sum over pairs; preferred answers and others alternate."""
    gains = rearrange(log_probs - reference.to(log_probs.dtype), "(p two) -> two p", two=2)
    return -F.logsigmoid(beta * (gains[0] - gains[1])).sum()


def _log_probs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = hidden @ weight.T
    # The softmax over a large vocabulary loses too much in half precision.
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -F.cross_entropy(wide, targets, reduction="none")
