"""Attention to media items: equal to a dense mask, blind to everything that is not one's own."""

from collections.abc import Callable
from typing import get_args

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.testing import assert_close

from common.attention import media
from common.attention.attend import Backend, attend
from common.attention.masks import media_span
from common.attention.media import attend_own_media, attend_previous_media

ALL_BACKENDS = get_args(Backend)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# What a device or sizes choose: accelerators cut tiles, a CPU calls for every run, or once if tiny.
WAYS: dict[str, tuple[str, object]] = {
    "tiles": ("may_look", lambda x: False),
    "runs": ("TINY_ROW", 0),
    "one call": ("TINY_ROW", 2**62),
}


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda way: monkeypatch.setattr(media, *WAYS[way])


def media_inputs(
    *, b: int, s: int, m: int, n: int, h: int = 4, g: int = 2, e: int = 6, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(b, h, s, e), (b, m, g, n, e), (b, m, g, n, e)]
    q, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def through_a_dense_mask(q: Tensor, k: Tensor, v: Tensor, first: Tensor, last: Tensor) -> Tensor:
    keys, values = (x.transpose(1, 2).flatten(2, 3) for x in (k, v))
    mask = media_span(first, last, tokens_per_item=k.shape[3])
    return attend(q, keys, values, mask=mask, backend="reference")


@st.composite
def token_maps(draw: st.DrawFn) -> tuple[int, Tensor]:
    """A number of items, 0 included, and any map of tokens to them."""
    num_items = draw(st.integers(0, 12))
    length = draw(st.sampled_from([1, 2, 11, 150]))
    rows = st.lists(st.integers(0, num_items), min_size=length, max_size=length)
    return num_items, torch.tensor(draw(st.lists(rows, min_size=3, max_size=3)))


@pytest.mark.proves("H2", "media attention", 20)
@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=20)
@given(example=token_maps())
def test_own_media_equal_a_dense_mask_for_any_map_of_tokens_to_items(
    way: str, example: tuple[int, Tensor]
) -> None:
    num_items, item = example
    tensors = media_inputs(b=3, s=item.shape[1], m=num_items, n=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, *WAYS[way])
        actual = attend_own_media(*tensors, item=item, backend="sdpa")
    expected = through_a_dense_mask(*tensors, item, item)
    assert_close(actual, expected, rtol=1e-5, atol=2e-6)
    grad = torch.linspace(-1, 1, actual.numel()).view_as(actual)
    gradients = torch.autograd.grad(actual, tensors, grad)
    assert_close(gradients, torch.autograd.grad(expected, tensors, grad), rtol=1e-4, atol=1e-5)
    blind = (item == 0)[:, None, :, None].expand_as(actual)
    assert actual[blind].count_nonzero() == 0
    assert gradients[0][blind].count_nonzero() == 0


@pytest.mark.parametrize("way", ["tiles", "runs"])
@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_many_items_and_one_very_long_segment_equal_a_dense_mask(
    backend: Backend, way: str, choose: Callable[[str], None]
) -> None:
    choose(way)
    item = torch.cat([torch.zeros(3), torch.ones(200), torch.arange(2, 33), torch.full((9,), 20)])
    item = torch.stack([item, item.flip(0)]).long()
    tensors = media_inputs(b=2, s=item.shape[1], m=32, n=5)
    actual = attend_own_media(*tensors, item=item, backend=backend)
    expected = through_a_dense_mask(*tensors, item, item)
    assert_close(actual, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize(
    ("way", "length"),
    [
        ("one call", 9),
        ("tiles", 9),
        ("runs", 300),
        pytest.param("tiles", 300, marks=pytest.mark.slow),
    ],
)
def test_other_items_and_their_tokens_change_no_bit(
    backend: Backend, dtype: torch.dtype, way: str, length: int, choose: Callable[[str], None]
) -> None:
    choose(way)
    item = torch.arange(2 * length).reshape(2, length) * 7 // length
    tensors = media_inputs(b=2, s=length, m=13, n=64, h=2, g=2, e=16)
    q, k, v = (x.detach().to(dtype) for x in tensors)
    mine = item == 2
    mine_in_q = mine[:, None, :, None]
    before = attend_own_media(q, k, v, item=item, backend=backend)

    others = torch.arange(13) != 1
    k[:, others], v[:, others] = 3 * k[:, others], -50 * v[:, others]
    after = attend_own_media(q.where(mine_in_q, -4 * q), k, v, item=item, backend=backend)
    assert torch.equal(before.masked_select(mine_in_q), after.masked_select(mine_in_q))

    rebound = item.where(mine, (item * 5 + torch.arange(length) // 15) % 11 + 3)
    after = attend_own_media(q, k, v, item=rebound, backend=backend)
    assert torch.equal(before.masked_select(mine_in_q), after.masked_select(mine_in_q))
    assert not torch.equal(before, after)


@pytest.mark.parametrize("backend", ALL_BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_later_items_change_no_bit_of_tokens_that_see_all_previous_ones(
    backend: Backend, dtype: torch.dtype
) -> None:
    last = torch.arange(40)[None] // 5
    first = last.clamp(max=1)
    q, k, v = (x.detach().to(dtype) for x in media_inputs(b=1, s=40, m=8, n=24, e=16))
    before = attend_previous_media(q, k, v, first=first, last=last, backend=backend)
    k[:, 4:], v[:, 4:] = -9 * k[:, 4:], 70 * v[:, 4:]
    after = attend_previous_media(q, k, v, first=first, last=last, backend=backend)
    assert torch.equal(before[:, :, :25], after[:, :, :25])
    assert not torch.equal(before[:, :, 25:], after[:, :, 25:])
    assert before[:, :, :5].count_nonzero() == 0


@pytest.mark.parametrize("backend", ALL_BACKENDS)
def test_previous_media_of_the_own_document_equal_a_dense_mask(backend: Backend) -> None:
    first = torch.tensor([[0, 1, 1, 3, 3], [1, 1, 1, 0, 2]])
    last = torch.tensor([[0, 1, 2, 3, 3], [1, 2, 3, 0, 3]])
    tensors = media_inputs(b=2, s=5, m=3, n=7)
    actual = attend_previous_media(*tensors, first=first, last=last, backend=backend)
    assert_close(actual, through_a_dense_mask(*tensors, first, last), rtol=1e-5, atol=1e-6)


def test_one_decoded_token_equals_its_place_in_the_whole_text() -> None:
    item = torch.tensor([[0, 1, 1, 2], [1, 2, 3, 3], [0, 0, 0, 0]])
    q, k, v = media_inputs(b=3, s=4, m=3, n=5)
    whole = attend_own_media(q, k, v, item=item)
    decoded = [
        attend_own_media(q[:, :, t : t + 1], k, v, item=item[:, t : t + 1]) for t in range(4)
    ]
    assert_close(torch.cat(decoded, dim=2), whole)


@pytest.mark.parametrize("length", [1, 4])
def test_a_reference_to_a_missing_item_is_refused(length: int) -> None:
    q, k, v = media_inputs(b=2, s=length, m=3, n=5)
    for wrong in (4, -1):
        with pytest.raises(RuntimeError, match=r"outside 0\.\.3"):
            attend_own_media(q, k, v, item=torch.full((2, length), wrong))


@pytest.mark.parametrize("way", WAYS)
def test_items_that_no_token_sees_have_a_gradient_of_zero(
    way: str, choose: Callable[[str], None]
) -> None:
    choose(way)
    q, k, v = media_inputs(b=3, s=7, m=2, n=5)
    item = torch.zeros(3, 7, dtype=torch.long)
    item[:2, -1] = 2
    gradients = torch.autograd.grad(attend_own_media(q, k, v, item=item).sum(), (q, k, v))
    assert gradients[2][:2, 1].count_nonzero() > 0
    assert gradients[1][:, 0].count_nonzero() == gradients[2][2].count_nonzero() == 0
    blind = torch.autograd.grad(attend_own_media(q, k, v, item=0 * item).sum(), (q, k, v))
    assert not any(gradient.count_nonzero() for gradient in blind)


@pytest.mark.parametrize("way", ["tiles", "runs"])
def test_own_media_can_be_differentiated_twice(way: str, choose: Callable[[str], None]) -> None:
    choose(way)
    item = torch.tensor([[2, 0, 1, 1, 2]])
    sizes = {"b": 1, "s": 5, "m": 2, "n": 3, "h": 2, "g": 1, "e": 4}
    tensors = tuple(x.detach().double().requires_grad_() for x in media_inputs(**sizes))
    assert torch.autograd.gradgradcheck(
        lambda q, k, v: attend_own_media(q, k, v, item=item, backend="reference"), tensors
    )
