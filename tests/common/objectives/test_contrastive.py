"""Contrastive losses against plain double loops, with duplicates, and spread over ranks."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.objectives.contrastive import (
    Contrast,
    clamp_scale_,
    clamped_scale,
    info_nce,
    sigmoid_loss,
)

DUPLICATES = torch.tensor([4, 9, 4, 1, 7])
BIAS = torch.tensor([-1.7], dtype=torch.float64)
LOSSES = [info_nce, partial(sigmoid_loss, bias=BIAS)]
Loss = Callable[..., Contrast]
either = pytest.mark.parametrize("loss", LOSSES, ids=["info_nce", "sigmoid"])


def random_pairs(*, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    media = torch.randn(5, 3, dtype=torch.float64).to(dtype).requires_grad_()
    text = torch.randn(5, 3, dtype=torch.float64).to(dtype).requires_grad_()
    return media, text, torch.tensor([1.3], dtype=dtype).requires_grad_()


def plain_info_nce(media: Tensor, text: Tensor, scale: Tensor, duplicates: list[int]) -> Tensor:
    media, text = F.normalize(media, dim=-1), F.normalize(text, dim=-1)
    loss = torch.zeros(1)
    for rows, columns in ((media, text), (text, media)):
        for i, row in enumerate(rows):
            positive = torch.exp(scale * (row @ columns[i]))
            others = [j for j in range(len(columns)) if duplicates[j] != duplicates[i]]
            total = sum((torch.exp(scale * (row @ columns[j])) for j in others), positive)
            loss = loss - 0.5 * torch.log(positive / total)
    return loss[0]


def plain_sigmoid(
    media: Tensor, text: Tensor, scale: Tensor, bias: Tensor, duplicates: list[int]
) -> Tensor:
    media, text = F.normalize(media, dim=-1), F.normalize(text, dim=-1)
    loss = torch.zeros(1)
    for i in range(len(media)):
        for j in range(len(text)):
            sign = 1 if i == j else -1
            if i == j or duplicates[i] != duplicates[j]:
                loss = loss - torch.log(torch.sigmoid(sign * (scale * (media[i] @ text[j]) + bias)))
    return loss[0]


@pytest.mark.parametrize("duplicates", [list(range(5)), DUPLICATES.tolist()])
def test_info_nce_and_its_gradients_equal_a_plain_double_loop(duplicates: list[int]):
    media, text, log_scale = inputs = random_pairs()
    loss, count, negatives = info_nce(
        media, text, log_scale=log_scale, duplicates=torch.tensor(duplicates)
    )
    expected = plain_info_nce(media, text, log_scale.exp(), duplicates)
    assert loss.dtype == torch.float64
    assert (count, negatives) == (5, sum(a != b for a in duplicates for b in duplicates))
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, inputs)
    torch.testing.assert_close(found, torch.autograd.grad(expected, inputs))


@pytest.mark.parametrize("duplicates", [list(range(5)), DUPLICATES.tolist()])
def test_the_sigmoid_loss_and_its_gradients_equal_a_plain_double_loop(duplicates: list[int]):
    bias = BIAS.clone().requires_grad_()
    media, text, log_scale = random_pairs()
    inputs = (media, text, log_scale, bias)
    loss, count, negatives = sigmoid_loss(
        media, text, log_scale=log_scale, bias=bias, duplicates=torch.tensor(duplicates)
    )
    expected = plain_sigmoid(media, text, log_scale.exp(), bias, duplicates)
    assert loss.dtype == torch.float64
    assert (count, negatives) == (5, sum(a != b for a in duplicates for b in duplicates))
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, inputs)
    torch.testing.assert_close(found, torch.autograd.grad(expected, inputs))


@either
def test_equal_captions_do_not_repel(loss: Loss):
    media, text, log_scale = random_pairs()
    same = torch.zeros(5, dtype=torch.long)
    together = loss(media, text, log_scale=log_scale, duplicates=same)
    alone = [
        loss(media[i : i + 1], text[i : i + 1], log_scale=log_scale, duplicates=same[:1])
        for i in range(5)
    ]
    assert together.negatives == 0
    torch.testing.assert_close(together.loss, sum(contrast.loss for contrast in alone))


@either
@pytest.mark.parametrize("split", [2, 0])
def test_two_ranks_that_gather_equal_one_device(loss: Loss, split: int):
    inputs = media, text, log_scale = random_pairs()
    whole = loss(media, text, log_scale=log_scale, duplicates=DUPLICATES)
    expected = torch.autograd.grad(whole.loss, inputs)

    def on_rank(rows: slice, gather: Callable[[Tensor], Tensor]) -> Contrast:
        local = {"log_scale": log_scale, "duplicates": DUPLICATES[rows]}
        return loss(media[rows], text[rows], **local, gather=gather)

    ranks = on_ranks(on_rank, [slice(0, split), slice(split, 5)])
    # Without rows of its own, too, a rank takes part in every backward collective.
    assert all(rank.loss.requires_grad for rank in ranks)
    losses, counts, negatives = zip(*ranks, strict=True)
    torch.testing.assert_close(sum(losses), whole.loss)
    assert (sum(counts), sum(negatives)) == (whole.count, whole.negatives)
    torch.testing.assert_close(torch.autograd.grad(sum(losses), inputs), expected)


def on_ranks(
    on_rank: Callable[[slice, Callable[[Tensor], Tensor]], Contrast], parts: list[slice]
) -> list[Contrast]:
    """What every rank computes, when its k-th `gather` gets what all ranks gave to their k-th."""
    given: list[list[Tensor]] = []
    for rows in parts:
        calls: list[Tensor] = []
        on_rank(rows, lambda tensor, calls=calls: calls.append(tensor) or tensor)
        given.append(calls)
    contrasts = []
    for rows in parts:
        answers = (torch.cat(gathered) for gathered in zip(*given, strict=True))
        contrasts.append(on_rank(rows, lambda _, answers=answers: next(answers)))
    return contrasts


@either
def test_no_rows_at_all_cost_zero_and_stay_connected(loss: Loss):
    media, text, log_scale = inputs = random_pairs()
    contrast = loss(media[:0], text[:0], log_scale=log_scale, duplicates=DUPLICATES[:0])
    assert [int(value) for value in contrast] == [0, 0, 0]
    for gradient in torch.autograd.grad(contrast.loss, inputs):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@either
def test_the_temperature_is_clamped_at_one_hundred(loss: Loss):
    media, text, _ = random_pairs()
    contrasts = [
        loss(media, text, log_scale=torch.tensor([value]), duplicates=DUPLICATES)
        for value in (math.log(100.0), 9.0)
    ]
    assert torch.equal(contrasts[0].loss, contrasts[1].loss)
    torch.testing.assert_close(clamped_scale(torch.tensor([50.0])), torch.tensor([100.0]))


@pytest.mark.parametrize(("before", "after"), [(9.0, math.log(100)), (-0.2, 0.0), (1.3, 1.3)])
def test_an_update_leaves_the_scale_between_one_and_one_hundred(before: float, after: float):
    log_scale = torch.nn.Parameter(torch.tensor([before]))
    clamp_scale_(log_scale)
    torch.testing.assert_close(log_scale.detach(), torch.tensor([after]))
    assert log_scale.is_leaf
    assert log_scale.requires_grad


@either
def test_the_loss_stays_in_float32_under_autocast(loss: Loss):
    media, text, log_scale = random_pairs(dtype=torch.float32)
    if isinstance(loss, partial):
        loss = partial(sigmoid_loss, bias=BIAS.float())
    expected = loss(media, text, log_scale=log_scale, duplicates=DUPLICATES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(media, text, log_scale=log_scale, duplicates=DUPLICATES)
    assert found.loss.dtype == torch.float32
    assert torch.equal(found.loss, expected.loss)
