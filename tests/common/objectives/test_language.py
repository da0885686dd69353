"""The next-token loss: shifted by one, summed, counted, in float32."""

import torch

from common.objectives.language import next_token_loss


def test_each_label_is_predicted_by_the_logits_one_position_earlier():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[3, -100, 6, 1, -100], [2, 5, 0, -100, 4]])
    loss, count = next_token_loss(logits, labels)
    expected = torch.zeros(())
    for row, position in [(0, 2), (0, 3), (1, 1), (1, 2), (1, 4)]:
        expected -= logits[row, position - 1].log_softmax(dim=-1)[labels[row, position]]
    assert count == 5
    torch.testing.assert_close(loss, expected)


def test_a_batch_without_targets_costs_nothing():
    logits = torch.randn(2, 5, 7, requires_grad=True)
    loss, count = next_token_loss(logits, torch.full((2, 5), -100))
    loss.backward()
    assert loss == 0
    assert count == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.randn(2, 5, 7).bfloat16()
    loss, _ = next_token_loss(logits, torch.randint(7, (2, 5)))
    assert loss.dtype == torch.float32
