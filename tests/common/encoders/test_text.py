"""The text encoder reads both directions and never sees padding."""

import torch

from common.encoders.text import TextEncoder


def build() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(
        vocab_size=11, dim=12, num_layers=2, num_heads=3, feed_forward_dim=20, output_dim=7
    ).eval()


def encode(encoder: TextEncoder, ids: list[int], *, left: int = 0, right: int = 0) -> torch.Tensor:
    padded = torch.tensor([[0] * left + ids + [0] * right, [1] * (left + len(ids) + right)])
    valid = torch.ones_like(padded, dtype=torch.bool)
    valid[0, :left] = valid[0, left + len(ids) :] = False
    return encoder(padded, valid=valid)[0]


def test_padding_on_either_side_changes_nothing():
    encoder, ids = build(), [4, 9, 2]
    alone = encode(encoder, ids)
    assert alone.shape == (7,)
    torch.testing.assert_close(encode(encoder, ids, right=3), alone)
    torch.testing.assert_close(encode(encoder, ids, left=2, right=1), alone)


def test_order_matters_and_every_word_counts():
    encoder = build()
    assert not torch.allclose(encode(encoder, [4, 9, 2]), encode(encoder, [2, 9, 4]))
    assert not torch.allclose(encode(encoder, [4, 9, 2]), encode(encoder, [4, 9, 3]))
