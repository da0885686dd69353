"""The next-token loss: shifted, summed, counted, in float32; and by chunks, without all logits."""

import weakref
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from common.objectives.language import linear_next_token_loss, next_token_loss


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


# By chunks, from hidden states: n=13 positions, d=3, v=11, chunks of 4 (the last one of 1).
CHUNK = 4


def head(*, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    hidden = torch.randn(13, 3, dtype=torch.float64).to(dtype).requires_grad_()
    weight = (3 * torch.randn(11, 3, dtype=torch.float64)).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(11, (13,))


def from_all_logits(hidden: Tensor, weight: Tensor, targets: Tensor, *, z_loss: float) -> Tensor:
    logits = hidden @ weight.T
    shares = logits.log_softmax(dim=-1)[torch.arange(len(targets)), targets]
    return (z_loss * logits.logsumexp(dim=-1) ** 2 - shares).sum()


@pytest.mark.parametrize("chunk", [1, 4, 13, 64])
@pytest.mark.parametrize("z_loss", [0.0, 0.3])
def test_chunks_equal_autograd_through_all_logits(z_loss: float, chunk: int):
    hidden, weight, targets = head()
    loss = linear_next_token_loss(hidden, weight, targets, z_loss=z_loss, chunk=chunk)
    expected = from_all_logits(hidden, weight, targets, z_loss=z_loss)
    exactly = {"rtol": 0.0, "atol": 1e-10}
    torch.testing.assert_close(loss, expected, **exactly)
    # Not simply summed: something downstream has a slope of its own.
    found = torch.autograd.grad(loss**2 / 7, (hidden, weight))
    true = torch.autograd.grad(expected**2 / 7, (hidden, weight))
    torch.testing.assert_close(found, true, **exactly)


def test_logits_far_apart_neither_overflow_nor_vanish():
    hidden, weight, targets = head(dtype=torch.float32)
    loss = linear_next_token_loss(1e3 * hidden, weight, targets, z_loss=0.0, chunk=CHUNK)
    expected = from_all_logits(1e3 * hidden, weight, targets, z_loss=0.0)
    torch.testing.assert_close(loss, expected)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (hidden, weight)))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_bfloat16_stays_close_to_float32(stored: torch.dtype):
    hidden, weight, targets = head(dtype=stored)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=stored == torch.float32):
        loss = linear_next_token_loss(hidden, weight, targets, z_loss=1e-2, chunk=CHUNK)
    assert loss.dtype == torch.float32
    expected = from_all_logits(hidden.float(), weight.float(), targets, z_loss=1e-2)
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0.0)
    found = torch.autograd.grad(loss, (hidden, weight))
    assert [gradient.dtype for gradient in found] == [stored, stored]
    for gradient, true in zip(found, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        torch.testing.assert_close(gradient, true, rtol=0.0, atol=0.02 * float(true.abs().max()))


def test_many_chunks_do_not_lose_half_precision_gradients():
    # 512 equal positions, one per chunk: a bfloat16 sum of halves stops growing at 128.
    hidden = torch.ones(512, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(512, dtype=torch.long)
    linear_next_token_loss(hidden, weight, targets, z_loss=0.0, chunk=1).backward()
    torch.testing.assert_close(weight.grad.float(), torch.tensor([[-256.0], [256.0]]))


def test_autocast_leaves_float64_alone():
    hidden, weight, targets = head()
    expected = linear_next_token_loss(hidden, weight, targets, z_loss=0.1, chunk=CHUNK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_next_token_loss(hidden, weight, targets, z_loss=0.1, chunk=CHUNK)
    assert torch.equal(loss, expected)


def test_no_positions_cost_zero_and_stay_connected():
    hidden, weight, targets = head()
    loss = linear_next_token_loss(hidden[:0], weight, targets[:0], z_loss=0.1, chunk=CHUNK)
    loss.backward()
    assert loss == 0
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))
    assert torch.equal(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_a_frozen_side_costs_no_gradient(frozen: str):
    hidden, weight, targets = head()
    wanted = torch.autograd.grad(
        from_all_logits(hidden, weight, targets, z_loss=0.1), (hidden, weight)
    )
    hidden.requires_grad_(frozen == "weight")
    weight.requires_grad_(frozen == "hidden")
    with Allocations() as seen:
        loss = linear_next_token_loss(hidden, weight, targets, z_loss=0.1, chunk=CHUNK)
    # The one tensor of the weight's shape and the one of the hidden states' shape are gradients.
    assert (weight.shape in seen.shapes, hidden.shape in seen.shapes) == (
        frozen == "hidden",
        frozen == "weight",
    )
    if frozen != "both":
        loss.backward()
    for tensor, gradient in zip((hidden, weight), wanted, strict=True):
        assert (tensor.grad is not None) == tensor.requires_grad
        if tensor.requires_grad:
            torch.testing.assert_close(tensor.grad, gradient)


def test_evaluation_computes_no_gradient():
    hidden, weight, targets = head()
    with torch.no_grad(), Allocations() as seen:
        loss = linear_next_token_loss(hidden, weight, targets, z_loss=0.1, chunk=CHUNK)
    assert not {weight.shape, hidden.shape} & set(seen.shapes)
    torch.testing.assert_close(loss, from_all_logits(hidden, weight, targets, z_loss=0.1))


def test_no_tensor_is_larger_than_a_chunk_of_logits():
    hidden, weight, targets = head()
    with Allocations() as seen:
        linear_next_token_loss(hidden, weight, targets, z_loss=0.1, chunk=CHUNK).backward()
    assert max(shape.numel() for shape in seen.shapes) == CHUNK * len(weight)
    with Allocations() as seen:
        from_all_logits(hidden, weight, targets, z_loss=0.1).backward()
    assert max(shape.numel() for shape in seen.shapes) == len(hidden) * len(weight)


def test_only_one_chunk_of_logits_is_alive_at_a_time():
    hidden, weight, targets = head()
    with Allocations() as seen:
        linear_next_token_loss(hidden, weight, targets, z_loss=0.1, chunk=CHUNK).backward()
    assert seen.most_alive[torch.Size([CHUNK, len(weight)])] == 1
    assert seen.most_alive[weight.shape] == 1


def test_a_target_of_minus_100_is_none_and_any_other_below_zero_is_refused():
    hidden, weight, targets = head()
    kept = torch.arange(13) % 5 != 0
    loss = linear_next_token_loss(
        hidden, weight, targets.where(kept, -100), z_loss=0.3, chunk=CHUNK
    )
    expected = from_all_logits(hidden[kept], weight, targets[kept], z_loss=0.3)
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, (hidden, weight))
    torch.testing.assert_close(found, torch.autograd.grad(expected, (hidden, weight)))
    with pytest.raises(RuntimeError, match="index"):
        linear_next_token_loss(hidden, weight, targets - 11, z_loss=0.3, chunk=CHUNK)


@pytest.mark.parametrize("trained", ["hidden", "weight", "new"])
def test_rows_of_new_tokens_follow_a_weight_with_a_constant_bias(trained: str):
    hidden, weight, targets = head()
    targets = (targets + 2).where(torch.arange(13) > 3, 12)  # the last of the two new tokens
    sides = {"hidden": hidden, "weight": weight, "new": 2 * hidden.detach()[:2]}
    for name, tensor in sides.items():
        tensor.requires_grad_(name == trained)
    bias = torch.randn(11, dtype=torch.float64)
    loss = linear_next_token_loss(
        hidden, weight, targets, z_loss=0.3, bias=bias, new_rows=sides["new"], chunk=CHUNK
    )
    ones = torch.ones(13, 1, dtype=torch.float64)
    rows = torch.cat([torch.cat([weight, sides["new"]]), F.pad(bias, (0, 2))[:, None]], dim=1)
    expected = from_all_logits(torch.cat([hidden, ones], dim=1), rows, targets, z_loss=0.3)
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, sides[trained])
    torch.testing.assert_close(found, torch.autograd.grad(expected, sides[trained]))


class Allocations(TorchDispatchMode):
    """Shapes of all tensors that own memory which no argument of their operation owns."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []
        self.alive: dict[int, torch.Size] = {}
        # The most storages that were alive at the same time, by the shape they were made for.
        self.most_alive: Counter[torch.Size] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        for result in results if isinstance(results, (tuple, list)) else [results]:
            if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in given:
                self._note(result)
        return results

    def _note(self, tensor: Tensor) -> None:
        self.shapes.append(tensor.shape)
        storage, number = tensor.untyped_storage(), len(self.shapes)
        self.alive[number] = tensor.shape
        weakref.finalize(storage, self.alive.pop, number, None)
        self.most_alive |= Counter(self.alive.values())
