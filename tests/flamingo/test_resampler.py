"""Perceiver Resampler against a plain loop, and its promises about order, padding and time."""

import pytest
import torch
from torch import nn

from flamingo.resampler import PerceiverResampler, ResamplerLayer

SIZES = {
    "input_dim": 14,
    "dim": 12,
    "num_latents": 5,
    "num_layers": 2,
    "num_heads": 3,
    "head_dim": 8,
    "feed_forward_dim": 20,
    "num_frames": 4,
}


@pytest.fixture
def resampler() -> PerceiverResampler:
    built = PerceiverResampler(**SIZES, backend="sdpa").double()
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.4)
    return built


def features(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, SIZES["input_dim"], dtype=torch.float64)


def plain_layer(layer: ResamplerLayer, latents: torch.Tensor, media: torch.Tensor) -> torch.Tensor:
    """The paper's equations for one item, head by head."""
    queries = layer.latents_norm(latents)
    context = torch.cat([layer.media_norm(media), queries])
    q, k, v = layer.to_query(queries), layer.to_key(context), layer.to_value(context)
    heads = []
    for head in range(SIZES["num_heads"]):
        part = slice(head * SIZES["head_dim"], (head + 1) * SIZES["head_dim"])
        weights = (q[:, part] @ k[:, part].T / SIZES["head_dim"] ** 0.5).softmax(-1)
        heads.append(weights @ v[:, part])
    latents = latents + layer.to_output(torch.cat(heads, dim=-1))
    hidden = layer.feed_forward_norm(latents)
    up, down = (m for m in layer.feed_forward.modules() if isinstance(m, nn.Linear))
    return latents + down(up(hidden).relu() ** 2)


def test_equals_the_equations_written_plainly(resampler: PerceiverResampler) -> None:
    media = features(2, 3, 4, 6)
    got = resampler(media)
    for row in range(2):
        for item in range(3):
            frames = resampler.input(media[row, item]) + resampler.time_embedding[:, None]
            latents = resampler.latents
            for layer in resampler.layers:
                latents = plain_layer(layer, latents, frames.flatten(0, 1))
            torch.testing.assert_close(got[row, item], resampler.norm(latents))


def test_latents_do_not_depend_on_the_items_place(resampler: PerceiverResampler) -> None:
    media = features(2, 5, 1, 6)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(resampler(media)[:, order], resampler(media[:, order]))


def test_missing_frames_and_patches_count_for_nothing(resampler: PerceiverResampler) -> None:
    media = features(1, 2, 3, 6)
    valid = torch.ones(1, 2, 3, 6, dtype=torch.bool)
    valid[0, 1, 1:] = False  # the second item is a single frame
    valid[0, 1, 0, 4:] = False  # of four patches
    masked = resampler(media, valid)
    torch.testing.assert_close(masked[:, :1], resampler(media[:, :1]))
    alone = resampler.input(media[0, 1, :1, :4]) + resampler.time_embedding[:1, None]
    latents = resampler.latents
    for layer in resampler.layers:
        latents = plain_layer(layer, latents, alone.flatten(0, 1))
    torch.testing.assert_close(masked[0, 1], resampler.norm(latents))
    disturbed = torch.where(valid[..., None], media, 99.0)
    assert torch.equal(resampler(disturbed, valid), masked)


def test_more_frames_than_trained_are_interpolated(resampler: PerceiverResampler) -> None:
    longer = resampler.frame_embedding(7)
    torch.testing.assert_close(longer[0], resampler.time_embedding[0])
    torch.testing.assert_close(longer[6], resampler.time_embedding[3])
    torch.testing.assert_close(
        longer[1], (resampler.time_embedding[0] + resampler.time_embedding[1]) / 2
    )


def test_a_single_image_carries_no_time(resampler: PerceiverResampler) -> None:
    media = features(1, 1, 1, 6)
    before = resampler(media)
    with torch.no_grad():
        resampler.time_embedding.add_(1.0)
    assert torch.equal(resampler(media), before)
