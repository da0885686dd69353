"""InfoNCE against a plain double loop, with duplicates, and spread over ranks."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.objectives.contrastive import clamped_scale, info_nce

DUPLICATES = torch.tensor([4, 9, 4, 1, 7])


def random_pairs(*, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(5, 3, generator=generator).requires_grad_()
    text = torch.randn(5, 3, generator=generator).requires_grad_()
    return image, text, torch.tensor([1.3]).requires_grad_()


def plain_loss(image: Tensor, text: Tensor, scale: Tensor, duplicates: list[int]) -> Tensor:
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    loss = torch.zeros(1)
    for rows, columns in ((image, text), (text, image)):
        for i, row in enumerate(rows):
            positive = torch.exp(scale * (row @ columns[i]))
            others = [j for j in range(len(columns)) if duplicates[j] != duplicates[i]]
            total = sum((torch.exp(scale * (row @ columns[j])) for j in others), positive)
            loss = loss - 0.5 * torch.log(positive / total)
    return loss[0]


@pytest.mark.parametrize("duplicates", [list(range(5)), DUPLICATES.tolist()])
def test_loss_and_gradients_equal_a_plain_double_loop(duplicates: list[int]):
    image, text, log_scale = random_pairs()
    loss, count = info_nce(image, text, log_scale=log_scale, duplicates=torch.tensor(duplicates))
    expected = plain_loss(image, text, log_scale.exp(), duplicates)
    assert count == 5
    torch.testing.assert_close(loss, expected)
    inputs = (image, text, log_scale)
    found = torch.autograd.grad(loss, inputs)
    torch.testing.assert_close(found, torch.autograd.grad(expected, inputs))


def test_equal_captions_do_not_repel():
    image, text, log_scale = random_pairs()
    same = torch.zeros(5, dtype=torch.long)
    loss, _ = info_nce(image, text, log_scale=log_scale, duplicates=same)
    assert loss == 0


def test_two_ranks_that_gather_equal_one_device():
    image, text, log_scale = random_pairs()
    inputs = (image, text, log_scale)
    whole, count = info_nce(image, text, log_scale=log_scale, duplicates=DUPLICATES)
    expected = torch.autograd.grad(whole, inputs)

    image, text, log_scale = inputs = random_pairs()
    table = {"image": image, "text": text}
    losses, counts = [], []
    for rows in (slice(0, 2), slice(2, 5)):
        # Rows of unit length travel through `gather`; it answers with those of all ranks.
        everyone = {
            id_of(F.normalize(value[rows], dim=-1)): F.normalize(value, dim=-1)
            for value in table.values()
        }
        everyone[id_of(DUPLICATES[rows])] = DUPLICATES
        loss, local_count = info_nce(
            image[rows],
            text[rows],
            log_scale=log_scale,
            duplicates=DUPLICATES[rows],
            gather=lambda local, everyone=everyone: everyone[id_of(local)],
        )
        losses.append(loss)
        counts.append(local_count)
    torch.testing.assert_close(sum(losses), whole)
    assert sum(counts) == count
    torch.testing.assert_close(torch.autograd.grad(sum(losses), inputs), expected)


def id_of(tensor: Tensor) -> tuple[float, ...]:
    return tuple(tensor.detach().flatten().tolist())


def test_the_temperature_is_clamped_at_one_hundred():
    image, text, _ = random_pairs()
    losses = [
        info_nce(image, text, log_scale=torch.tensor([value]), duplicates=DUPLICATES)[0]
        for value in (math.log(100.0), 9.0)
    ]
    assert torch.equal(losses[0], losses[1])
    torch.testing.assert_close(clamped_scale(torch.tensor([50.0])), torch.tensor([100.0]))


def test_the_loss_stays_in_float32_under_autocast():
    image, text, log_scale = random_pairs()
    expected, _ = info_nce(image, text, log_scale=log_scale, duplicates=DUPLICATES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = info_nce(image, text, log_scale=log_scale, duplicates=DUPLICATES)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
