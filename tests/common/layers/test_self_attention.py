"""The Transformer block sees what its mask allows; order reaches it through rotary tables only."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from common.attention.masks import causal, valid_keys
from common.attention.rope import rotary
from common.layers.feed_forward import FeedForward, squared_relu
from common.layers.self_attention import SelfAttentionBlock


def block() -> SelfAttentionBlock:
    torch.manual_seed(0)
    return SelfAttentionBlock(dim=12, num_heads=3, feed_forward_dim=20, activation=squared_relu)


def test_squared_relu_is_the_square_of_the_positive_part() -> None:
    assert squared_relu(torch.tensor([-3.0, 0.0, 2.0])).tolist() == [0.0, 0.0, 4.0]


def test_feed_forward_is_two_bias_free_maps_around_its_activation() -> None:
    layer = FeedForward(dim=3, hidden_dim=7, activation=squared_relu)
    x = torch.randn(2, 5, 3)
    expand, contract = layer.parameters()
    assert (expand.shape, contract.shape) == ((7, 3), (3, 7))
    assert_close(layer(x), (x @ expand.mT).clamp(min=0).square() @ contract.mT)


def test_padding_changes_no_bit_of_the_other_tokens() -> None:
    layer, x = block(), torch.randn(2, 5, 12)
    mask = valid_keys(torch.tensor([[True] * 3 + [False] * 2, [True] * 5]))
    changed = x.clone()
    changed[0, 3:] = 7.0
    before, after = layer(x, mask=mask), layer(changed, mask=mask)
    assert torch.equal(before[0, :3], after[0, :3])
    assert torch.equal(before[1], after[1])


def test_a_padded_text_equals_the_text_alone() -> None:
    layer, x = block(), torch.randn(1, 5, 12)
    mask = valid_keys(torch.tensor([[True] * 3 + [False] * 2]))
    assert_close(layer(x, mask=mask)[:, :3], layer(x[:, :3]))


def test_the_future_is_hidden_under_a_causal_mask() -> None:
    layer, x = block(), torch.randn(2, 5, 12)
    changed = torch.cat([x[:, :3], -x[:, 3:]], dim=1)
    before, after = layer(x, mask=causal()), layer(changed, mask=causal())
    assert torch.equal(before[:, :3], after[:, :3])


def test_order_matters_through_the_rotary_tables_only() -> None:
    layer, x = block(), torch.randn(2, 5, 12)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert_close(layer(x[:, order]), layer(x)[:, order])
    tables = rotary(torch.arange(5).expand(2, 5), head_dim=4, base=100.0)
    turned = layer(x[:, order], rotary=tables)
    assert not torch.allclose(turned, layer(x, rotary=tables)[:, order], atol=1e-3)


def test_another_norm_can_be_chosen() -> None:
    layer = SelfAttentionBlock(dim=12, num_heads=3, feed_forward_dim=20, norm=nn.RMSNorm)
    assert isinstance(layer.attention_norm, nn.RMSNorm)
    assert isinstance(layer.feed_forward_norm, nn.RMSNorm)


def test_heads_that_do_not_share_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="dim=12 is not a multiple of num_heads=5"):
        SelfAttentionBlock(dim=12, num_heads=5, feed_forward_dim=20)
