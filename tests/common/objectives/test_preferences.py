"""Direct preference optimisation equals its formula over full logits, values and gradients."""

import pytest
import torch
from torch import Tensor

from common.objectives.preferences import answer_log_probs, preference_loss

LENGTHS = (3, 1, 4, 2)  # tokens of two pairs' answers
TOKENS, DIM, VOCAB = sum(LENGTHS), 5, 7


def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    targets = torch.randint(VOCAB, (TOKENS,), generator=generator)
    answers = torch.arange(4).repeat_interleave(torch.tensor(LENGTHS))
    hidden, weight = noise(TOKENS, DIM).requires_grad_(), noise(VOCAB, DIM).requires_grad_()
    return hidden, weight, targets, answers, noise(4)


def naive(hidden: Tensor, weight: Tensor, targets: Tensor, reference: Tensor) -> Tensor:
    """As the paper and TRL have it: beta = 0.3, the preferred answers first and third."""
    log_probs = (hidden @ weight.T).log_softmax(-1)[range(TOKENS), targets]
    sums = torch.stack([part.sum() for part in log_probs.split(LENGTHS)])
    margins = (sums[0::2] - reference[0::2]) - (sums[1::2] - reference[1::2])
    return -torch.log(torch.sigmoid(0.3 * margins)).sum()


@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_loss_and_gradients_equal_the_formula_whatever_the_chunks(chunk: int) -> None:
    hidden, weight, targets, answers, reference = drawn()
    expected = naive(hidden, weight, targets, reference)
    wanted = torch.autograd.grad(expected, [hidden, weight])
    log_probs = answer_log_probs(
        hidden, weight, targets, answers=answers, num_answers=4, chunk=chunk
    )
    loss = preference_loss(log_probs, reference, beta=0.3)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, [hidden, weight]), wanted)


def test_without_pairs_the_loss_is_nothing_that_still_reaches_the_weights() -> None:
    hidden, weight, targets, answers, reference = drawn()
    log_probs = answer_log_probs(
        hidden[:0], weight, targets[:0], answers=answers[:0], num_answers=0
    )
    loss = preference_loss(log_probs, reference[:0], beta=0.3)
    assert float(loss.detach()) == 0
    assert all((g == 0).all() for g in torch.autograd.grad(loss, [hidden, weight]))
