"""Next-token loss: -log p(token t | tokens before t), as a sum and a count.

Sums and counts, never means: the trainer divides once, by the count over all ranks and
micro-batches, so that splitting a batch changes nothing.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

IGNORED = -100


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
