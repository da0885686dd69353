"""The media cache keeps item i of a row at slot i - 1, whatever the other rows hold."""

import pytest
import torch
from torch import Tensor

from common.attention.cache import MediaCache


def media(*rows: list[float]) -> Tensor:
    """Media "b m h n e" with h=2 n=3 e=5 whose every number names the item."""
    numbers = torch.tensor(rows).float()[:, :, None, None, None]
    return numbers.expand(-1, -1, 2, 3, 5).clone()


def names(x: Tensor) -> list[list[float]]:
    assert torch.equal(x, x[:, :, :1, :1, :1].expand_as(x))
    return x[:, :, 0, 0, 0].tolist()


def test_items_of_a_later_turn_stand_behind_the_rows_own_items() -> None:
    cache = MediaCache()
    first, second = media([11, 12], [21, 99]), media([13, 99], [22, 23])
    cache.update(0, first, -first, counts=torch.tensor([2, 1]))
    k, v = cache.update(0, second, -second, counts=torch.tensor([1, 2]))
    assert names(k) == [[11, 12, 13, 0], [21, 22, 23, 0]]
    assert names(-v) == names(k)
    assert cache.num_items == 4
    assert names(cache.get(0)[0]) == names(k)


def test_without_counts_every_item_is_real() -> None:
    cache = MediaCache()
    cache.update(0, media([1, 2]), media([1, 2]))
    k, _ = cache.update(0, media([3]), media([3]))
    assert names(k) == [[1, 2, 3]]


def test_layers_are_kept_apart() -> None:
    cache = MediaCache()
    cache.update(0, media([1]), media([1]))
    cache.update(7, media([5]), media([5]))
    assert (names(cache.get(0)[0]), names(cache.get(7)[0])) == ([[1]], [[5]])
    with pytest.raises(KeyError, match="layer 3"):
        cache.get(3)


def test_gradients_reach_the_items_and_not_the_padding() -> None:
    k = media([1, 2], [3, 4]).requires_grad_()
    keys, _ = MediaCache().update(0, k, k, counts=torch.tensor([2, 1]))
    (gradient,) = torch.autograd.grad(keys.sum(), k)
    assert names(gradient) == [[1, 1], [1, 0]]


def test_tags_are_counted_per_row() -> None:
    cache = MediaCache()
    assert cache.items_so_far is None
    cache.advance(torch.tensor([2, 1]))
    cache.advance(torch.tensor([0, 3]))
    assert cache.items_so_far is not None
    assert cache.items_so_far.tolist() == [2, 4]


def test_an_empty_cache_has_no_items() -> None:
    cache = MediaCache()
    assert cache.num_items == 0


def test_repeated_rows_go_on_apart() -> None:
    cache = MediaCache()
    cache.update(0, media([11, 12], [21, 99]), media([1, 1], [1, 1]), counts=torch.tensor([2, 1]))
    cache.advance(torch.tensor([2, 1]))
    cache = cache.of_rows(torch.tensor([0, 0, 1, 1]))
    new = media([13], [14], [22], [99])
    k, _ = cache.update(0, new, new, counts=torch.tensor([1, 1, 1, 0]))
    assert names(k) == [[11, 12, 13], [11, 12, 14], [21, 22, 0], [21, 0, 0]]
    cache.advance(torch.tensor([1, 1, 1, 0]))
    assert cache.items_so_far is not None
    assert cache.items_so_far.tolist() == [3, 3, 2, 1]
