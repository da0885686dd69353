"""The projector: a fixed number of tokens from each item alone, and a summary that is none."""

import torch
from torch.testing import assert_close

from flare.projector import Projector


def projector() -> Projector:
    torch.manual_seed(0)
    built = Projector(
        feature_dim=9,
        dim=12,
        num_layers=2,
        num_heads=2,
        head_dim=4,
        feed_forward_dim=20,
        num_queries=3,
        norm_eps=1e-6,
        backend="auto",
    )
    torch.nn.init.normal_(built.queries)
    return built


def test_any_number_of_features_becomes_the_same_number_of_tokens() -> None:
    for num_features in (1, 7):
        tokens, summary = projector()(torch.randn(5, num_features, 9))
        assert (tokens.shape, summary.shape) == ((5, 3, 12), (5, 12))


def test_padding_is_not_seen() -> None:
    layer, features = projector(), torch.randn(2, 7, 9)
    valid = torch.tensor([[True] * 4 + [False] * 3, [True] * 7])
    tokens, summary = layer(features, valid)
    changed = features.masked_fill(~valid[..., None], 50.0)
    again = layer(changed, valid)
    assert torch.equal(again[0], tokens)
    assert torch.equal(again[1], summary)
    alone = layer(features[:1, :4])
    assert_close(tokens[:1], alone[0])
    assert_close(summary[:1], alone[1])


def test_an_item_knows_nothing_of_the_others() -> None:
    layer, features = projector(), torch.randn(3, 7, 9)
    changed = features.clone()
    changed[1] += 1.0
    for before, after in zip(layer(features), layer(changed), strict=True):
        assert torch.equal(before[[0, 2]], after[[0, 2]])
        assert (before[1] != after[1]).any()


def test_tokens_differ_from_one_another_and_from_the_summary() -> None:
    layer = projector()
    tokens, summary = layer(torch.randn(1, 7, 9))
    seen = torch.cat([tokens[0], layer.out(summary)])
    distances = torch.cdist(seen, seen) + torch.eye(4) * 9
    assert distances.min() > 0.1


def test_the_scale_of_the_features_does_not_matter() -> None:
    layer, features = projector(), torch.randn(2, 7, 9)
    assert_close(layer(features * 300)[0], layer(features)[0], atol=1e-4, rtol=1e-4)


def test_every_parameter_gets_a_gradient() -> None:
    layer = projector()
    tokens, summary = layer(torch.randn(2, 7, 9))
    (tokens.square().sum() + summary.pow(3).sum()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())
